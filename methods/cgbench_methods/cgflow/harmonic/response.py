"""Second-order response of the flow: coordinates follow the products of others.

In a harmonic approximation, stiff coordinates follow soft ones linearly. In a molecule they also follow their squares
and products: the ends of an open ring move apart when the ring is bent out of its plane, to either side, and bond
angles open when a torsion turns, to either side. In units e of the harmonic approximation, a cubic term
``T_ijk e_i e_j e_k`` of the energy has the first-order effect

    x_j = e_j + sum_{i <= k < j} Q_jik (u_i u_k - d_ik),        u = c tanh(e / c),

with ``Q_jik = -T_jik`` (half of it for i = k). The limit c keeps it bounded in the tails, d_ik is Kronecker's delta.
"""

from __future__ import annotations

import torch
from nflows.transforms.base import Transform

__all__ = ["QuadraticResponse"]

BLOCKS = 6
LIMIT = 3.0  # standard deviations; larger displacements of a coordinate count as little more than this


class QuadraticResponse(Transform):
    """Shift coordinates by quadratic functions of others; initially the identity.

    The coordinates are taken in blocks, the last ones first. Those of a block follow all of the blocks before it. In a
    Z-matrix the torsions come last and are the softest, so angles and bonds follow torsions. The volume does not
    change.

    Parameters
    ----------
    used
        Which dimensions take part, boolean ``[dims]``; the others stay as they are.
    dtype
        Type of the coefficients.
    """

    def __init__(self, used: torch.Tensor, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.order: torch.Tensor
        self.back: torch.Tensor
        taken = used.nonzero().squeeze(1).flip(0)
        order = torch.cat([taken, (~used).nonzero().squeeze(1)])
        self.register_buffer("order", order)
        self.register_buffer("back", torch.argsort(order))
        blocks = [part for part in taken.tensor_split(BLOCKS) if len(part)]
        self.sizes = [len(part) for part in blocks]
        self.rest = len(order) - len(taken)
        self.coefficients = torch.nn.ParameterList()
        for number, size in enumerate(self.sizes[1:], 1):
            before = sum(self.sizes[:number])
            rows, columns = torch.triu_indices(before, before)
            self.register_buffer(f"rows_{number}", rows)
            self.register_buffer(f"columns_{number}", columns)
            self.coefficients.append(torch.nn.Parameter(torch.zeros(len(rows), size, dtype=dtype)))

    def _shift(self, number: int, source: torch.Tensor) -> torch.Tensor:
        """Return the shifts of a block ``[batch, size]`` for the blocks before it ``[batch, before]``."""
        limited = LIMIT * torch.tanh(source / LIMIT)
        rows, columns = self.get_buffer(f"rows_{number}"), self.get_buffer(f"columns_{number}")
        products = limited.index_select(1, rows) * limited.index_select(1, columns)
        shift: torch.Tensor = (products - (rows == columns).to(products)) @ self.coefficients[number - 1]
        return shift

    def _split(self, inputs: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        *blocks, rest = inputs[:, self.order].split([*self.sizes, self.rest], dim=1)
        return blocks, rest

    def forward(self, inputs: torch.Tensor, context: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Map data to noise; return outputs ``[batch, dims]`` and ``ln|det|`` ``[batch]``, which is zero."""
        blocks, rest = self._split(inputs)
        done = inputs[:, :0]
        for number, block in enumerate(blocks):
            own = block - self._shift(number, done) if number else block
            done = torch.cat([done, own], dim=1)
        return torch.cat([done, rest], dim=1)[:, self.back], inputs.new_zeros(len(inputs))

    def inverse(self, inputs: torch.Tensor, context: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Map noise to data; return outputs ``[batch, dims]`` and ``ln|det|`` ``[batch]``, which is zero."""
        blocks, rest = self._split(inputs)
        moved = [
            block + self._shift(number, torch.cat(blocks[:number], dim=1)) if number else block
            for number, block in enumerate(blocks)
        ]
        return torch.cat([*moved, rest], dim=1)[:, self.back], inputs.new_zeros(len(inputs))
