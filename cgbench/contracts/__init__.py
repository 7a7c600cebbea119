"""The contracts between the harness, systems and methods.

`system` and `coordinates` define what a system provides, `method` what a method must do, and `problem` what a method
can see of a system. `cvs`, `maps`, `pmf` and `reference` are the data that they exchange, and `smoothing` estimates
PMFs from smoothed histograms. Imports only counting and errors.
"""
