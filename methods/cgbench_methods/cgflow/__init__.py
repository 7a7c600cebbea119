"""Conditional normalizing flows for the PMF: active learning (``cgflow_al``) and grid conditioning (``cgflow_grid``).

Schopmans & Friederich, ICML 2024 (arXiv 2402.01195). A flow ``q(y|s)`` generates the fine-grained coordinates y at
given collective variables s. It is trained on the energy alone, and its importance weights give the PMF,

    A(s) = -ln E_{y ~ q(.|s)} [ exp(-E(s, y)) / q(y|s) ],    E(s, y) = u(x(s, y)) - ln|det dx/d(s, y)|,

where u is the reduced energy. `published` is the recipe of the publication. `harmonic` is our own recipe, which needs
far fewer evaluations; the docstring of each package lists its steps. `common` is what both use. `method` registers the
two methods, each of which runs either recipe.
"""

from __future__ import annotations

from cgbench_methods.cgflow.method import ActiveLearning, GridConditioning

__all__ = ["ActiveLearning", "GridConditioning"]
