"""Scores of a PMF against the reference. Only the referee loads references during a run.

`referee` holds the reference and computes the metrics, `divergences` defines the forward KLD and other divergences,
and `reference_files` reads certified reference files. Imports contracts and errors.
"""
