"""cgbench: a benchmark of methods that compute potentials of mean force (PMFs).

Every energy evaluation of a run is counted, and every PMF is scored against the reference of its system.

>>> import cgbench
>>> record = cgbench.run("muller_brown", "cgflow_al", preset="smoke", out="my-runs")
>>> record.evaluations.total, record.metrics["forward_kld"]
>>> table = cgbench.read_runs("my-runs")
>>> pmf = cgbench.PMF.load("my-runs/muller_brown/cgflow_al/smoke/seed-0/pmf.npz")
>>> pmf.free_energy

Importing this package is fast: heavy imports happen only when a function is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

    from cgbench.contracts.method import Method
    from cgbench.contracts.pmf import PMF
    from cgbench.contracts.system import System
    from cgbench.exchange.score import Score
    from cgbench.running.record import Record

__all__ = ["PMF", "__version__", "load_method", "load_system", "read_runs", "run", "score"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import `PMF` on first use."""
    if name == "PMF":
        from cgbench.contracts.pmf import PMF

        return PMF
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_system(name: str, *, engine: str | None = None, device: str = "cpu") -> System:
    """Build a system.

    Parameters
    ----------
    name
        Registered name, or ``path/to/file.py:Class``.
    engine
        One of the system's engines; by default its first.
    device
        Torch device.

    Returns
    -------
    cgbench.contracts.system.System

    Raises
    ------
    cgbench.errors.UserError
        If there is no such system or engine, or if the system cannot be imported or built.
    """
    import torch

    from cgbench.running.forks import note_threads
    from cgbench.running.registry import build_system

    system = build_system(name, engine=engine, device=device)
    if torch.get_num_threads() > 1:  # of whoever computes its energies
        note_threads()
    return system


def load_method(name: str) -> type[Method]:
    """Return the class of a method.

    Parameters
    ----------
    name
        Registered name, or ``path/to/file.py:Class``.

    Raises
    ------
    cgbench.errors.UserError
        If there is no such method, or if it cannot be imported.
    """
    from cgbench.running.registry import load

    method: type[Method] = load("method", name)
    return method


def run(
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
) -> Record:
    """Run a method on a system, or resume an interrupted run; return the record of a run that is already complete.

    Parameters
    ----------
    system, method
        Registered names, or ``path/to/file.py:Class``.
    preset
        Preset of the method for the system.
    seed
        Random seed.
    budget
        Largest number of energy evaluations; None for no limit.
    overrides
        Changed settings, each ``"key=value"`` with dots for nested keys.
    out
        Parent folder of all runs. The files are written to ``<out>/<system>/<method>/<preset>/seed-<seed>``.
    engine
        One of the system's engines; by default its first.
    device
        Torch device.
    threads
        CPU threads; by default ``OMP_NUM_THREADS``, or all cores.
    restart
        Start from the beginning, even if there is a checkpoint or a result.

    Returns
    -------
    cgbench.running.record.Record
        Status, evaluations, scores, configuration and provenance. A run that fails has the status "failed".

    Raises
    ------
    cgbench.errors.UserError
        If the request is invalid.
    """
    from cgbench.running.run import run as run_or_resume

    return run_or_resume(
        system,
        method,
        preset=preset,
        seed=seed,
        budget=budget,
        overrides=overrides,
        out=out,
        engine=engine,
        device=device,
        threads=threads,
        restart=restart,
    )


def read_runs(*folders: str | Path, unfinished: bool = False) -> pd.DataFrame:
    """Return a table of the runs below the folders, one row per run.

    Parameters
    ----------
    folders
        Folders of runs, searched at any depth; by default "runs".
    unfinished
        Also return runs without a final PMF: those that are running, were interrupted or failed.

    Returns
    -------
    pandas.DataFrame
        Sorted by system, version, method, preset and seed, with the columns of `cgbench.results.dataframe.COLUMNS`:

        - ``system``, ``system_version``, ``method``, ``preset`` (string), ``seed`` (int): what was run
        - ``status`` (string): "finished", "budget" (stopped by the budget), "running" (or interrupted) or "failed"
        - ``evaluations``, ``evaluations_paper_convention`` (int): all energy evaluations, and those that the
          publication of the method counts
        - ``evaluations_with_gradient`` (float): those whose gradient was asked for, nan for older records
        - ``forward_kld``, ``reverse_kld``, ``jensen_shannon``, ``total_variation`` (float): scores of the final PMF,
          nan without a reference
        - ``evaluations_to_kld_1e-1``, ``evaluations_to_kld_1e-2``, ``evaluations_to_kld_1e-3`` (float): evaluations
          from which on the forward KLD stays at or below the target, inf for a miss
        - ``noise_floor`` (float): forward KLD caused by the noise of the reference, nan without a reference
        - ``wall_s``, ``cpu_s`` (float): seconds of the method, without scoring
        - ``threads`` (int), ``hardware`` (string): CPU threads, and the accelerator or else the CPU
        - ``commit`` (string): git commit, with "-dirty" for uncommitted changes; missing outside a checkout
        - ``code`` (string): fingerprint of the code of method and system; missing in older records
        - ``path`` (string): folder of the run

        Further metrics follow in alphabetical order (float, nan for runs without them), such as
        ``delta_f_error/<basin>`` in kT, ``coverage_68`` and ``coverage_95``.

    Raises
    ------
    cgbench.errors.UserError
        If a folder is missing, or a record or curve cannot be read.
    """
    from cgbench.results.dataframe import read_runs as read

    return read(*folders, unfinished=unfinished)


def score(
    pmf: PMF | str | Path,
    system: str | System,
    *,
    format: str | None = None,
    unit: str | None = None,
    temperature: float | None = None,
    axes: Sequence[str] = (),
    topology: str | Path | None = None,
    weights: str | Path | None = None,
    estimator: str = "histogram",
    map: str | None = None,
) -> Score:
    """Score a PMF, or a file of another program with a PMF or samples, against the reference of a system.

    Parameters
    ----------
    pmf
        A PMF, such as one from `PMF.load`, on any grid over the CVs of the system; or the path of a file.
    system
        The system, or its name.
    format
        Format of the file; by default it is found out.
    unit, temperature
        Unit of energy ("kJ/mol", "kcal/mol", "kT") and temperature in kelvin of a file that does not state them.
    axes
        For each CV the name or number (from 1) of its axis or column in the file.
    topology, weights
        Files with the topology of a trajectory, and with one weight for each sample.
    estimator
        Which PMF of samples is scored: "histogram" or "smoothed".
    map
        Name of the map that the PMF is on, such as "phi and psi", of a system with several; by default the names of its
        CVs tell.

    Returns
    -------
    cgbench.exchange.score.Score
        ``metrics`` (by name, as in a record), ``pmf`` on the grid of the system, and what was understood, assumed and
        doubted.

    Raises
    ------
    cgbench.errors.UserError
        If the file cannot be understood or does not fit the system.
    """
    from pathlib import Path

    from cgbench.exchange.landscape import Options
    from cgbench.exchange.score import score as score_either

    options = Options(
        format=format,
        unit=unit,
        temperature=temperature,
        axes=tuple(axes),
        topology=None if topology is None else Path(topology),
        weights=None if weights is None else Path(weights),
        estimator=estimator,
        map=map,
    )
    return score_either(pmf, system, options)
