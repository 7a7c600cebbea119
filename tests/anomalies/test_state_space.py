"""Samples outside the state space have no weight and are counted; many of them make the run unreliable or failed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cgbench.cli.main import main
from cgbench.contracts.problem import Problem
from cgbench.counting.anomalies import Anomalies, TooManyAnomalies
from cgbench.counting.ledger import Ledger
from cgbench.counting.state_space import StateSpaceCounts
from cgbench.counting.streams import Streams
from cgbench.running.record import Record
from cgbench.running.registry import load
from cgbench.running.run import Run, prepare
from cgbench_methods.cgflow.published.config import SeedingConfig
from cgbench_methods.cgflow.published.seeding import starting_trajectory
from cgbench_methods.lib.flows.target import ConditionalTarget
from cgbench_methods.lib.sampling.walkers import end_block, make_walkers
from cgbench_methods.metadynamics.config import MetadynamicsConfig
from cgbench_methods.metadynamics.openmm_sampler import OpenMMSampler
from cgbench_methods.metadynamics.sampler import BatchedSampler
from cgbench_methods.umbrella.config import UmbrellaConfig
from cgbench_methods.umbrella.walkers import WindowWalkers
from cgbench_systems.aldp import AlanineDipeptide
from cgbench_systems.muller_brown import MullerBrown

SYSTEMS = Path(__file__).with_name("state_spaces.py")
WALLED, CUT, MIRRORED, UNSURE = (f"{SYSTEMS}:{name}" for name in ("Walled", "Cut", "Mirrored", "Unsure"))
MIRROR = torch.tensor([-1.0, 1.0, 1.0])


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "_draw", lambda run, record: None)


def problem_of(system) -> Problem:
    return Problem(system, Ledger(None), Anomalies())


def mirrored(x: torch.Tensor, rows) -> torch.Tensor:
    x = x.clone()
    x[rows] = x[rows] * MIRROR.to(x)
    return x


# ---- counting -------------------------------------------------------------------------------------


def test_samples_outside_are_told_and_counted(aldp) -> None:
    problem = problem_of(aldp)
    x = mirrored(aldp.initial_configuration().repeat(6, 1, 1), [1, 4])
    assert problem.report_state_space(x).tolist() == [False, True, False, False, True, False]
    problem.report_proposals(torch.tensor(3), 10)
    assert problem.state_space.counts() == {"samples": 6, "outside": 2, "proposed": 10, "rejected": 3}
    again = StateSpaceCounts()
    again.load_state_dict(json.loads(json.dumps(problem.state_space.state_dict())))
    assert again.counts() == problem.state_space.counts()


def test_samples_outside_the_domain_of_the_cvs_are_in_no_bin_and_not_counted() -> None:
    problem = problem_of(MullerBrown())
    x = torch.tensor([[-0.5, 1.5], [5.0, 0.0], [1.2, 0.0], [-2.0, 2.0]], dtype=torch.float64)
    assert not problem.cvs.bin_index(problem.collective_variables(x))[1:].ge(0).any()
    assert not problem.report_state_space(x).any()
    assert problem.state_space.counts()["outside"] == 0


def test_systems_without_coordinates_have_no_state_space() -> None:
    system = MullerBrown()
    system.traits = frozenset({"gradient"})
    problem = problem_of(system)
    assert problem.report_state_space(torch.full((3, 2), 9.0)).tolist() == [False] * 3
    assert problem.state_space.counts()["samples"] == 0


@pytest.mark.parametrize(("outside", "reliable"), [(0, True), (1, True), (2, False)])
def test_from_one_percent_on_the_result_is_not_reliable(outside: int, reliable: bool, aldp) -> None:
    problem = problem_of(aldp)
    problem.report_state_space(mirrored(aldp.initial_configuration().repeat(100, 1, 1), list(range(outside))))
    assert (problem.state_space.problem() is None) == reliable


def test_from_twenty_percent_on_the_run_ends(aldp) -> None:
    x = aldp.initial_configuration().repeat(100, 1, 1)
    for outside, ends in ((20, False), (21, True)):
        problem = problem_of(aldp)
        problem.report_state_space(mirrored(x, list(range(outside))))
        if ends:
            with pytest.raises(TooManyAnomalies, match="too many outside_state_space: 21 of 100, limit 20%"):
                problem._anomalies.check()
        else:
            problem._anomalies.check()


# ---- walkers --------------------------------------------------------------------------------------


def test_a_block_names_walkers_outside_and_changes_no_trajectory(aldp) -> None:
    x = aldp.initial_configuration().repeat(4, 1, 1)
    settings = {"time_step": 0.001, "friction": 1.0, "step_size": 0.1}
    one, twin = (
        make_walkers(problem_of(aldp), mirrored(x, [2]), torch.Generator().manual_seed(1), **settings) for _ in "ab"
    )
    for dynamics in (one, twin):
        dynamics.step(10)
    assert end_block(problem_of(aldp), one).tolist() == [False, False, True, False]
    assert torch.equal(one.positions, twin.positions) and torch.equal(one.velocities, twin.velocities)


def run_md(walkers_outside: int, out: Path, walkers: int = 64) -> tuple[Run, Record]:
    overrides = (f"walkers={walkers}", "equilibration_steps=0", "steps=100", "stride=10")
    job = prepare("aldp", "md", preset="smoke", overrides=overrides, out=out, threads=1)
    dynamics = job.method.dynamics
    dynamics.positions = mirrored(dynamics.positions, list(range(walkers_outside)))
    return job, job.execute()


def test_md_with_many_walkers_outside_fails_and_says_why(tmp_path: Path) -> None:
    """27 of 64, as many as a strong bias once inverted without a word."""
    job, record = run_md(27, tmp_path)
    assert record.status == "failed" and "too many outside_state_space: 54 of 128" in record.reason
    assert record.state_space.model_dump() == {"samples": 128, "outside": 54, "proposed": 0, "rejected": 0}
    assert "27 more outside_state_space (54 of 128; samples of a sim" in (job.folder.path / "run.log").read_text()
    assert not (job.folder.path / "pmf.npz").exists()


def test_md_with_a_few_walkers_outside_is_not_reliable_and_their_samples_have_no_weight(tmp_path: Path, capsys) -> None:
    job, record = run_md(2, tmp_path)
    assert record.status == "finished" and record.diagnostics["reliable"] is False
    assert record.diagnostics["warnings"][0].startswith("40 of 1,280 samples (3%) are outside the state space")
    assert (job.method.counts[0].sum((0, 2)) == torch.tensor([0, 0, *[10] * 62])).all()
    for estimate in job.method.auxiliary_estimates():  # the group of the first walker alone has no sample
        if estimate.name == "histogram/1" and estimate.replicate == 0:
            assert np.ptp(estimate.pmf.probability) < 1e-12
    assert main(["leaderboard", "--runs", str(tmp_path), "--format", "markdown"]) == 0
    told = capsys.readouterr()
    for text in (told.out, told.err):
        assert f"warning: {job.folder.path} is not reliable: 40 of 1,280 samples (3%)" in text


def test_md_with_all_walkers_inside_says_nothing(tmp_path: Path, capsys) -> None:
    _, record = run_md(0, tmp_path, walkers=4)
    assert not any("state space" in line for line in record.diagnostics["warnings"])
    assert record.state_space.outside == 0 < record.state_space.samples
    assert main(["leaderboard", "--runs", str(tmp_path)]) == 0
    assert "state space" not in capsys.readouterr().err


def test_a_strong_bias_that_inverts_the_alpha_carbon_ends_the_run(tmp_path: Path, capsys) -> None:
    settings = ("walkers=24", "height=2000", "bias_factor=100", "pace=50", "deposits=20", "steps=200")
    words = [word for setting in settings for word in ("--set", setting)]
    arguments = ["--system", "aldp", "--method", "metadynamics", "--preset", "smoke", "--threads", "1"]
    assert main(["run", *arguments, "--out", str(tmp_path), *words]) == 1
    told = capsys.readouterr()
    assert "too many outside_state_space" in told.err and "samples outside, without weight" in told.out
    assert "are outside the state space: they have no weight, but the PMF is not reliable" in told.out


# ---- metadynamics ---------------------------------------------------------------------------------


CONFIG = MetadynamicsConfig(walkers=3, pace=5, height=3.0, width=0.06, bias_factor=4.0)


@pytest.mark.parametrize("engine", ["torch", "openmm"])
@pytest.mark.parametrize("outside", [[], [1], [0, 1, 2]])
def test_walkers_outside_add_no_hills_and_no_samples(engine: str, outside: list[int]) -> None:
    """The hills of the others are those that they would add without the walkers outside."""
    problem = problem_of(AlanineDipeptide(engine=engine))
    generator = torch.Generator().manual_seed(1)
    if engine == "torch":
        sampler = BatchedSampler(problem, CONFIG, generator)
        sampler.dynamics.positions = mirrored(sampler.dynamics.positions, outside)
    else:
        sampler = OpenMMSampler(problem, CONFIG, generator)
        sampler.positions = mirrored(torch.from_numpy(sampler.positions), outside).numpy()
        sampler.begin()
    sampler.deposit()
    s, bias = sampler.sample()
    inside = [walker for walker in range(3) if walker not in outside]
    assert np.isnan(s[outside]).all() and np.isfinite(s[inside]).all() and np.isfinite(bias).all()
    on_grid = sampler.bias_on_grid()
    volume = 2 * np.pi * 0.06**2 * np.prod(problem.cvs.bins)  # sum over the grid of a hill of height 1
    low, high = 0.7 * len(inside), len(inside)  # each hill lowers the next
    assert low - 1e-9 <= on_grid.sum() / volume <= high * 1.001 + 1e-9
    counts = problem.state_space.counts()
    assert counts["samples"] >= 3 and counts["outside"] * 3 == len(outside) * counts["samples"]


def test_a_single_walker_on_openmm_is_seen_to_leave() -> None:
    problem = problem_of(AlanineDipeptide(engine="openmm"))
    sampler = OpenMMSampler(problem, CONFIG.model_copy(update={"walkers": 1}), torch.Generator().manual_seed(1))
    sampler.begin()
    sampler.advance(5)
    assert np.isfinite(sampler.sample()[0]).all()
    positions = sampler.simulation.context.getState(positions=True).getPositions(asNumpy=True)._value
    sampler.simulation.context.setPositions(positions * MIRROR.numpy())
    sampler.advance(5)
    assert np.isnan(sampler.sample()[0]).all()
    assert problem.state_space.counts()["outside"] == 1


# ---- other methods --------------------------------------------------------------------------------


def test_umbrella_frames_outside_are_not_used(aldp) -> None:
    config = UmbrellaConfig(windows=8, pull_steps=2, stride=5, replicates=1)
    walkers = WindowWalkers(problem_of(aldp), config, Streams(0))
    walkers.start()
    walkers.dynamics.positions = mirrored(walkers.dynamics.positions, [0, 1])
    frames = walkers.sample(20)
    assert len(walkers) == 5 and frames.usable.sum(1).tolist() == [3] * 4
    counts = walkers.problem.state_space.counts()
    assert (counts["samples"], counts["outside"]) == (5 + 20, 8)  # the pull, and four frames


def test_a_starting_trajectory_outside_gives_no_examples() -> None:
    class Inverted(AlanineDipeptide):
        def initial_configuration(self) -> torch.Tensor:
            return super().initial_configuration() * MIRROR.double()

    with pytest.raises(ValueError, match="is in the state space \\(outside_state_space\\)"):
        starting_trajectory(
            problem_of(Inverted()), SeedingConfig(steps=20, stride=10), torch.Generator().manual_seed(1)
        )


def test_flows_never_evaluate_and_count_what_is_outside(aldp) -> None:
    problem = problem_of(aldp)
    s, y, _ = aldp.coordinates.to_internal(mirrored(aldp.initial_configuration().repeat(5, 1, 1), [3]))
    energy = ConditionalTarget(problem, aldp.coordinates).energy(s, y)
    assert energy.isfinite().tolist() == [True, True, True, False, True]
    assert problem.evaluations == 4
    assert problem.state_space.counts() == {"samples": 0, "outside": 0, "proposed": 5, "rejected": 1}


METHODS = ("flow_ais_bootstrap", "ta_bg", "cmt", "cgflow_al", "cgflow_grid")


@pytest.mark.parametrize("method", METHODS)
def test_flows_on_a_walled_system_count_every_proposal(method: str, tmp_path: Path) -> None:
    """What was not rejected was evaluated, and the ledger counted it."""
    record = prepare(WALLED, method, preset="smoke", out=tmp_path, threads=1).execute()
    found = record.state_space
    assert record.status == "finished" and found.rejected > 0 == found.samples
    assert found.proposed - found.rejected == record.evaluations.total
    warnings = record.diagnostics["warnings"]
    assert not any("state space" in warning for warning in warnings)  # a weight of zero is exact


def exact(inside: bool) -> np.ndarray:
    """PMF of Müller-Brown by quadrature over x + y: on this side of the wall, or everywhere."""
    system = load("system", CUT)()
    s = torch.from_numpy(system.cvs.grid()[:, 0])
    a, b = torch.meshgrid(s, torch.linspace(-4.0, 6.0, 4001, dtype=torch.float64), indexing="ij")
    x = torch.stack([0.5 * (b + a), 0.5 * (b - a)], dim=-1).reshape(-1, 2)
    density = torch.exp(-system.reduced_energy_and_gradient(x)[0])
    if inside:
        density[~system.coordinates.in_state_space(x)] = 0.0
    density = density.reshape(a.shape).sum(1).numpy()
    return density / density.sum()


def test_the_pmf_is_that_of_the_state_space(tmp_path: Path) -> None:
    """Metropolis walkers that cross the wall and return: their histogram is that of the part this side of it."""
    overrides = ("walkers=200", "steps=3000", "stride=50", "equilibration_steps=500", "step_size=0.15")
    job = prepare(CUT, "md", preset="smoke", overrides=overrides, out=tmp_path, threads=1)
    record = job.execute()
    share = record.state_space.outside / record.state_space.samples
    assert record.status == "finished" and 0.01 < share < 0.2
    counts = job.method.counts[0].sum((0, 1)).double().numpy()
    below, everywhere = exact(inside=True), exact(inside=False)
    basin = slice(int(counts.nonzero()[0].min()), int(counts.nonzero()[0].max()) + 1)  # the basin of the start
    found, below, everywhere = (p[basin] / p[basin].sum() for p in (counts, below, everywhere))
    distance = [0.5 * np.abs(found - other).sum() for other in (below, everywhere)]
    assert distance[0] < 0.015 < 0.025 < distance[1]  # 10,000 samples


def test_counts_survive_a_stop(tmp_path: Path) -> None:
    def job(out: str) -> Run:
        return prepare(WALLED, "md", preset="smoke", out=tmp_path / out, threads=1)

    whole = job("whole").execute()
    stopped = job("stopped")
    stopped.stop = lambda: len(stopped.curve) == 2
    with pytest.raises(KeyboardInterrupt):
        stopped.execute()
    resumed = job("stopped")
    assert resumed.resume()
    record = resumed.execute()
    assert record.state_space == whole.state_space and record.state_space.outside > 0


# ---- the start ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--system", MIRRORED, "--method", "md", "--preset", "smoke"],
        ["run", "--system", MIRRORED, "--method", "cgflow_al", "--preset", "smoke"],
        ["check", "--system", MIRRORED, "--method", "md"],
        ["reference", "build", MIRRORED],
    ],
    ids=lambda words: " ".join(words[:1] + words[3:5]),
)
def test_a_start_outside_is_refused_in_one_line(arguments: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    out = [] if arguments[0] == "check" else ["--out", str(tmp_path / "out")]
    assert main([*arguments, *out]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert "initial_configuration() (phi = 2." in told.err and "is outside the state space" in told.err
    assert not (tmp_path / "out").exists()


def test_a_state_space_that_raises_is_the_plugins_fault_and_one_line(tmp_path: Path, capsys) -> None:
    assert main(["run", "--system", UNSURE, "--method", "md", "--preset", "smoke", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "KeyError: 'CA' (state_spaces.py, line" in error


# ---- plugins --------------------------------------------------------------------------------------

SILENT = """
from cgbench.contracts.method import Method, MethodConfig
from cgbench.contracts.pmf import PMF

class Silent(Method):
    name = "silent"
    Config = MethodConfig
    def estimates(self):
        x = self.problem.initial_configuration()[None]
        with self.problem.phase("sample"):
            self.problem.reduced_energy(x)
        yield PMF.from_function(self.problem.cvs, lambda s: s[:, 0] ** 2)
    def state_dict(self):
        return {}
    def load_state_dict(self, state):
        pass
"""


def test_a_method_that_never_reports_is_told_so(tmp_path: Path, capsys) -> None:
    (tmp_path / "silent.py").write_text(SILENT, encoding="utf-8")
    pair = ["--method", f"{tmp_path / 'silent.py'}:Silent", "--system", "muller_brown"]
    assert main(["check", *pair, "--check", "state-space"]) == 0
    assert "ok     state-space: the method never reports whether its samples are in" in capsys.readouterr().out
    assert main(["run", *pair, "--out", str(tmp_path / "out")]) == 0
    assert "state space   not reported by the method" in capsys.readouterr().out
