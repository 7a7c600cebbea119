"""The command line, one module per command.

`main` has the command group and turns user errors into one line and exit code 2. Heavy imports happen only when a
command runs, which keeps help fast. Imports every room of the harness.
"""
