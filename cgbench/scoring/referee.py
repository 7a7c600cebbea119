"""The referee: the only code that sees the reference during a run. It scores estimates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.maps import Estimate, Map
from cgbench.contracts.pmf import PMF, basin_mask
from cgbench.contracts.reference import MapReference, Reference
from cgbench.contracts.system import System, maps_of
from cgbench.counting.streams import Streams
from cgbench.errors import NoReference, UserError
from cgbench.scoring import field_metrics
from cgbench.scoring.divergences import forward_kld, jensen_shannon, reverse_kld, total_variation

if TYPE_CHECKING:
    import torch

    from cgbench.contracts.method import Method

__all__ = ["COVERED_BELOW", "METRICS", "METRICS_VERSION", "Referee", "errors_and_claims"]

Array = NDArray[np.float64]
METRICS_VERSION = 1  # rises when a metric of the same PMF and reference gets another value
METRICS = ("forward_kld", "reverse_kld", "jensen_shannon", "total_variation")
MAP_METRICS = ("forward_kld", "total_variation")  # reported for each of several maps
COVERAGE = {"coverage_68": 0.9945, "coverage_95": 1.96}  # half-width of each interval in standard deviations
ENERGIES = 4_000  # most samples whose energies are computed
COVERED_BELOW = 12.0  # kT; bins with a higher reference free energy are not checked


class Referee:
    """Scores estimates against the reference of a system.

    A missing or damaged reference does not stop a run: scores are then None, and `problem` gives the reason.

    Parameters
    ----------
    system
        The system whose reference is used.
    only
        The map that is scored alone, without the states; by default all of them.

    Attributes
    ----------
    system
        The system.
    problem
        Why there are no scores, or None.
    unbuilt
        Whether the reason is that no reference has been built yet.
    """

    def __init__(self, system: System, only: Map | None = None) -> None:
        self.reference: Reference | None = None
        self.problem: str | None = None
        self.unbuilt = False
        self.system = system
        self._maps = maps_of(system)
        try:
            self.reference = _on_the_grid(system.reference(), system, self._maps)
        except UserError as error:
            self.problem = str(error)
            self.unbuilt = isinstance(error, NoReference)
        except Exception as error:  # a damaged reference can raise anything
            self.problem = f"the reference cannot be read: {type(error).__name__}: {' '.join(str(error).split())}"
        self._basins = [
            {basin.name: basin_mask(one.cvs, basin.contains) for basin in system.basins if basin.map == number}
            for number, one in enumerate(self._maps)
        ]
        self._states = () if system.states is None else system.states.names
        if only is not None and len(self._maps) > 1:
            number = self._maps.index(only)
            self._maps, self._basins, self._states = (only,), [self._basins[number]], ()
            self.reference = None if self.reference is None else self.reference.of_map(number)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of all metrics, in the order of the curve's columns."""
        basins = [name for masks in self._basins for name in masks]
        of_maps = [f"{name}/{one.name}" for one in self._maps for name in MAP_METRICS] if len(self._maps) > 1 else []
        return (
            METRICS
            + tuple(f"delta_f_error/{name}" for name in (*basins, *self._states))
            + tuple(COVERAGE)
            + tuple(of_maps)
        )

    def score(self, found: PMF | Estimate) -> dict[str, float | None]:
        """Score one estimate.

        Parameters
        ----------
        found
            A PMF, or the estimate of all maps of the system.

        Returns
        -------
        dict
            The divergences, as means over the maps; ``delta_f_error/<name>`` for every basin, the error (estimate minus
            reference, in kT) of its free energy relative to the basin of the same map with the largest reference
            population, and likewise for every state; ``coverage_68`` and ``coverage_95``, the fraction of bins below
            12 kT whose error is within the interval given by the combined standard errors of estimate and reference
            (None if the estimate has none), as means over the maps. With several maps, ``forward_kld/<map>`` and
            ``total_variation/<map>`` for each.
        """
        if self.reference is None:
            return dict.fromkeys(self.metric_names)
        estimate = Estimate((found,)) if isinstance(found, PMF) else found
        pairs = list(zip(self.reference.maps, estimate.pmfs, strict=True))
        each = [_divergences(true.pmf, pmf) for true, pmf in pairs]
        scores: dict[str, float | None] = {name: _mean([one[name] for one in each]) for name in METRICS}
        for (true, pmf), masks in zip(pairs, self._basins, strict=True):
            scores |= _delta_f_errors(
                {name: true.pmf.population(mask) for name, mask in masks.items()},
                {name: pmf.population(mask) for name, mask in masks.items()},
            )
        if self._states:
            known = {name: value for name, (value, _) in (self.reference.populations or {}).items()}
            scores |= _delta_f_errors(known, dict(estimate.populations or {}))
        coverages = [_coverage(true, pmf) for true, pmf in pairs]
        for name in COVERAGE:
            scores[name] = _mean([one[name] for one in coverages])
        if len(pairs) > 1:
            for one, divergences in zip(self._maps, each, strict=True):
                scores |= {f"{name}/{one.name}": divergences[name] for name in MAP_METRICS}
        return {name: scores[name] for name in self.metric_names}

    def score_density(self, method: Method) -> dict[str, Any] | None:
        """Score the full density of a generative method on equilibrium configurations.

        Returns
        -------
        dict or None
            ``log_likelihood``, the mean log-density per configuration, and its ``standard_error``, in the
            coordinate set named in ``coordinates`` (publications report it in such coordinates, but their scales
            differ); ``samples``, the number of configurations; and ``impossible``, the number to which the method
            assigns zero density or none that is finite. If there are some, the mean is minus infinity. None if the
            system has no samples or the method no density.
        """
        import torch

        try:
            x = self.system.reference_samples()
        except (UserError, OSError, ValueError, KeyError) as error:
            self.problem = f"reference samples cannot be read: {error}"
            return None
        if x is None:
            return None
        with torch.no_grad():
            parts = [method.log_density(part) for part in torch.split(x.to(self.system.device), 1000)]
        if any(part is None for part in parts):
            return None
        return self._score_log_density(x, torch.cat([part.double().cpu() for part in parts if part is not None]))

    def score_log_density(self, density: np.ndarray) -> dict[str, Any]:
        """Score the log-density of a model at the reference samples, as `score_density` does.

        Parameters
        ----------
        density
            Log-density of each reference sample, in their order, with respect to the Cartesian volume up to rigid
            motion.

        Raises
        ------
        UserError
            If the system has no reference samples, or another number of them, or a value is nan.
        """
        import torch

        x = self.system.reference_samples()
        if x is None:
            raise UserError(f"{self.system.name} has no reference samples")
        if density.shape != (len(x),) or np.isnan(density).any():
            raise UserError(
                f"log-densities have shape {density.shape}, some may be nan: {self.system.name} has {len(x):,} "
                "reference samples, each needs one number"
            )
        return self._score_log_density(x, torch.from_numpy(density))

    def _score_log_density(self, x: torch.Tensor, density: torch.Tensor) -> dict[str, Any]:
        name = "literature" if "literature" in self.system.coordinate_sets else "default"
        values = (density - self.system.coordinate_sets[name].to_internal(x)[2].cpu()).numpy()
        count = len(values)
        impossible = int((~np.isfinite(values)).sum())
        return {
            "log_likelihood": -math.inf if impossible else float(values.mean()),
            "standard_error": math.inf if impossible or count < 2 else float(values.std(ddof=1) / math.sqrt(count)),
            "coordinates": name,
            "samples": count,
            "impossible": impossible,
        }

    def covered(self, pmf: PMF) -> tuple[float, float] | None:
        """Return the reference probability of the bins where an estimate is positive, and the forward KLD within them.

        None without a reference. Both PMFs are normalised within these bins; with no common bin the KLD is infinite.
        """
        if self.reference is None:
            return None
        known = pmf.probability > 0
        p, q = np.where(known, self.reference.pmf.probability, 0.0), pmf.probability
        mass = float(p.sum())
        return mass, max(0.0, forward_kld(p, q)) if mass > 0 else math.inf  # not below zero by rounding

    def score_as_published(
        self,
        pmf: PMF,
        samples: field_metrics.WeightedSamples | None = None,
        energies: field_metrics.ComparedEnergies | None = None,
    ) -> dict[str, float | None]:
        """Return the metrics of publications (`cgbench.scoring.field_metrics`) for a PMF, or for the samples it is of.

        Those that compare energies are None without `energies` (`compared_energies`).
        """
        if self.reference is None:
            return dict.fromkeys(field_metrics.OF_PMF if samples is None else field_metrics.OF_SAMPLES)
        if samples is None:
            return field_metrics.of_pmf(self.reference.pmf, pmf)
        x = self.system.reference_samples()
        s = None if x is None else self._maps[0].select(self.system.collective_variables(x)).double().cpu().numpy()
        return field_metrics.of_samples(self.reference.pmf, samples, Streams(0).numpy("torus_w2"), s, energies)

    def compared_energies(self, samples: field_metrics.WeightedSamples) -> field_metrics.ComparedEnergies | None:
        """Return the energies of equilibrium samples and of at most 4,000 samples; None if either has none."""
        if self.reference is None or samples.x is None or (x := self.system.reference_samples()) is None:
            return None
        chosen = np.unique(np.linspace(0, len(samples.x) - 1, ENERGIES).astype(int))
        return field_metrics.ComparedEnergies(
            self._energies(x), self._energies(samples.x[chosen]), samples.weights[chosen]
        )

    def _energies(self, x: Any) -> np.ndarray:
        import torch

        parts = torch.split(torch.as_tensor(x, dtype=torch.float64, device=self.system.device), 1000)
        energies = [self.system.reduced_energy_and_gradient(part)[0] for part in parts]
        return torch.cat(energies).double().cpu().numpy()

    def scoring(self) -> dict[str, Any]:
        """Return what scores depend on besides the estimate: the reference and the version of the metrics."""
        reference = None if self.reference is None else self.reference.sha256
        return {"reference": reference, "metrics_version": METRICS_VERSION}

    def facts(self) -> dict[str, Any] | None:
        """Return what the record states about the reference, or None without one."""
        if self.reference is None:
            return None
        return {
            "source": self.reference.source,
            "sha256": self.reference.sha256,
            "noise_floor": self.reference.noise_floor,
        }


def _divergences(true: PMF, pmf: PMF) -> dict[str, float]:
    p, q = true.probability, pmf.probability
    return {
        "forward_kld": forward_kld(p, q),
        "reverse_kld": reverse_kld(p, q),
        "jensen_shannon": jensen_shannon(p, q),
        "total_variation": total_variation(p, q),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return known[0] if len(known) == 1 else float(np.mean(known))


def _delta_f_errors(true: Mapping[str, float], found: Mapping[str, float]) -> dict[str, float | None]:
    """Return the errors of free energies relative to the region with the largest reference population, in kT."""
    if not true:
        return {}
    zero = max(true, key=lambda name: true[name])
    return {
        f"delta_f_error/{name}": _log_ratio(found[zero], found[name]) - _log_ratio(true[zero], true[name])
        for name in true
    }


def errors_and_claims(reference: MapReference, pmf: PMF, below: float = COVERED_BELOW) -> tuple[Array, Array, Array]:
    """Return the errors of a PMF and their claimed standard errors.

    Free energies are defined up to a constant: the mean error over the reference density is zero.

    Parameters
    ----------
    reference, pmf
        The reference, and an estimate with standard errors.
    below
        Reference free energy in kT above its minimum below which bins are used.

    Returns
    -------
    height, error, claim
        Of each bin that is used, in kT: reference free energy above its minimum, error, and the standard errors of
        estimate and reference, added in quadrature.
    """
    assert pmf.free_energy_std is not None
    true = reference.pmf
    height = true.free_energy - true.free_energy.min()
    low = height < below
    error = np.where(low, pmf.free_energy - true.free_energy, 0.0)
    error = error - (true.probability[low] * error[low]).sum() / true.probability[low].sum()
    variance = pmf.free_energy_std**2
    if reference.standard_error is not None:
        variance = variance + (reference.standard_error / true.probability) ** 2
    return height[low], error[low], np.sqrt(np.maximum(variance[low], 1e-300))


def _coverage(reference: MapReference, pmf: PMF) -> dict[str, float | None]:
    if pmf.free_energy_std is None:
        return dict.fromkeys(COVERAGE)
    _, error, claim = errors_and_claims(reference, pmf)
    z = np.abs(error) / claim
    return {name: float(np.mean(z < limit)) for name, limit in COVERAGE.items()}


def _on_the_grid(reference: Reference, system: System, maps: Sequence[Map]) -> Reference:
    """Check that a reference has the maps and states of the system, and its grid."""
    if len(reference.maps) != len(maps):
        raise UserError(f"the reference of {system.name} has {len(reference.maps)} maps, the system {len(maps)}")
    for true, one in zip(reference.maps, maps, strict=True):
        if true.pmf.probability.shape != one.cvs.bins:
            found = true.pmf.probability.shape
            raise UserError(f"the reference of {system.name} has shape {found}, the grid is {one.cvs.bins}")
    names = () if system.states is None else system.states.names
    if set(reference.populations or ()) != set(names):
        raise UserError(
            f"the reference of {system.name} has the states {sorted(reference.populations or ())}, the system "
            f"{sorted(names)}"
        )
    return reference


def _log_ratio(a: float, b: float) -> float:
    if b <= 0:
        return math.inf
    return float(np.log(a / b)) if a > 0 else -math.inf
