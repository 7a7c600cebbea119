"""Conditional coarse-grained flows: active learning and grid conditioning."""
