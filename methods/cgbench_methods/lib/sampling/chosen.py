"""A choice of the collective variables (CVs) of a system: which a method biases, and a bias on them alone."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated

import torch
from pydantic import Field

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import MOST_CVS, columns
from cgbench.errors import UserError
from cgbench_methods.lib.sampling.bias import Bias

__all__ = ["BiasOnChosen", "ChosenCVs", "chosen_axes"]

ChosenCVs = Annotated[
    tuple[str, ...] | None,
    Field(min_length=1, description="names of the CVs that are biased, or patterns such as 'phi *'; null for all"),
]


def chosen_axes(cvs: CollectiveVariables, names: Sequence[str] | None, method: str) -> tuple[int, ...]:
    """Return the indices of the chosen CVs among those of the system; all of them if `names` is None.

    Parameters
    ----------
    cvs
        The CVs of the system.
    names
        The choice: names, or patterns with ``*`` for all CVs that they match.
    method
        Name of the method, for the message.

    Raises
    ------
    UserError
        If a name or pattern matches nothing, a CV is chosen twice, or there are more than three.
    """
    known = ", ".join(cvs.names)
    chosen: list[str] = []
    for name in ("*",) if names is None else names:
        matching = [cv for cv in cvs.names if cv == name or fnmatchcase(cv, name)]
        if not matching:
            raise UserError(f"method {method}, key 'cvs': the system has no CV {name!r}; choose from {known}")
        chosen += matching
    if len(set(chosen)) < len(chosen):
        raise UserError(f"method {method}, key 'cvs': a CV is named twice in {', '.join(chosen)}")
    if len(chosen) > MOST_CVS:
        raise UserError(
            f"method {method} biases at most {MOST_CVS} CVs, not {len(chosen)}: choose from {known}, for example "
            f"--set 'cvs=[{', '.join(cvs.names[:MOST_CVS])}]'"
        )
    return tuple(cvs.names.index(name) for name in chosen)


class BiasOnChosen:
    """A bias on some of the CVs of a system, as a function of all of them.

    Parameters
    ----------
    bias
        The bias on the chosen CVs.
    axes
        Their indices among all.
    """

    def __init__(self, bias: Bias, axes: Sequence[int]) -> None:
        self.bias, self.axes = bias, list(axes)

    def energy(self, s: torch.Tensor) -> torch.Tensor:
        """Bias ``[batch]`` in kT at ``s [batch, cvs]``."""
        return self.bias.energy(columns(s, self.axes))

    def energy_and_gradient(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bias ``[batch]`` and its gradient ``[batch, cvs]`` at ``s [batch, cvs]``."""
        energy, slopes = self.bias.energy_and_gradient(columns(s, self.axes))
        gradient = torch.zeros_like(s)
        gradient[:, torch.tensor(self.axes, device=s.device)] = slopes.to(s)
        return energy, gradient
