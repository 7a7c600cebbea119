"""A pair of a method and a system under check: makes runs of the pair and observes them."""

from __future__ import annotations

import dataclasses
import itertools
import math
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import cgbench.drawing.pmf
from cgbench.conformance.counter import EnergyCounter, counting, replaced
from cgbench.conformance.failures import RunFailed
from cgbench.conformance.observed_run import MethodOutput, ObservedEstimate, ObservedRun, estimate_numbers
from cgbench.conformance.side_effects import THREADS, SideEffects, watch_side_effects
from cgbench.running.configuration import preset_names
from cgbench.running.plan import Plan, make_plan
from cgbench.running.plugins import explain
from cgbench.running.registry import file_formats, load
from cgbench.running.run import Run, prepare

__all__ = ["Pair"]


class Killed(BaseException):
    """Simulates a kill: nothing in the harness catches it."""


class Pair:
    """A method and a system, and runs of them.

    Parameters
    ----------
    system, method
        Registered names, ``path/to/file.py:Class``, or the file of a molecule.
    root
        Folder for all files.
    preset
        By default "smoke" if the method has it for the system, else "default".
    seed, engine, overrides
        As for `cgbench.running.run.run`.

    Attributes
    ----------
    side_effects
        What each run so far changed outside its folder.

    Raises
    ------
    UserError
        For an invalid request.
    """

    def __init__(
        self,
        system: str,
        method: str,
        root: Path,
        *,
        preset: str | None = None,
        seed: int = 0,
        engine: str | None = None,
        overrides: Sequence[str] = (),
    ) -> None:
        self._system, self._method, self.root = _absolute(system), _absolute(method), root.resolve()
        self.seed = seed
        self.system_class, self.method_class = load("system", self._system), load("method", self._method)
        if preset is None:
            preset = "smoke" if "smoke" in preset_names(self.method_class, self.system_class.name) else "default"
        self._options: dict[str, Any] = {"preset": preset, "engine": engine, "overrides": tuple(overrides)}
        self.plan: Plan = make_plan(self._system, self._method, seed=seed, **self._options)
        self.side_effects: list[SideEffects] = []
        self._numbers = itertools.count(1)
        self._whole: ObservedRun | RunFailed | None = None

    def __str__(self) -> str:
        return f"{self.plan.method_class.name} on {self.plan.system.name}, preset {self.plan.preset}"

    # ---- runs -------------------------------------------------------------------------------------

    def prepare(self, folder: str, **changes: Any) -> Run:
        """Build a run of the pair in a folder below `root`, on one thread."""
        options: dict[str, Any] = (
            {"seed": self.seed, "out": self.root / folder, "threads": THREADS} | self._options | changes
        )
        return prepare(self._system, self._method, **options)

    def observe(
        self,
        folder: str,
        *,
        resume: bool = False,
        kill_after: int = 0,
        attributes: Mapping[str, Any] | None = None,
        picture: bool = False,
        **changes: Any,
    ) -> ObservedRun:
        """Run the pair to its end in an unfamiliar environment, with evaluations counted independently.

        Parameters
        ----------
        folder
            Name of a folder; runs of the same seed in the same folder can be resumed.
        resume
            Resume from a checkpoint, if there is one.
        kill_after
            Kill the run after this many estimates; every estimate is saved then.
        attributes
            Attributes of the system's class to replace for this run.
        picture
            Also draw ``pmf.png``, which takes longer than many a small run.
        changes
            Other options of the run.
        """
        own = dataclasses.replace(self.plan, seed=changes.get("seed", self.seed)).folder(self.root / folder)
        with ExitStack() as stack:
            counter, side_effects = stack.enter_context(self._watched(own, attributes or {}))
            observed = ObservedRun(own, counter, side_effects)

            def take(run: Run) -> None:
                assert run.estimate is not None
                numbers = estimate_numbers(run.estimate)
                estimate = ObservedEstimate(run.ledger.total, counter.count, numbers)
                observed.estimates.append(estimate)
                if len(observed.estimates) == kill_after:
                    raise Killed

            if not picture:
                stack.enter_context(replaced(cgbench.drawing.pmf, "draw_pmf", lambda *args, **options: None))
            job = self.prepare(folder, on_estimate=take, **changes)
            if kill_after:
                job.save_share = math.inf  # save every estimate
            if resume and job.resume():
                observed.resumed_at = job.ledger.total
            try:
                observed.record = job.execute()
            except Killed:
                pass
            finally:
                job.folder.release()
        if observed.record is not None:  # a killed run cannot clean up
            self.side_effects.append(side_effects)
        return observed

    @contextmanager
    def _watched(self, own: Path, attributes: Mapping[str, Any]) -> Iterator[tuple[EnergyCounter, SideEffects]]:
        with ExitStack() as stack:
            for name, value in attributes.items():
                stack.enter_context(replaced(self.system_class, name, value))
            counter = stack.enter_context(counting(self.system_class, "openmm" in self.plan.system.traits))
            side_effects = stack.enter_context(watch_side_effects(self.root, next(self._numbers), own))
            yield counter, side_effects

    def finished(self, folder: str, **options: Any) -> ObservedRun:
        """Run the pair as `observe` does, and require that the run finishes.

        Raises
        ------
        RunFailed
            If the run does not finish.
        """
        try:
            observed = self.observe(folder, **options)
        except Exception as error:  # a plugin may fail in any way
            raise RunFailed(f"the run fails: {self.explain(error)}", traceback.format_exc()) from error
        if observed.ended.status != "finished":
            log = observed.folder / "run.log"
            text = log.read_text(encoding="utf-8") if log.exists() else ""
            raise RunFailed(f"the run ends as {observed.ended.status!r}: {observed.ended.reason}", text)
        return observed

    @property
    def whole(self) -> ObservedRun:
        """An uninterrupted run, made once; other runs are compared with it."""
        if self._whole is None:
            try:
                self._whole = self.finished("whole", picture=True)
            except RunFailed as failed:
                self._whole = failed
        if isinstance(self._whole, RunFailed):
            raise self._whole
        return self._whole

    @cached_property
    def outputs(self) -> tuple[list[MethodOutput], Exception | None]:
        """Everything the method returns when only the pair drives it, and the exception that ended it, if any."""
        found: list[MethodOutput] = []
        own = self.plan.folder(self.root / "alone")
        with self._watched(own, {}):
            job = self.prepare("alone")
            method = job.method
            try:
                for estimate in method.estimates():
                    auxiliary, state, extra = method.auxiliary_estimates(), method.state_dict(), method.extra_arrays()
                    found.append(MethodOutput(estimate, state, method.diagnostics(), auxiliary, extra))
            except Exception as error:  # a plugin may fail in any way
                return found, error
            finally:
                job.folder.release()
        return found, None

    # ---- faults -----------------------------------------------------------------------------------

    def explain(self, error: BaseException) -> str:
        """Describe an exception in one line, with its place in the plugin's code."""
        return explain(error, self.method_class, self.system_class)


def _absolute(name: str) -> str:
    """Make the path of a plugin or of a system's file absolute: the working directory changes during a run."""
    path, colon, cls = name.rpartition(":")
    if colon and path.endswith(".py"):
        return f"{Path(path).resolve()}:{cls}"
    return str(Path(name).resolve()) if Path(name).suffix.removeprefix(".") in file_formats() else name
