"""A pair of a method and a system under check: it makes runs of the pair and keeps what they left."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import cgbench.drawing.pmf
from cgbench.conformance.counter import EnergyCounter, counting, replaced
from cgbench.conformance.surroundings import THREADS, Surroundings, surroundings
from cgbench.conformance.trace import Moment, RunFailed, Trace, Yielded
from cgbench.running.configuration import preset_names
from cgbench.running.plan import Plan, make_plan
from cgbench.running.registry import load
from cgbench.running.run import Run, prepare

__all__ = ["Pair"]


class Killed(BaseException):
    """Stands for a kill: nothing in the harness catches it."""


class Pair:
    """A method and a system, and runs of them.

    Parameters
    ----------
    system, method
        Registered names, or ``path/to/file.py:Class``.
    root
        A folder for all files.
    preset
        None: "smoke" where the method has one for the system, else "default".
    seed, engine, overrides
        As for `cgbench.running.run.run`.

    Attributes
    ----------
    around
        What each run so far changed outside its folder.

    Raises
    ------
    UserError
        For anything in the request that cannot be.
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
        self.around: list[Surroundings] = []
        self._numbers = itertools.count(1)
        self._whole: Trace | RunFailed | None = None

    def __str__(self) -> str:
        return f"{self.plan.method_class.name} on {self.plan.system.name}, preset {self.plan.preset}"

    # ---- runs -------------------------------------------------------------------------------------

    def prepare(self, folder: str, **changes: Any) -> Run:
        """Build a run of the pair in a folder of its own, on one thread."""
        options: dict[str, Any] = (
            {"seed": self.seed, "out": self.root / folder, "threads": THREADS} | self._options | changes
        )
        return prepare(self._system, self._method, **options)

    def trace(
        self,
        folder: str,
        *,
        resume: bool = False,
        kill_after: int = 0,
        attributes: Mapping[str, Any] | None = None,
        picture: bool = False,
        **changes: Any,
    ) -> Trace:
        """Run the pair to its end in strange surroundings, counted beneath the gate.

        Parameters
        ----------
        folder
            Name of a folder; runs of the same seed in the same folder can be resumed.
        resume
            Go on from a checkpoint, if there is one.
        kill_after
            Kill the run after so many estimates.
        attributes
            Attributes of the system's class that are others for this run.
        picture
            Draw ``pmf.png``, too: it takes longer than many a small run.
        changes
            Other options of the run.
        """
        own = dataclasses.replace(self.plan, seed=changes.get("seed", self.seed)).folder(self.root / folder)
        with ExitStack() as stack:
            counter, around = stack.enter_context(self._watched(own, attributes or {}))
            trace = Trace(own, counter, around)

            def take(run: Run) -> None:
                assert run.pmf is not None
                trace.moments.append(Moment(run.ledger.total, counter.count, run.pmf.probability.copy()))
                if len(trace.moments) == kill_after:
                    raise Killed

            if not picture:
                stack.enter_context(replaced(cgbench.drawing.pmf, "draw_pmf", lambda *args, **options: None))
            job = self.prepare(folder, on_estimate=take, **changes)
            if resume and job.resume():
                trace.started_at = job.ledger.total
            try:
                trace.record = job.execute()
            except Killed:
                pass
            finally:
                job.folder.release()
        if trace.record is not None:  # who is killed cannot tidy up
            self.around.append(around)
        return trace

    @contextmanager
    def _watched(self, own: Path, attributes: Mapping[str, Any]) -> Iterator[tuple[EnergyCounter, Surroundings]]:
        with ExitStack() as stack:
            for name, value in attributes.items():
                stack.enter_context(replaced(self.system_class, name, value))
            counter = stack.enter_context(counting(self.system_class, "openmm" in self.plan.system.traits))
            around = stack.enter_context(surroundings(self.root, next(self._numbers), own))
            yield counter, around

    def finished(self, folder: str, **options: Any) -> Trace:
        """Run the pair as `trace` does.

        Raises
        ------
        RunFailed
            If the run does not finish by itself.
        """
        try:
            trace = self.trace(folder, **options)
        except Exception as error:  # a plugin may fail in any way
            raise RunFailed(f"the run fails: {self.explain(error)}", traceback.format_exc()) from error
        if trace.ended.status != "finished":
            log = trace.folder / "run.log"
            text = log.read_text(encoding="utf-8") if log.exists() else ""
            raise RunFailed(f"the run ends as {trace.ended.status!r}: {trace.ended.reason}", text)
        return trace

    @property
    def whole(self) -> Trace:
        """A whole run, made once; others are compared with it."""
        if self._whole is None:
            try:
                self._whole = self.finished("whole", picture=True)
            except RunFailed as failed:
                self._whole = failed
        if isinstance(self._whole, RunFailed):
            raise self._whole
        return self._whole

    @cached_property
    def yielded(self) -> tuple[list[Yielded], Exception | None]:
        """All that the method returns when nobody but the pair drives it, and the exception that ended it, if any."""
        found: list[Yielded] = []
        own = self.plan.folder(self.root / "alone")
        with self._watched(own, {}):
            job = self.prepare("alone")
            method = job.method
            try:
                for estimate in method.estimates():
                    auxiliary, state, extra = method.auxiliary_estimates(), method.state_dict(), method.extra_arrays()
                    found.append(Yielded(estimate, state, method.diagnostics(), auxiliary, extra))
            except Exception as error:  # a plugin may fail in any way
                return found, error
            finally:
                job.folder.release()
        return found, None

    # ---- faults -----------------------------------------------------------------------------------

    def explain(self, error: BaseException) -> str:
        """Say an exception in one line, with its place in the plugin's code."""
        words = " ".join(str(error).split())
        told = f"{type(error).__name__}: {words}" if words else type(error).__name__
        homes = {Path(inspect.getfile(cls)).resolve().parent for cls in (self.method_class, self.system_class)}
        places = [
            f"{Path(frame.filename).name}, line {frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
            if any(Path(frame.filename).resolve().is_relative_to(home) for home in homes)
        ]
        return f"{told} ({places[-1]})" if places else told


def _absolute(name: str) -> str:
    """A class in a file is found from any working directory."""
    path, colon, cls = name.rpartition(":")
    return f"{Path(path).resolve()}:{cls}" if colon and path.endswith(".py") else name
