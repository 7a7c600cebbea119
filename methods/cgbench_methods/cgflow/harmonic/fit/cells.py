"""Sums over the cells of the grid of the collective variables (CVs), and over the neighbourhoods of the cells."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from cgbench.contracts.cvs import CollectiveVariables

__all__ = ["smooth", "sum_by"]


def sum_by(index: torch.Tensor, values: torch.Tensor, size: int) -> torch.Tensor:
    """Sum values ``[n, ...]`` with the same index ``[n]``; return ``[size, ...]``."""
    return torch.zeros(size, *values.shape[1:], dtype=values.dtype).index_add_(0, index, values)


def smooth(cvs: CollectiveVariables, counts: torch.Tensor, width: float) -> torch.Tensor:
    """Sum over the neighbourhood of each cell, with a Gaussian kernel of height 1; ``[cells, columns]``.

    Parameters
    ----------
    cvs
        The CVs with their grid.
    counts
        ``[cells, columns]``.
    width
        Standard deviation of the kernel as a fraction of the domain.
    """
    widths = [width * bins for bins in cvs.bins]
    modes = ["wrap" if periodic else "constant" for periodic in cvs.periodic]
    reach = float(np.prod([np.sqrt(2 * np.pi) * width for width in widths]))  # cells in the kernel
    columns = [
        gaussian_filter(column.numpy().reshape(cvs.bins), widths, mode=modes).reshape(-1) * reach for column in counts.T
    ]
    return torch.from_numpy(np.stack(columns, axis=1))
