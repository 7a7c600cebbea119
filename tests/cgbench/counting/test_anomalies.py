"""Anomalies are counted, logged, checked against limits, and always reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgbench.contracts.method import Method, MethodConfig
from cgbench.contracts.pmf import PMF
from cgbench.counting.anomalies import KINDS, Anomalies, TooManyAnomalies
from cgbench.running.run import Run, prepare
from cgbench_systems.muller_brown import MullerBrown

THIS = Path(__file__)


def test_counts_new_lines_and_state() -> None:
    anomalies = Anomalies()
    anomalies.add("skipped_step", torch.tensor(2), 10)
    anomalies.add("skipped_step", 0, 10)
    anomalies.add("diverged_walker", 0, 100)
    assert anomalies.counts() == {"skipped_step": (2, 20)}
    assert anomalies.new_lines() == [f"2 more skipped_step (2 of 20; {KINDS['skipped_step'].meaning})"]
    assert anomalies.new_lines() == []
    other = Anomalies()
    other.load_state_dict(anomalies.state_dict())
    assert other.counts() == anomalies.counts() and other.new_lines() == []
    other.add("of my own", 1, 3)
    assert other.new_lines() == ["1 more of my own (1 of 3; counted by the method)"]


@pytest.mark.parametrize("kind", [*KINDS, "of my own"])
def test_the_limit_is_a_share_of_enough_occasions(kind: str) -> None:
    known = KINDS.get(kind)
    limit, at_least = (known.limit, known.at_least) if known else (0.5, 20)
    allowed = int(limit * at_least)
    anomalies = Anomalies()
    anomalies.add(kind, at_least - 1, at_least - 1)
    anomalies.check()  # too few to judge
    anomalies = Anomalies()
    anomalies.add(kind, allowed, at_least)
    anomalies.check()
    anomalies.add(kind, 2, 1)
    with pytest.raises(TooManyAnomalies, match=f"too many {kind}: .* limit"):
        anomalies.check()


class BrokenConfig(MethodConfig):
    scale: float = 1.0
    rounds: int = 5


class Draws(Method):
    """Uniform samples, weighted."""

    name = "draws"
    Config = BrokenConfig

    def __init__(self, problem: Any, config: Any, streams: Any) -> None:
        super().__init__(problem, config, streams)
        self.weights, self.done = np.ones(problem.cvs.bins), 0

    def estimates(self) -> Iterator[PMF]:
        while self.done < self.config.rounds:
            self.done += 1
            x = torch.rand(400, 2, generator=self.streams.torch("x"), dtype=torch.float64) * self.config.scale
            with self.problem.phase("draw"):
                energy, gradient = self.problem.reduced_energy_and_gradient(x)
            assert not energy.isnan().any() and gradient.isfinite().all()
            s = self.problem.collective_variables(x).numpy()
            self.weights += self.problem.cvs.histogram(s, torch.exp(-energy).numpy())
            yield PMF(self.problem.cvs, self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": torch.from_numpy(self.weights), "done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weights, self.done = state["weights"].numpy(), int(state["done"])


class Cracked(MullerBrown):
    """Energies beyond a line are not finite."""

    share = 0.0

    def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        energy, gradient = super().reduced_energy_and_gradient(x)
        broken = x[:, 0] < self.share
        for value, start in ((torch.nan, 0), (torch.inf, 1), (-torch.inf, 2)):
            energy[start::3][broken[start::3]] = value
        gradient[::5, 0][broken[::5]] = torch.nan
        return energy, gradient


class CrackedHere(Cracked):
    share = 0.3


class CrackedAlmostEverywhere(Cracked):
    share = 0.7


def start(tmp_path: Path, system: str) -> Run:
    return prepare(f"{THIS}:{system}", f"{THIS}:Draws", out=tmp_path, threads=1)


def test_energies_that_are_not_finite_have_no_weight(tmp_path: Path) -> None:
    job = start(tmp_path, "CrackedHere")
    record = job.execute()
    assert record.status == "finished"
    anomaly = record.anomalies["nonfinite_energy"]
    assert anomaly.occasions == 2000 and abs(anomaly.count - 600) < 100
    log = (job.folder.path / "run.log").read_text()
    assert "after 400 evaluations:" in log and "more nonfinite_energy" in log and log.count("\n") == 5
    assert np.isfinite(job.estimate.pmfs[0].probability).all()


def test_too_many_of_them_end_the_run_with_the_reason(tmp_path: Path) -> None:
    job = start(tmp_path, "CrackedAlmostEverywhere")
    record = job.execute()
    assert record.status == "failed"
    assert record.reason.startswith("TooManyAnomalies: ") and "too many nonfinite_energy: " in record.reason
    assert len(job.curve) == 2  # 800 energies are too few to judge
    assert record.evaluations.total == 1200 and not (job.folder.path / "pmf.npz").exists()


def test_they_are_noticed_before_the_first_estimate(tmp_path: Path) -> None:
    job = start(tmp_path, "CrackedAlmostEverywhere")
    x = torch.zeros(100, 2, dtype=torch.float64)
    with pytest.raises(TooManyAnomalies):
        for _ in range(100):
            job.problem.reduced_energy_and_gradient(x)


def test_steep_gradients_are_zero_and_counted(tmp_path: Path) -> None:
    class Steep(MullerBrown):
        def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            energy, gradient = super().reduced_energy_and_gradient(x)
            gradient[0, 1] = torch.inf
            return energy, gradient

    job = start(tmp_path, "Cracked")
    job.problem._system = Steep()
    x = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(job.problem.reduced_energy(x).sum(), x)
    assert not gradient[0].any() and gradient[1:].all()
    assert job.anomalies.counts() == {"nonfinite_gradient": (1, 3)}
