"""Unbiased molecular dynamics: the baseline that every method is compared with.

Walkers start in the initial configuration and sample ``p(x) ~ exp(-u(x))`` by Langevin dynamics, or by Metropolis
sampling where a system has no masses. With ``n_b`` visits of bin b, the estimate is ``p_b ~ n_b + c``.
"""

from __future__ import annotations

from cgbench_methods.md.config import MDConfig
from cgbench_methods.md.method import MolecularDynamics

__all__ = ["MDConfig", "MolecularDynamics"]
