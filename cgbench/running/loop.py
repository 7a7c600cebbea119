"""The loop of a run: resume, iterate, score, checkpoint, and write the results."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from cgbench.contracts.maps import Estimate, as_estimate
from cgbench.contracts.method import FIRST_VERSION
from cgbench.contracts.pmf import PMF
from cgbench.counting.ledger import BudgetExhausted
from cgbench.errors import StorageError, UserError
from cgbench.running.plan import Plan, too_many
from cgbench.running.record import Record, Status
from cgbench.running.run_folder import RunFolder, plain_copy
from cgbench.running.state import RunState
from cgbench.storage.files import npz_bytes

__all__ = ["Run"]

SAVE_SHARE = 0.01
AUXILIARY_COLUMNS = ("name", "replicate", "evaluations", "forward_kld")


class Run(RunState):
    """A run in progress.

    Parameters
    ----------
    plan, threads, folder
        As for `RunState`.
    on_estimate
        Called after each estimate.

    Attributes
    ----------
    stop
        Called after each estimate. If it returns True, the run saves everything and raises KeyboardInterrupt.
    save_share
        Largest fraction of the time that may be spent on checkpoints. The first estimate is always saved. A kill loses
        the work since the last checkpoint but does not change the result.
    messages
        Messages for the user about the start of the run.
    """

    def __init__(
        self,
        plan: Plan,
        threads: int,
        folder: RunFolder,
        on_estimate: Callable[[Run], None] = lambda run: None,
    ) -> None:
        super().__init__(plan, threads, folder)
        self.on_estimate = on_estimate
        self.stop: Callable[[], bool] = lambda: False
        self.save_share = SAVE_SHARE
        self.messages: list[str] = []
        self._next_save = 0.0
        self._unsaved: dict[str, Any] | None = None  # state at the last estimate, if only older ones are on disk

    # ---- checkpoints ------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Resume from the newest intact checkpoint. Return whether there was one.

        Raises
        ------
        UserError
            If the checkpoint belongs to another run or to another version of the code.
        """
        for state, name in self.folder.load_checkpoints():
            if state is None:  # the name then describes the problem
                self.messages.append(f"{name}; skipped")
                continue
            changes = self._restore(state, f"{name} in {self.folder.path}")
            self.messages.append(f"resuming after {self.ledger.total:,} evaluations")
            if scores := self.score_again(state.get("scoring")):
                self.messages.append(scores)
            if changes:
                what = "the number of threads" if changes.startswith("threads") else "the code"
                self.messages.append(f"{what} has changed since the checkpoint: {changes}; the record names both")
            return True
        if self.messages:
            self.messages.append("no intact checkpoint: starting over")
        return False

    def _restore(self, state: Mapping[str, Any], name: str) -> str:
        """Restore a checkpoint. Return how code or threads have changed since, in words; "" if not."""
        self._check_identity(state, name)
        device = str(state.get("device", "cpu"))
        if torch.device(device).type != torch.device(self.system.device).type:
            raise UserError(
                f"{name} is from a run on {device}, whose random streams cannot continue on {self.system.device}; "
                f"give --device {device}, or --restart"
            )
        try:
            self.load_state_dict({**state, "streams": _moved(state["streams"], device, self.system.device)})
            changes = self.continue_provenance(state.get("segments"))
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            raise UserError(
                f"{name} does not fit this version of the code ({_one_line(error)}); --restart starts over"
            ) from error
        if self.budget is not None and self.ledger.total > self.budget:
            raise UserError(f"{name} {too_many(self.ledger.total, self.budget)}")
        return changes

    def _check_identity(self, state: Mapping[str, Any], name: str) -> None:
        found = state.get("identity")
        found = dict(found) if isinstance(found, Mapping) else {}
        wanted = self.identity()
        version = str(state.get("method_version", FIRST_VERSION))
        pairs = [("system", found.get("system_version"), wanted["system_version"])]
        pairs.append(("method", version, self.method.version))
        others = {key: value for key, value in found.items() if key != "system_version"}
        if others != {key: value for key, value in wanted.items() if key != "system_version"}:
            raise UserError(f"{name} belongs to another run; choose another --out, or --restart")
        for kind, before, now in pairs:
            if before != now:
                raise UserError(
                    f"{name} is from version {before} of {kind} {wanted[kind]}, which now has version {now}; "
                    "choose another --out, or --restart"
                )

    def _save(self) -> None:
        self.folder.save_checkpoint(self.state_dict())
        self._unsaved = None
        self._write_curves()
        self.folder.write_record(self.record("running"))

    def _save_if_due(self, stop: bool) -> None:
        if stop or time.monotonic() >= self._next_save:
            begun = time.monotonic()
            self._save()
            ended = time.monotonic()
            self._next_save = ended + (ended - begun) / self.save_share
        elif self.budget is not None:  # the next iteration may exceed it, after changing the method's state
            self._unsaved = self._copy()

    def _copy(self) -> dict[str, Any]:
        """Return a copy of the state; the rows of the curves are shared, because they never change once added."""
        rows = {"curve": list(self.curve), "auxiliary": list(self.auxiliary)}
        rest = {name: value for name, value in self.state_dict().items() if name not in rows}
        return plain_copy(rest) | rows

    def _write_curves(self) -> None:
        self.folder.write_table("curve.csv", self.columns, self.curve)
        if self.auxiliary:
            self.folder.write_table("side_estimates.csv", AUXILIARY_COLUMNS, self.auxiliary)

    # ---- the loop ---------------------------------------------------------------------------------

    def execute(self) -> Record:
        """Run until the method, the budget or an error ends it. Write all files and release the folder.

        Raises
        ------
        StorageError
            If a file cannot be written, for example on a full disk; the last checkpoint is intact.
        KeyboardInterrupt
            If the run was interrupted; the last checkpoint is intact.
        """
        for message in self.messages:
            self.folder.log(message)
        try:
            record = self._run()
            if self.estimate is not None and record.status != "failed":
                self._draw(record)  # last: everything else is on disk
            return record
        finally:
            self.folder.release()

    def _run(self) -> Record:
        """Run to the end, and write everything but the picture."""
        try:
            self.folder.write_record(self.record("running"))
            self._remove_old_results()
            status, reason = self._iterate()
            return self._finish(status, reason)
        except StorageError as error:
            raise StorageError(
                f"{error}; stopped after {self.ledger.total:,} evaluations: free some space, then run the same "
                "command again to resume from the last checkpoint"
            ) from error
        except KeyboardInterrupt:
            self.folder.log(f"interrupted after {self.ledger.total:,} evaluations")
            raise

    def _remove_old_results(self) -> None:
        """Remove the results of earlier runs in the folder, except those that the checkpoint has too."""
        if not self.curve:
            self.folder.clear_results()
            return
        self._write_curves()
        self.folder.clear_results(("pmf.npz", "pmf.png", *(() if self.auxiliary else ("side_estimates.csv",))))

    def _iterate(self) -> tuple[Status, str | None]:
        """Take estimates until the method ends. Return the status of the run and the reason for it."""
        status: Status = "finished"
        reason: str | None = None
        self.clock.start()
        try:
            for found in self.method.estimates():
                self.clock.stop()
                self._take(found)
                self.clock.start()
        except BudgetExhausted as exhausted:
            status, reason = "budget", str(exhausted)
            if self.estimate is None:
                status, reason = "failed", f"no estimate within the budget: {exhausted}"
        except StorageError:
            raise
        except Exception as error:  # a method can raise anything; the results so far are kept
            status, reason = "failed", f"{type(error).__name__}: {error}".splitlines()[0]
            self.folder.log(traceback.format_exc())
        self.clock.stop()
        if status == "finished" and self.estimate is None:
            status, reason = "failed", "the method ended without an estimate"
        return status, reason

    def _take(self, found: PMF | Estimate) -> None:
        """Check, score and save an estimate."""
        self._log_anomalies()
        self.anomalies.check()
        estimate = as_estimate(found, self.problem.maps, self.problem.states)
        if any(np.any(pmf.probability <= 0) for pmf in estimate.pmfs):
            raise ValueError("the estimate is zero in some bins; a method's PMF must be positive on the whole grid")
        self.estimate = estimate
        row: dict[str, Any] = {"evaluations": self.ledger.total, "wall_s": round(self.clock.wall, 3)}
        row["cpu_s"] = round(sum(spent["cpu"] for spent in self.clock.by_phase().values()), 3)
        self.curve.append(row | self.referee.score(estimate))
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
        self._save_if_due(stop)
        self._report_estimate()
        if stop:
            raise KeyboardInterrupt

    def _report_estimate(self) -> None:
        """Call `on_estimate`; if it fails, it is not called again, and the run continues."""
        try:
            self.on_estimate(self)
        except Exception as error:
            self.on_estimate = lambda run: None
            self.folder.log(traceback.format_exc())
            self._warn(f"the progress report failed ({_one_line(error)}); the run continued without it")

    def _warn(self, message: str) -> None:
        """Log a message, and keep it for the user."""
        self.folder.log(message)
        self.messages.append(message)

    def _log_anomalies(self) -> None:
        for line in self.anomalies.new_lines():
            self.folder.log(f"after {self.ledger.total:,} evaluations: {line}")

    # ---- the end ----------------------------------------------------------------------------------

    def _finish(self, status: Status, reason: str | None) -> Record:
        """Write the results of a run that has ended."""
        self._log_anomalies()
        if status != "failed":
            self._score_density()
        if status == "budget" and self._unsaved is not None:
            self.folder.save_checkpoint(self._unsaved)  # a larger budget continues from the last estimate
        record = self.record(status, reason)
        if self.estimate is not None and status != "failed":
            self.folder.write("pmf.npz", self._arrays(self.estimate))
        self._write_curves()
        self.folder.write_record(record)
        if status == "finished":
            self.folder.clear_checkpoints()
        return record

    def _score_density(self) -> None:
        """Score the density of a generative method; if that fails, the run has no such score."""
        try:
            self.density = self.referee.score_density(self.method)
        except Exception:
            self.folder.log(traceback.format_exc())
            self._warn("the method's log_density failed; see run.log")

    def _arrays(self, estimate: Estimate) -> bytes:
        """Return the content of ``pmf.npz``, without the method's further arrays (for figures) if they fail."""
        try:
            return npz_bytes(estimate.arrays() | self.method.extra_arrays())
        except Exception as error:
            self.folder.log(traceback.format_exc())
            self._warn(f"the method's extra_arrays failed ({_one_line(error)}); pmf.npz lacks them")
            return npz_bytes(estimate.arrays())

    def _draw(self, record: Record) -> None:
        """Draw the PMF; if that fails for any reason but a full disk, warn."""
        from cgbench.drawing import pmf as pictures
        from cgbench.drawing.backend import attempt

        estimate, reference = self.estimate, self.referee.reference
        assert estimate is not None
        true = [one.pmf for one in reference.maps] if reference else []
        path = self.folder.path / "pmf.png"
        try:
            problem = attempt(lambda: pictures.draw_pmf(path, estimate.pmfs, _title(record), true))
        except OSError as error:
            raise StorageError(
                f"cannot write {path}: {error.strerror or error}; the run is complete, only its picture is missing"
            ) from error
        if problem is not None:
            self._warn(f"warning: {path.name} cannot be drawn: {problem}")


def _moved(streams: Mapping[str, Any], before: str, now: str) -> dict[str, Any]:
    """Return the states of random streams under the names that they have on another device of the same type."""
    if before == now:
        return dict(streams)
    end = f"@{before}"
    return {f"{name.removesuffix(end)}@{now}" if name.endswith(end) else name: at for name, at in streams.items()}


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _title(record: Record) -> str:
    """Return the title of the picture of the PMF."""
    kld = record.metrics.get("forward_kld")
    score = "no reference" if kld is None else f"forward KLD {kld:.1e}"
    return (
        f"{record.method} on {record.system}, preset {record.preset}, seed {record.seed}\n"
        f"{record.evaluations.total:,} energy evaluations, {score}"
    )
