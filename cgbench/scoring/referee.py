"""The referee: the only code that sees the reference during a run. It scores PMFs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cgbench.contracts.pmf import PMF, basin_mask
from cgbench.contracts.reference import Reference
from cgbench.contracts.system import System
from cgbench.errors import UserError
from cgbench.scoring.divergences import forward_kld, jensen_shannon, reverse_kld, total_variation

if TYPE_CHECKING:
    from cgbench.contracts.method import Method

__all__ = ["METRICS", "Referee"]

METRICS = ("forward_kld", "reverse_kld", "jensen_shannon", "total_variation")
COVERAGE = {"coverage_68": 0.9945, "coverage_95": 1.96}  # half-width of each interval in standard deviations
COVERED_BELOW = 12.0  # kT; bins with a higher reference free energy are not checked


class Referee:
    """Scores estimates against the reference of a system.

    A missing or damaged reference does not stop a run: scores are then None, and `problem` gives the reason.

    Parameters
    ----------
    system
        The system whose reference is used.

    Attributes
    ----------
    problem
        Why there are no scores, or None.
    """

    def __init__(self, system: System) -> None:
        self.reference: Reference | None = None
        self.problem: str | None = None
        self._system = system
        try:
            self.reference = _on_the_grid(system.reference(), system)
        except UserError as error:
            self.problem = str(error)
        except Exception as error:  # a damaged reference can raise anything
            self.problem = f"the reference cannot be read: {type(error).__name__}: {' '.join(str(error).split())}"
        self._basins = {basin.name: basin_mask(system.cvs, basin.contains) for basin in system.basins}

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of all metrics, in the order of the curve's columns."""
        return METRICS + tuple(f"delta_f_error/{name}" for name in self._basins) + tuple(COVERAGE)

    def score(self, pmf: PMF) -> dict[str, float | None]:
        """Score one estimate.

        Returns
        -------
        dict
            The divergences; ``delta_f_error/<name>`` for every basin, the error (estimate minus reference, in kT) of
            its free energy relative to the basin with the largest reference population; ``coverage_68`` and
            ``coverage_95``, the fraction of bins below 12 kT whose error is within the interval given by the combined
            standard errors of estimate and reference (None if the estimate has none).
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
        scores |= self._coverage(pmf)
        return scores

    def _coverage(self, pmf: PMF) -> dict[str, float | None]:
        assert self.reference is not None
        if pmf.free_energy_std is None:
            return dict.fromkeys(COVERAGE)
        true = self.reference.pmf
        low = true.free_energy - true.free_energy.min() < COVERED_BELOW
        error = np.where(low, pmf.free_energy - true.free_energy, 0.0)
        # free energies are defined up to a constant: remove the mean error
        error = error - (true.probability[low] * error[low]).sum() / true.probability[low].sum()
        variance = pmf.free_energy_std**2
        if self.reference.standard_error is not None:
            variance = variance + (self.reference.standard_error / true.probability) ** 2
        z = np.abs(error[low]) / np.sqrt(np.maximum(variance[low], 1e-300))
        return {name: float(np.mean(z < limit)) for name, limit in COVERAGE.items()}

    def score_density(self, method: Method) -> dict[str, Any] | None:
        """Score the full density of a generative method on equilibrium configurations.

        Returns
        -------
        dict or None
            ``log_likelihood``, the mean log-density per configuration, and its ``standard_error``, in the
            coordinate set named in ``coordinates`` (publications report it in such coordinates, but their scales
            differ); ``samples``, the number of configurations; and ``impossible``, the number to which the method
            assigns zero density. None if the system has no samples or the method no density.
        """
        import torch

        try:
            x = self._system.reference_samples()
        except (UserError, OSError, ValueError, KeyError) as error:
            self.problem = f"reference samples cannot be read: {error}"
            return None
        if x is None:
            return None
        with torch.no_grad():
            parts = [method.log_density(part) for part in torch.split(x.to(self._system.device), 1000)]
        if any(part is None for part in parts):
            return None
        name = "literature" if "literature" in self._system.coordinate_sets else "default"
        density = torch.cat([part.double().cpu() for part in parts if part is not None])
        values = (density - self._system.coordinate_sets[name].to_internal(x)[2].cpu()).numpy()
        possible = np.isfinite(values)
        count = int(possible.sum())
        return {
            "log_likelihood": float(values[possible].mean()) if count else -math.inf,
            "standard_error": float(values[possible].std(ddof=1) / math.sqrt(count)) if count > 1 else math.inf,
            "coordinates": name,
            "samples": len(values),
            "impossible": len(values) - count,
        }

    def facts(self) -> dict[str, Any] | None:
        """Return what the record states about the reference, or None without one."""
        if self.reference is None:
            return None
        return {
            "source": self.reference.source,
            "sha256": self.reference.sha256,
            "noise_floor": self.reference.noise_floor,
        }


def _on_the_grid(reference: Reference, system: System) -> Reference:
    if reference.pmf.probability.shape != system.cvs.bins:
        found = reference.pmf.probability.shape
        raise UserError(f"the reference of {system.name} has shape {found}, the grid is {system.cvs.bins}")
    return reference


def _log_ratio(a: float, b: float) -> float:
    if b <= 0:
        return math.inf
    return float(np.log(a / b)) if a > 0 else -math.inf
