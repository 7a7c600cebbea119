"""A warm process that starts runs and kills them."""

from __future__ import annotations

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

    def ordered(*arguments: str, **order: Any) -> dict[str, Any]:
        process.stdin.write(json.dumps({"arguments": [str(a) for a in arguments], **order}) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, "the launcher has died"
        return json.loads(answer)

    yield ordered
    process.stdin.close()
    process.wait()
    process.stdout.close()
