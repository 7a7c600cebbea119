"""A system of five coupled angles whose maps are known by quadrature: terms of three neighbours, summed one by one."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import States
from tests.methods.cgflow.harmonic.plain import MadeUp

BINS, FINE = 24, 2  # bins along each angle, and points of the quadrature in each
CVS = CollectiveVariables(tuple("abcde"), (-math.pi,) * 5, (math.pi,) * 5, (True,) * 5, bins=(BINS,) * 5)
STATES = States(("c < 0", "c > 0"), lambda s: (s[:, 2] > 0).astype(np.int64))


def single(a: torch.Tensor) -> torch.Tensor:
    """Return the potential of one angle, with wells at 0 and 180 degrees."""
    return 1.5 * (1.0 - torch.cos(2 * a)) - 0.4 * torch.cos(a)


def pair(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the potential of two neighbours."""
    return 1.2 * torch.cos(a - b - 0.5)


def triple(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Return the potential of three neighbours, which no sum over pairs contains."""
    return 0.7 * torch.sin(a + b - c)


def free_energy(s: torch.Tensor) -> torch.Tensor:
    """Return the PMF over all five angles in kT, ``[batch, 5] -> [batch]``."""
    angles = s.unbind(1)
    total = sum(single(a) for a in angles)
    total = total + sum(pair(a, b) for a, b in zip(angles, angles[1:], strict=False))
    result: torch.Tensor = total + sum(triple(*angles[i : i + 3]) for i in range(3))
    return result


def exact_maps() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the probabilities of the maps (a, b) and (e, c)."""
    nodes = torch.from_numpy(CVS.subset((0,)).centers(0, FINE))
    x, y, z = nodes[:, None, None], nodes[None, :, None], nodes[None, None, :]
    first = torch.exp(-(single(x) + single(y) + single(z) + pair(x, y) + pair(y, z) + triple(x, y, z)))
    further = torch.exp(-(single(z) + pair(y, z) + triple(x, y, z)))  # the next angle, given the two before
    after = torch.einsum("bcd,cd->bc", further, further.sum(2))
    ab = torch.einsum("abc,bc->ab", first, after)
    of_cd = torch.einsum("bc,bcd->cd", first.sum(0), further)
    ec = torch.einsum("cd,cde->ec", of_cd, further)
    blocks = [p.reshape(BINS, FINE, BINS, FINE).sum((1, 3)) for p in (ab, ec)]
    return blocks[0].div(blocks[0].sum()).numpy(), blocks[1].div(blocks[1].sum()).numpy()


class FiveAngles(MadeUp):
    """The five angles, and two coordinates that are Gaussian at given angles."""

    name, cvs, maps, states = "five_angles", CVS, ((0, 1), (4, 2)), STATES
    names, angles, start = ("u", "v"), (False, False), (0.0,) * 7

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        """Return reduced energies ``[batch]``."""
        a, d, u, v = x[:, 0], x[:, 3], x[:, 5], x[:, 6]
        return free_energy(x[:, :5]) + 0.5 * (u - torch.sin(a)) ** 2 + 2.0 * (v - torch.cos(d) - 0.5 * u) ** 2
