"""PMFs on grids: integrals over bins, periodic domains, normalisation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF, basin_mask
from cgbench.errors import UserError
from cgbench.storage.files import write_npz

ANGLES = CollectiveVariables(("phi", "psi"), (-math.pi,) * 2, (math.pi,) * 2, (True, True), bins=(12, 10))
LINE = CollectiveVariables(("s",), (-1.0,), (3.0,), (False,), bins=(8,), unit="nm")


def test_probabilities_are_integrals_over_bins() -> None:
    """Of a Gaussian, against the error function."""
    pmf = PMF.from_function(LINE, lambda s: 0.5 * ((s[:, 0] - 1.0) / 0.4) ** 2, subdivisions=200)
    cumulative = np.array([0.5 * (1 + math.erf((e - 1.0) / 0.4 / math.sqrt(2))) for e in LINE.edges(0)])
    exact = np.diff(cumulative)
    np.testing.assert_allclose(pmf.probability, exact / exact.sum(), atol=2e-6)


def test_functions_and_histograms_mean_the_same_thing() -> None:
    """The order of axes and bins: a function with different slopes along each axis, sampled and integrated."""

    def energy(s: np.ndarray) -> np.ndarray:
        return -1.5 * np.cos(s[:, 0] - 0.5) - 0.7 * np.sin(2 * s[:, 1])

    random = np.random.default_rng(0)
    proposals = random.uniform(-math.pi, math.pi, size=(400_000, 2))
    kept = proposals[random.uniform(size=len(proposals)) < np.exp(-energy(proposals) - 2.3)]
    counts = ANGLES.histogram(kept)
    exact = PMF.from_function(ANGLES, energy, subdivisions=8).probability * counts.sum()
    assert np.abs((counts - exact) / np.sqrt(exact)).max() < 4.5  # 120 bins


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_wrap_keeps_the_angle(phi: float, psi: float) -> None:
    wrapped = ANGLES.wrap([[phi, psi]])
    assert np.all((wrapped >= -math.pi) & (wrapped < math.pi))
    np.testing.assert_allclose(np.exp(1j * wrapped), np.exp(1j * np.array([[phi, psi]])), atol=1e-9)


def test_histogram_closes_periodic_domains_and_drops_what_is_outside_others() -> None:
    counts = ANGLES.histogram([[math.pi, 0.01], [-math.pi, 0.01], [math.pi + 0.1, 0.01]])
    assert counts[0, 5] == 3
    assert LINE.histogram([[-1.5], [0.0], [3.5]]).sum() == 1


def test_weights() -> None:
    counts = LINE.histogram([[-0.9], [-0.9], [2.9]], weights=[0.5, 0.25, 2.0])
    assert counts[0] == 0.75 and counts[-1] == 2.0


def test_free_energy() -> None:
    pmf = PMF(LINE, np.arange(8.0))
    assert pmf.free_energy.min() == 0.0 and pmf.free_energy[0] == np.inf
    assert pmf.free_energy[1] == pytest.approx(math.log(7.0))
    assert pmf.population(np.arange(8) >= 6) == pytest.approx(13 / 28)


def test_huge_barriers_stay_positive() -> None:
    pmf = PMF.from_function(LINE, lambda s: 1e5 * (s[:, 0] > 1.0))
    assert np.all(pmf.probability > 0)


def test_pseudocounts_keep_empty_bins_positive() -> None:
    pmf = PMF.from_counts(LINE, [0, 0, 3, 1, 0, 0, 0, 0], pseudocount=0.5)
    np.testing.assert_allclose(pmf.probability, np.array([1, 1, 7, 3, 1, 1, 1, 1]) / 16)


@pytest.mark.parametrize(
    "probability, message",
    [(np.ones(7), "shape"), (-np.ones(8), "not negative"), (np.zeros(8), "zero"), (np.full(8, np.nan), "finite")],
)
def test_bad_probabilities(probability: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PMF(LINE, probability)


def test_std_has_the_grids_shape() -> None:
    assert PMF(LINE, np.ones(8), np.ones(8)).arrays()["free_energy_std"].shape == (8,)
    with pytest.raises(ValueError, match="free_energy_std"):
        PMF(LINE, np.ones(8), np.ones(7))


def test_grid_and_basins() -> None:
    grid = ANGLES.grid()
    assert grid.shape == (120, 2)
    assert grid[1, 0] == grid[0, 0] and grid[1, 1] > grid[0, 1]  # first CV slowest
    mask = basin_mask(ANGLES, lambda columns: columns[0] > 0)
    assert mask[6:].all() and not mask[:6].any()
    assert ANGLES.centers(0, 3)[1] == pytest.approx(ANGLES.centers(0)[0])


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="one entry per CV"):
        CollectiveVariables(("phi", "psi"), (0.0,), (1.0, 1.0), (True, True))


def test_a_pmf_comes_back_to_the_bit() -> None:
    cvs = CollectiveVariables(names=("s",), lower=(0.0,), upper=(1.0,), periodic=(False,), unit="")
    weights = np.random.default_rng(0).random((50, 100)) ** 9
    pmfs = [PMF(cvs, w) for w in weights]
    assert any((PMF(cvs, pmf.probability).probability != pmf.probability).any() for pmf in pmfs)  # hence the care
    for pmf in pmfs:
        assert (PMF.restored(cvs, pmf.probability, None).probability == pmf.probability).all()
    with pytest.raises(ValueError, match="sum to"):
        PMF.restored(cvs, weights[0], None)


@pytest.mark.parametrize("cvs", [ANGLES, LINE], ids=["angles", "line"])
def test_a_saved_pmf_loads_to_the_bit(cvs: CollectiveVariables, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    saved = PMF(cvs, random.random(cvs.bins) ** 9, random.random(cvs.bins))
    write_npz(tmp_path / "pmf.npz", saved.arrays())
    loaded = PMF.load(tmp_path / "pmf.npz", cvs)
    assert loaded.cvs == cvs and (loaded.probability == saved.probability).all()
    assert loaded.free_energy_std is not None and (loaded.free_energy_std == saved.free_energy_std).all()
    unnamed = PMF.load(str(tmp_path / "pmf.npz"))
    assert (unnamed.free_energy == saved.free_energy).all()
    assert unnamed.cvs.names == ("CV 1", "CV 2")[: len(cvs)] and not any(unnamed.cvs.periodic)
    assert unnamed.cvs.lower == pytest.approx(cvs.lower) and unnamed.cvs.upper == pytest.approx(cvs.upper)


def test_a_file_that_is_no_pmf_is_a_user_error(tmp_path: Path) -> None:
    path = tmp_path / "pmf.npz"
    with pytest.raises(UserError, match="pmf.npz cannot be read: No such file"):
        PMF.load(path)
    whole = PMF(LINE, np.arange(1.0, 9.0)).arrays()
    faults = {
        "has no array 'probability'": {name: array for name, array in whole.items() if name != "probability"},
        "has no array 'centers_0'": {name: array for name, array in whole.items() if name != "centers_0"},
        "does not match its bin centres": whole | {"centers_0": np.arange(7.0)},
        "pmf.npz: could not convert string": whole | {"probability": np.array(["a", "b"])},
        r"probability \(8,\) does not match its bin centres": whole | {"centers_0": np.full(8, np.inf)},
        "must be finite": whole | {"probability": np.full(8, np.nan)},
        "sum to": whole | {"probability": np.ones(8)},
        "free_energy_std has shape": whole | {"free_energy_std": np.ones(7)},
        "not on the grid of CV 1": whole | {"centers_0": np.arange(8.0) ** 2},
    }
    for message, arrays in faults.items():
        write_npz(path, arrays)
        with pytest.raises(UserError, match=message):
            PMF.load(path)
    write_npz(path, whole)
    with pytest.raises(UserError, match="not on the grid of phi, psi"):
        PMF.load(path, ANGLES)
    shifted = CollectiveVariables(("s",), (-1.1,), (2.9,), (False,), bins=(8,), unit="nm")
    with pytest.raises(UserError, match="not on the grid of s: give the CVs"):
        PMF.load(path, shifted)
    path.write_bytes(b"PK nonsense")
    with pytest.raises(UserError, match="pmf.npz cannot be read"):
        PMF.load(path)


def test_a_pmf_does_not_change_with_the_arrays_it_was_made_of() -> None:
    """A method may use its arrays again in the next iteration."""
    cvs = CollectiveVariables(("x",), (0.0,), (1.0,), (False,), (2,), "")
    p, std = np.array([0.5, 0.5]), np.array([1.0, 2.0])
    for pmf in (PMF(cvs, p, std), PMF.restored(cvs, p, std)):
        before = pmf.probability.copy(), pmf.free_energy_std.copy()
        p[:], std[:] = [0.1, 0.9], 3.0
        assert np.array_equal(pmf.probability, before[0]) and np.array_equal(pmf.free_energy_std, before[1])
        p[:], std[:] = [0.5, 0.5], [1.0, 2.0]
