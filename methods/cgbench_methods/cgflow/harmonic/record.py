"""What the record and the figures show of a run of our recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from cgbench_methods.cgflow.common.stages import Stages, efficiency_map
from cgbench_methods.cgflow.harmonic.atlas.search import MinimaSearch
from cgbench_methods.cgflow.harmonic.fit.samples import WeightedSamples
from cgbench_methods.cgflow.harmonic.rounds import Rounds
from cgbench_methods.cgflow.harmonic.verdict import harmonic_warnings
from cgbench_methods.lib.estimators.importance import effective_sample_size

__all__ = ["arrays_of", "diagnostics_of"]


def diagnostics_of(
    search: MinimaSearch,
    rounds: Rounds,
    samples: WeightedSamples,
    history: Sequence[Mapping[str, Any]],
    unseen: float | None,
) -> dict[str, Any]:
    """Return the numbers of minima and samples, the history of all rounds, the wells, warnings, and the verdict.

    The result is ``reliable`` if there is no warning; otherwise ``reason`` is the first. Parameters are those of
    `cgbench_methods.cgflow.harmonic.recipe.HarmonicRecipe`.
    """
    counted = _counted(rounds, samples)
    of_wells, sizes = _wells(rounds, samples, counted, unseen)
    late = {} if not samples.log_weights[counted].isfinite().any() else samples.quality(rounds.surrogate, counted)
    warnings = harmonic_warnings(history, late, sizes, unseen)
    return {
        "atlas_points": len(search.points),
        "labels": len(samples),
        "rounds": list(history),
        **of_wells,
        "late": late,
        "warnings": warnings,
        "reliable": not warnings,
        **({"reason": warnings[0]} if warnings else {}),
    }


def _counted(rounds: Rounds, samples: WeightedSamples) -> torch.Tensor:
    """Tell which samples count for the verdict, boolean ``[n]``: those of the last quarter below the ceiling.

    Higher ones were drawn around uncertain places. No map depends on them.
    """
    if samples.weightless:
        return samples.late
    return samples.late & (rounds.surrogate.height(samples.s) <= rounds.config.labels.ceiling)


def _wells(
    rounds: Rounds, samples: WeightedSamples, counted: torch.Tensor, unseen: float | None
) -> tuple[dict[str, Any], list[tuple[float, float]]]:
    """Describe the wells for the record; return also the population and effective samples of each."""
    wells = rounds.wells
    if wells is None or rounds.shares is None:
        return {}, []
    populations = rounds.shares.populations(rounds.surrogate.on_grid()[0]).tolist()
    excess = (samples.log_weights + rounds.surrogate.mean(samples.s))[counted]
    own = [excess[samples.well[counted] == number] for number in range(len(wells))]
    sizes = [len(e) * float(effective_sample_size(e)) for e in own]
    described = {
        "free_torsions": [rounds.coordinates.names[position] for position in wells.positions],
        "wells": [[round(angle) for angle in centre] for centre in wells.centres.rad2deg().tolist()],
        "well_populations": populations,
        "well_effective_samples": sizes,
        "largest_log_weight_of_minima": unseen,
    }
    return described, list(zip(populations, sizes, strict=True))


def arrays_of(
    search: MinimaSearch, rounds: Rounds, samples: WeightedSamples, stages: Stages
) -> dict[str, NDArray[Any]]:
    """Return the reference points with their harmonic PMF, the stages, and a map of the effective sample size.

    ``efficiency`` is that of the last quarter of the samples.
    """
    free_energy = search.free_energies()
    arrays: dict[str, NDArray[Any]] = {
        "atlas_points": search.points.numpy(),
        "atlas_free_energy": (free_energy - free_energy.min()).numpy(),
    }
    if len(rounds.cvs) > 2:
        return arrays  # no figure shows more CVs
    if len(samples):
        late = samples.late
        s = samples.s[late]
        excess = samples.log_weights[late] + rounds.surrogate.mean(s)
        arrays["efficiency"] = efficiency_map(rounds.cvs, s, excess).numpy()
    return arrays | stages.arrays()
