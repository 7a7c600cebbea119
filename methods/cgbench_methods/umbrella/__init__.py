"""Umbrella sampling: restrained windows that exchange configurations, combined by MBAR.

In window k the walkers sample ``exp(-u(x) - U_k(s(x)))`` with a harmonic restraint U_k on the collective variables
(`cgbench_methods.lib.sampling.restraints`). Neighbouring windows exchange configurations by the Metropolis criterion
(`cgbench_methods.lib.sampling.exchange`). MBAR gives the free energies of the windows and the weights of all frames
(`cgbench_methods.lib.estimators.mbar`), and a smooth PMF is fitted to the weighted histogram
(`cgbench_methods.lib.estimators.fourier_fit`).

`method` runs the stages, `windows` decides where windows are and how many walkers each gets, `walkers` moves the
walkers, and `estimate` turns frames into a PMF.
"""

from __future__ import annotations

from cgbench_methods.umbrella.config import UmbrellaConfig
from cgbench_methods.umbrella.method import UmbrellaSampling

__all__ = ["UmbrellaConfig", "UmbrellaSampling"]
