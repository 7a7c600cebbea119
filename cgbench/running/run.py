"""One run: build system and method, iterate, score, record, checkpoint, resume."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench.counting.anomalies import Anomalies
from cgbench.counting.clock import PhaseClock
from cgbench.counting.ledger import BudgetExhausted, Ledger
from cgbench.counting.streams import Streams
from cgbench.errors import StorageError, UserError
from cgbench.running import provenance
from cgbench.running.plan import Plan, make_plan
from cgbench.running.record import AnomalyCount, Evaluations, Record, Status, to_json
from cgbench.running.run_folder import RunFolder
from cgbench.scoring.referee import Referee
from cgbench.storage.files import npz_bytes

__all__ = ["Run", "finished_record", "prepare", "run"]

SAVE_SHARE = 0.01
AUXILIARY_COLUMNS = ("name", "replicate", "evaluations", "forward_kld")


@dataclass
class Run:
    """A run in progress: what observers may look at, and the loop.

    Attributes
    ----------
    on_estimate
        Called after each estimate.
    stop
        Asked after each estimate; if it says yes, everything is saved and the run is interrupted there.
    save_share
        Largest share of the time that saving may take: the first estimate is saved, and later ones when it is due. A
        kill costs what was done since, and changes no result.
    """

    plan: Plan
    threads: int
    folder: RunFolder
    on_estimate: Callable[[Run], None] = lambda run: None
    stop: Callable[[], bool] = lambda: False
    save_share: float = SAVE_SHARE
    messages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.system, self.config, self.budget = self.plan.system, self.plan.config, self.plan.budget
        self.clock = PhaseClock()
        self.ledger = Ledger(self.budget, on_phase=self.clock.switch)
        self.anomalies = Anomalies()
        self.problem = Problem(self.system, self.ledger, self.anomalies)
        self.streams = Streams(self.plan.seed)
        self.referee = Referee(self.system)
        self.method = self.plan.method_class(self.problem, self.config, self.streams)
        self.curve: list[dict[str, Any]] = []
        self.auxiliary: list[dict[str, Any]] = []
        self.pmf: PMF | None = None
        self.density: dict[str, Any] | None = None
        self._next_save = 0.0
        self._provenance = provenance.collect(self.system.device, self.threads)

    @property
    def columns(self) -> list[str]:
        """Columns of the curve."""
        return ["evaluations", "wall_s", *self.referee.metric_names]

    def identity(self) -> dict[str, Any]:
        """What must agree for a run to go on."""
        return self.plan.identity()

    def record(self, status: Status, reason: str | None = None) -> Record:
        """Return the record of the run as it stands."""
        total, phases = self.ledger.total, dict(self.ledger.by_phase)
        left_out = sum(phases.get(name, 0) for name in self.method.uncounted_in_publication)
        metrics = dict.fromkeys(self.referee.metric_names)
        if self.curve:
            metrics = {name: self.curve[-1][name] for name in self.referee.metric_names}
        return Record(
            **self.identity(),
            config=self.config.model_dump(mode="json"),
            device=self.system.device,
            threads=self.threads,
            budget=self.budget,
            status=status,
            reason=reason or self.referee.problem,
            evaluations=Evaluations(total=total, by_phase=phases, publication_convention=total - left_out),
            metrics=metrics,
            anomalies={
                kind: AnomalyCount(count=count, occasions=occasions)
                for kind, (count, occasions) in self.anomalies.counts().items()
            },
            density=self.density,
            diagnostics=self._diagnostics(),
            seconds=self.clock.by_phase(),
            reference=self.referee.facts(),
            provenance=self._provenance,
        )

    def _diagnostics(self) -> dict[str, Any]:
        """What the method says of itself; a fault in that costs the diagnostics, not the run."""
        try:
            found = self.method.diagnostics()
            to_json(found)
        except Exception as error:
            self.folder.log(traceback.format_exc())
            return {"warnings": [f"the method's diagnostics failed ({type(error).__name__}: {error})".splitlines()[0]]}
        return found

    # ---- going on ---------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Go on from the newest checkpoint that is whole; say whether there was one.

        Raises
        ------
        UserError
            If it is that of another run, or of another version of the code.
        """
        for state, what in self.folder.load_checkpoints():
            if state is None:
                self.messages.append(f"{what}; the one before is used")
                continue
            if state.get("identity") != self.identity():
                raise UserError(
                    f"{what} in {self.folder.path} is that of another run; choose another --out, or --restart"
                )
            device = str(state.get("device", "cpu"))
            if torch.device(device).type != torch.device(self.system.device).type:
                raise UserError(
                    f"{what} in {self.folder.path} is of a run on {device}, whose random numbers {self.system.device} "
                    f"cannot go on with: give --device {device}, or --restart"
                )
            try:
                self._restore(state)
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                raise UserError(
                    f"{what} in {self.folder.path} does not fit this version of the code ({reason}); "
                    "--restart starts over"
                ) from error
            self.messages.append(f"going on after {self.ledger.total:,} evaluations")
            return True
        if self.messages:
            self.messages.append("there is no whole checkpoint: starting over")
        return False

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.ledger.load_state_dict(state["ledger"])
        self.clock.restore(state["seconds"])
        self.curve = list(state["curve"])
        self.auxiliary = list(state["auxiliary"])
        std = state["free_energy_std"]
        self.pmf = PMF.restored(self.system.cvs, state["probability"].numpy(), None if std is None else std.numpy())
        self.anomalies.load_state_dict(state["anomalies"])
        self.method.load_state_dict(state["method"])
        self.streams.load_state_dict(state["streams"])

    def _save(self) -> None:
        assert self.pmf is not None
        std = self.pmf.free_energy_std
        self.folder.save_checkpoint(
            {
                "identity": self.identity(),
                "device": self.system.device,
                "ledger": self.ledger.state_dict(),
                "seconds": self.clock.by_phase(),
                "curve": self.curve,
                "auxiliary": self.auxiliary,
                "probability": torch.from_numpy(self.pmf.probability),
                "free_energy_std": None if std is None else torch.from_numpy(std),
                "anomalies": self.anomalies.state_dict(),
                "method": self.method.state_dict(),
                "streams": self.streams.state_dict(),
            }
        )
        self._write_curves()
        self.folder.write_record(self.record("running"))

    def _write_curves(self) -> None:
        self.folder.write_table("curve.csv", self.columns, self.curve)
        if self.auxiliary:
            self.folder.write_table("side_estimates.csv", AUXILIARY_COLUMNS, self.auxiliary)

    # ---- the loop ---------------------------------------------------------------------------------

    def execute(self) -> Record:
        """Run to the end, whichever it is, leave all files, and give the folder back.

        Raises
        ------
        StorageError
            If a file cannot be written, on a full disk for one; the last checkpoint is whole then.
        KeyboardInterrupt
            If it was interrupted; the last checkpoint is whole then.
        """
        for message in self.messages:
            self.folder.log(message)
        try:
            return self._execute()
        except StorageError as error:
            total = self.ledger.total
            raise StorageError(
                f"{error}; stopped after {total:,} evaluations: make room, and the same command goes on from the "
                "last checkpoint"
            ) from error
        except KeyboardInterrupt:
            self.folder.log(f"interrupted after {self.ledger.total:,} evaluations")
            raise
        finally:
            self.folder.release()

    def _execute(self) -> Record:
        status: Status = "finished"
        reason: str | None = None
        self.folder.write_record(self.record("running"))
        self.clock.start()
        try:
            for pmf in self.method.estimates():
                self.clock.stop()
                self._take(pmf)
                self.clock.start()
        except BudgetExhausted as exhausted:
            status, reason = "budget", str(exhausted)
            if self.pmf is None:
                status, reason = "failed", f"no estimate within the budget: {exhausted}"
        except StorageError:
            raise
        except Exception as error:  # a method may fail in any way; nothing is lost
            status, reason = "failed", f"{type(error).__name__}: {error}".splitlines()[0]
            self.folder.log(traceback.format_exc())
        self.clock.stop()
        self._log_anomalies()
        if status == "finished" and self.pmf is None:
            status, reason = "failed", "the method ended without an estimate"
        if status != "failed":
            self._score_density()
        record = self.record(status, reason)
        if self.pmf is not None and status != "failed":
            self.folder.write("pmf.npz", npz_bytes(self.pmf.arrays() | self.method.extra_arrays()))
            self._draw(record)
        self._write_curves()
        self.folder.write_record(record)
        if status == "finished":
            self.folder.clear_checkpoints()
        return record

    def _take(self, pmf: PMF) -> None:
        self._log_anomalies()
        self.anomalies.check()
        if np.any(pmf.probability <= 0):
            raise ValueError("the estimate is zero somewhere on the grid; a method's PMF must be positive")
        self.pmf = pmf
        row: dict[str, Any] = {"evaluations": self.ledger.total, "wall_s": round(self.clock.wall, 3)}
        self.curve.append(row | self.referee.score(pmf))
        for other in self.method.auxiliary_estimates():
            self.auxiliary.append(
                {
                    "name": other.name,
                    "replicate": other.replicate,
                    "evaluations": round(self.ledger.total * other.share),
                    "forward_kld": self.referee.score(other.pmf)["forward_kld"],
                }
            )
        stop = self.stop()
        if stop or time.monotonic() >= self._next_save:
            begun = time.monotonic()
            self._save()
            ended = time.monotonic()
            self._next_save = ended + (ended - begun) / self.save_share
        self.on_estimate(self)
        if stop:
            raise KeyboardInterrupt

    def _log_anomalies(self) -> None:
        for line in self.anomalies.news():
            self.folder.log(f"after {self.ledger.total:,} evaluations: {line}")

    def _score_density(self) -> None:
        """Score the density of a generative method; a fault in it costs the score, not the run."""
        try:
            self.density = self.referee.score_density(self.method)
        except Exception:
            self.folder.log(traceback.format_exc())
            self.messages.append("the method's log_density failed; see run.log")

    def _draw(self, record: Record) -> None:
        from cgbench.drawing.pmf import draw_pmf

        assert self.pmf is not None
        reference = self.referee.reference
        path = self.folder.path / "pmf.png"
        try:
            draw_pmf(path, self.pmf, _title(record), reference.pmf if reference else None)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def _title(record: Record) -> str:
    """Say what a picture of the PMF shows."""
    kld = record.metrics.get("forward_kld")
    score = "no reference" if kld is None else f"forward KLD {kld:.1e}"
    return (
        f"{record.method} on {record.system}, preset {record.preset}, seed {record.seed}\n"
        f"{record.evaluations.total:,} energy evaluations, {score}"
    )


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error


def prepare(
    system: str,
    method: str,
    *,
    preset: str = "default",
    seed: int = 0,
    budget: int | None = None,
    overrides: Sequence[str] = (),
    out: str | Path = "runs",
    engine: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    restart: bool = False,
    on_estimate: Callable[[Run], None] = lambda run: None,
) -> Run:
    """Build a run without starting it; parameters as for `run`."""
    if threads is not None and threads < 1:
        raise UserError(f"--threads must be at least 1, not {threads}")
    _check_device(device)
    plan = make_plan(
        system,
        method,
        preset=preset,
        seed=seed,
        budget=budget,
        overrides=overrides,
        engine=engine,
        device=device,
    )
    threads = threads or provenance.physical_cores()
    torch.set_num_threads(threads)
    job = Run(plan=plan, threads=threads, folder=RunFolder(plan.folder(out)), on_estimate=on_estimate)
    job.messages += job.folder.create()  # last, so that a method that refuses leaves nothing behind
    if restart:
        job.folder.clear_checkpoints()
        (job.folder.path / "record.json").unlink(missing_ok=True)
    return job


def run(system: str, method: str, **options: Any) -> Record:
    """Run a method on a system, or go on with a run that was interrupted.

    Parameters
    ----------
    system, method
        Registered names, or ``path/to/file.py:Class``.
    preset, seed, budget
        Configuration, seed, and largest number of energy evaluations (None: no bound).
    overrides
        Changes to the preset, ``key=value``.
    out
        Folder that run folders are made in.
    engine, device, threads
        Engine of the system, torch device, CPU threads (all cores by default).
    restart
        Start over even if there is something to go on from.
    on_estimate
        Called with the `Run` after each estimate.

    Returns
    -------
    cgbench.running.record.Record

    Raises
    ------
    UserError
        For anything in the request that cannot be.
    """
    job = prepare(system, method, **options)
    existing = finished_record(job)
    if existing is not None:
        return existing
    job.resume()
    return job.execute()


def finished_record(job: Run) -> Record | None:
    """Return the record of a run that needs no more work; None if there is work to do.

    Raises
    ------
    UserError
        If the folder holds a run with another identity.
    """
    existing = job.folder.read_record()
    return existing if existing is not None and job.plan.settled(existing, job.folder.path) else None
