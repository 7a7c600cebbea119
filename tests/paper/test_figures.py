"""What the figures draw: the data, not the pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import cgbench_paper.figures.fig2_muller_brown as fig2
import cgbench_paper.figures.fig3_ramachandran as fig3
import cgbench_paper.figures.fig4_convergence as fig4
import cgbench_paper.figures.fig5_potential as fig5
import cgbench_paper.figures.fig_s3_efficiency as fig_s3
import cgbench_paper.figures.fig_s4_calibration as fig_s4
import cgbench_paper.figures.fig_s5_ablation as fig_s5
import cgbench_paper.figures.fig_s6_cost as fig_s6
from cgbench.results.runs import find_runs
from cgbench_paper.figures.muller_brown_panels import aligned, backmapped, run_with_stages
from cgbench_paper.records import Records, arrays_of
from cgbench_paper.style import periodic_padding, save


@pytest.fixture(scope="session")
def records(published: Path) -> Records:
    return Records(published)


def lines(axes: Any, name: str) -> list[np.ndarray]:
    """Data of the lines of this name, ``[2, points]`` each."""
    return [np.asarray(line.get_xydata()).T for line in axes.get_lines() if line.get_gid() == name]


def panels(figure: Figure) -> list[Any]:
    """Axes without colour bars."""
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def test_fig4_draws_the_geometric_mean_and_its_standard_error(records: Records) -> None:
    figure = fig4.draw(records).figure
    for axes in panels(figure):
        (line,) = lines(axes, "cgflow_al/default")
        assert line[0] == pytest.approx([1e3, 1e4, 1e5])
        assert line[1] == pytest.approx([0.2, 2e-2, 2e-3])  # between factors 1 and 4
        assert len(lines(axes, "umbrella/default")) == len(lines(axes, "md")) == 1
    _, _, error = fig4.mean_curve(records.groups("aldp")["cgflow_al", "default"])
    assert error == pytest.approx(np.full(3, np.log(4.0) / 2))  # two values: half their distance
    assert np.isnan(fig4.mean_curve(records.groups("aldp")["umbrella", "default"])[2]).all()


def test_fig4_interpolates_where_seeds_have_other_evaluations(records: Records) -> None:
    a, b = records.groups("aldp")["cgflow_al", "default"]
    shifted = type(b)(b.record, b.evaluations * 10**0.5, b.forward_kld * 10**-0.5, None, b.path)  # the same law, 4e2/n
    n, mean, _ = fig4.mean_curve([a, shifted])
    assert n[0] == pytest.approx(10**3.5) and n[-1] == pytest.approx(1e5)
    assert mean == pytest.approx(2e2 / n)


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
        assert np.allclose(np.asarray(drawn[6 + column].get_lines()[-1].get_xydata()), points, atol=1e-4)
    assert all(axes.images[0].get_extent() == pytest.approx([-180, 180, -180, 180]) for axes in drawn)


def test_the_reference_map_has_its_basins_where_they_are(records: Records) -> None:
    """Lowest at the C5 basin, and left-handed conformations at phi > 0 in reach."""
    energy = records.reference("aldp").pmf.free_energy
    image = panels(fig3.draw(records).figure)[0].images[0].get_array()
    row, column = np.unravel_index(np.argmin(image), image.shape)
    phi, psi = -180 + 3.6 * (column + 0.5), -180 + 3.6 * (row + 0.5)
    assert -170 < phi < -60 and 130 < psi < 175
    assert image[:, 50:].min() == pytest.approx(energy[50:].min()) and 3 < image[:, 50:].min() < 8


def test_contours_close_over_the_edges(records: Records) -> None:
    cvs = records.system("aldp").cvs
    values = np.cos(cvs.centers(0))[:, None] + np.sin(cvs.centers(1))[None, :]
    phi, psi, padded = periodic_padding(cvs, values)
    assert phi[0] < -180 < phi[1] and psi[-2] < 180 < psi[-1]
    assert np.allclose(padded, np.cos(np.radians(phi))[:, None] + np.sin(np.radians(psi))[None, :])


def test_fig2_draws_energies_pmf_and_points(records: Records) -> None:
    figure = fig2.draw(records).figure
    run, stages = run_with_stages(records)
    assert run.record.seed == 0 and len(stages) == 4
    above, below = panels(figure)[:2], panels(figure)[2:]
    system, reference = records.system("muller_brown"), records.reference("muller_brown").pmf
    for column, stage in enumerate(stages[:2]):
        x = torch.from_numpy(arrays_of(run)["stage_configurations"][4 * column : 4 * column + 4].astype(float))
        s, other, energy = backmapped(system, stage)
        assert np.allclose(s, x[:, 0] - x[:, 1]) and np.allclose(other, x[:, 0] + x[:, 1])
        scattered = above[column].collections[-1]
        assert np.allclose(scattered.get_offsets(), np.stack([s, other], axis=1))
        lowest = system.reduced_energy(system.initial_configuration()[None])
        assert np.allclose(scattered.get_array(), system.reduced_energy(x) - lowest) and (energy >= 0).all()
        (model,) = lines(below[column], "model")
        assert np.allclose(np.diff(model[1]), np.diff(stage.free_energy)) and np.allclose(
            model[0], reference.centers(0)
        )
        (new,) = lines(below[column], "new")
        assert np.allclose(new[0], stage.points[:, 0])
        (before,) = lines(below[column], "before")
        assert np.allclose(before[0], np.concatenate([[], *(e.points[:, 0] for e in stages[:column])]))


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
    error, claim = fig_s4.errors_and_claims(run, reference)
    low = reference.pmf.free_energy < 12.0
    weight = reference.pmf.probability[low] / reference.pmf.probability[low].sum()
    assert len(error) == low.sum() and float((weight * error).sum()) == pytest.approx(0.0, abs=1e-12)
    assert claim == pytest.approx(np.full(low.sum(), 0.2))


def test_levers_and_their_misses(records: Records) -> None:
    left, right = panels(fig_s5.draw(records).figure)
    (kld,) = lines(left, "forward_kld")
    assert kld[0].tolist() == [2e-4, 2e-3]
    assert [line[0].tolist() for line in lines(right, "evaluations_to_1e-03")] == [[20000.0]]
    assert len(lines(right, "evaluations_to_1e-03/missed")[0][0]) == 1
    assert len(lines(right, "evaluations_to_1e-02/missed")[0][0]) == 0


def test_shares_of_cost(records: Records) -> None:
    members = records.groups("aldp")["cgflow_al", "default"]
    assert fig_s6.shares(members, "evaluations") == ({"train": 0.75, "warm_start": 0.25}, 100_000.0)
    assert fig_s6.shares(members, "cpu") == ({"train": 0.75, "unassigned": 0.25}, 2.0)
    bars = [patch for patch in panels(fig_s6.draw(records).figure)[0].patches if patch.get_gid() == "warm_start"]
    assert [bar.get_width() for bar in bars] == [0.25]


def test_two_dozen_phases_look_different() -> None:
    looks = {tuple(sorted(fig_s6._look(number).items())) for number in range(24)}
    assert len(looks) == 24


def test_files_depend_on_the_drawing_alone(records: Records, tmp_path: Path) -> None:
    for folder in ("first", "again"):
        (tmp_path / folder).mkdir()
        save(fig_s5.draw(records).figure, tmp_path / folder / "ablation")
    for suffix in (".pdf", ".png"):
        content = (tmp_path / "first" / f"ablation{suffix}").read_bytes()
        assert content == (tmp_path / "again" / f"ablation{suffix}").read_bytes()
        assert b"CreationDate" not in content and b"Matplotlib" not in content


def test_found_runs_know_their_folders(published: Path) -> None:
    assert all(run.path is not None and run.path.is_relative_to(published) for run in find_runs([published]))
