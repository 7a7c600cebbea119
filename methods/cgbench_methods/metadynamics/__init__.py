"""Well-tempered metadynamics of many walkers, reweighted from production under the frozen bias.

All walkers share one bias V(s) in kT, to which each adds Gaussian hills of height

    h exp(-V(s) / (gamma - 1))

(Barducci, Bussi, Parrinello, Phys. Rev. Lett. 100, 020603, 2008; Raiteri et al., J. Phys. Chem. B 110, 3533, 2006).
The bias converges to ``-(1 - 1 / gamma) A(s)``, from which the estimates during this stage are read. Then the bias is
frozen, and every sample has the weight ``exp(V(s))``, which is exact for any V. A smooth PMF is fitted to the weighted
histogram by maximum likelihood (`cgbench_methods.lib.estimators.fourier_fit`).

`method` runs the stages. `sampler` holds walkers and bias on the batched engine, `openmm_sampler` on OpenMM, and
`production` collects the weighted samples.
"""

from __future__ import annotations

from cgbench_methods.metadynamics.method import Metadynamics

__all__ = ["Metadynamics"]
