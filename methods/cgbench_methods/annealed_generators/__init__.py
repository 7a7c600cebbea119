"""Annealed generators: an unconditional flow that learns a hot density first, then a schedule of colder targets.

Two schedules of one method:

- ``ta_bg``: the temperature-annealed Boltzmann generator of Schopmans and Friederich (arXiv 2501.19077). Targets are
  Boltzmann densities at falling temperatures.
- ``cmt``: constrained mass transport of von Klitzing et al. (arXiv 2510.18460). Each target is as near to the density
  of the PMF as a bound on the KL divergence from the flow and a bound on the decrease of the entropy allow.

`method` runs the stages, `training` has the losses, `schedules` the targets, and `dual` the dual problem of ``cmt``.
`samples` draws samples of the flow, `estimate` makes PMFs and populations of them, and `history` is for the record.
"""

from __future__ import annotations

from cgbench_methods.annealed_generators.config import CMTConfig, TABGConfig
from cgbench_methods.annealed_generators.method import ConstrainedMassTransport, TemperatureAnnealed

__all__ = ["CMTConfig", "ConstrainedMassTransport", "TABGConfig", "TemperatureAnnealed"]
