"""Flow AIS Bootstrap: an unconditional flow over all coordinates, trained on annealed importance samples.

Midgley, Stimper, Simm, Schölkopf, Hernández-Lobato, "Flow Annealed Importance Sampling Bootstrap", ICLR 2023
(arXiv 2208.01893). With target p and flow q over all coordinates z, annealed importance sampling (AIS) goes from q to

    p^alpha q^(1 - alpha),    alpha = 2: p^2 / q.

For alpha = 2 this density gives the estimate of least variance of the alpha-divergence between p and q, which the flow
minimises: the loss is ``-E[w ln q]`` over the ends of AIS chains with importance weights w. A prioritised replay buffer
keeps these ends and reuses them. The PMF is a histogram of samples of q with weights ``p / q``.

`method` runs the stages, `ais` is the annealing, and `buffer` the replay buffer. The target p is
`cgbench_methods.lib.flows.joint`, the estimate of the PMF `cgbench_methods.lib.estimators.weighted_histogram`.
"""

from __future__ import annotations

from cgbench_methods.flow_ais_bootstrap.config import FABConfig
from cgbench_methods.flow_ais_bootstrap.method import FlowAISBootstrap

__all__ = ["FABConfig", "FlowAISBootstrap"]
