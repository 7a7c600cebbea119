"""The run loop: resuming, refusing, failing without losing anything."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgbench.contracts.method import Method, MethodConfig
from cgbench.contracts.pmf import PMF
from cgbench.errors import UserError
from cgbench.running.loop import _moved
from cgbench.running.run import Run, finished_record, prepare, run

THIS = Path(__file__)


class TroubleConfig(MethodConfig):
    trouble: str = "none"
    estimates: int = 3


class Troubled(Method):
    """Fails in the way that it is told to, after two estimates."""

    name = "troubled"
    Config = TroubleConfig

    def __init__(self, problem: Any, config: Any, streams: Any) -> None:
        super().__init__(problem, config, streams)
        self.done = 0

    def estimates(self) -> Iterator[PMF]:
        while self.done < self.config.estimates:
            if self.done == 2 and self.config.trouble == "raises":
                raise ArithmeticError("the flow diverged\nbadly")
            if self.config.trouble == "ends at once":
                return
            x = self.problem.initial_configuration().repeat(10, 1)
            with self.problem.phase("work"):
                self.problem.reduced_energy_and_gradient(x)
            self.done += 1
            p = np.ones(self.problem.cvs.bins)
            if self.done == 2 and self.config.trouble == "zero":
                p[3] = 0.0
            yield PMF(self.problem.cvs, p)

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done = int(state["done"])


METHOD = f"{THIS}:Troubled"


def start(tmp_path: Path, **options: Any) -> Run:
    return prepare("muller_brown", METHOD, **({"out": tmp_path, "threads": 1} | options))


def read(folder: Path) -> Any:
    return json.loads((folder / "record.json").read_text())


def test_a_method_that_raises_keeps_its_record_and_estimates(tmp_path) -> None:
    job = start(tmp_path, overrides=["trouble=raises"])
    record = job.execute()
    assert record.status == "failed" and record.reason == "ArithmeticError: the flow diverged"
    assert record.evaluations.by_phase == {"work": 20}
    assert read(job.folder.path)["status"] == "failed"
    assert len((job.folder.path / "curve.csv").read_text().splitlines()) == 3
    assert "ArithmeticError" in (job.folder.path / "run.log").read_text()


def test_zero_probabilities_are_refused(tmp_path) -> None:
    record = start(tmp_path, overrides=["trouble=zero"]).execute()
    assert record.status == "failed" and "must be positive" in record.reason


def test_no_estimate_at_all(tmp_path) -> None:
    record = start(tmp_path, overrides=["trouble='ends at once'"]).execute()
    assert record.status == "failed" and "without an estimate" in record.reason


def test_budget(tmp_path) -> None:
    job = start(tmp_path, budget=25)
    record = job.execute()
    assert record.status == "budget" and record.evaluations.total == 20
    assert (job.folder.path / "pmf.npz").exists()
    again = start(tmp_path, budget=25)
    assert finished_record(again).status == "budget"
    again.folder.release()
    more = start(tmp_path, budget=30)
    assert finished_record(more) is None and more.resume()
    assert more.execute().status == "finished"


def test_a_smaller_budget_than_what_was_made_is_refused(tmp_path) -> None:
    options: dict[str, Any] = {"out": tmp_path, "threads": 1}
    run("muller_brown", METHOD, budget=25, **options)
    with pytest.raises(UserError, match="run in .* has made 20 evaluations, more than --budget 15"):
        run("muller_brown", METHOD, budget=15, **options)
    (tmp_path / "muller_brown" / "troubled" / "default" / "seed-0" / "record.json").unlink()  # as if it had been killed
    with pytest.raises(UserError, match="latest.pt in .* has made 20 evaluations, more than --budget 15"):
        run("muller_brown", METHOD, budget=15, **options)
    assert run("muller_brown", METHOD, **options).evaluations.total == 30
    with pytest.raises(UserError, match="has made 30 evaluations, more than --budget 29"):
        run("muller_brown", METHOD, budget=29, **options)
    assert run("muller_brown", METHOD, budget=30, **options).status == "finished"


@pytest.mark.parametrize("seed", [np.int64(3), 3.0])
def test_numbers_of_other_types_are_the_same_seed(tmp_path, seed) -> None:
    records = [run("muller_brown", METHOD, out=tmp_path / str(n), threads=1, seed=s) for n, s in enumerate((3, seed))]
    assert records[0].metrics == records[1].metrics
    assert [path.name for path in (tmp_path / "1" / "muller_brown" / "troubled" / "default").iterdir()] == ["seed-3"]


class NeedyConfig(TroubleConfig):
    needed: int


class Needy(Troubled):
    name = "needy"
    Config = NeedyConfig


def test_a_setting_without_a_default_can_be_given(tmp_path) -> None:
    job = prepare("muller_brown", f"{THIS}:Needy", out=tmp_path, overrides=["needed=1"])
    assert job.folder.path.parent.name.startswith("default-") and job.execute().status == "finished"
    with pytest.raises(UserError, match=r"configuration of needy \(preset default, which has no file\): .*needed"):
        prepare("muller_brown", f"{THIS}:Needy", out=tmp_path)


def test_random_streams_continue_on_another_device_of_the_same_type() -> None:
    streams = {"walk@cuda": 1, "walk@cpu": 2, "noise@cuda": 3}
    assert _moved(streams, "cuda", "cuda:0") == {"walk@cuda:0": 1, "walk@cpu": 2, "noise@cuda:0": 3}
    assert _moved(streams, "cuda", "cuda") == streams


def test_the_cpu_has_no_number(tmp_path) -> None:
    assert start(tmp_path, device="cpu:0").system.device == "cpu"


def test_a_finished_run_is_not_run_again(tmp_path) -> None:
    first = run("muller_brown", METHOD, out=tmp_path, threads=1)
    folder = tmp_path / "muller_brown" / "troubled" / "default" / "seed-0"
    stamp = (folder / "pmf.npz").stat().st_mtime_ns
    second = run("muller_brown", METHOD, out=tmp_path, threads=1)
    assert second.evaluations == first.evaluations
    assert (folder / "pmf.npz").stat().st_mtime_ns == stamp
    assert not list((folder / "checkpoint").glob("*.pt"))


def test_a_changed_preset_is_not_mixed_with_an_old_run(tmp_path) -> None:
    job = start(tmp_path)
    job.execute()
    changed = job.folder.read_record().model_copy(update={"config_hash": "0" * 64})
    job.folder.write_record(changed)
    with pytest.raises(UserError, match="holds a run with config_hash"):
        finished_record(start(tmp_path))


def test_overrides_have_a_folder_of_their_own(tmp_path) -> None:
    plain, changed, same = (
        start(tmp_path, overrides=overrides) for overrides in ([], ["estimates=2"], ["estimates=4"])
    )
    assert len({job.folder.path for job in (plain, changed, same)}) == 3
    plain.folder.release()
    assert start(tmp_path, overrides=["estimates=3"]).folder.path == plain.folder.path


def test_a_damaged_checkpoint_costs_one_estimate_not_the_run(tmp_path) -> None:
    def stop(job: Run) -> None:
        if len(job.curve) == 2:
            raise KeyboardInterrupt

    job = start(tmp_path, on_estimate=stop)
    job.save_share = 1e9  # save each estimate
    with pytest.raises(KeyboardInterrupt):
        job.execute()
    latest = job.folder.path / "checkpoint" / "latest.pt"
    latest.write_bytes(latest.read_bytes()[:-1])
    again = start(tmp_path)
    assert again.resume() and "damaged" in again.messages[0]
    record = again.execute()
    assert record.status == "finished" and record.evaluations.total == 30


@pytest.mark.parametrize(
    "options, message",
    [
        ({"budget": 0}, "--budget must be at least 1, not 0"),
        ({"threads": 0}, "--threads must be from 1 to 1024, not 0"),
        ({"threads": 10**11}, "--threads must be from 1 to 1024"),
        ({"seed": 2**63}, "--seed must be at most"),
        ({"seed": 1.5}, "--seed must be a whole number, not 1.5"),
        ({"seed": "4"}, "--seed must be a whole number, not '4'"),
        ({"budget": 1000.5}, "--budget must be a whole number"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
        ({"engine": "lammps"}, "no engine 'lammps': choose from torch"),
        ({"preset": "fast"}, "unknown preset 'fast'"),
    ],
)
def test_impossible_requests(tmp_path, options, message) -> None:
    with pytest.raises(UserError, match=message) as caught:
        start(tmp_path, **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())  # nothing was left behind


def test_a_missing_trait_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match="method demanding needs a system with telepathy; muller_brown has"):
        prepare("muller_brown", f"{THIS}:Demanding", out=tmp_path)


class Demanding(Troubled):
    name = "demanding"
    requires = frozenset({"telepathy"})


def test_energies_that_are_not_finite_are_counted(tmp_path) -> None:
    job = start(tmp_path)
    x = torch.full((4, 2), torch.nan, dtype=torch.float64)
    energy, gradient = job.problem.reduced_energy_and_gradient(x)
    assert torch.equal(energy, torch.full((4,), torch.inf)) and not gradient.any()
    anomaly = job.record("running").anomalies["nonfinite_energy"]
    assert (anomaly.count, anomaly.occasions) == (4, 4)


def test_the_gate_charges_before_it_evaluates(tmp_path) -> None:
    job = start(tmp_path, budget=3)
    x = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(Exception, match="would exceed the budget"):
        job.problem.reduced_energy(x)
    assert job.ledger.total == 0
    energy = job.problem.reduced_energy(x[:2])
    (gradient,) = torch.autograd.grad(energy.sum(), x)
    assert job.ledger.total == 2 and gradient[:2].abs().sum() > 0 and gradient[2:].abs().sum() == 0


def test_saving_takes_a_small_share_of_the_time(tmp_path) -> None:
    job = start(tmp_path, overrides=["estimates=40"])
    saves = []
    original = job.folder.save_checkpoint

    def slow(state: Any) -> None:
        saves.append(len(job.curve))
        time.sleep(0.02)
        original(state)

    job.folder.save_checkpoint = slow
    job.execute()
    assert saves[0] == 1 and len(saves) < 5


def test_whoever_stops_has_the_estimate_saved(tmp_path) -> None:
    job = start(tmp_path, overrides=["estimates=40"])
    job.stop = lambda: len(job.curve) == 7
    with pytest.raises(KeyboardInterrupt):
        job.execute()
    again = start(tmp_path, overrides=["estimates=40"])
    assert again.resume() and len(again.curve) == 7
    assert again.execute().evaluations.total == 400


def test_diagnostics_that_fail_cost_the_diagnostics(tmp_path) -> None:
    job = start(tmp_path)
    job.method.diagnostics = lambda: {"at": object()}
    record = job.execute()
    assert record.status == "finished" and "diagnostics failed (TypeError" in record.diagnostics["warnings"][0]
