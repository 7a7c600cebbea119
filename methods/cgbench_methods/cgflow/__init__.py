"""Conditional normalizing flows for the PMF: active learning and grid conditioning.

Schopmans & Friederich, ICML 2024 (arXiv 2402.01195). `published` holds the publication's recipe, `harmonic` our own,
which needs far fewer evaluations, and `common` what both use. `method` registers ``cgflow_al`` and ``cgflow_grid``.
"""

from __future__ import annotations

from cgbench_methods.cgflow.method import ActiveLearning, GridConditioning

__all__ = ["ActiveLearning", "GridConditioning"]
