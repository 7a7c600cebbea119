"""Metadynamics against Müller-Brown's exact PMF, and its parts against closed forms."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgbench.conformance import CHECKS, Pair
from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import Ledger
from cgbench.errors import UserError
from cgbench.running.run import prepare, run
from cgbench_methods.lib.estimators.fourier_fit import Curvature, fit
from cgbench_methods.lib.sampling.visits import Visits
from cgbench_methods.metadynamics.config import MetadynamicsConfig
from cgbench_methods.metadynamics.production import Production
from cgbench_methods.metadynamics.sampler import BatchedSampler
from cgbench_systems.muller_brown import MullerBrown, exact_probability

ANGLES = f"{Path(__file__).parents[2] / 'examples' / 'three_angles.py'}:ThreeAngles"
exact = functools.cache(lambda: exact_probability(MullerBrown().cvs))
TORUS = CollectiveVariables(("phi", "psi"), (-math.pi, -math.pi), (math.pi, math.pi), (True, True))


def sampler(**options: Any) -> BatchedSampler:
    config = MetadynamicsConfig(**options)
    return BatchedSampler(Problem(MullerBrown(), Ledger()), config, torch.Generator().manual_seed(0))


def test_the_pmf_of_muller_brown_is_recovered(tmp_path) -> None:
    """From one minimum over a barrier of 10 kT, by 7e5 evaluations; plain sampling never leaves the basin."""
    record = run("muller_brown", "metadynamics", overrides=["steps=8000"], out=tmp_path, threads=1, seed=1)
    assert record.status == "finished"
    config = record.config
    walkers, hills = config["walkers"], config["pace"] * config["deposits"]
    assert record.evaluations.by_phase == {
        "build_bias": walkers * (hills + 1),  # the start is evaluated too
        "equilibrate": walkers * config["equilibration_steps"],
        "production": walkers * 8000,
    }
    assert record.metrics["forward_kld"] < 1e-3
    assert abs(record.metrics["delta_f_error/product (lower right)"]) < 0.3
    found = record.diagnostics
    assert found["hills"] == walkers * config["deposits"] and found["bias_range_kT"] > 8.0
    assert 0 < found["effective_sample_size_of_weights"] < found["samples"]
    assert found["round_trips_per_walker"]["s"] > 0.5


def test_the_bias_itself_tends_to_the_tempered_pmf(tmp_path) -> None:
    """Its estimates come down hill by hill, and the last one is right within the noise of its hills."""
    overrides = ["deposits=256", "steps=5", "equilibration_steps=0", "production_estimates=1"]
    job = prepare("muller_brown", "metadynamics", overrides=overrides, out=tmp_path, threads=1)
    job.execute()
    kld = [row["forward_kld"] for row in job.curve[:-1]]
    assert len(kld) == 9 and kld[0] > 1.0 and kld[-1] < 0.02
    p = exact()
    free_energy = -np.log(p / p.max())
    tempered = job.method.sampler.bias_on_grid() + (1 - 1 / job.method.config.bias_factor) * free_energy
    assert tempered[free_energy < 8.0].std() < 0.4 and (1 - 1 / 8.0) * 8.0 > 10 * 0.4


def test_a_hill_has_the_tempered_height() -> None:
    """A lone walker on a plateau of 3 kT leaves ``h exp(-3 / (gamma - 1))``, and nothing outside the domain."""
    one = sampler(walkers=1, height=2.0, bias_factor=5.0, width=0.06, pace=1, bias_order=20)
    one.bias.coefficients[0] = 3.0
    one.deposit()
    s, bias = one.sample()
    assert float(bias[0]) == pytest.approx(3.0 + 2.0 * math.exp(-3.0 / 4.0), abs=1e-4)
    before = one.bias.coefficients.clone()
    one.dynamics.positions = torch.tensor([[-3.0, 3.0]], dtype=torch.float64)
    one.dynamics.energies = None
    one.config = one.config.model_copy(update={"pace": 0})
    one.deposit()
    assert torch.equal(one.bias.coefficients, before)


def production(samples: int, seed: int, groups: int = 8, repeat: int = 1) -> tuple[Production, np.ndarray]:
    """Samples of 64 walkers drawn from Müller-Brown under half its PMF as a bias; each may be seen several times."""
    cvs = MullerBrown().cvs
    p = exact()
    bias = -0.5 * np.maximum(-np.log(p / p.max()), 0.0).clip(max=12.0)
    flat = p * np.exp(-bias)
    random = np.random.default_rng(seed)
    found = Production(cvs, bias, 64, groups)
    for _ in range(samples // 64):
        cell = random.choice(len(p), size=64, p=flat / flat.sum())
        for _ in range(repeat):
            found.note(cvs.grid()[cell], bias[cell])
    return found, p


def test_claimed_errors_cover_the_truth() -> None:
    """With 6,400 samples, errors are noise and flattening by the penalty."""
    p = exact()
    low = p > 1e-3 * p.max()
    within = []
    for seed in range(24):
        pmf = production(6400, seed)[0].estimate((4, 6, 8, 12))
        error = -np.log(pmf.probability / p)[low]
        within.append(np.abs(error - (p[low] * error).sum() / p[low].sum()) < 1.96 * pmf.free_energy_std[low])
    assert 0.9 <= np.mean(within) <= 0.99


def test_errors_see_that_samples_repeat_themselves() -> None:
    """Each sample counted 16 times over is no more knowledge: the scatter of groups at one order stays."""
    found = []
    for repeat in (1, 16):
        parts = production(6400, 3, repeat=repeat)[0]
        groups = parts.histograms
        best = fit(parts.cvs, groups.sum(0), parts.exposure, 4, stiffness=1e-3)
        curvature = Curvature(best, parts.exposure, 1e-3)
        shares = groups.sum(1, keepdims=True) / groups.sum()
        found.append(curvature.variance_of_groups(groups * parts.exposure, shares * parts.exposure))
    once, often = np.sqrt(found)[:, exact() > 1e-4]
    assert often.mean() == pytest.approx(once.mean(), rel=0.2)


def test_few_walkers_are_told_apart_by_stretches_of_time(tmp_path) -> None:
    found = Production(MullerBrown().cvs, np.zeros(100), 2, groups=4)
    for stretch in range(8):
        found.note(np.array([[-2.0], [0.5]]), np.zeros(2), stretch)
    np.testing.assert_array_equal(found.histograms.sum(1), [4, 4, 4, 4])
    overrides = ["walkers=1", "height=0.5", "deposits=200", "steps=2000", "step_size=0.3"]
    record = run("muller_brown", "metadynamics", overrides=overrides, out=tmp_path, threads=1)
    assert record.status == "finished" and 0 < record.diagnostics["expected_kld"] < 1.0


def test_effective_sample_size_and_weights() -> None:
    cvs = MullerBrown().cvs
    bias = np.linspace(0.0, 4.0, 100)
    found = Production(cvs, bias, 2, groups=2)
    index = np.array([10, 90])
    found.note(cvs.grid()[index], bias[index])
    found.note(np.array([[-9.0], [9.0]]), np.zeros(2))  # outside the domain
    weights = np.exp(bias[index] - 4.0)
    np.testing.assert_allclose(found.histograms[[0, 1], index], weights)
    assert found.effective_sample_size == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert found.moments[0] == 2 and found.coverage == pytest.approx(0.02)


def test_round_trips_of_a_steady_rotation() -> None:
    """An angle that turns ten times meets both its halves ten times; one that swings a little never does."""
    visits = Visits(TORUS, walkers=1)
    for step in range(1001):
        turn = 2 * math.pi * step / 100
        visits.note(TORUS.wrap([[turn - math.pi, 1.5 + 0.2 * math.sin(turn)]]))
    assert visits.round_trips() == {"phi": pytest.approx(10, abs=0.5), "psi": 0.0}
    line = Visits(MullerBrown().cvs, walkers=1)
    for s in (-2.4, -1.0, 1.0, -1.0, 1.0, -2.4):
        line.note(np.array([[s]]))
    assert line.round_trips() == {"s": 1.0}


def test_settings_that_contradict_each_other_are_named(tmp_path) -> None:
    for override, reason in (
        ("fit_orders=[4, 2]", "increasing"),
        ("stride=100000", "stride"),
        ("bias_factor=1", "than 1"),
    ):
        with pytest.raises(UserError, match=reason):
            prepare("muller_brown", "metadynamics", overrides=[override], out=tmp_path)


@pytest.mark.parametrize(("chosen", "height"), [("[a, c]", 1.0), ("[b]", 1.0), ("[a, b, c]", 1.0)])
def test_a_choice_of_variables_serves_all_maps_and_states(chosen: str, height: float, tmp_path) -> None:
    """Two of three angles, one, or all are biased; the exact PMFs of pairs come from the weights."""
    overrides = [f"cvs={chosen}", "walkers=128", "pace=10", "deposits=40", f"height={height}", "bias_factor=4"]
    overrides += ["equilibration_steps=50", "steps=600", "stride=5", "step_size=0.6", "fit_orders=[2, 3, 4]"]
    overrides += ["groups=4", "production_estimates=1", "bias_order=3", "width=0.08"]
    record = run(ANGLES, "metadynamics", overrides=overrides, out=tmp_path, threads=1)
    assert record.status == "finished" and record.metrics["forward_kld"] < 0.02
    assert abs(record.metrics["delta_f_error/back"]) < 0.3
    found = record.diagnostics
    assert set(found["maps"]) == {"a and b", "b and c"} and f"[{', '.join(found['biased_cvs'])}]" == chosen
    assert found["expected_kld"] > 0 and ("bias_range_kT" in found) == (chosen != "[a, b, c]")


def test_a_choice_of_variables_keeps_the_contract(tmp_path) -> None:
    settings = ("cvs=[a, b]", "walkers=8", "pace=5", "deposits=4", "equilibration_steps=5", "steps=40", "stride=5")
    pair = Pair(ANGLES, "metadynamics", tmp_path, overrides=(*settings, "fit_orders=[2]", "production_estimates=2"))
    assert CHECKS["resume"](pair)


def test_the_choice_of_variables_is_checked_and_does_not_change_other_configurations(tmp_path) -> None:
    assert "cvs" not in MetadynamicsConfig().model_dump() and "cvs" not in MetadynamicsConfig().model_dump_json()
    assert MetadynamicsConfig(cvs=("a",)).model_dump()["cvs"] == ("a",)
    for override, reason in (("cvs=[a, 'x*']", "no CV 'x\\*'; choose from a, b, c"), ("cvs=[a, a]", "named twice")):
        with pytest.raises(UserError, match=reason):
            prepare(ANGLES, "metadynamics", overrides=[override], out=tmp_path)
    several = r"needs a system with few_cvs \(at most three CVs; tetra has 6 CVs and 3 maps\), or the setting cvs"
    for method in ("metadynamics", "opes"):
        with pytest.raises(UserError, match=several):
            prepare("tetra", method, out=tmp_path)
        with pytest.raises(UserError, match="at most 3 CVs, not 6"):
            prepare("tetra", method, out=tmp_path, overrides=["cvs=['*']"])
        with pytest.raises(UserError, match="named twice in phi 2, phi 3, phi 4, phi 3"):
            prepare("tetra", method, out=tmp_path, overrides=["cvs=['phi *', phi 3]"])


@pytest.mark.parametrize("method", ["metadynamics", "opes"])
def test_preset_phi_biases_all_phi(method: str, tmp_path) -> None:
    job = prepare("tetra", method, preset="phi", out=tmp_path)
    owner = job.method.sampler if method == "metadynamics" else job.method.walkers
    assert owner.cvs.names == ("phi 2", "phi 3", "phi 4")
