"""What a run leaves behind: its record, its curve, its checkpoint."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cgbench.errors import UserError
from cgbench.files import write_atomically

__all__ = ["Record", "RunFolder", "to_json"]

SCHEMA_VERSION = 1
Status = Literal["running", "finished", "budget", "failed"]


class Evaluations(BaseModel):
    """Energy evaluations: all, by phase, and as the method's publication counts them."""

    total: int
    by_phase: dict[str, int]
    publication_convention: int


class Record(BaseModel):
    """Everything about a run but its arrays; the content of ``record.json``."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    system: str
    system_version: str
    method: str
    preset: str
    seed: int
    config: dict[str, Any]
    config_hash: str
    engine: str
    device: str
    threads: int
    budget: int | None
    status: Status
    reason: str | None = None
    evaluations: Evaluations
    metrics: dict[str, float | None]
    nonfinite_energies: int = 0
    density: dict[str, Any] | None = None
    diagnostics: dict[str, Any] = {}
    seconds: dict[str, dict[str, float]] = {}
    reference: dict[str, Any] | None = None
    provenance: dict[str, Any] = {}

    @property
    def wall_seconds(self) -> float:
        """Wall seconds of the method, scoring left out."""
        return sum(spent.get("wall", 0.0) for spent in self.seconds.values())


def to_json(value: Any) -> str:
    """Valid JSON: numbers that are not finite become the strings "inf", "-inf" and "nan"."""

    def clean(item: Any) -> Any:
        if isinstance(item, float) and not math.isfinite(item):
            return str(item)
        if isinstance(item, Mapping):
            return {str(key): clean(inner) for key, inner in item.items()}
        if isinstance(item, (list, tuple)):
            return [clean(inner) for inner in item]
        return item

    return json.dumps(clean(value), indent=2, allow_nan=False) + "\n"


class RunFolder:
    """The files of one run; every file is whole at every moment.

    Parameters
    ----------
    path
        ``<out>/<system>/<method>/<preset>/seed-<n>``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unlock: Any = None

    def create(self) -> None:
        """Make the folder.

        Raises
        ------
        UserError
            If it cannot be made or written to.
        """
        try:
            (self.path / "checkpoint").mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / "checkpoint" / "writable", b"")
            self._lock()
        except OSError as error:
            raise UserError(
                f"cannot write to {self.path}: {error.strerror}; choose another folder with --out"
            ) from error

    def _lock(self) -> None:
        """Hold the folder for this process; the lock ends with `release`, or with the process."""
        try:
            import fcntl
        except ImportError:  # not on every platform
            return
        descriptor = os.open(self.path / "checkpoint" / "lock", os.O_RDWR | os.O_CREAT)
        self._unlock = weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._unlock()
            raise UserError(f"another process is running in {self.path}; wait for it, or give another --out") from error

    def held(self) -> bool:
        """Whether a process is running in the folder now."""
        try:
            import fcntl

            descriptor = os.open(self.path / "checkpoint" / "lock", os.O_RDWR)
        except (ImportError, OSError):
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def release(self) -> None:
        """Give the folder back."""
        if self._unlock is not None:
            self._unlock()

    # ---- record and curve -------------------------------------------------------------------------

    def write_record(self, record: Record) -> None:
        """Write ``record.json``."""
        write_atomically(self.path / "record.json", to_json(record.model_dump()).encode())

    def read_record(self) -> Record | None:
        """Read ``record.json``; None if there is none.

        Raises
        ------
        UserError
            If it is no valid record.
        """
        path = self.path / "record.json"
        try:
            return Record.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise UserError(f"{path} is no valid record ({reason}); mend it, or start over with --restart") from error

    def write_table(self, name: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a CSV file such as ``curve.csv``; None becomes an empty field."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([{key: "" if value is None else value for key, value in row.items()} for row in rows])
        write_atomically(self.path / name, buffer.getvalue().encode())

    # ---- checkpoints ------------------------------------------------------------------------------

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint with its checksum in front; the one before is kept."""
        import torch

        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        content = buffer.getvalue()
        latest, previous = self._checkpoints()
        if latest.exists():
            latest.replace(previous)
        write_atomically(latest, hashlib.sha256(content).digest() + content)

    def load_checkpoint(self) -> tuple[dict[str, Any] | None, list[str]]:
        """Load the newest whole checkpoint, and say in words what was wrong with others."""
        import torch

        warnings: list[str] = []
        for path in self._checkpoints():
            if not path.exists():
                continue
            content = path.read_bytes()
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                state: dict[str, Any] = torch.load(io.BytesIO(content[32:]), weights_only=True)
                return state, warnings
            warnings.append(f"checkpoint {path.name} is damaged (checksum); the one before is used")
        return None, warnings

    def clear_checkpoints(self) -> None:
        """Remove the checkpoints."""
        for path in self._checkpoints():
            path.unlink(missing_ok=True)

    def _checkpoints(self) -> tuple[Path, Path]:
        folder = self.path / "checkpoint"
        return folder / "latest.pt", folder / "previous.pt"
