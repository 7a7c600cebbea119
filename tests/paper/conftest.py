"""Made-up published runs, small and exact, in which every figure finds what it draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgbench.running.record import Evaluations, Record
from cgbench.running.run_folder import RunFolder
from cgbench.storage.files import write_npz

BINS = {"aldp": (100, 100), "muller_brown": (100,)}


def _write_run(
    root: Path,
    system: str,
    method: str,
    curve: list[tuple[int, float]],
    *,
    preset: str = "default",
    seed: int = 0,
    version: str = "1",
    arrays: Mapping[str, np.ndarray] | None = None,
    by_phase: Mapping[str, int] | None = None,
    total_variation: float | None = 0.01,
    **changes: Any,
) -> Path:
    """Write a finished run with this curve; its PMF is flat unless the arrays say otherwise."""
    total, kld = curve[-1]
    folder = root / system / method / preset / f"seed-{seed}"
    folder.mkdir(parents=True)
    by_phase = dict(by_phase or {"train": total})
    record = Record(
        **{
            "system": system,
            "system_version": version,
            "method": method,
            "preset": preset,
            "seed": seed,
            "config": {},
            "config_hash": "0",
            "engine": "torch",
            "device": "cpu",
            "threads": 1,
            "budget": None,
            "status": "finished",
            "evaluations": Evaluations(total=total, by_phase=by_phase, publication_convention=total),
            "metrics": {"forward_kld": kld, "total_variation": total_variation},
            "seconds": {"train": {"wall": 2.0, "cpu": 1.5}, "unassigned": {"wall": 1.0, "cpu": 0.5}},
            "reference": {"noise_floor": 1.75087e-5 if system == "aldp" else 0.0},
            **changes,
        }
    )
    writer = RunFolder(folder)
    writer.write_record(record)
    rows = [{"evaluations": n, "wall_s": 1.0, "forward_kld": value} for n, value in curve]
    writer.write_table("curve.csv", ["evaluations", "wall_s", "forward_kld"], rows)
    bins = BINS[system]
    flat = {"probability": np.full(bins, 1.0 / np.prod(bins)), "free_energy": np.zeros(bins)}
    write_npz(folder / "pmf.npz", flat | dict(arrays or {}))
    return folder


def _stage_arrays(system: str, stages: int) -> dict[str, Any]:
    """Stages with PMFs and spreads that differ everywhere, one or two points each."""
    bins = BINS[system]
    random = np.random.default_rng(5)
    ramp = np.arange(np.prod(bins), dtype=np.float32).reshape(bins)
    of_point = np.sort(np.concatenate([np.arange(stages), np.arange(stages, 2 * stages) % stages]))[: 2 * stages - 1]
    found = {
        "stage_name": np.array(["iteration"] * stages),
        "stage_evaluations": 1000 * np.arange(1, stages + 1),
        "stage_threshold": np.full(stages, 0.4, dtype=np.float32),
        "stage_free_energy": np.stack([ramp / ramp.max() * (8 + n) for n in range(stages)]),
        "stage_std": np.stack([0.1 + ramp / ramp.max() / (1 + n) for n in range(stages)]),
        "stage_points": random.uniform(-1, 1, (len(of_point), len(bins))).astype(np.float32),
        "stage_of_point": of_point.astype(np.int32),
        "efficiency": np.linspace(0.1, 0.9, int(np.prod([b // 2 for b in bins])), dtype=np.float32).reshape(
            [b // 2 for b in bins]
        ),
        "free_energy_std": np.full(bins, 0.2),
    }
    if system == "muller_brown":
        found["stage_configurations"] = random.uniform(-1, 1, (4 * stages, 2)).astype(np.float32)
        found["stage_of_configuration"] = np.repeat(np.arange(stages), 4).astype(np.int32)
        found["seed_points"] = np.linspace(-2.1, -1.9, 5, dtype=np.float32)[:, None]
    return found


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two systems, four methods, two seeds of some; a table of settings."""
    root = tmp_path_factory.mktemp("runs")
    decay = [(1000, 0.1), (10_000, 1e-2), (100_000, 1e-3)]
    for system in BINS:
        _write_run(root, system, "md", [(n, 100.0 / n) for n in (10**4, 10**5, 10**6, 10**7)])
        for seed, factor in enumerate((1.0, 4.0)):
            curve = [(n, factor * kld) for n, kld in decay]
            arrays = _stage_arrays(system, 4 if system == "muller_brown" else 3)
            _write_run(
                root,
                system,
                "cgflow_al",
                curve,
                seed=seed,
                arrays=arrays,
                by_phase={"warm_start": 25_000, "train": 75_000},
            )
        _write_run(root, system, "cgflow_grid", decay)
        _write_run(root, system, "umbrella", [(n, 2 * kld) for n, kld in decay])
    ablation = root / "aldp" / "ablation"
    ablation.mkdir()
    header = "setting,seeds,evaluations_to_1e-02,evaluations_to_1e-03,evaluations,"
    header += "forward_kld,forward_kld_min,forward_kld_max"
    rows = ["default,3,5000,20000,50000,2e-4,1e-4,3e-4", "no path gradients,3,12000,inf,50000,2e-3,1e-3,4e-3"]
    (ablation / "ablation.csv").write_text("\n".join([header, *rows]) + "\n")
    return root


@pytest.fixture
def write_run() -> Callable[..., Path]:
    """Writes a finished run."""
    return _write_run
