"""Why the result of the recipe with more than three collective variables is doubtful."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cgbench_methods.lib.estimators.importance import LARGEST_SHARE, RELIABLE_PARETO_K

__all__ = ["warnings_of"]

LEAST_SAMPLES = 1000.0  # effective ones of the last set of weights
LARGEST_EXPECTED_KLD = 5e-3
LARGEST_TRUNCATED = 0.02  # share of the sum of the weights of the last round that is cut
MANY = 0.01  # share of the chains in uncertain places


def warnings_of(history: Sequence[Mapping[str, Any]], late: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Return why the result is doubtful; nothing if it is reliable.

    Parameters
    ----------
    history
        Entries of all rounds.
    late
        Quality of the joint weights of the last set, as from `JointSamples.quality`.
    facts
        What the estimate of the maps says, with the expected forward KLD.
    """
    if not late or not history:
        return ["no weighted samples yet: the PMFs are those of the harmonic minima"]
    warnings = []
    size, tail, share = late["effective_samples"], late["pareto_k"], late["largest_share"]
    if not size >= LEAST_SAMPLES:
        warnings.append(f"{size:.0f} effective samples in the last set of weights: too few for the PMFs")
    if share > LARGEST_SHARE:
        warnings.append(f"one importance weight holds {share:.0%} of the sum of the last set")
    if not tail <= RELIABLE_PARETO_K:
        warnings.append(f"weights have a heavy tail (Pareto k = {tail:.2f}): the errors of the PMFs are unknown")
    cut = history[-1].get("truncated_share", 0.0)
    if cut > LARGEST_TRUNCATED:
        warnings.append(f"truncation removes {cut:.0%} of the weights: populations of rare states may be too low")
    expected = facts.get("expected_kld")
    if expected is None or expected > LARGEST_EXPECTED_KLD:
        known = "unknown" if expected is None else f"{expected:.1e}"
        warnings.append(f"too few samples: the expected forward KLD is {known}")
    fits = [entry for entry in history if "unfitted" in entry]
    if fits and fits[-1]["unfitted"]:
        warnings.append("the model of the PMF could not be fitted in the last round of training")
    uncertain = fits[-1].get("uncertain_share", 0.0) if fits else 0.0
    if uncertain > MANY:
        warnings.append(f"exploration has not ended: {uncertain:.1%} of the chains are in uncertain places")
    return warnings
