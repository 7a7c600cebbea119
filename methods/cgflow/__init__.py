"""Conditional coarse-grained flows: active learning and grid conditioning.

Schopmans & Friederich, ICML 2024 (arXiv 2402.01195), and a recipe of our own that needs far fewer evaluations.
"""

from __future__ import annotations

from methods.cgflow.al import ActiveLearning
from methods.cgflow.grid import GridConditioning

__all__ = ["ActiveLearning", "GridConditioning"]
