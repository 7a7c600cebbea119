"""Runs methods on the mock device, stopped at their first estimate and resumed, and on the CPU.

A process of its own, since PyTorch has to know all devices before it computes the first gradient. Reads one JSON list
a line: folder, method, system, preset, and changes to the preset. Answers with one JSON object a line.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cgbench.errors import UserError
from cgbench.running.run import prepare, run
from tests.devices.mock_device import mock_device, operations


def compare(folder: str, method: str, system: str, preset: str, *overrides: str) -> dict[str, Any]:
    """Make the runs, and return what came out of them."""
    options: dict[str, Any] = {"preset": preset, "threads": 1, "overrides": overrides}
    before = len(operations)
    with mock_device() as device:
        job = prepare(system, method, device=device, out=f"{folder}/resumed", **options)
        estimates = itertools.count(1)
        job.stop = lambda: next(estimates) == 1
        try:
            job.execute()
            stopped_at = None
        except KeyboardInterrupt:
            stopped_at = job.ledger.total
        try:
            run(system, method, out=f"{folder}/resumed", **options)
            refused = ""
        except UserError as error:
            refused = str(error)
        resumed = run(system, method, device=device, out=f"{folder}/resumed", **options)
    asked = len(operations) - before
    here = run(system, method, out=f"{folder}/here", **options)
    found = {
        name: {
            "status": record.status,
            "reason": record.reason,
            "evaluations": record.evaluations.by_phase,
            "device": record.device,
            "free_energy": _free_energy(Path(folder) / name),
        }
        for name, record in {"resumed": resumed, "here": here}.items()
    }
    return {"runs": found, "stopped_at": stopped_at, "operations": asked, "refused": refused}


def _free_energy(folder: Path) -> list[float]:
    return [float(value) for path in folder.rglob("pmf.npz") for value in np.load(path)["free_energy"].ravel()]


def serve() -> None:
    """Answer orders until there are no more."""
    with mock_device():
        pass
    for line in sys.stdin:
        print(json.dumps(compare(*json.loads(line))), flush=True)


if __name__ == "__main__":
    serve()
