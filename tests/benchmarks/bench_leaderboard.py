"""Time the leaderboard of a thousand synthetic runs, relative to parsing the same files.

    python tests/benchmarks/bench_leaderboard.py [--records 1000] [--rounds 3]

The records are as large as the published ones. Prints both times in seconds, and the lowest, median and highest ratio
over paired rounds.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import tempfile
from pathlib import Path

import numpy as np
from timing import paired

from cgbench.results.leaderboard import leaderboard
from cgbench.results.runs import find_runs
from cgbench.running.record import Evaluations, Record
from cgbench.running.run_folder import RunFolder

SEEDS, METHODS, ROWS = 5, 20, 40


def write_records(out: Path, records: int) -> None:
    """Write runs of `METHODS` methods with five seeds per preset on two systems; md has auxiliary estimates."""
    random = np.random.default_rng(0)
    for number in range(records):
        place, seed = divmod(number, SEEDS)
        place, system = divmod(place, 2)
        preset, method = divmod(place, METHODS)
        name = "md" if method == 0 else f"method_{method}"
        evaluations = np.unique(np.logspace(3, 6 + 2 * (method == 0), ROWS).astype(int))
        kld = 1e4 / method_speed(method) / evaluations * np.exp(0.3 * random.normal(size=len(evaluations)))
        folder = RunFolder(out / f"system_{system}" / name / f"preset_{preset}" / f"seed-{seed}")
        folder.path.mkdir(parents=True)
        folder.write_record(
            Record(
                system=f"system_{system}",
                system_version="1",
                method=name,
                preset=f"preset_{preset}",
                seed=seed,
                config={"walkers": 64, "settings": {f"key_{k}": k for k in range(40)}},
                config_hash="0" * 64,
                engine="torch",
                device="cpu",
                threads=1,
                budget=None,
                status="finished",
                evaluations=Evaluations(total=int(evaluations[-1]), by_phase={}, publication_convention=1),
                metrics={"forward_kld": float(kld[-1]), "delta_f_error/a": 0.1, "delta_f_error/b": -0.1},
                diagnostics={"rounds": [{f"number_{k}": k / 7 for k in range(12)} for _ in range(16)]},
                reference={"noise_floor": 1e-5},
            )
        )
        columns = ["evaluations", "wall_s", "forward_kld", "reverse_kld", "jensen_shannon", "total_variation"]
        rows = [
            (int(n), 1.0, float(d), float(d), float(d), math.sqrt(d)) for n, d in zip(evaluations, kld, strict=True)
        ]
        folder.write_table("curve.csv", columns, [dict(zip(columns, row, strict=True)) for row in rows])
        if name == "md":
            write_auxiliary_estimates(folder, random)


def method_speed(method: int) -> float:
    """Return the speedup over MD."""
    return float(2**method) if method else 1.0


def write_auxiliary_estimates(folder: RunFolder, random: np.random.Generator) -> None:
    """Write estimates as method md does: groups of 1, 8 and 64 walkers, two estimators."""
    rows = [
        (f"{kind}/{walkers}", replicate, walkers * steps, 1e4 / (walkers * steps) * math.exp(0.3 * random.normal()))
        for kind in ("histogram", "smoothed")
        for walkers in (1, 8, 64)
        for replicate in range(16 if walkers < 64 else 1)
        for steps in np.unique(np.logspace(2, 6, 33).astype(int)).tolist()
    ]
    names = ["name", "replicate", "evaluations", "forward_kld"]
    folder.write_table("side_estimates.csv", names, [dict(zip(names, row, strict=True)) for row in rows])


def bare_reading(folder: Path) -> None:
    """Parse every file with the standard library."""
    for path in folder.rglob("*.json"):
        json.loads(path.read_bytes())
    for path in folder.rglob("*.csv"):
        with open(path, encoding="utf-8", newline="") as file:
            list(csv.reader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_records(folder, options.records)
        ours, bare, ratios = paired(
            lambda: leaderboard(find_runs([folder])), lambda: bare_reading(folder), options.rounds
        )
    print(f"{options.records} records: ranked in {ours:.2f} s, read in {bare:.2f} s")
    print("ratio " + " - ".join(f"{ratio:.1f}" for ratio in ratios))


if __name__ == "__main__":
    main()
