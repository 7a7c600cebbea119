"""Scores of a PMF against the reference. Only the referee loads references during a run.

`referee` holds the reference and computes the metrics, `divergences` defines the forward KLD and other divergences,
`field_metrics` those of publications, and `reference_files` reads certified reference files. Imports contracts,
counting and errors.
"""
