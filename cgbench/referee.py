"""The referee: the only part that sees the reference. It scores PMFs and knows the noise floor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cgbench.divergences import forward_kld, jensen_shannon, reverse_kld, total_variation
from cgbench.errors import UserError
from cgbench.pmf import PMF, basin_mask
from cgbench.system import Reference, System

__all__ = ["METRICS", "Referee"]

METRICS = ("forward_kld", "reverse_kld", "jensen_shannon", "total_variation")


class Referee:
    """Scores estimates against a system's reference.

    A reference that is missing or damaged breaks no run: scores are then None and `problem` says why.

    Parameters
    ----------
    system
        The system whose reference judges.
    """

    def __init__(self, system: System) -> None:
        self.reference: Reference | None = None
        self.problem: str | None = None
        try:
            self.reference = system.reference()
        except UserError as error:
            self.problem = str(error)
        self._basins = {basin.name: basin_mask(system.cvs, basin.contains) for basin in system.basins}

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of all metrics, in the order of the curve's columns."""
        return METRICS + tuple(f"delta_f_error/{name}" for name in self._basins)

    def score(self, pmf: PMF) -> dict[str, float | None]:
        """Score one estimate.

        Returns
        -------
        dict
            Divergences, and for every basin ``delta_f_error/<name>``: its free energy relative to the
            basin that is largest in the reference, estimate minus reference, in kT.
        """
        if self.reference is None:
            return dict.fromkeys(self.metric_names)
        p, q = self.reference.pmf.probability, pmf.probability
        scores: dict[str, float | None] = {
            "forward_kld": forward_kld(p, q),
            "reverse_kld": reverse_kld(p, q),
            "jensen_shannon": jensen_shannon(p, q),
            "total_variation": total_variation(p, q),
        }
        if self._basins:
            true = {name: self.reference.pmf.population(mask) for name, mask in self._basins.items()}
            found = {name: pmf.population(mask) for name, mask in self._basins.items()}
            zero = max(true, key=lambda name: true[name])
            for name in self._basins:
                scores[f"delta_f_error/{name}"] = _log_ratio(found[zero], found[name]) - _log_ratio(
                    true[zero], true[name]
                )
        return scores

    def facts(self) -> dict[str, Any] | None:
        """What the record says of the reference."""
        if self.reference is None:
            return None
        return {
            "source": self.reference.source,
            "sha256": self.reference.sha256,
            "noise_floor": self.reference.noise_floor,
        }


def _log_ratio(a: float, b: float) -> float:
    if b <= 0:
        return math.inf
    return float(np.log(a / b)) if a > 0 else -math.inf
