"""Why the result of the recipe with more than three collective variables is doubtful."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from cgbench_methods.lib.estimators.jackknife import warnings_of_errors

__all__ = ["warnings_of"]

FEWEST_MOVES = 5.0  # accepted proposals of the flow, per walker on average
MOST_WITHOUT = 0.1  # share of the walkers that accepted none
LARGEST_EXPECTED_KLD = 5e-3
MANY = 0.01  # share of the chains in uncertain places


def warnings_of(
    history: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], moves: torch.Tensor | None
) -> list[str]:
    """Return why the result is doubtful; nothing if it is reliable.

    Parameters
    ----------
    history
        Entries of all rounds.
    facts
        What the estimate of the maps says, with the expected forward KLD.
    moves
        Accepted proposals of each walker since the equilibration ``[walkers]``; None before the sampling rounds.
    """
    if not history:
        return ["no weighted samples yet: the PMFs are those of the harmonic minima"]
    warnings = []
    if moves is None:
        warnings.append("no sampling round yet: the PMFs are those of the training's truncated weights")
    else:
        mean, without = float(moves.mean()), float((moves == 0).double().mean())
        if not mean >= FEWEST_MOVES:
            warnings.append(
                f"walkers accepted {mean:.2g} proposals of the flow on average, fewer than {FEWEST_MOVES:g}: "
                "populations may be those of the start"
            )
        elif without > MOST_WITHOUT:
            warnings.append(f"{without:.0%} of the walkers accepted no proposal: the flow omits where they are")
    expected = facts.get("expected_kld")
    if expected is None:
        warnings.append("too few samples: the expected forward KLD is unknown")
    warnings += warnings_of_errors(expected, LARGEST_EXPECTED_KLD)
    fits = [entry for entry in history if "unfitted" in entry]
    if fits and fits[-1]["unfitted"]:
        warnings.append("the model of the PMF could not be fitted in the last round of training")
    uncertain = fits[-1].get("uncertain_share", 0.0) if fits else 0.0
    if uncertain > MANY:
        warnings.append(f"exploration has not ended: {uncertain:.1%} of the chains are in uncertain places")
    return warnings
