"""The picture of the MD baseline shows the curves, their bands and their power laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from cgbench.results.baseline.curve import MDCurve
from cgbench.results.plots import draw_curves, draw_md_curve


@pytest.fixture(scope="module")
def curves() -> dict[str, MDCurve]:
    """Six replicates of KLD = 100 / N with a spread of 20 %, and another estimator that is half of it."""
    random = np.random.default_rng(3)
    n = np.repeat(np.logspace(4, 8, 17), 6)
    kld = 100.0 / n * np.exp(0.2 * random.standard_normal(len(n)))
    table = pd.DataFrame({"run": 0, "walkers": 1, "evaluations": n, "replicate": np.tile(np.arange(6), 17)})
    return {
        "histogram": MDCurve.from_table(table.assign(forward_kld=kld)),
        "smoothed": MDCurve.from_table(table.assign(forward_kld=0.5 * kld)),
    }


def test_curves_bands_and_power_laws_are_those_of_the_table(curves: dict[str, MDCurve]) -> None:
    axes = Figure().add_subplot()
    draw_curves(axes, curves)
    drawn = {line.get_gid(): line.get_xydata() for line in axes.get_lines()}
    for band, (name, curve) in zip(axes.collections, curves.items(), strict=True):
        table = curve.table
        assert np.allclose(drawn[name], table[["evaluations", "forward_kld"]])
        (n, kld) = band.get_paths()[0].vertices.T
        assert kld.min() == pytest.approx(table["lower"].min()) and kld.max() == pytest.approx(table["upper"].max())
        n, kld = drawn[f"{name}/power law"].T
        assert n == pytest.approx([1e5, 3e8])
        assert np.log(kld[1] / kld[0]) / np.log(n[1] / n[0]) == pytest.approx(-1, abs=0.05)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [label.partition(",")[0] for label in labels] == ["histogram", "smoothed"]
    assert axes.get_xscale() == axes.get_yscale() == "log"


def test_a_curve_of_one_estimate_has_no_power_law(curves: dict[str, MDCurve]) -> None:
    axes = Figure().add_subplot()
    draw_curves(axes, {"histogram": MDCurve(*(np.array([v]) for v in (2e4, 3e-2, 0, 1)))})
    assert [line.get_gid() for line in axes.get_lines()] == ["histogram"]


def test_the_file_is_the_same_twice(curves: dict[str, MDCurve], tmp_path: Path) -> None:
    for name in ("first.png", "again.png"):
        draw_md_curve(tmp_path / name, "a system", curves)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "again.png").read_bytes()
