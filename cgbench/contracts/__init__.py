"""The contracts between the harness, systems and methods.

`system` and `coordinates` say what a system offers, `method` what a method must do, `problem` what a method may
see, and `cvs`, `pmf` and `reference` are the data that pass between them. Imports only the counting below.
"""
