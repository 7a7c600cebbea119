"""Maps of the model of pairs: sums of ``exp(-A_model)`` over the collective variables (CVs) that a map does not have.

Given all other CVs, the density of the CVs of a map is known on a grid: their own terms, and one field along each of
them from the others. Hence the map is the mean of these conditional densities over weighted draws of all CVs. It is
smooth, although the draws are few.
"""

from __future__ import annotations

import math

import torch

from cgbench.contracts.maps import Map
from cgbench_methods.cgflow.harmonic.pairs.model import PairModel

__all__ = ["marginal"]

AT_ONCE = 1024  # draws whose fields are in memory at once


def marginal(model: PairModel, one: Map, s: torch.Tensor, log_weights: torch.Tensor) -> torch.Tensor:
    """Return the probabilities of a map under the model, ``[*bins]``.

    Parameters
    ----------
    model
        The model of the PMF.
    one
        The map.
    s, log_weights
        Draws of all CVs ``[n, cvs]`` and the logarithms of their weights under ``exp(-A_model)`` ``[n]``.
    """
    basis, cvs = model.basis, model.cvs
    single, between = basis.terms(model.coefficients)
    blocks = [slice(low, high) for low, high in zip(basis.starts, basis.starts[1:], strict=False)]
    others = torch.ones(basis.starts[-1], dtype=torch.bool)
    for axis in one.axes:
        others[blocks[axis]] = False
    tables = [basis.axes[axis].values(torch.from_numpy(cvs.centers(axis))) for axis in one.axes]
    dimensions = len(one.axes)

    def along(position: int, values: torch.Tensor) -> torch.Tensor:
        shape = [1] * dimensions
        shape[position] = -1
        return values.reshape(shape)

    own = torch.zeros([len(table) for table in tables], dtype=torch.float64)
    for first, axis in enumerate(one.axes):
        own += along(first, tables[first] @ single[blocks[axis]])
        for second in range(first + 1, dimensions):
            term = tables[first] @ between[blocks[axis], blocks[one.axes[second]]] @ tables[second].T
            shape = [len(table) if number in (first, second) else 1 for number, table in enumerate(tables)]
            own += term.reshape(shape)
    density = torch.exp(own.min() - own)
    total = torch.zeros_like(density)
    letters = "abcdefgh"[:dimensions]
    product = ",".join(f"n{letter}" for letter in letters)
    shares = torch.softmax(log_weights, 0)
    for part, share in zip(s.split(AT_ONCE), shares.split(AT_ONCE), strict=True):
        functions = basis.functions(part)
        fields = []
        for table, axis in zip(tables, one.axes, strict=True):
            field = functions[:, others] @ between[others][:, blocks[axis]] @ table.T
            fields.append(torch.exp(field.min(dim=1, keepdim=True).values - field))
        norm = torch.einsum(f"{letters},{product}->n", density, *fields)
        scale = share / norm.clamp(min=math.ulp(0.0))
        total += torch.einsum(f"n,{product}->{letters}", scale, *fields)
    return density * total / (density * total).sum()
