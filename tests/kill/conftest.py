"""A warm process that starts runs and kills them."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[..., dict[str, Any]]]:
    """Runs ``cgbench`` with the arguments given, killed or limited as `launcher.py` says."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "launcher.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None

    numbers = itertools.count()

    def ordered(*arguments: str, **order: Any) -> dict[str, Any]:
        number = next(numbers)
        process.stdin.write(json.dumps({"number": number, "arguments": [str(a) for a in arguments], **order}) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            answer: dict[str, Any] = json.loads(line)
            if answer["number"] == number:  # others belong to a test that was stopped by its time limit
                return answer
        raise AssertionError("the launcher has died")

    yield ordered
    process.stdin.close()
    process.wait()
    process.stdout.close()
