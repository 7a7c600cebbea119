"""Methods on a device that is as strict as a GPU about where tensors are must come to the CPU's numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PUBLISHED = (
    "recipe.seeding.steps=50",
    "recipe.by_example.epochs=1",
    "recipe.by_energy.samples=8",
    "recipe.by_energy.epochs_first=2",
    "recipe.by_energy.epochs=1",
    "recipe.by_energy.epochs_per_estimate=1",
    "recipe.by_energy.warmup_first=1",
    "recipe.by_energy.warmup=0",
    "recipe.ensemble.epochs=2",
    "recipe.ensemble.members=3",
    "recipe.walk.max_iterations=2",
    "recipe.walk.max_steps=12",
    "recipe.walk.broadened=4",
)
SMALL = ("recipe.flow.num_couplings=2", "recipe.flow.hidden_features=16")
CASES = [
    ("md", "aldp", "smoke", "steps=12", "equilibration_steps=2"),
    ("metadynamics", "muller_brown", "smoke"),
    ("opes", "muller_brown", "smoke"),
    ("opes", "aldp", "smoke"),
    ("umbrella", "muller_brown", "smoke"),
    ("parallel_tempering", "muller_brown", "smoke"),
    ("parallel_tempering", "aldp", "smoke"),
    ("flow_ais_bootstrap", "muller_brown", "smoke"),
    ("ta_bg", "muller_brown", "smoke", "annealing.resampled=100"),
    ("cmt", "muller_brown", "smoke"),
    ("cgflow_al", "aldp", "smoke"),
    ("cgflow_grid", "muller_brown", "paper", "recipe.grid=6", *PUBLISHED),
    ("cgflow_al", "aldp", "paper", *PUBLISHED, *SMALL),
]


MISPLACED = """
import torch
from tests.devices.mock_device import mock_device

with mock_device() as device:
    there, here = torch.ones(3, device=device), torch.ones(3)
    for what in (
        "there + here",
        "there[torch.tensor([0, 1])] + torch.tensor(1.0)",  # both are allowed
        "here[torch.tensor([0, 1]).to(device)]",
        "there.index_select(0, torch.tensor([0, 1]))",
        "torch.rand(3, generator=torch.Generator(), device=device)",
        "torch.rand(3, generator=torch.Generator(device))",
        "torch.rand(3, generator=torch.Generator(device), device=device).add_(there)",
        "there.numpy()",
    ):
        try:
            eval(what)
            print("allowed")
        except RuntimeError as error:
            print("refused")
"""


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"CGBENCH_NATIVE": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


@pytest.fixture(scope="module")
def compare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, Any]]]:
    """Makes the runs of a case as `on_device.py` says, all cases in one process."""
    errors = tmp_path_factory.mktemp("on_device") / "errors.txt"
    command = [sys.executable, "-m", "tests.devices.on_device"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with errors.open("w") as log, subprocess.Popen(command, stderr=log, env=_environment(), **pipes) as process:
        assert process.stdin is not None and process.stdout is not None

        def made(*case: str) -> dict[str, Any]:
            process.stdin.write(json.dumps(case) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                if line.startswith("{"):  # what else is printed are the runs' own words
                    found: dict[str, Any] = json.loads(line)
                    return found
            raise AssertionError(errors.read_text()[-3000:])

        yield made
        process.stdin.close()


def test_the_mock_device_is_strict() -> None:
    expected = ["refused", "allowed", "refused", "refused", "refused", "refused", "allowed", "refused"]
    command = [sys.executable, "-c", MISPLACED]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
    assert done.stdout.split() == expected, done.stderr[-3000:]


@pytest.mark.parametrize("case", CASES, ids=["-".join(case[:3]) for case in CASES])
def test_method_on_device(case: tuple[str, ...], compare: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """The numbers are the CPU's also after a stop: a state that lost anything on the way would give others."""
    found = compare(str(tmp_path), *case)
    resumed, here = (found["runs"][name] for name in ("resumed", "here"))
    for one in (resumed, here):
        assert one["status"] == "finished", one["reason"]
    assert resumed["evaluations"] == here["evaluations"]
    assert (resumed["device"], here["device"]) == ("mock", "cpu")
    assert found["operations"] > 1000
    assert 0 < found["stopped_at"] < sum(here["evaluations"].values())
    assert "give --device mock, or --restart" in found["refused"]
    np.testing.assert_allclose(resumed["free_energy"], here["free_energy"], atol=1e-3)
