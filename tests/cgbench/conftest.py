"""Synthetic runs on disk, and the elements of an HTML page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgbench.running.record import AnomalyCount, Evaluations, Record
from cgbench.running.run_folder import RunFolder
from cgbench.storage.files import write_npz

CURVE = ((100, 0.5), (1000, 0.05), (10000, 0.004))


def _write_run(
    runs: Path,
    system: str,
    method: str,
    probability: np.ndarray,
    *,
    preset: str = "default",
    seed: int = 0,
    curve: Sequence[tuple[float, float]] = CURVE,
    limits: tuple[float, float] = (-math.pi, math.pi),
    folder: str | None = None,
    **changes: Any,
) -> Path:
    """Write record, curve and PMF of a run; return its folder."""
    total = int(curve[-1][0])
    record = Record(
        **{
            "system": system,
            "system_version": "1",
            "method": method,
            "preset": preset,
            "seed": seed,
            "config": {"walkers": 7, "nested": {"rate": 0.25}},
            "config_hash": "c0ffee" * 10,
            "engine": "torch",
            "device": "cpu",
            "threads": 3,
            "budget": None,
            "status": "finished",
            "evaluations": Evaluations(
                total=total, by_phase={"seed_md": 8, "train": total - 8}, publication_convention=total - 8
            ),
            "metrics": {"forward_kld": curve[-1][1], "delta_f_error/left": -0.25, "reverse_kld": math.inf},
            "anomalies": {"diverged_walker": AnomalyCount(count=3, occasions=40)},
            "diagnostics": {"warnings": ["weights have a heavy tail"]},
            "seconds": {"train": {"wall": 12.5, "cpu": 11.0}},
            "reference": {"source": "made up", "sha256": "00", "noise_floor": 1e-4},
            "provenance": {"cgbench": "0.1.0", "cpu": "abacus", "git": {"commit": "abc123", "dirty": True}},
            **changes,
        }
    )
    run = RunFolder(runs / (folder or f"{system}/{method}/{preset}/seed-{seed}"))
    run.path.mkdir(parents=True)
    run.write_record(record)
    run.write_table(
        "curve.csv", ("evaluations", "forward_kld"), [{"evaluations": n, "forward_kld": k} for n, k in curve]
    )
    arrays = {"probability": probability / probability.sum()}
    for axis, bins in enumerate(probability.shape):
        width = (limits[1] - limits[0]) / bins
        arrays[f"centers_{axis}"] = limits[0] + width * (np.arange(bins) + 0.5)
    write_npz(run.path / "pmf.npz", arrays)
    return run.path


class Elements(HTMLParser):
    """The elements of a page, and the text of its scripts by their id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: dict[str | None, str] = {}
        self._script: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "script":
            self._script = [dict(attrs).get("id")]

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = []

    def handle_data(self, data: str) -> None:
        for name in self._script:
            self.scripts[name] = self.scripts.get(name, "") + data


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    return _write_run


@pytest.fixture(scope="session")
def elements() -> Callable[[str], Elements]:
    return Elements


@pytest.fixture(scope="session")
def embedded() -> Callable[[str], dict[str, Any]]:
    """The data that a page carries."""
    return lambda page: json.loads(Elements(page).scripts["data"])
