"""Maps and curves of PMFs show the data, with the axes in place and contours that continue over the edges."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import cgbench.drawing.pmf as drawing
from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench.contracts.reference import Reference
from cgbench.drawing.pmf import colour_bar, draw_contours, draw_map, draw_pmf, draw_reference, label_axes, padded

TORUS = CollectiveVariables(("phi", "psi"), (-math.pi,) * 2, (math.pi,) * 2, (True, True), (60, 40))
# a distance and a torsion, of which the second alone is periodic
MIXED = CollectiveVariables(("distance", "psi"), (0.0, -1.0), (2.0, 1.0), (False, True), (20, 30), unit="nm")


def basin(cvs: CollectiveVariables, at: tuple[float, float]) -> np.ndarray:
    """A periodic well that is deepest at this place."""
    a, b = (cvs.centers(axis)[:, None] if axis == 0 else cvs.centers(axis)[None, :] for axis in (0, 1))
    return 6.0 * (2.0 - np.cos(a - at[0]) - np.cos(b - at[1]))


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that would have been written."""
    figures: list[Figure] = []
    for name in ("save_figure", "write_picture"):
        monkeypatch.setattr(drawing, name, lambda figure, path: figures.append(figure))
    return figures


def contours(axes: Any) -> Any:
    (found,) = [collection for collection in axes.collections if hasattr(collection, "levels")]
    return found


def test_the_first_variable_is_to_the_right_and_the_second_upwards() -> None:
    axes = Figure().add_subplot()
    image = draw_map(axes, TORUS, 7.0 + basin(TORUS, (math.radians(-60.0), math.radians(135.0))))
    row, column = np.unravel_index(np.argmin(image.get_array()), image.get_array().shape)
    left, right, bottom, top = image.get_extent()
    assert (left, right, bottom, top) == pytest.approx((-180, 180, -180, 180)) and image.origin == "lower"
    assert left + (right - left) * (column + 0.5) / 60 == pytest.approx(-60, abs=4)
    assert bottom + (top - bottom) * (row + 0.5) / 40 == pytest.approx(135, abs=6)
    assert image.get_array().min() == 0.0 and image.get_array().max() == 15.0  # 24 kT, cut


def test_contours_have_the_energy_they_are_labelled_with() -> None:
    axes = Figure().add_subplot()
    draw_map(axes, TORUS, basin(TORUS, (0.3, -0.5)))
    lines = contours(axes)
    lowest = basin(TORUS, (0.3, -0.5)).min()
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        for piece in path.to_polygons(closed_only=False):
            phi, psi = np.radians(piece).T
            energy = 6.0 * (2.0 - np.cos(phi - 0.3) - np.cos(psi + 0.5)) - lowest
            assert energy == pytest.approx(np.full(len(piece), level), abs=0.05)
    assert {text.get_text() for text in axes.texts} <= {f"{level:g}" for level in lines.levels}
    assert len(axes.texts) >= 5


def test_contours_continue_over_the_edges() -> None:
    axes = Figure().add_subplot()
    draw_contours(axes, TORUS, basin(TORUS, (math.pi, 0.0)), [6.0], labels=False)
    (path,) = contours(axes).get_paths()
    pieces = path.to_polygons(closed_only=False)
    assert len(pieces) == 2  # one well, seen from both sides
    ends = sorted((round(float(x)), round(float(y))) for piece in pieces for x, y in (piece[0], piece[-1]))
    (left_low, left_high, right_low, right_high) = ends
    assert left_low[0] < -180 and right_low[0] > 180
    assert left_low[1] == -left_high[1] == right_low[1] == -right_high[1]


def test_only_periodic_variables_are_continued() -> None:
    values = np.arange(600.0).reshape(20, 30)
    distance, psi, wide = padded(MIXED, values)
    assert np.array_equal(distance, MIXED.centers(0))
    assert psi[0] < -1.0 < psi[1] and psi[-2] < 1.0 < psi[-1] and np.allclose(np.diff(psi), 2 / 30)
    assert wide.shape == (20, 32)
    assert np.array_equal(wide[:, 0], values[:, -1]) and np.array_equal(wide[:, -1], values[:, 0])


def test_labels_keep_apart_from_each_other_and_from_the_edges() -> None:
    random = np.random.default_rng(0)
    axes = Figure().add_subplot()
    draw_map(axes, TORUS, basin(TORUS, (2.9, 0.0)) + random.normal(0, 0.3, TORUS.bins))
    places = np.array([text.get_position() for text in axes.texts]) / 360.0 + 0.5
    assert len(places) >= 4
    distances = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(len(places))
    assert distances.min() > 0.08 and places.min() > 0.03 and places.max() < 0.97


def test_a_flat_map_and_one_with_empty_bins_are_drawn() -> None:
    for energy in (np.zeros(TORUS.bins), np.where(basin(TORUS, (0.0, 0.0)) < 8.0, 0.0, np.inf)):
        image = draw_map(Figure().add_subplot(), TORUS, energy)
        assert np.isfinite(image.get_array()).all()


def test_axes_are_labelled_in_degrees_or_in_the_unit_of_the_variables() -> None:
    upper, lower = Figure().subplots(2, 1)
    label_axes(upper, TORUS)
    assert (upper.get_xlabel(), upper.get_ylabel()) == (r"$\phi$ (degrees)", r"$\psi$ (degrees)")
    assert upper.get_xticks().tolist() == [-180, -90, 0, 90, 180] and upper.get_ylim() == (-180, 180)
    label_axes(lower, MIXED, left=False)
    assert (lower.get_xlabel(), lower.get_ylabel()) == ("distance (nm)", "")
    assert lower.get_xlim() == (0, 2) and lower.get_ylim() == (-1, 1)


def test_a_run_with_three_variables_is_drawn_over_the_first_two(tmp_path: Path, saved: list[Figure]) -> None:
    cvs = CollectiveVariables(("a", "b", "c"), (-math.pi,) * 3, (math.pi,) * 3, (True,) * 3, (10, 12, 4))
    probability = np.random.default_rng(1).uniform(0.5, 1.5, cvs.bins)
    draw_pmf(tmp_path / "pmf.png", PMF(cvs, probability), "a run")
    (axes,) = saved[0].axes
    shown = -np.log(probability.sum(2))
    assert axes.get_title() == "a run"
    assert np.allclose(axes.images[0].get_array(), (shown - shown.min()).T)
    (bar,) = axes.child_axes
    assert bar.get_ylabel() == "PMF (kT), cut at 15"


def test_a_curve_shows_estimate_band_and_reference(tmp_path: Path, saved: list[Figure]) -> None:
    cvs = CollectiveVariables(("s",), (-2.0,), (2.0,), (False,), (50,), unit="")
    truth = PMF.from_function(cvs, lambda s: s[:, 0] ** 2)
    estimate = PMF.from_function(cvs, lambda s: 1.1 * s[:, 0] ** 2, std=np.full(50, 0.5))
    draw_pmf(tmp_path / "pmf.png", estimate, "a run", truth)
    (axes,) = saved[0].axes
    drawn = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    assert np.allclose(drawn["estimate"], np.stack([cvs.centers(0), estimate.free_energy], axis=1))
    assert np.allclose(drawn["reference"], np.stack([cvs.centers(0), truth.free_energy], axis=1))
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(-0.5) and band.max() == pytest.approx(estimate.free_energy.max() + 0.5)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("s", "PMF (kT)")


def test_a_reference_shows_the_error_of_its_free_energy(tmp_path: Path, saved: list[Figure]) -> None:
    pmf = PMF(TORUS, np.exp(-basin(TORUS, (1.0, 1.0))))
    reference = Reference(pmf, 0.02 * pmf.probability, 1e-5, "made up", "00")
    draw_reference(tmp_path / "reference.png", "a system", reference)
    left, right = saved[0].axes
    assert left.get_title() == "a system: reference PMF"
    assert np.allclose(left.images[0].get_array(), np.minimum(pmf.free_energy, 15.0).T)
    assert np.allclose(right.images[0].get_array(), 0.02)


def test_the_colour_bar_is_as_high_as_the_map() -> None:
    axes = Figure().add_subplot()
    colour_bar(axes, draw_map(axes, TORUS, basin(TORUS, (0.0, 0.0))), extend="neither")
    (bar,) = axes.child_axes
    axes.figure.draw_without_rendering()
    of_map, of_bar = axes.get_window_extent(), bar.get_window_extent()
    assert (of_bar.y0, of_bar.y1) == pytest.approx((of_map.y0, of_map.y1)) and of_bar.x0 > of_map.x1
