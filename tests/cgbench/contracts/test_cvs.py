"""Wrapping, differences and bins of collective variables, of numpy and torch, against brute force and numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cgbench.contracts.cvs import CollectiveVariables

TORUS = CollectiveVariables(("phi", "psi"), (-math.pi, 0.0), (math.pi, 3.0), (True, True), bins=(12, 10))
MIXED = CollectiveVariables(("angle", "distance"), (-math.pi, 0.0), (math.pi, 2.0), (True, False), bins=(24, 10))
LINE = CollectiveVariables(("s",), (-1.0,), (3.0,), (False,), bins=(8,))
DOMAINS = pytest.mark.parametrize("cvs", [TORUS, MIXED, LINE], ids=["torus", "mixed", "line"])


def scattered(cvs: CollectiveVariables, count: int, seed: int) -> np.ndarray:
    """Points over about three lengths of the domain along each CV."""
    low, high = np.array(cvs.lower), np.array(cvs.upper)
    return low + (high - low) * np.random.default_rng(seed).uniform(-1.0, 2.0, size=(count, len(cvs)))


@DOMAINS
def test_difference_is_the_shortest_of_all_images(cvs) -> None:
    a, b = scattered(cvs, 300, 0), scattered(cvs, 300, 1)
    found = cvs.difference(a, b)
    for axis, periodic in enumerate(cvs.periodic):
        period = (cvs.upper[axis] - cvs.lower[axis]) if periodic else 0.0
        images = (a - b)[:, axis, None] + period * np.arange(-4, 5)
        nearest = images[np.arange(300), np.abs(images).argmin(1)]
        np.testing.assert_allclose(found[:, axis], nearest, atol=1e-12)


@DOMAINS
def test_tensors_give_the_same_as_arrays(cvs) -> None:
    a, b = scattered(cvs, 200, 2), scattered(cvs, 50, 3)
    s, t = torch.from_numpy(a), torch.from_numpy(b)
    np.testing.assert_array_equal(cvs.difference(s[:, None], t).numpy(), cvs.difference(a[:, None], b))
    np.testing.assert_array_equal(cvs.wrap(s).numpy(), cvs.wrap(a))
    for nearest in (False, True):
        index = cvs.bin_index(s, nearest)
        assert index.dtype == torch.long and index.tolist() == cvs.bin_index(a, nearest).tolist()
    single = s.float()
    assert cvs.wrap(single).dtype == cvs.difference(single, single).dtype == torch.float32
    assert torch.equal(s, torch.from_numpy(a))  # arguments stay as they are


def test_wrapping_never_rounds_to_the_upper_bound() -> None:
    below = np.nextafter(-math.pi, -4.0)  # its image lies within rounding of the upper bound
    for values in (np.array([[below, 1.0]]), torch.tensor([[below, 1.0]], dtype=torch.float64)):
        assert float(MIXED.wrap(values)[0, 0]) < math.pi
    single = torch.tensor([[-3.1415928, 1.0]])
    assert float(MIXED.wrap(single)[0, 0]) < np.float32(math.pi)


def test_bins_against_numpy() -> None:
    s = scattered(MIXED, 5000, 4)
    edges = [MIXED.edges(axis) for axis in range(2)]
    expected, _ = np.histogramdd(MIXED.wrap(s), bins=edges)
    index = MIXED.bin_index(s)
    counts = np.bincount(index[index >= 0], minlength=240).reshape(24, 10)
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(MIXED.histogram(s), expected)
    weights = np.random.default_rng(5).random(5000)
    expected, _ = np.histogramdd(MIXED.wrap(s), bins=edges, weights=weights)
    np.testing.assert_allclose(MIXED.histogram(s, weights), expected, rtol=1e-13)


def test_the_nearest_bin_of_what_is_outside() -> None:
    s = np.array([[-5.0], [-1.0], [3.0], [9.0], [np.inf], [-np.inf], [np.nan]])
    assert LINE.bin_index(s).tolist() == [-1, 0, 7, -1, -1, -1, -1]
    assert LINE.bin_index(s, nearest=True).tolist() == [0, 0, 7, 7, 7, 0, -1]
    corner = np.array([[3 * math.pi - 0.01, 5.0]])  # periodic CVs are wrapped, others are not
    assert MIXED.bin_index(corner, nearest=True).tolist() == [24 * 10 - 1]


def test_centres_lie_in_their_own_bins() -> None:
    for cvs in (TORUS, MIXED, LINE):
        np.testing.assert_array_equal(cvs.bin_index(cvs.grid()), np.arange(math.prod(cvs.bins)))
