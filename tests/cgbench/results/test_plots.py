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
    """Eight replicates of KLD = 100 / N with a spread of 20 %, three of longer ones; and half of it."""
    random = np.random.default_rng(3)
    parts = []
    for walkers, replicates, n in ((1, 8, np.logspace(4, 7, 25)), (8, 3, np.logspace(7.1, 8, 8))):
        for replicate in range(replicates):
            kld = 100.0 / n * np.exp(0.2 * random.standard_normal(len(n)))
            columns = {"run": 0, "walkers": walkers, "replicate": replicate, "evaluations": n, "forward_kld": kld}
            parts.append(pd.DataFrame(columns))
    table = pd.concat(parts)
    return {
        "histogram": MDCurve.from_table(table),
        "smoothed": MDCurve.from_table(table.assign(forward_kld=0.5 * table["forward_kld"])),
    }


def test_curves_bands_and_power_laws_are_those_of_the_table(curves: dict[str, MDCurve]) -> None:
    axes = Figure().add_subplot()
    draw_curves(axes, curves)
    drawn = {line.get_gid(): line.get_xydata() for line in axes.get_lines()}
    bands = {band.get_gid(): band.get_paths()[0].vertices.T for band in axes.collections}
    for name, curve in curves.items():
        table = curve.table
        assert np.allclose(drawn[name], table[["evaluations", "forward_kld"]])
        assert np.allclose(drawn[f"{name}/medians"], table[["evaluations", "median"]][::3])
        (n, kld) = bands[f"{name}/band"]
        assert kld.min() == pytest.approx(table["lower"].min()) and kld.max() == pytest.approx(table["upper"].max())
        (n, kld) = bands[f"{name}/typical spread"]  # of three replicates
        assert n.min() == pytest.approx(1e7, rel=0.2) and n.max() == pytest.approx(1e8)
        n, kld = drawn[f"{name}/power law"].T
        assert n == pytest.approx([1e5, 1e8])  # not beyond the curve
        assert np.log(kld[1] / kld[0]) / np.log(n[1] / n[0]) == pytest.approx(-1, abs=0.05)
    ends = [text.get_text() for text in axes.texts if text.get_gid() == "end"]
    assert ends == ["≤", "≥"] * 2
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [label.partition(",")[0] for label in labels] == ["histogram", "smoothed"]
    assert axes.get_xscale() == axes.get_yscale() == "log"


def test_a_curve_of_one_estimate_has_no_power_law() -> None:
    axes = Figure().add_subplot()
    columns = {"run": [0], "walkers": [1], "evaluations": [2e4], "replicate": [0], "forward_kld": [3e-2]}
    draw_curves(axes, {"histogram": MDCurve.from_table(pd.DataFrame(columns))})
    assert [line.get_gid() for line in axes.get_lines()] == ["histogram", "histogram/medians"]


def test_the_file_is_the_same_twice(curves: dict[str, MDCurve], tmp_path: Path) -> None:
    for name in ("first.png", "again.png"):
        draw_md_curve(tmp_path / name, "a system", curves)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "again.png").read_bytes()
