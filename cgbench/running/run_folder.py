"""The folder of one run: record, tables, checkpoints, log, and the lock on the folder."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cgbench.errors import StorageError, UserError
from cgbench.running.record import Record, parse_record, record_bytes
from cgbench.storage.files import csv_bytes, write_atomically
from cgbench.storage.lock import FolderLock

__all__ = ["RESULTS", "RunFolder", "plain_copy"]

RESULTS = ("pmf.npz", "pmf.png", "curve.csv", "side_estimates.csv")

DIGEST = 32  # bytes; a checkpoint begins with its SHA-256


class RunFolder:
    """The folder of one run. All files are written atomically.

    Parameters
    ----------
    path
        ``<out>/<system>/<method>/<preset>/seed-<n>``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = FolderLock(path / "checkpoint" / "lock")

    def create(self) -> list[str]:
        """Create the folder and lock it for this process. Return messages for the user.

        Raises
        ------
        UserError
            If the folder cannot be created or written to, or another process is running in it.
        """
        try:
            (self.path / "checkpoint").mkdir(parents=True, exist_ok=True)
            before = self.lock.acquire()
            try:
                write_atomically(self.path / "checkpoint" / "writable", b"")
            except OSError:
                self.lock.release()
                raise
        except OSError as error:
            raise UserError(
                f"cannot write to {self.path}: {error.strerror}; choose another folder with --out"
            ) from error
        return [] if before is None else [f"taken over from {before}, which ended without releasing the folder"]

    def held(self) -> bool:
        """Whether a process is running in the folder now."""
        return self.lock.holder() is not None

    def release(self) -> None:
        """Release the folder for other processes."""
        self.lock.release()

    # ---- files --------------------------------------------------------------------------------------

    def write(self, name: str, content: bytes, keep: str | None = None) -> None:
        """Write a file in the folder; the old file is moved to the name `keep`, if given.

        Raises
        ------
        StorageError
            If the file cannot be written; the old file is unchanged.
        """
        try:
            write_atomically(self.path / name, content, None if keep is None else self.path / keep)
        except OSError as error:
            raise StorageError(f"cannot write {self.path / name}: {error.strerror or error}") from error

    def write_table(self, name: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a CSV file such as ``curve.csv``; None becomes an empty field."""
        self.write(name, csv_bytes(columns, rows))

    def log(self, text: str) -> None:
        """Append a line with the time to ``run.log``. A line that cannot be written is dropped."""
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            with open(self.path / "run.log", "a", encoding="utf-8") as file:
                file.write(f"{stamp} {text.rstrip()}\n")
        except OSError:
            pass

    def clear_results(self, names: Sequence[str] = RESULTS) -> None:
        """Remove these results of an earlier run.

        Raises
        ------
        StorageError
            If a file cannot be removed.
        """
        for name in names:
            try:
                (self.path / name).unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(f"cannot remove {self.path / name}: {error.strerror or error}") from error

    # ---- record -------------------------------------------------------------------------------------

    def write_record(self, record: Record) -> None:
        """Write ``record.json`` and, before it, a backup copy."""
        content = record_bytes(record)
        if (self.path / "checkpoint").is_dir():
            self.write("checkpoint/record.copy", content)
        self.write("record.json", content)

    def read_record(self) -> Record | None:
        """Read ``record.json``, or its backup copy if it is damaged. Return None if there is no record.

        Raises
        ------
        UserError
            If record and copy are both damaged.
        """
        path = self.path / "record.json"
        try:
            return parse_record(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            damaged = f"{path} is not a valid record ({reason})"
            try:
                record = parse_record((self.path / "checkpoint" / "record.copy").read_bytes())
            except (OSError, ValueError):
                raise UserError(f"{damaged}; repair it, or start over with --restart") from error
        logging.getLogger(__name__).warning("%s: using its backup copy", damaged)
        return record

    # ---- checkpoints ----------------------------------------------------------------------------------

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, preceded by its checksum; the previous checkpoint is kept.

        Raises
        ------
        TypeError
            If the state contains anything but tensors, numbers, text, None, and lists, tuples and dicts of these.
        StorageError
            If the checkpoint cannot be written; the last one is unchanged.
        """
        import torch

        buffer = io.BytesIO()
        torch.save(_plain(state, "state"), buffer)
        content = buffer.getvalue()
        self.write("checkpoint/latest.pt", hashlib.sha256(content).digest() + content, keep="checkpoint/previous.pt")

    def load_checkpoints(self) -> Iterator[tuple[dict[str, Any] | None, str]]:
        """Load the checkpoints, newest first. Yield each with its name, or None with a description of the problem."""
        import torch

        for path in self._checkpoints():
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                yield None, f"checkpoint {path.name} cannot be read ({error.strerror})"
                continue
            if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
                yield None, f"checkpoint {path.name} is damaged (its checksum does not match)"
                continue
            try:
                state = torch.load(io.BytesIO(content[DIGEST:]), weights_only=True)
                if not isinstance(state, dict):
                    raise TypeError("not a dictionary")
            except Exception as error:  # torch can raise anything; a valid checksum does not make it a checkpoint
                yield None, f"checkpoint {path.name} cannot be read ({type(error).__name__})"
                continue
            yield state, path.name

    def start_over(self) -> None:
        """Remove the record, the results and the checkpoints of an earlier run; its log stays.

        Raises
        ------
        StorageError
            If a file cannot be removed.
        """
        self.clear_results(("record.json", "checkpoint/record.copy", *RESULTS))
        self.clear_checkpoints()

    def clear_checkpoints(self) -> None:
        """Remove the checkpoints."""
        for path in self._checkpoints():
            path.unlink(missing_ok=True)

    def _checkpoints(self) -> tuple[Path, Path]:
        folder = self.path / "checkpoint"
        return folder / "latest.pt", folder / "previous.pt"


def plain_copy(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the state of a run for `RunFolder.save_checkpoint`, which later changes do not affect."""
    copied: dict[str, Any] = _plain(state, "state", copy=True)
    return copied


def _plain(value: Any, where: str, copy: bool = False) -> Any:
    """Return a copy with all tensors on the CPU, copied too if `copy`; refuse what needs code to be loaded."""
    import torch

    if isinstance(value, Mapping):
        return {
            _plain(key, f"{where}, a key"): _plain(inner, f"{where}[{key!r}]", copy) for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        kind = list if isinstance(value, list) else tuple
        return kind(_plain(inner, f"{where}[{index}]", copy) for index, inner in enumerate(value))
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True) if copy else value.cpu()
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    raise TypeError(
        f"{where} is of type {type(value).__name__}; a checkpoint may contain tensors, numbers, text, None, "
        "and lists, tuples and dicts of these"
    )
