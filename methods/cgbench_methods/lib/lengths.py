"""Lengths along collective variables (CVs) of any unit: the whole domain of a CV counts as 2 pi.

For a torsion in radians this is the length itself. So one setting serves torsions, distances and the coordinates of a
model alike.
"""

from __future__ import annotations

import math

import torch

from cgbench.contracts.cvs import CollectiveVariables

__all__ = ["apart", "units"]


def units(cvs: CollectiveVariables) -> torch.Tensor:
    """Return the length along each CV that counts as 1, in the unit of the CV ``[cvs]``."""
    widths = [high - low for low, high in zip(cvs.lower, cvs.upper, strict=True)]
    return torch.tensor(widths, dtype=torch.float64) / (2 * math.pi)


def apart(cvs: CollectiveVariables, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return distances between points ``[..., cvs]``, by the shorter way around periodic CVs; arguments broadcast.

    Returns
    -------
    torch.Tensor
        Euclidean norms in `units` ``[...]``.
    """
    difference = cvs.difference(a, b)
    distance: torch.Tensor = (difference / units(cvs).to(difference)).norm(dim=-1)
    return distance
