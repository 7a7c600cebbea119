"""Lets the tests of this folder import `golden` beside them, and makes the systems and PMFs of their files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from cgbench.contracts.pmf import PMF
from cgbench.scoring.referee import Referee
from cgbench_systems.aldp import AlanineDipeptide

sys.path.insert(0, str(Path(__file__).parent))

from golden import PhiOfAlanine, Truth  # noqa: E402


@pytest.fixture(scope="session")
def referee(aldp: AlanineDipeptide) -> Referee:
    return Referee(aldp)


@pytest.fixture(scope="session")
def truth(referee: Referee) -> Truth:
    """A PMF of phi and psi: the reference of aldp with smooth noise, as a function."""
    assert referee.reference is not None
    return Truth(referee.reference.pmf, noise=0.08, seed=1)


@pytest.fixture(scope="session")
def noisy(referee: Referee) -> PMF:
    """A PMF on the grid of aldp: its reference with noise in every bin."""
    assert referee.reference is not None
    pmf = referee.reference.pmf
    return PMF(pmf.cvs, pmf.probability * np.exp(0.05 * np.random.default_rng(2).normal(size=pmf.cvs.bins)))


@pytest.fixture(scope="session")
def drawn(referee: Referee) -> np.ndarray:
    """CVs drawn from the reference of aldp."""
    assert referee.reference is not None
    pmf = referee.reference.pmf
    index = np.random.default_rng(3).choice(10_000, 20_000, p=pmf.probability.reshape(-1))
    return pmf.cvs.grid()[index]


@pytest.fixture(scope="session")
def line() -> PhiOfAlanine:
    """A system with one CV."""
    return PhiOfAlanine()
