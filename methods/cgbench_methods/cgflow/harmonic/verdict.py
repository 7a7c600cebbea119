"""The verdict of the harmonic recipe: why its result is doubtful."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cgbench_methods.cgflow.harmonic.fit.misfit import Misfit
from cgbench_methods.lib.estimators.importance import LARGEST_SHARE, RELIABLE_PARETO_K

__all__ = ["harmonic_warnings"]

HARMLESS_TAIL = 0.5  # effective sample size above which the tail of the weights holds too little mass to matter
LEAST_EFFICIENCY = 0.05
LARGEST_EXPECTED_KLD = 2e-3
LEAST_MISFIT = 1e-4  # forward KLD
LARGEST_UNSEEN = 10.0  # log-weight of a minimum above which the flow does not generate it
LEAST_PER_WELL = 10.0  # effective samples
MINOR = 0.01  # population below which a well may have fewer


def harmonic_warnings(
    history: Sequence[Mapping[str, Any]],
    late: Mapping[str, Any],
    wells: Sequence[tuple[float, float]],
    unseen: float | None,
) -> list[str]:
    """Return why the result of the harmonic recipe is doubtful; nothing if it is reliable.

    The limits are calibrated on development molecules (docs/methods/cgflow-harmonic.md).

    Parameters
    ----------
    history
        Entries of all rounds.
    late
        Quality of the weights of the last quarter of the samples, as from `WeightedSamples.quality`.
    wells
        Population of each well, and its effective number of late samples.
    unseen
        Largest log-weight of the minima that the check of coverage found, or None.
    """
    last = history[-1] if history else {}
    if last.get("unfitted"):
        return [
            "the weighted samples of the last round could not be fitted: the PMF is that of the round before, or of "
            "the harmonic minima"
        ]
    if not late or "expected_kld" not in last:
        return ["no weighted samples yet: the PMF is that of the harmonic minima"]
    warnings = []
    efficiency, tail = late["effective_sample_size"], late["pareto_k"]
    if not efficiency >= LEAST_EFFICIENCY:
        warnings.append(
            f"effective sample size {efficiency:.1%}: the flow is a poor approximation, and the PMF is unreliable"
        )
    share = max(late["largest_share"], last.get("largest_share", 0.0))
    if share > LARGEST_SHARE:
        warnings.append(f"one importance weight of the last rounds holds {share:.0%} of their sum")
    if tail > RELIABLE_PARETO_K and efficiency < HARMLESS_TAIL:
        warnings.append(f"weights have a heavy tail (Pareto k = {tail:.2f}): the PMF may be too high")
    if last["expected_kld"] > LARGEST_EXPECTED_KLD:
        warnings.append(f"too few samples: the expected forward KLD is {last['expected_kld']:.1e}")
    misfit = Misfit(**last["misfit"]) if "misfit" in last else None
    if misfit is not None and misfit.significant and misfit.kld > max(LEAST_MISFIT, last["expected_kld"]):
        warnings.append(
            f"the PMF is less smooth than its model can be: the samples' misfit is a forward KLD of {misfit.kld:.1e}"
        )
    if last.get("uncertain_walkers", 0):
        warnings.append(f"exploration has not ended: {last['uncertain_walkers']} walkers found uncertain places")
    if unseen is None and wells:
        warnings.append("too few samples: minima that the flow does not generate have not been searched yet")
    if unseen is not None and unseen > LARGEST_UNSEEN:
        warnings.append(f"relaxation found a minimum that the flow does not generate (log-weight {unseen:.0f})")
    poor = [number for number, (population, size) in enumerate(wells) if population > MINOR and size < LEAST_PER_WELL]
    if poor:
        warnings.append(f"too few samples in well {', '.join(map(str, poor))} of the free torsions")
    return warnings
