"""Results and checkpoints of earlier runs, of other versions of the code, and of smaller budgets."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgbench.cli.main import main
from cgbench.contracts.method import AuxiliaryEstimate, Method, MethodConfig
from cgbench.contracts.pmf import PMF
from cgbench.errors import UserError
from cgbench.results.runs import find_runs
from cgbench.running import loop, plan, provenance
from cgbench.running.registry import load
from cgbench.running.run import Run, finished_record, prepare, run
from cgbench.running.run_folder import RESULTS, plain_copy
from cgbench_systems.muller_brown import MullerBrown

THIS = Path(__file__)
METHOD = f"{THIS}:Counting"


class CountingConfig(MethodConfig):
    estimates: int = 6
    fails_after: int = 99
    auxiliary: bool = True


class Counting(Method):
    """Three evaluations of ten configurations for each estimate, at random places."""

    name = "counting"
    Config = CountingConfig
    evaluated = 0  # in all runs of this process

    def __init__(self, problem: Any, config: Any, streams: Any) -> None:
        super().__init__(problem, config, streams)
        self.done = 0
        self.histogram = np.ones(problem.cvs.bins)
        self.generator = streams.torch("places")

    def estimates(self) -> Iterator[PMF]:
        import torch

        while self.done < self.config.estimates:
            for _ in range(3):
                if self.done == self.config.fails_after:
                    raise ArithmeticError("no luck")
                x = torch.rand(10, 2, generator=self.generator, dtype=torch.float64)
                with self.problem.phase("work"):
                    energy, _ = self.problem.reduced_energy_and_gradient(x)
                type(self).evaluated += 10
                self.histogram[0] += float(energy.exp().clamp(0, 1).sum())  # in place, before the budget is known
            self.done += 1
            yield PMF(self.problem.cvs, self.histogram)

    def auxiliary_estimates(self) -> list[AuxiliaryEstimate]:
        pmf = PMF(self.problem.cvs, self.histogram)
        return [AuxiliaryEstimate("half", 0, 0.5, pmf)] if self.config.auxiliary else []

    def state_dict(self) -> dict[str, Any]:
        import torch

        return {"done": self.done, "histogram": torch.from_numpy(self.histogram)}  # shares memory, as methods may

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done = int(state["done"])
        self.histogram = state["histogram"].numpy().copy()


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(self: Run, record: Any) -> None:
        (self.folder.path / "pmf.png").write_bytes(record.reason.encode() if record.reason else b"picture")

    monkeypatch.setattr(Run, "_draw", draw)


@pytest.fixture
def loaded() -> Any:
    """The class `Counting` as the harness loads it from this file."""
    return load("method", METHOD)


def start(tmp_path: Path, **options: Any) -> Run:
    return prepare("muller_brown", METHOD, **({"out": tmp_path, "threads": 1} | options))


def go(tmp_path: Path, **options: Any) -> Run:
    """Run or resume, and return the run that has ended."""
    job = start(tmp_path, **options)
    job.resume()
    job.execute()
    return job


def stopped(tmp_path: Path, estimates: int = 2) -> Run:
    """Interrupt a run after some estimates."""
    job = start(tmp_path)
    job.stop = lambda: len(job.curve) == estimates
    with pytest.raises(KeyboardInterrupt):
        job.execute()
    return job


def files(job: Run) -> set[str]:
    return {name for name in RESULTS if (job.folder.path / name).exists()}


# ---- files -----------------------------------------------------------------------------------------------


def test_a_failed_restart_leaves_nothing_of_the_run_before(tmp_path, monkeypatch, loaded) -> None:
    assert files(go(tmp_path)) == set(RESULTS)
    monkeypatch.setattr(loaded, "estimates", lambda self: iter(()))
    job = go(tmp_path, restart=True)
    assert json.loads((job.folder.path / "record.json").read_text())["status"] == "failed"
    assert files(job) == {"curve.csv"}
    assert (job.folder.path / "curve.csv").read_text().count("\n") == 1  # its header


def test_a_restart_that_is_killed_at_once_leaves_nothing(tmp_path) -> None:
    go(tmp_path)
    job = start(tmp_path, restart=True)
    assert files(job) == set() and not (job.folder.path / "record.json").exists()
    assert not (job.folder.path / "checkpoint" / "record.copy").exists()


def test_a_run_that_fails_after_its_budget_was_extended(tmp_path, monkeypatch, loaded) -> None:
    first = go(tmp_path, budget=70)
    assert files(first) == set(RESULTS)

    def fail(self: Counting) -> Iterator[PMF]:
        raise ArithmeticError("no luck")
        yield

    monkeypatch.setattr(loaded, "estimates", fail)
    job = go(tmp_path, budget=140)
    assert files(job) == {"curve.csv", "side_estimates.csv"}  # the checkpoint has these estimates, too
    assert (job.folder.path / "curve.csv").read_text().count("\n") == 3


def test_files_of_a_run_without_a_checkpoint_are_removed(tmp_path, monkeypatch, loaded) -> None:
    job = go(tmp_path)
    (job.folder.path / "record.json").unlink()  # by hand
    monkeypatch.setattr(loaded, "auxiliary_estimates", lambda self: [])
    again = go(tmp_path)
    assert files(again) == set(RESULTS) - {"side_estimates.csv"}


def test_the_summary_of_a_failed_run_names_no_picture(tmp_path, capsys) -> None:
    words = ["run", "--system", "muller_brown", "--method", METHOD, "--out", str(tmp_path), "--threads", "1"]
    assert main([*words, "--set", "fails_after=2"]) == 1
    assert "pmf.png" not in capsys.readouterr().out
    assert main(words) == 0
    assert "pmf.png" in capsys.readouterr().out


# ---- budgets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budgets", [(85, 180), (35, 70, 115, 180), (30, 59, 180)], ids=str)
def test_extending_the_budget_repeats_no_estimate(tmp_path, budgets: tuple[int, ...]) -> None:
    whole = go(tmp_path / "whole")
    taken: list[int] = []
    for budget in budgets:
        job = start(tmp_path / "parts", budget=budget)
        job.save_share = 1e-9  # only the first estimate is saved while the run computes
        job.resume()
        before = len(job.curve)
        assert before == sum(taken)
        job.execute()
        taken.append(len(job.curve) - before)
    assert sum(taken) == 6
    record = job.folder.read_record()
    assert record.status == "finished" and record.evaluations == whole.folder.read_record().evaluations
    assert (job.folder.path / "pmf.npz").read_bytes() == (whole.folder.path / "pmf.npz").read_bytes()


def test_extending_costs_what_the_uninterrupted_run_costs(tmp_path, monkeypatch, loaded) -> None:
    monkeypatch.setattr(loaded, "evaluated", 0)
    for budget in (90, 180):  # the first ends with an estimate
        job = start(tmp_path, budget=budget)
        job.save_share = 1e-9
        job.resume()
        job.execute()
    assert loaded.evaluated == 180 == job.ledger.total


def test_every_estimate_is_copied_without_the_rows_of_the_curves(tmp_path, monkeypatch) -> None:
    """Rows never change, and copying thousands of them took most of the time; the last estimate is always kept."""
    copied: list[set[str]] = []

    def noted_copy(state: Mapping[str, Any]) -> dict[str, Any]:
        copied.append(set(state))
        return plain_copy(state)

    monkeypatch.setattr(loop, "plain_copy", noted_copy)
    overrides = ("estimates=60",)
    job = start(tmp_path, budget=1475, overrides=overrides)
    job.save_share = 1e-9
    assert job.execute().status == "budget"
    made = len(job.curve)
    assert 40 < made < 60 and len(copied) == made - 1  # the first estimate is on disk
    assert all(not names & {"curve", "auxiliary"} and "method" in names for names in copied)
    longer = start(tmp_path, overrides=overrides)
    assert longer.resume() and len(longer.curve) == made
    assert longer.execute().status == "finished"


# ---- versions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cls, words", [(MullerBrown, "version 1 of system muller_brown"), (None, "version 1 of method counting")]
)
def test_another_version_is_not_resumed(tmp_path, monkeypatch, cls, words) -> None:
    job = stopped(tmp_path)
    (job.folder.path / "record.json").unlink()
    again = start(tmp_path)
    monkeypatch.setattr(cls or type(again.method), "version", "2")
    with pytest.raises(UserError, match=f"{words}, which now has version 2; choose another --out") as caught:
        again.resume()
    assert "\n" not in str(caught.value)
    again.folder.release()


@pytest.mark.parametrize("ended", [True, False], ids=["finished", "stopped"])
def test_another_version_of_the_method_is_one_line_and_exit_code_2(
    tmp_path, monkeypatch, capsys, loaded, ended: bool
) -> None:
    words = ["run", "--system", "muller_brown", "--method", METHOD, "--threads", "1", "--out", str(tmp_path)]
    assert main([*words, *([] if ended else ["--budget", "100"])]) == 0
    monkeypatch.setattr(loaded, "version", "2")
    capsys.readouterr()
    assert main([*words, *([] if ended else ["--budget", "180"])]) == 2
    err = capsys.readouterr().err
    assert "version 1 of method counting, which now has version 2" in err and err.count("\n") == 1
    assert main([*words, "--restart"]) == 0


def test_a_checkpoint_without_versions_is_of_the_first(tmp_path) -> None:
    job = stopped(tmp_path)
    state = job.state_dict()
    del state["method_version"], state["segments"]
    job.folder.save_checkpoint(state)
    record = go(tmp_path).folder.read_record()
    unknown, present = record.provenance["segments"]
    assert unknown["commit"] is None and (unknown["from_evaluations"], present["from_evaluations"]) == (0, 60)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"git": {"commit": "f" * 40, "dirty": False}}, "-> ffffffffffff"),
        ({"packages": {"torch": "9.9"}}, "torch .* -> 9.9"),
        ({"cgbench": "9.0"}, "cgbench .* -> 9.0"),
    ],
    ids=["commit", "package", "cgbench"],
)
def test_code_that_changed_is_in_the_record_and_the_log(tmp_path, monkeypatch, change, words) -> None:
    whole = go(tmp_path / "whole")
    (only,) = whole.folder.read_record().provenance["segments"]
    assert only["from_evaluations"] == 0 and only["packages"]["torch"]
    job = stopped(tmp_path)
    collect = provenance.collect
    monkeypatch.setattr(provenance, "collect", lambda *given: collect(*given) | change)
    for _ in range(2):  # the same change twice is one change
        again = start(tmp_path)
        again.resume()
        (message,) = (line for line in again.messages if "the code has changed" in line)
        again.folder.release()
    again = go(tmp_path)
    log = (job.folder.path / "run.log").read_text()
    assert log.count("the code has changed since the checkpoint") == 1 and message in log
    assert re.search(words, message) and "\n" not in message
    record = again.folder.read_record()
    first, second = record.provenance["segments"]
    assert first == only and second["from_evaluations"] == 60 and second != first
    assert (again.folder.path / "pmf.npz").read_bytes() == (whole.folder.path / "pmf.npz").read_bytes()


@pytest.mark.parametrize("ended", [True, False])
def test_renew_starts_over_what_other_code_has_made(tmp_path, monkeypatch, ended: bool) -> None:
    """And nothing else: neither the result of the same code, nor without being asked."""
    job = go(tmp_path) if ended else stopped(tmp_path)
    record = job.folder.read_record()
    assert record.provenance["code"] == record.provenance["segments"][0]["code"] == job.plan.code()
    reached = start(tmp_path, renew=True)
    assert reached.resume() is not ended and (finished_record(reached) is not None) is ended
    reached.folder.release()
    monkeypatch.setattr(plan, "code_of", lambda *classes: "other")
    kept = start(tmp_path)
    assert kept.folder.read_record() is not None
    kept.folder.release()
    renewed = start(tmp_path, renew=True)
    assert renewed.folder.read_record() is None and not renewed.resume()
    assert renewed.execute().provenance["code"] == "other"
    renewed.folder.release()


def test_a_run_with_a_part_of_other_code_is_of_neither(tmp_path) -> None:
    record = go(tmp_path).folder.read_record()
    code = record.provenance["code"]
    assert provenance.is_of_code(record.provenance, code)
    earlier = {**record.provenance["segments"][0], "code": "other"}
    mixed = record.provenance | {"segments": [earlier, *record.provenance["segments"]]}
    assert not any(provenance.is_of_code(mixed, one) for one in (code, "other"))
    assert not provenance.is_of_code({}, code)


def test_the_same_code_is_one_segment(tmp_path) -> None:
    stopped(tmp_path)
    job = go(tmp_path)
    assert len(job.folder.read_record().provenance["segments"]) == 1
    assert finished_record(start(tmp_path)) is not None
    assert run("muller_brown", METHOD, out=tmp_path, threads=1).status == "finished"


def test_another_number_of_threads_is_a_new_segment(tmp_path, monkeypatch) -> None:
    """Sums in PyTorch depend on it in their last digits: log and record say it, and the code has not changed."""
    stopped(tmp_path)
    collect = provenance.collect
    monkeypatch.setattr(provenance, "collect", lambda *given: collect(*given) | {"threads": 2})
    job = start(tmp_path)
    job.resume()
    assert (
        "the number of threads has changed since the checkpoint: threads 1 -> 2; the record names both" in job.messages
    )
    assert [one["threads"] for one in job.record("running").provenance["segments"]] == [1, 2]
    job.folder.release()


# ---- another reference, other metrics ----------------------------------------------------------------------

SYSTEM = """
from dataclasses import replace

from cgbench.contracts.pmf import PMF
from cgbench.contracts.system import Basin
from cgbench_systems.muller_brown import MullerBrown


class Changing(MullerBrown):
    name = "changing"
    POWER, BASINS = 1.0, ("left", "up")

    def __init__(self, **options):
        super().__init__(**options)
        self.basins = tuple(Basin(name, lambda s: s[0] < 0) for name in self.BASINS)

    def reference(self):
        found = super().reference()
        pmf = PMF(found.pmf.cvs, found.pmf.probability**self.POWER)
        return replace(found, pmf=pmf, sha256=f"{self.POWER:.0f}" * 64, noise_floor=1e-3 * self.POWER)
"""


def changing(tmp_path: Path, **options: Any) -> tuple[Run, list[dict[str, str]]]:
    """Run or resume on a system that may change between two runs; return the run and its curve."""
    path = tmp_path / "changing.py"
    if not path.exists():
        path.write_text(SYSTEM)
    job = prepare(f"{path}:Changing", METHOD, **({"out": tmp_path, "threads": 1} | options))
    job.resume()
    job.execute()
    with open(job.folder.path / "curve.csv", newline="") as file:
        return job, list(csv.DictReader(file))


def test_scores_of_another_reference_are_not_mixed(tmp_path, monkeypatch) -> None:
    """The last estimate is scored again; those before are not stored, and lose their scores."""
    before, old = changing(tmp_path, budget=60)
    cls = type(before.system)
    monkeypatch.setattr(cls, "POWER", 2.0)
    job, curve = changing(tmp_path, budget=120)
    whole, expected = changing(tmp_path, budget=120, out=tmp_path / "whole")
    assert "reference or the metrics have changed" in (job.folder.path / "run.log").read_text()
    names = [name for name in curve[0] if not name.endswith("_s")]
    assert [{name: row[name] for name in names} for row in curve[1:]] == [
        {name: row[name] for name in names} for row in expected[1:]
    ]
    assert curve[0]["evaluations"] == "30" and curve[0]["forward_kld"] == "" != old[0]["forward_kld"]
    (run,) = find_runs([job.folder.path])
    assert math.isnan(run.forward_kld[0]) and run.record.reference["sha256"] == "2" * 64
    side = (job.folder.path / "side_estimates.csv").read_text().splitlines()
    assert side[1].endswith(",") and not side[-1].endswith(",")


@pytest.mark.parametrize("after", [("left",), ("left", "up", "down"), ("down",)])
def test_a_change_of_basins_is_no_obstacle(tmp_path, monkeypatch, after: tuple[str, ...]) -> None:
    before, old = changing(tmp_path, budget=60)
    monkeypatch.setattr(type(before.system), "BASINS", after)
    job, curve = changing(tmp_path, budget=120)
    columns = {f"delta_f_error/{name}" for name in after}
    assert {name for name in curve[0] if name.startswith("delta_f_error/")} == columns
    assert "metrics are others" in (job.folder.path / "run.log").read_text()
    for row, first in zip(curve, old, strict=False):
        assert row["forward_kld"] == first["forward_kld"]
    new = f"delta_f_error/{after[-1]}"
    assert curve[1][new] and (curve[0][new] == "") is (after != ("left",))
    assert job.folder.read_record().metrics[new] is not None
