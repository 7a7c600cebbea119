"""Scores of a PMF against the reference, which only this room sees.

`referee` holds the reference and computes the metrics, `divergences` has the forward KLD and its relatives,
`reference_files` reads certified references. Imports contracts.
"""
