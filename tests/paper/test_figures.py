"""What the figures draw: the data, not the pixels."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

import cgbench_paper.figures.costs.fig_s6_cost as fig_s6
import cgbench_paper.figures.costs.fig_s7_break_even as fig_s7
import cgbench_paper.figures.fig2_muller_brown as fig2
import cgbench_paper.figures.fig3_ramachandran as fig3
import cgbench_paper.figures.fig4_convergence as fig4
import cgbench_paper.figures.fig5_potential as fig5
import cgbench_paper.figures.fig_s3_efficiency as fig_s3
import cgbench_paper.figures.fig_s4_calibration as fig_s4
import cgbench_paper.figures.fig_s5_ablation as fig_s5
from cgbench.drawing.style import method_looks, theme
from cgbench.errors import UserError
from cgbench.results.runs import find_runs
from cgbench_paper.figures.muller_brown_panels import ENERGIES, aligned, energies, run_with_stages
from cgbench_paper.records import Records, arrays_of
from cgbench_paper.style import legend_of_methods, save

RUNS = Path(__file__).parents[2] / "runs"


@pytest.fixture(scope="session")
def records(published: Path) -> Records:
    return Records(published)


def lines(axes: Any, name: str) -> list[np.ndarray]:
    """Data of the lines of this name, ``[2, points]`` each."""
    return [np.asarray(line.get_xydata()).T for line in axes.get_lines() if line.get_gid() == name]


def collections(axes: Any, name: str) -> list[Any]:
    """Collections of this name that are drawn: points, ticks and bands."""
    return [found for found in axes.collections if found.get_gid() == name]


def panels(figure: Figure) -> list[Any]:
    """Axes without colour bars."""
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def test_fig4_draws_the_median_and_its_interval(records: Records) -> None:
    figure = fig4.draw(records).figure
    for axes in panels(figure):
        (line,) = lines(axes, "cgflow_al/default")
        assert line[0] == pytest.approx([1e3, 1e4, 1e5])
        assert line[1] == pytest.approx([0.25, 2.5e-2, 2.5e-3])  # of factors 1 and 4
        assert not collections(axes, "cgflow_al/default")  # no interval of two seeds
        assert len(lines(axes, "umbrella/default")) == len(lines(axes, "md")) == 1
        (ends,) = collections(axes, "cgflow_al/default/ends")
        assert np.allclose(ends.get_offsets(), [[1e5, 1e-3], [1e5, 4e-3]], rtol=1e-9)
        assert {text.get_text() for text in axes.texts} >= {"≤", "≥"}  # the ends of the MD curve


def test_fig4_the_band_of_three_seeds_is_their_range(
    published: Path, tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    shutil.copytree(published, tmp_path / "runs")
    write_run(tmp_path / "runs", "aldp", "cgflow_al", [(1000, 0.2), (10_000, 2e-2), (100_000, 2e-3)], seed=2)
    axes = panels(fig4.draw(Records(tmp_path / "runs")).figure)[0]
    (line,) = lines(axes, "cgflow_al/default")
    assert line[1] == pytest.approx([0.2, 2e-2, 2e-3])
    (band,) = collections(axes, "cgflow_al/default")
    n, kld = band.get_paths()[0].vertices.T
    assert set(np.round(kld[n < 2e3], 6)) == {0.1, 0.4}


def test_fig4_a_method_has_its_colour_and_marker_in_every_panel_and_in_the_legend(records: Records) -> None:
    figure = fig4.draw(records).figure
    looks = method_looks(records.methods)
    for axes in panels(figure):
        for method in ("cgflow_al", "cgflow_grid", "umbrella"):
            line = next(line for line in axes.get_lines() if line.get_gid() == f"{method}/default")
            assert line.get_color() == looks[method].colour
    (legend,) = figure.legends
    drawn = {
        text.get_text(): (handle.get_color(), handle.get_marker())
        for text, handle in zip(legend.get_texts(), legend.get_lines(), strict=True)
    }
    assert {name: drawn[name] for name in records.methods} == looks


def test_a_long_legend_has_rows_of_six() -> None:
    figure = Figure()
    methods = [f"method_{number}" for number in range(8)]
    legend_of_methods(figure, methods, [(method, "default") for method in methods])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(texts) == 18 and {*methods, "preset default"} == set(texts) - {" "}
    assert texts[:3] == ["method_0", "method_6", "preset default"]  # the first column


def test_fig4_interpolates_where_seeds_have_other_evaluations(records: Records) -> None:
    a, b = records.groups("aldp")["cgflow_al", "default"]
    shifted = type(b)(b.record, b.evaluations * 10**0.5, b.forward_kld * 10**-0.5, None, b.path)  # the same law, 4e2/n
    together = fig4.seeds_together([a, shifted])
    n = together["evaluations"].unique()
    assert n[0] == pytest.approx(10**3.5) and n[-1] == pytest.approx(1e5)
    assert together.groupby("seed").size().tolist() == [len(n)] * 2
    mean = np.exp(np.log(together["forward_kld"]).groupby(together["evaluations"]).mean())
    assert mean.to_numpy() == pytest.approx(2e2 / n)


def test_fig4_draws_no_line_of_seeds_that_share_no_evaluations(records: Records) -> None:
    a, b = records.groups("aldp")["cgflow_al", "default"]
    later = type(b)(b.record, b.evaluations * 1e3, b.forward_kld, None, b.path)
    assert fig4.seeds_together([a, later]).empty and fig4.seeds_together([]).empty


def test_fig3_maps_are_the_arrays_in_degrees_and_not_mirrored(records: Records) -> None:
    drawn = panels(fig3.draw(records).figure)
    run = records.groups("aldp")["cgflow_al", "default"][0]
    arrays = arrays_of(run)
    reference = records.reference("aldp").pmf.free_energy
    assert np.array_equal(drawn[0].images[0].get_array(), np.minimum(reference, 15.0).T)
    for column in range(3):
        energy = arrays["stage_free_energy"][column]
        assert np.allclose(drawn[3 + column].images[0].get_array(), np.minimum(energy - energy.min(), 15.0).T)
        assert np.allclose(drawn[6 + column].images[0].get_array(), arrays["stage_std"][column].T)
        points = np.degrees(arrays["stage_points"][arrays["stage_of_point"] == column])
        (new,) = lines(drawn[6 + column], "new")
        assert np.allclose(new.T, points, atol=1e-4)
    assert all(axes.images[0].get_extent() == pytest.approx([-180, 180, -180, 180]) for axes in drawn)


def test_the_reference_map_has_its_basins_where_they_are(records: Records) -> None:
    """Lowest at the C5 basin, and left-handed conformations at phi > 0 in reach."""
    energy = records.reference("aldp").pmf.free_energy
    image = panels(fig3.draw(records).figure)[0].images[0].get_array()
    row, column = np.unravel_index(np.argmin(image), image.shape)
    phi, psi = -180 + 3.6 * (column + 0.5), -180 + 3.6 * (row + 0.5)
    assert -170 < phi < -60 and 130 < psi < 175
    assert image[:, 50:].min() == pytest.approx(energy[50:].min()) and 3 < image[:, 50:].min() < 8


def test_fig3_prefers_the_presets_of_the_publication_and_names_them(
    published: Path, tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    """As runs of the publication's presets are added: first of the grid, then of active learning with two stages."""
    runs = tmp_path / "runs"
    shutil.copytree(published / "aldp", runs / "aldp")
    energy = np.add.outer(np.linspace(0, 3, 100), np.linspace(0, 5, 100))
    write_run(runs, "aldp", "cgflow_grid", [(30_150_000, 2e-3)], preset="paper", arrays={"free_energy": energy})
    drawing = fig3.draw(Records(runs))
    titles = [axes.get_title(loc="left") for axes in panels(drawing.figure) if axes.get_visible()]
    assert titles[1] == "(b) cgflow_grid, preset paper\n30,150,000 evaluations"
    assert titles[2] == "(c) cgflow_al, preset default\n100,000 evaluations" and len(titles) == 9
    assert np.allclose(panels(drawing.figure)[1].images[0].get_array(), energy.T)
    assert "grid conditioning (preset paper, seed 0)" in " ".join(drawing.caption.split())

    stages = {
        "stage_name": np.array(["iteration"] * 2),
        "stage_evaluations": np.array([3_000_000, 9_000_000]),
        "stage_threshold": np.full(2, 0.2, dtype=np.float32),
        "stage_free_energy": np.stack([energy, 2 * energy]),
        "stage_std": np.stack([0.1 + 0.1 * energy, 0.3 - 0.01 * energy]),
        "stage_points": np.array([[1.0, -1.0], [0.5, 0.25], [3.0, 3.0]], dtype=np.float32),
        "stage_of_point": np.array([0, 0, 1], dtype=np.int32),
    }
    history = [{"iteration": number, "evaluations": 3_000_000 * number} for number in (1, 2, 3)]
    write_run(
        *(runs, "aldp", "cgflow_al", [(12_000_000, 3e-3)]),
        preset="paper",
        arrays=stages,
        diagnostics={"iterations": history},
        status="budget",
        budget=12_000_000,
    )
    drawing = fig3.draw(Records(runs))
    drawn = panels(drawing.figure)
    titles = [axes.get_title(loc="left") for axes in drawn if axes.get_visible()]
    assert titles[2:5] == [
        "(c) cgflow_al, preset paper\n12,000,000 evaluations",
        "(d) cgflow_al, preset paper\niteration 1, 3,000,000 evaluations",
        "(e) cgflow_al, preset paper\niteration 3, 9,000,000 evaluations",
    ]
    assert titles[5:] == [
        "(g) standard deviation of (d)\nline: 0.2 kT",
        "(h) standard deviation of (e)\nline: 0.2 kT",
    ]
    for column, points in enumerate(([[1.0, -1.0], [0.5, 0.25]], [[3.0, 3.0]])):
        (new,) = lines(drawn[6 + column], "new")
        assert np.allclose(new.T, np.degrees(points))
    levels = [found.levels.tolist() for found in drawn[6].collections if hasattr(found, "levels")]
    assert levels == [[pytest.approx(0.2)]]
    assert "--preset paper --budget 12000000 --seed 0" in drawing.caption and "at 2 stages" in drawing.caption
    fig4_lines = {line.get_gid() for axes in panels(fig4.draw(Records(runs)).figure) for line in axes.get_lines()}
    assert {"cgflow_grid/paper", "cgflow_al/paper"} <= fig4_lines


def test_fig2_draws_energies_pmf_and_points(records: Records) -> None:
    figure = fig2.draw(records).figure
    run, stages = run_with_stages(records)
    assert run.record.seed == 0 and len(stages) == 4
    above, below = panels(figure)[:2], panels(figure)[2:]
    system, reference = records.system("muller_brown"), records.reference("muller_brown").pmf
    for column, stage in enumerate(stages[:2]):
        x = torch.from_numpy(arrays_of(run)["stage_configurations"][4 * column : 4 * column + 4].astype(float))
        s, other, energy = energies(system, stage)
        assert np.allclose(s, x[:, 0] - x[:, 1]) and np.allclose(other, x[:, 0] + x[:, 1])
        (scattered,) = collections(above[column], "configurations")
        assert np.allclose(scattered.get_offsets(), np.stack([s, other], axis=1))
        lowest = system.reduced_energy(system.initial_configuration()[None])
        assert np.allclose(energy, system.reduced_energy(x) - lowest) and (energy >= 0).all()
        assert np.allclose(scattered.get_facecolors(), ENERGIES.to_rgba(energy))
        (model,) = lines(below[column], "model")
        assert np.allclose(np.diff(model[1]), np.diff(stage.free_energy)) and np.allclose(
            model[0], reference.centers(0)
        )
        (new,) = lines(below[column], "new")
        assert np.allclose(new[0], stage.points[:, 0])
        before = [
            segment[0, 0] for rug in collections(below[column], "before") for segment in np.asarray(rug.get_segments())
        ]
        assert np.allclose(before, np.concatenate([[], *(e.points[:, 0] for e in stages[:column])]))


def test_the_constant_of_a_stage_is_that_of_the_known_region(records: Records) -> None:
    reference = records.reference("muller_brown").pmf
    stage = run_with_stages(records)[1][0]
    shifted = type(stage)(**(vars(stage) | {"free_energy": reference.free_energy - 3.0}))
    assert np.allclose(aligned(shifted, reference.free_energy, reference.probability), reference.free_energy)


def test_fig5_is_the_systems_potential(records: Records) -> None:
    system = records.system("muller_brown")
    x, y, energy = fig5.potential(system, points=31)
    assert energy.min() > 0 and energy.shape == (31, 31)
    at = torch.tensor([[x[7], y[20]]], dtype=torch.float64)
    lowest = system.reduced_energy(system.initial_configuration()[None])
    assert energy[7, 20] == pytest.approx(float(system.reduced_energy(at) - lowest))
    (pmf,) = lines(panels(fig5.draw(records).figure)[1], "pmf")
    assert np.array_equal(pmf[1], records.reference("muller_brown").pmf.free_energy)


def test_efficiency_map_is_the_array(records: Records) -> None:
    (axes,) = panels(fig_s3.draw(records).figure)
    stored = arrays_of(records.groups("aldp")["cgflow_al", "default"][0])["efficiency"]
    assert np.array_equal(axes.images[0].get_array(), stored.T)


def test_calibration_of_right_and_of_bold_claims() -> None:
    random = np.random.default_rng(0)
    claim = np.exp(random.uniform(-3, 1, 200_000))
    error = claim * random.standard_normal(len(claim))
    claims, errors = fig_s4.binned(error, claim)
    assert len(claims) == 12 and errors == pytest.approx(claims, rel=0.03)  # five sigma of 16,667 samples
    nominal = np.array([0.1, 0.5, 0.9])
    assert fig_s4.coverage(error, claim, nominal) == pytest.approx(nominal, abs=0.006)
    assert (fig_s4.coverage(2 * error, claim, nominal) < nominal - 0.04).all()


def test_calibration_takes_the_bins_of_the_referee(records: Records) -> None:
    run, reference = records.groups("muller_brown")["cgflow_al", "default"][0], records.reference("muller_brown")
    error, claim = fig_s4.pooled(records, [run])
    low = reference.pmf.free_energy < 12.0
    weight = reference.pmf.probability[low] / reference.pmf.probability[low].sum()
    assert len(error) == low.sum() and float((weight * error).sum()) == pytest.approx(0.0, abs=1e-12)
    assert claim == pytest.approx(np.full(low.sum(), 0.2))


def test_calibration_takes_all_maps_and_its_caption_says_so(records: Records, tmp_path: Path) -> None:
    shutil.copytree(RUNS / "tetra" / "cgflow_al" / "default", tmp_path / "tetra" / "cgflow_al" / "default")
    found = Records(tmp_path)
    members = found.groups("tetra")["cgflow_al", "default"]
    low = [true.pmf.free_energy < true.pmf.free_energy.min() + 12.0 for true in found.reference("tetra").maps]
    error, claim = fig_s4.pooled(found, members)
    assert len(low) == 3 and len(error) == len(claim) == len(members) * sum(int(bins.sum()) for bins in low)
    coverages = [run.record.metrics["coverage_95"] for run in members]  # means over the maps, of unequal sizes
    assert fig_s4.coverage(error, claim, np.array([0.95])) == pytest.approx(np.mean(coverages), abs=0.01)
    together = "of all maps of a system together (3 of tetra; one of each other system). The"
    assert together in " ".join(fig_s4.draw(found).caption.split())
    assert "of all maps of a system together. The" in " ".join(fig_s4.draw(records).caption.split())
    with np.load(members[0].path / "pmf.npz") as stored:
        np.savez(members[0].path / "pmf.npz", probability=stored["probability"])
    with pytest.raises(UserError, match="PMFs in .*seed-0: .*map_1_probability"):
        found.maps(members[0])


def test_settings_of_the_ablation_and_those_that_miss_a_target(records: Records) -> None:
    scores, first, second = panels(fig_s5.draw(records).figure)
    (kld,) = lines(scores, "aldp/forward_kld")
    assert kld[0] == pytest.approx([2e-4, 2e-3]) and kld[1].tolist() == [0.0, 1.0]
    assert [label.get_text() for label in scores.get_yticklabels()] == ["default", "no path gradients"]
    (bars,) = [found for found in scores.collections if isinstance(found, LineCollection)]
    ranges = [segment[:, 0].tolist() for segment in bars.get_segments()]
    assert [1e-4, 3e-4] == pytest.approx(ranges[0]) and [1e-3, 4e-3] == pytest.approx(ranges[1])
    (reached,) = collections(second, "aldp/evaluations_to_1e-03")
    assert reached.get_offsets()[:, 0].tolist() == pytest.approx([20000.0])
    (missed,) = collections(second, "aldp/evaluations_to_1e-03/missed")
    assert len(missed.get_offsets()) == 1 and missed.get_offsets()[0, 0] > 50_000
    assert missed.get_offsets()[0, 1] == 1.0  # in the row of its setting
    assert sum(len(found.get_offsets()) for found in collections(first, "aldp/evaluations_to_1e-02/missed")) == 0


def test_an_ablation_that_never_reaches_a_target(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "runs")
    path = tmp_path / "runs" / "aldp" / "ablation" / "ablation.csv"
    path.write_text(path.read_text().replace("5000,20000", "inf,inf").replace("12000", "inf"))
    _, first, second = panels(fig_s5.draw(Records(tmp_path / "runs")).figure)
    for axes in (first, second):
        (missed,) = [found for found in axes.collections if found.get_gid().endswith("/missed")]
        assert len(missed.get_offsets()) == 2 and np.isfinite(axes.get_xlim()).all()


def test_systems_of_the_ablation_share_the_rows(records: Records, published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "runs")
    text = (tmp_path / "runs" / "aldp" / "ablation" / "ablation.csv").read_text()
    other = tmp_path / "runs" / "muller_brown" / "ablation" / "ablation.csv"
    other.parent.mkdir()
    header, default, _ = text.splitlines()
    other.write_text("\n".join([header, default.replace("default", "one well"), default]) + "\n")
    scores, *_ = panels(fig_s5.draw(Records(tmp_path / "runs")).figure)
    assert [label.get_text() for label in scores.get_yticklabels()] == ["default", "no path gradients", "one well"]
    (aldp,), (other_rows,) = (lines(scores, f"{name}/forward_kld") for name in ("aldp", "muller_brown"))
    assert np.round(aldp[1]).tolist() == [0, 1] and np.round(other_rows[1]).tolist() == [2, 0]
    assert other_rows[1][1] > aldp[1][0]  # side by side
    legend = scores.get_legend()
    assert legend is not None and [entry.get_text() for entry in legend.get_texts()] == ["aldp", "muller_brown"]


def test_shares_of_cost(records: Records) -> None:
    members = records.groups("aldp")["cgflow_al", "default"]
    assert fig_s6.shares(members, "evaluations") == ({"train": 0.75, "warm_start": 0.25}, 100_000.0)
    assert fig_s6.shares(members, "cpu") == ({"train": 0.75, "unassigned": 0.25}, 2.0)
    axes = panels(fig_s6.draw(records).figure)[0]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    bars = {
        (bar.get_gid(), rows[round(bar.get_y() + bar.get_height() / 2)]): (bar.get_x(), bar.get_width())
        for bar in axes.patches
        if bar.get_width() > 0
    }
    assert bars["train", "cgflow_al, default"] == (0.0, 0.75)
    assert bars["warm_start", "cgflow_al, default"] == (0.75, 0.25)
    assert all(bars["train", f"{method}, default"] == (0.0, 1.0) for method in ("md", "cgflow_grid", "umbrella"))
    assert len(bars) == 5
    totals = {round(text.get_position()[1]): text.get_text() for text in axes.texts}
    assert totals[rows.index("md, default")] == "1.00e7" and totals[rows.index("cgflow_al, default")] == "100,000"


def test_two_dozen_phases_look_different() -> None:
    looks = {tuple(sorted(fig_s6._look(number).items())) for number in range(24)}
    assert len(looks) == 24


def test_files_depend_on_the_drawing_alone(records: Records, tmp_path: Path) -> None:
    for folder in ("first", "again"):
        (tmp_path / folder).mkdir()
        with theme():
            save(fig_s5.draw(records).figure, tmp_path / folder / "ablation")
    for suffix in (".pdf", ".png"):
        content = (tmp_path / "first" / f"ablation{suffix}").read_bytes()
        assert content == (tmp_path / "again" / f"ablation{suffix}").read_bytes()
        assert b"CreationDate" not in content and b"Matplotlib" not in content


def test_found_runs_know_their_folders(published: Path) -> None:
    assert all(run.path is not None and run.path.is_relative_to(published) for run in find_runs([published]))


def test_fig_s7_is_own_time_plus_evaluations_times_cost(records: Records) -> None:
    """Runs of MD took 2 s for 1e7 evaluations; cgflow_grid reached 1e-3 at 1e5 evaluations, after 1 s of wall time."""
    lines_found, rates, left_out = fig_s7.lines_of(records, "aldp")
    assert set(rates) == {2e-7} and not any("md" in line for line in left_out)
    grid = lines_found["cgflow_grid", "default"]
    own = 1.0 * 2 / 3 - 1e5 * 2e-7  # 2 s of CPU time in 3 s
    cost = np.array([1e-6, 1e-3, 10.0])
    assert grid.time(cost) == pytest.approx(own + 1e5 * cost)
    assert "umbrella, default, on aldp" in left_out  # ends at 2e-3
    figure = fig_s7.draw(records).figure
    for axes in panels(figure):
        (md,) = lines(axes, "md")
        assert md[1] == pytest.approx(1e5 * md[0], rel=0.2)  # 100 / 1e-3 evaluations
        (drawn,) = lines(axes, "cgflow_grid/default")
        assert drawn[1] == pytest.approx(own + 1e5 * drawn[0])


def test_fig_s7_names_systems_without_a_panel(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "muller_brown" / "md")
    drawing = fig_s7.draw(Records(tmp_path / "runs"))
    assert len(panels(drawing.figure)) == 1
    words = " ".join(drawing.caption.split())
    assert "is published: cgflow_al, default, on aldp; umbrella, default, on aldp. Systems" in words
    assert "no method can be drawn: muller_brown." in words


def test_fig_s7_break_even_points() -> None:
    md = fig_s7.Line(np.array([1e8]), np.zeros(1))
    method = fig_s7.Line(np.array([1e4, 1e4, 2e4]), np.array([1000.0, 900.0, 1000.0]))
    assert fig_s7.break_even(method, md) == pytest.approx(1000 / (1e8 - 1e4), rel=0.02)
    assert fig_s7.break_even(fig_s7.Line(np.array([2e8]), np.zeros(1)), md) == np.inf
    assert fig_s7.break_even(fig_s7.Line(np.array([1.0]), np.zeros(1)), md) == fig_s7.COSTS[0]
    frugal = fig_s7.Line(np.array([10.0]), np.array([1e4]))
    order = fig_s7.best_methods({("md", ""): md, ("a", "default"): method, ("b", "default"): frugal})
    assert [name for _, name in order] == ["md", "a, default", "b, default"]
    assert [cost for cost, _ in order[1:]] == pytest.approx([1e-5, 0.9], rel=0.02)
