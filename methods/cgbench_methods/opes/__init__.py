"""On-the-fly probability enhanced sampling (OPES) of many walkers that share one set of compressed kernels.

Walkers deposit kernels of weight ``exp(V(s))``, which add up to an estimate P(s) of the unbiased density. The bias

    V(s) = (1 - 1/gamma) ln(P(s) / Z + epsilon)

drives sampling towards ``p(s)^(1/gamma)`` (Invernizzi and Parrinello, J. Phys. Chem. Lett. 11, 2731, 2020). It soon
hardly changes. Every later sample has the weight ``exp(V(s))`` with the bias at its time, and a smooth PMF is fitted to
the weighted histogram (`cgbench_methods.lib.estimators.fourier_fit`).

`method` runs the stages, `kernels` is the density estimate and its bias, `table` interpolates the bias on a grid,
`sampler` moves the walkers and lets them deposit, and `estimate` turns samples into PMFs.
"""

from __future__ import annotations

from cgbench_methods.opes.method import OPES

__all__ = ["OPES"]
