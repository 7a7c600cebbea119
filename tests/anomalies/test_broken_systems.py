"""Every method on systems with numerical failures: it gives a valid PMF, or fails and names the anomaly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cgbench.counting.anomalies import KINDS
from cgbench.running.record import Record
from cgbench.running.run import Run, prepare

SYSTEMS = Path(__file__).with_name("broken_systems.py")
WAYS = ("Region", "Random", "Later", "Always", "Steep", "Huge", "Winner")
PUBLISHED = ("recipe.by_energy.epochs_first=2", "recipe.by_energy.epochs_per_estimate=1", "recipe.by_energy.samples=4")
PUBLISHED += ("recipe.seeding.steps=40", "recipe.by_example.epochs=1", "recipe.ensemble.epochs=2")
PUBLISHED += ("recipe.walk.max_steps=40", "recipe.walk.max_iterations=2", "recipe.by_energy.epochs=2")
PUBLISHED += ("recipe.flow.gaussian_hidden=[8]", "recipe.ensemble.hidden=[8]")
SIMULATIONS = ("md", "metadynamics", "opes", "parallel_tempering", "umbrella")
METHODS = {
    "md": ("md", {"preset": "smoke", "overrides": ("walkers=8", "steps=150")}),
    "metadynamics": ("metadynamics", {"preset": "smoke"}),
    "opes": ("opes", {"preset": "smoke"}),
    "umbrella": ("umbrella", {"preset": "smoke"}),
    "parallel_tempering": ("parallel_tempering", {"preset": "smoke"}),
    "cgflow_al": ("cgflow_al", {"preset": "smoke"}),
    "cgflow_grid": ("cgflow_grid", {"preset": "smoke"}),
    "published": ("cgflow_al", {"preset": "paper", "overrides": PUBLISHED}),
    "flow_ais_bootstrap": ("flow_ais_bootstrap", {"preset": "smoke"}),
    "ta_bg": ("ta_bg", {"preset": "smoke"}),
    "cmt": ("cmt", {"preset": "smoke"}),
}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "_draw", lambda run, record: None)


def start(system: str, method: str, out: Path, **options) -> Run:
    name, settings = METHODS[method]
    return prepare(system, name, out=out, threads=1, seed=1, **(settings | options))


def check(job: Run, record: Record) -> None:
    """Check that a failure names its anomaly and that every estimate is finite."""
    if record.status == "failed":
        assert record.reason is not None and any(kind in record.reason for kind in KINDS), record.reason
        assert not (job.folder.path / "pmf.npz").exists()
    else:
        assert record.status == "finished"
        with np.load(job.folder.path / "pmf.npz") as arrays:
            for name in ("probability", "free_energy"):
                assert np.isfinite(arrays[name]).all()
            assert (arrays["probability"] > 0).all()
    assert all(np.isfinite(row["forward_kld"]) for row in job.curve)


@pytest.mark.parametrize(
    ("way", "method"),
    [(way, method) for way in WAYS for method in METHODS if method != "cgflow_grid" or way in ("Random", "Winner")],
)
def test_on_muller_brown(way: str, method: str, tmp_path: Path) -> None:
    job = start(f"{SYSTEMS}:{way}", method, tmp_path)
    record = job.execute()
    check(job, record)
    expected = {"Steep": "nonfinite_gradient", "Huge": None, "Winner": None}.get(way, "nonfinite_energy")
    if expected is not None:
        assert record.anomalies[expected].count > 0
    if way == "Always":
        assert record.status == "failed"
    elif way in ("Steep", "Huge", "Winner"):
        assert record.status == "finished"
    if way == "Winner" and method in ("cgflow_al", "cgflow_grid", "published"):
        assert record.anomalies["dominant_weight"].count > 0
        assert any("of their sum" in warning for warning in record.diagnostics["warnings"])


@pytest.mark.parametrize(
    ("way", "method"),
    [(way, method) for way in ("Later", "Huge") for method in SIMULATIONS]
    + [("Region", "metadynamics"), ("Huge", "cgflow_al"), ("Huge", "flow_ais_bootstrap"), ("Always", "cgflow_al")],
)
def test_on_a_molecule(way: str, method: str, tmp_path: Path) -> None:
    job = start(f"{SYSTEMS}:Molecule{way}", method, tmp_path)
    record = job.execute()
    check(job, record)
    if way == "Later":
        assert record.status == "failed" and record.anomalies["diverged_walker"].count > 0


def poison(job: Run) -> None:
    """Make the flow diverge at the first estimate."""
    owner = getattr(job.method, "recipe", job.method)
    if len(job.curve) == 1:
        with torch.no_grad():
            for parameter in owner.flow.parameters():
                parameter.fill_(torch.nan)


@pytest.mark.parametrize("overrides", [(), ("recipe.labels.mean_force=false", "recipe.training.path_gradients=false")])
def test_a_diverged_flow_leaves_the_harmonic_estimate(overrides: tuple[str, ...], tmp_path: Path) -> None:
    job = start("muller_brown", "cgflow_al", tmp_path, on_estimate=poison, overrides=overrides)
    record = job.execute()
    check(job, record)
    assert record.status == "finished"
    klds = [row["forward_kld"] for row in job.curve]
    assert klds == klds[:1] * len(klds)  # the PMF stays the harmonic one
    skipped = record.anomalies["skipped_step"]
    assert skipped.count == skipped.occasions == 4
    assert record.anomalies["unusable_sample"].count >= 64 + 100
    assert any("could not be fitted" in warning for warning in record.diagnostics["warnings"])


@pytest.mark.parametrize("method", ["published", "flow_ais_bootstrap"])
def test_a_diverged_flow_ends_the_run(method: str, tmp_path: Path) -> None:
    """Without the anomaly limit, Flow AIS Bootstrap would draw unusable samples forever, at no cost."""
    job = start("muller_brown", method, tmp_path, on_estimate=poison)
    record = job.execute()
    check(job, record)
    assert record.status == "failed" and "unusable_sample" in record.reason
    if method == "published":
        assert record.anomalies["skipped_step"].count > 0


def test_openmm_reports_a_diverged_walker(tmp_path: Path) -> None:
    options = {"engine": "openmm", "overrides": ("walkers=1", "time_step=5.0")}
    record = start("aldp", "metadynamics", tmp_path, **options).execute()
    assert record.status == "failed"
    assert "Particle coordinate is NaN" in record.reason and "\n" not in record.reason


def test_openmm_energies_pass_the_counted_gate(tmp_path: Path) -> None:
    options = {"engine": "openmm", "overrides": ("walkers=20", "steps=20", "time_step=5.0")}
    job = start("aldp", "md", tmp_path, **options)
    record = job.execute()
    check(job, record)
    assert record.anomalies["diverged_walker"].count > 0
