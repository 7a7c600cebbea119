"""Figures of what methods cost: evaluations, seconds, and which of the two decides."""
