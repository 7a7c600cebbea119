"""Dihedral angles and chirality of batches of configurations."""

from __future__ import annotations

import torch

__all__ = ["dihedral", "obtuse", "triple_product"]


def dihedral(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Return the dihedral angles of the points `a`, `b`, `c`, `d` ``[..., 3]`` in [-pi, pi), with the IUPAC sign.

    They are positive when, looking from `b` to `c`, the bond `c`-`d` is turned clockwise from `b`-`a`.
    """
    axis = c - b
    first, last = b - a, d - c
    normal_1 = torch.linalg.cross(first, axis)
    normal_2 = torch.linalg.cross(axis, last)
    sine = (first * normal_2).sum(-1) * axis.norm(dim=-1)
    cosine = (normal_1 * normal_2).sum(-1)
    angle = torch.atan2(sine, cosine)
    return torch.where(angle >= torch.pi, angle - 2 * torch.pi, angle)


def obtuse(x: torch.Tensor, quadruples: torch.Tensor) -> torch.Tensor:
    """Tell which dihedral angles are beyond 90 degrees, such as those of trans bonds; faster than `dihedral`.

    Parameters
    ----------
    x
        Configurations ``[batch, atoms, 3]``.
    quadruples
        Atoms of each angle, ``[angles, 4]``.

    Returns
    -------
    torch.Tensor
        Boolean ``[batch, angles]``: the cosine is negative.
    """
    bonds = x.index_select(1, quadruples.flatten()).unflatten(1, quadruples.shape).diff(dim=2)
    normals = torch.linalg.cross(bonds[:, :, :-1], bonds[:, :, 1:])
    beyond: torch.Tensor = (normals[:, :, 0] * normals[:, :, 1]).sum(-1) < 0
    return beyond


def triple_product(x: torch.Tensor, centre: int, neighbours: tuple[int, int, int]) -> torch.Tensor:
    """Return the signed volume spanned by three neighbours of an atom, ``[batch]``; its sign is the chirality.

    Parameters
    ----------
    x
        Configurations ``[batch, atoms, 3]``.
    """
    a, b, c = (x[:, n] - x[:, centre] for n in neighbours)
    volume: torch.Tensor = (a * torch.linalg.cross(b, c)).sum(-1)
    return volume
