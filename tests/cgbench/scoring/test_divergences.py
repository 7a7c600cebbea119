"""Divergences against closed forms and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from scipy.spatial import distance

from cgbench.scoring.divergences import forward_kld, jensen_shannon, reverse_kld, total_variation

weights = st.lists(st.floats(0.01, 10.0), min_size=6, max_size=6).map(np.array)


@given(weights, weights)
def test_against_scipy(p: np.ndarray, q: np.ndarray) -> None:
    p, q = p / p.sum(), q / q.sum()
    assert forward_kld(p, q) == pytest.approx(special.rel_entr(p, q).sum(), abs=1e-12)
    assert reverse_kld(p, q) == pytest.approx(special.rel_entr(q, p).sum(), abs=1e-12)
    assert jensen_shannon(p, q) == pytest.approx(distance.jensenshannon(p, q) ** 2, abs=1e-12)
    assert total_variation(p, q) == pytest.approx(distance.cityblock(p, q) / 2, abs=1e-12)


@given(weights, st.floats(0.1, 10.0))
def test_normalisation_does_not_matter(p: np.ndarray, factor: float) -> None:
    assert forward_kld(p, factor * p) == pytest.approx(0.0, abs=1e-12)


def test_direction() -> None:
    """Missing a basin is infinite forwards; inventing one is infinite backwards. No epsilon hides it."""
    whole, half = np.array([0.5, 0.5]), np.array([1.0, 0.0])
    assert forward_kld(whole, half) == math.inf and forward_kld(half, whole) == pytest.approx(math.log(2))
    assert reverse_kld(half, whole) == math.inf
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(math.log(2))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shapes"):
        forward_kld(np.ones(3), np.ones(4))
