"""Score a PMF or samples against the reference of a system; the reference itself is seen by the referee alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.maps import Map
from cgbench.contracts.pmf import PMF
from cgbench.contracts.system import System, maps_of
from cgbench.errors import UserError
from cgbench.exchange.doubts import covered_kld, doubts, energy_doubts
from cgbench.exchange.estimates import SampledPMF, estimate, normalised_weights
from cgbench.exchange.formats import archives
from cgbench.exchange.formats.detect import SAMPLE_FORMATS, detect, read_landscape
from cgbench.exchange.landscape import Options
from cgbench.exchange.load import LoadedPMF, load_pmf, regrid
from cgbench.exchange.names import find_map
from cgbench.exchange.samples import Samples, read_samples, sample_columns
from cgbench.scoring.field_metrics import WeightedSamples
from cgbench.scoring.referee import Referee

__all__ = ["ESTIMATORS", "Score", "score", "score_file"]

Array = NDArray[np.float64]
ESTIMATORS = ("histogram", "smoothed")
WITHOUT_NAMES = (*SAMPLE_FORMATS, "openmm", "openmm-bias")  # files of these formats do not tell the map


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
        How the file was understood: format and unit ("" for none) in words, temperature in kelvin as stated or assumed
        (None if neither), and where the points are.
    unvisited, empty_bins
        Number of points of the file without a value, and of bins with probability zero.
    assumed, notes, warnings
        What was assumed, what was done, and what is doubtful, in words.
    reference, true
        Source, hash and noise floor of the reference, and its PMF.
    sampled
        Estimates from samples, or None.
    other_metrics
        Scores of the other estimate from samples.
    density
        Score of the density of a generative model, if the file has it.
    map
        Name of the map that was scored, of a system with several; else None.
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
    true: PMF | None = None
    sampled: SampledPMF | None = None
    other_metrics: dict[str, float | None] = field(default_factory=dict)
    density: dict[str, Any] | None = None
    map: str | None = None
    path: Path | None = None
    sha256: str | None = None

    @property
    def forward_kld(self) -> float:
        """The forward KLD, which ranks PMFs; nan without a reference."""
        value = self.metrics["forward_kld"]
        return math.nan if value is None else value


def score(pmf: PMF | str | Path, system: str | System, options: Options | None = None) -> Score:
    """Score a PMF, or a file; see `cgbench.score`.

    Parameters
    ----------
    pmf
        The PMF, or the path of a file.
    system
        The system with the reference, or its name.
    options
        What the user says about the file; of a PMF only the map.

    Raises
    ------
    UserError
        If the file cannot be understood or the PMF does not fit the system.
    """
    options = options or Options()
    if isinstance(system, str):
        from cgbench.running.registry import build_system

        system = build_system(system)
    if not isinstance(pmf, PMF):
        return score_file([Path(pmf)], system, options)
    said = [one.name for one in fields(options) if getattr(options, one.name) != one.default and one.name != "map"]
    if said:
        raise UserError(f"a PMF in memory takes no {' or '.join(said)}: these are for files; leave them out")
    only = find_map(pmf.cvs.names, maps_of(system), options.map, "the PMF")
    same = pmf.cvs == only.cvs
    loaded = LoadedPMF(pmf, None, "PMF", "kT", None, "the grid of the system", 0, int((pmf.probability == 0).sum()))
    scored = _of_pmf(loaded if same else regrid(pmf, only.cvs), system, Referee(system, only))
    return replace(scored, map=_name(only, system))


def score_file(paths: Sequence[Path], system: System, options: Options | None = None) -> Score:
    """Score a file with a PMF or samples.

    Parameters
    ----------
    paths
        One file; several only for the biases of several walkers of OpenMM.
    system
        The system with the reference.
    options
        What the user says about the file.

    Raises
    ------
    UserError
        If a file cannot be understood, or does not fit the system.
    """
    options = options or Options()
    if options.estimator not in ESTIMATORS:
        raise UserError(f"unknown estimator {options.estimator!r} (--estimator): choose from {', '.join(ESTIMATORS)}")
    found = options.format or detect(paths[0], sample_columns(system))
    options = replace(options, format=found)
    only = _map_of(paths, system, options)
    referee = Referee(system, only)
    if found in SAMPLE_FORMATS:
        samples = read_samples(paths[0], found, system, options, only if len(maps_of(system)) > 1 else None)
        scored = _of_samples(samples, system, only, referee, options.estimator, str(paths[0]))
    else:
        loaded = load_pmf(paths, only.cvs, options, system)
        scored = _of_pmf(loaded, system, referee)
    digests = []
    for path in paths:
        with open(path, "rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return replace(scored, map=_name(only, system), path=paths[0], sha256=digest)


def _map_of(paths: Sequence[Path], system: System, options: Options) -> Map:
    """Return the map that a file is on: the user names it, or the names of its axes tell."""
    maps, where = maps_of(system), str(paths[0])
    if len(maps) > 1 and options.format == "npz" and "map_1_probability" in archives.names_in(paths[0]):
        raise UserError(
            f"{where} holds the PMFs of several maps: read one with cgbench.PMF.load(path, cvs, map=k) and give it to "
            "cgbench.score"
        )
    if len(maps) == 1 or options.map is not None or options.format in WITHOUT_NAMES:
        return find_map((), maps, options.map, where)
    landscape = read_landscape(paths, str(options.format), options, None)
    return find_map([axis.name for axis in landscape.axes], maps, None, where)


def _name(only: Map, system: System) -> str | None:
    return only.name if len(maps_of(system)) > 1 else None


# ---- PMFs -----------------------------------------------------------------------------------------------


def _of_pmf(loaded: LoadedPMF, system: System, referee: Referee) -> Score:
    pmf = loaded.pmf
    metrics = referee.score(pmf) | _covered(referee, pmf)
    metrics["interpolation_error"] = _interpolation_error(referee, pmf, loaded.linear)
    metrics |= referee.score_as_published(pmf)
    warnings = [*loaded.warnings, *doubts(referee, pmf)]
    warnings += _other_temperature(loaded.temperature, system, "PMF is one")
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
        true=None if referee.reference is None else referee.reference.pmf,
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


def _other_temperature(temperature: float | None, system: System, what: str) -> list[str]:
    if temperature is None or abs(temperature - system.temperature) < 0.01:
        return []
    return [f"the {what} at {temperature:g} K, the reference of {system.name} is at {system.temperature:g} K"]


# ---- samples --------------------------------------------------------------------------------------------


def _of_samples(samples: Samples, system: System, only: Map, referee: Referee, estimator: str, where: str) -> Score:
    try:
        weights = np.ones(len(samples.s)) if samples.log_weights is None else normalised_weights(samples.log_weights)
        sampled = estimate(only.cvs, samples.s, weights)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    pmf, other = sampled.histogram, sampled.smoothed
    if estimator == "smoothed":
        pmf, other = other, pmf
    metrics = referee.score(pmf) | _covered(referee, pmf) | {"interpolation_error": 0.0}
    weighted = WeightedSamples(samples.s, weights, samples.log_weights is not None, samples.x)
    energies = referee.compared_energies(weighted)
    metrics |= referee.score_as_published(pmf, weighted, energies)
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
    warnings = [*_problem(referee), *samples.warnings, *_other_temperature(samples.temperature, system, "samples are")]
    if samples.columns:
        warnings += doubts(referee, pmf, of_samples=True)
    warnings += energy_doubts(energies)
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
        true=None if referee.reference is None else referee.reference.pmf,
        sampled=sampled,
        other_metrics=referee.score(other),
        density=density,
    )
