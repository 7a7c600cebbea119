"""Parallel tempering: replica exchange over temperatures, combined by MBAR.

A ladder is a set of walkers, one at each of the temperatures ``T_0 < T_1 < ...``, where T_0 is that of the PMF. With
``b_k = T_0 / T_k``, the walker at T_k samples ``exp(-b_k u(x))``. Walkers at neighbouring temperatures exchange them
with probability

    min(1, exp((b_i - b_j) (u_i - u_j)))

(Swendsen and Wang, Phys. Rev. Lett. 57, 2607, 1986; Sugita and Okamoto, Chem. Phys. Lett. 314, 141, 1999). Many
independent ladders run in one batch. MBAR gives every sample of every temperature its weight at T_0, and a smooth PMF
is fitted to the weighted histogram (`cgbench_methods.lib.estimators.fourier_fit`). Sampling does not use the collective
variables.

`method` runs the stages, `ladder` spaces the temperatures, `exchange` exchanges them, `walkers` moves the walkers,
`reweighting` gives samples their weights, and `estimate` turns them into a PMF.
"""

from __future__ import annotations

from cgbench_methods.parallel_tempering.config import ParallelTemperingConfig
from cgbench_methods.parallel_tempering.method import ParallelTempering

__all__ = ["ParallelTempering", "ParallelTemperingConfig"]
