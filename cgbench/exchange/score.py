"""Score a PMF or samples against the reference of a system; the reference itself is seen by the referee alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.pmf import PMF
from cgbench.contracts.system import System
from cgbench.errors import UserError
from cgbench.exchange.doubts import covered_kld, doubts
from cgbench.exchange.estimates import SampledPMF, estimate, normalised_weights
from cgbench.exchange.formats.detect import SAMPLE_FORMATS, detect
from cgbench.exchange.landscape import Hints
from cgbench.exchange.load import LoadedPMF, load_pmf, regrid
from cgbench.exchange.samples import Samples, read_samples, sample_columns
from cgbench.scoring.field_metrics import WeightedSamples
from cgbench.scoring.referee import Referee

__all__ = ["ESTIMATORS", "Score", "one_map", "score", "score_file"]

Array = NDArray[np.float64]
ESTIMATORS = ("histogram", "smoothed")
UNSTATED = ("plumed", "plumed-fes", "wham", "wham-2d", "openmm", "openmm-bias", "gmx-sham", "colvars", "colvar")


@dataclass(frozen=True)
class Score:
    """The score of one file or PMF.

    Attributes
    ----------
    system, system_version
        What it was scored against.
    pmf
        The PMF on the grid of the system.
    metrics
        The metrics of the referee; ``covered_mass`` and ``forward_kld_covered``, the reference probability where the
        estimate is positive and the forward KLD within; ``interpolation_error`` of the forward KLD; the metrics of
        publications.
    format, unit, temperature, axes
        How the file was understood: format and unit ("" for none) in words, temperature in kelvin that energies were
        divided by (None if they needed none), and where the points are.
    unvisited, empty_bins
        Number of points of the file without a value, and of bins with probability zero.
    assumed, notes, warnings
        What was assumed, what was done, and what is doubtful, in words.
    reference
        Source, hash and noise floor of the reference.
    sampled
        Estimates from samples, or None.
    other_metrics
        Scores of the other estimate from samples.
    density
        Score of the density of a generative model, if the file has it.
    path, sha256
        The file and its hash; None for a PMF in memory.
    """

    system: str
    system_version: str
    pmf: PMF
    metrics: dict[str, float | None]
    format: str
    unit: str
    temperature: float | None
    axes: str
    unvisited: int
    empty_bins: int
    assumed: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    reference: dict[str, Any] | None
    sampled: SampledPMF | None = None
    other_metrics: dict[str, float | None] = field(default_factory=dict)
    density: dict[str, Any] | None = None
    path: Path | None = None
    sha256: str | None = None

    @property
    def forward_kld(self) -> float:
        """The forward KLD, which ranks PMFs; nan without a reference."""
        value = self.metrics["forward_kld"]
        return math.nan if value is None else value


def one_map(system: System, index: int | None = None) -> None:
    """Check that a system has one PMF over all its CVs, which is what can be scored here.

    Parameters
    ----------
    system
        The system.
    index
        Number of the PMF, for systems with several; must be None.

    Raises
    ------
    UserError
        If it has several PMFs, over subsets of its CVs.
    """
    maps = getattr(system, "maps", ())
    if index is not None or len(maps) > 1:
        raise UserError(
            f"{system.name} has {len(maps)} PMFs over subsets of its CVs: a file can be scored for one only"
        )


def score(
    pmf: PMF | str | Path,
    system: str | System,
    *,
    format: str | None = None,
    unit: str | None = None,
    temperature: float | None = None,
    axes: Sequence[str] = (),
    **options: Any,
) -> Score:
    """Score a PMF, or a file; see `cgbench.score`.

    Parameters
    ----------
    options
        Those of `score_file`.

    Raises
    ------
    UserError
        If the file cannot be understood or the PMF does not fit the system.
    """
    if isinstance(system, str):
        from cgbench.running.registry import build_system

        system = build_system(system)
    if not isinstance(pmf, PMF):
        hints = Hints(unit=unit, temperature=temperature, axes=tuple(axes))
        return score_file([Path(pmf)], system, format=format, hints=hints, **options)
    one_map(system)
    same = pmf.cvs == system.cvs
    loaded = LoadedPMF(pmf, None, "PMF", "kT", None, "the grid of the system", 0, int((pmf.probability == 0).sum()))
    return _of_pmf(loaded if same else regrid(pmf, system.cvs), system, Referee(system))


def score_file(
    paths: Sequence[Path],
    system: System,
    *,
    format: str | None = None,
    hints: Hints | None = None,
    topology: Path | None = None,
    weights: Path | None = None,
    estimator: str = "histogram",
) -> Score:
    """Score a file with a PMF or samples.

    Parameters
    ----------
    paths
        One file; several only for the biases of several walkers of OpenMM.
    system
        The system with the reference.
    format
        One of `cgbench.exchange.formats.detect.PMF_FORMATS` or `SAMPLE_FORMATS`; by default it is found out.
    hints
        What the user says about the file.
    topology, weights
        Topology of a trajectory, and one weight for each sample.
    estimator
        One of `ESTIMATORS`: which PMF of samples is scored; the other one is scored beside it.

    Raises
    ------
    UserError
        If a file cannot be understood, or does not fit the system.
    """
    one_map(system)
    if estimator not in ESTIMATORS:
        raise UserError(f"unknown estimator {estimator!r} (--estimator): choose from {', '.join(ESTIMATORS)}")
    hints = hints or Hints()
    found = format or detect(paths[0], sample_columns(system))
    _check_request(system, hints, found, paths[0], topology, weights)
    if found in SAMPLE_FORMATS:
        samples = read_samples(paths[0], found, system, hints, topology, weights)
        scored = _of_samples(samples, system, Referee(system), estimator, str(paths[0]))
    else:
        loaded = load_pmf(paths, system.cvs, format=found, hints=hints, temperature=_kelvin(system))
        scored = _of_pmf(loaded, system, Referee(system))
    digests = []
    for path in paths:
        with open(path, "rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return replace(scored, path=paths[0], sha256=digest)


def _kelvin(system: System) -> float | None:
    return system.temperature if "molecular" in system.traits else None


def _check_request(
    system: System, hints: Hints, format: str, path: Path, topology: Path | None, weights: Path | None
) -> None:
    physical = hints.unit in ("kJ/mol", "kcal/mol") or (hints.unit is None and format in UNSTATED)
    if "molecular" not in system.traits and physical:
        raise UserError(f"{path}: {system.name} is a model without physical units, so energies are in kT: --unit kT")
    for given, option, formats in (
        (hints.ranges, "--range", ("gmx-sham", "openmm", "openmm-bias")),
        (hints.bias, "--bias", ("colvar",)),
        (hints.bias_factor, "--bias-factor", ("openmm-bias",)),
    ):
        if given and format not in formats:
            raise UserError(f"{path} is of format {format}: {option} is for {', '.join(formats)}")
    if format not in SAMPLE_FORMATS and (topology is not None or weights is not None):
        raise UserError(f"{path} is a PMF ({format}): --topology and --weights are for samples")
    if topology is not None and format != "trajectory":
        raise UserError(f"{path} is no trajectory ({format}): leave out --topology")


# ---- PMFs -----------------------------------------------------------------------------------------------


def _of_pmf(loaded: LoadedPMF, system: System, referee: Referee) -> Score:
    pmf = loaded.pmf
    metrics = referee.score(pmf) | _covered(referee, pmf)
    metrics["interpolation_error"] = _interpolation_error(referee, pmf, loaded.linear)
    metrics |= referee.score_as_published(pmf)
    warnings = [*loaded.warnings, *doubts(referee, pmf)]
    warnings += _other_temperature(loaded.temperature, system)
    return Score(
        system=system.name,
        system_version=system.version,
        pmf=pmf,
        metrics=metrics,
        format=loaded.format,
        unit=loaded.unit,
        temperature=loaded.temperature,
        axes=loaded.axes,
        unvisited=loaded.unvisited,
        empty_bins=loaded.empty_bins,
        assumed=loaded.assumed,
        notes=loaded.notes,
        warnings=(*_problem(referee), *warnings),
        reference=referee.facts(),
    )


def _problem(referee: Referee) -> list[str]:
    return [] if referee.problem is None else [f"no scores: {referee.problem}"]


def _covered(referee: Referee, pmf: PMF) -> dict[str, float | None]:
    found = referee.covered(pmf)
    mass, kld = (None, None) if found is None else found
    return {"covered_mass": mass, "forward_kld_covered": kld}


def _interpolation_error(referee: Referee, pmf: PMF, linear: PMF | None) -> float | None:
    """Return by how much the forward KLD differs between cubic and linear interpolation; 0 without interpolation."""
    if referee.facts() is None:
        return None
    return 0.0 if linear is None else abs(covered_kld(referee, pmf) - covered_kld(referee, linear))


def _other_temperature(temperature: float | None, system: System) -> list[str]:
    if temperature is None or abs(temperature - system.temperature) < 0.01:
        return []
    return [f"the PMF is one at {temperature:g} K, the reference of {system.name} is at {system.temperature:g} K"]


# ---- samples --------------------------------------------------------------------------------------------


def _of_samples(samples: Samples, system: System, referee: Referee, estimator: str, where: str) -> Score:
    try:
        weights = normalised_weights(samples.log_weights)
        sampled = estimate(system.cvs, samples.s, weights)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    pmf, other = sampled.histogram, sampled.smoothed
    if estimator == "smoothed":
        pmf, other = other, pmf
    metrics = referee.score(pmf) | _covered(referee, pmf) | {"interpolation_error": 0.0}
    metrics |= referee.score_as_published(pmf, WeightedSamples(samples.s, weights, samples.weighted, samples.x))
    density = None
    if samples.reference_log_density is not None:
        density = referee.score_log_density(samples.reference_log_density)
        metrics["eubo"] = -density["log_likelihood"]
    bins = pmf.probability.size
    notes = [
        *samples.notes,
        f"{len(samples.s):,} samples, statistical inefficiency {sampled.inefficiency:.3g}, "
        f"{sampled.independent:,.0f} independent ones; {sampled.visited:,} of {bins:,} bins visited",
    ]
    warnings = [*_problem(referee), *_other_temperature(samples.temperature, system)]
    if sampled.inefficiency > len(samples.s) / 20:
        warnings.append("the samples are shorter than 20 correlation times: their errors are underestimated")
    return Score(
        system=system.name,
        system_version=system.version,
        pmf=pmf,
        metrics=metrics,
        format=f"{samples.format}, {estimator}",
        unit="",
        temperature=samples.temperature,
        axes="histogram on the grid of the system",
        unvisited=0,
        empty_bins=bins - sampled.visited,
        assumed=samples.assumed,
        notes=tuple(notes),
        warnings=tuple(warnings),
        reference=referee.facts(),
        sampled=sampled,
        other_metrics=referee.score(other),
        density=density,
    )
