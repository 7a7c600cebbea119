r"""Torsions of batches of configurations, with their gradient in closed form.

For points a, b, c, d with bonds f = b - a, g = c - b, h = d - c and normals m = f x g, n = g x h, the angle is

    phi = atan2(|g| f.n, m.n),

and its derivatives are (Blondel & Karplus, J. Comput. Chem. 17, 1132, 1996)

    d phi/da = -|g| m/m^2,    d phi/dd = |g| n/n^2,    t = (h.g/g^2) d phi/dd - (f.g/g^2) d phi/da,
    d phi/db = t - d phi/da,  d phi/dc = -t - d phi/dd.

Biased dynamics needs them at every step. A C++ kernel (torsions.cpp) gives the same numbers to rounding.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cgbench.native import tensors
from cgbench_systems.molecular.geometry import dihedral

__all__ = ["torsions"]

SOURCE = Path(__file__).with_suffix(".cpp")


def torsions(x: torch.Tensor, quadruples: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return dihedral angles in [-pi, pi), ``[batch, torsions]``, with the sign of `dihedral`.

    Parameters
    ----------
    x
        Configurations ``[batch, atoms, 3]``. If they require a gradient and this machine has the kernel, values and
        first derivatives come from it.
    quadruples
        The four atoms of each torsion.
    """
    if torch.is_grad_enabled() and x.requires_grad and tensors.serves(SOURCE, x):
        angles: torch.Tensor = _Torsions.apply(x, torch.tensor(quadruples))  # type: ignore[no-untyped-call]
        return angles
    return _by_torch(x, quadruples)


def _by_torch(x: torch.Tensor, quadruples: Sequence[Sequence[int]]) -> torch.Tensor:
    return torch.stack([dihedral(*(x[:, atom] for atom in quadruple)) for quadruple in quadruples], dim=1)


class _Torsions(torch.autograd.Function):
    """The angles by the kernel."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, quadruples: torch.Tensor) -> torch.Tensor:
        positions = x.detach().contiguous()
        angles = x.new_empty(len(x), len(quadruples))
        derivatives = x.new_empty(*angles.shape, 4, 3)
        _call("measure", x.shape, quadruples, positions, angles, derivatives)
        ctx.save_for_backward(x, quadruples, derivatives)
        return angles

    @staticmethod
    def backward(ctx: Any, slopes: torch.Tensor) -> tuple[torch.Tensor, None]:
        x, quadruples, derivatives = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives are wanted
            angles = _by_torch(x, quadruples.tolist())
            return torch.autograd.grad(angles, x, slopes, create_graph=True)[0], None
        gradient = torch.zeros_like(x, memory_format=torch.contiguous_format)
        _call("pull", x.shape, quadruples, derivatives, slopes.contiguous(), gradient)
        return gradient, None


def _call(name: str, shape: Sequence[int], quadruples: torch.Tensor, *arrays: torch.Tensor) -> None:
    """Call a function of the kernel for configurations of this shape."""
    sizes = (ctypes.c_int64(size) for size in (len(quadruples), shape[1], shape[0]))
    kernel = tensors.function(SOURCE, name, arrays[0].dtype)
    kernel(tensors.address(quadruples), *sizes, *(tensors.address(array) for array in arrays))
