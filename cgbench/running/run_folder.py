"""The files of one run: record, tables, checkpoints, log, and the lock on them all."""

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

__all__ = ["RunFolder"]

DIGEST = 32  # bytes of SHA-256, in front of a checkpoint


class RunFolder:
    """The files of one run; every file is whole at every moment.

    Parameters
    ----------
    path
        ``<out>/<system>/<method>/<preset>/seed-<n>``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = FolderLock(path / "checkpoint" / "lock")

    def create(self) -> list[str]:
        """Make the folder and hold it for this process; return what there is to say about that.

        Raises
        ------
        UserError
            If it cannot be made or written to, or another process is running in it.
        """
        try:
            (self.path / "checkpoint").mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / "checkpoint" / "writable", b"")
            before = self.lock.acquire()
        except OSError as error:
            raise UserError(
                f"cannot write to {self.path}: {error.strerror}; choose another folder with --out"
            ) from error
        return [] if before is None else [f"taken over from {before}, which has ended without giving the folder back"]

    def held(self) -> bool:
        """Whether a process is running in the folder now."""
        return self.lock.holder() is not None

    def release(self) -> None:
        """Give the folder back."""
        self.lock.release()

    # ---- files --------------------------------------------------------------------------------------

    def write(self, name: str, content: bytes, keep: str | None = None) -> None:
        """Write a file of the folder; `keep` names the file that the old content is moved to.

        Raises
        ------
        StorageError
            If it cannot be written; the file is as it was then.
        """
        try:
            write_atomically(self.path / name, content, None if keep is None else self.path / keep)
        except OSError as error:
            raise StorageError(f"cannot write {self.path / name}: {error.strerror or error}") from error

    def write_table(self, name: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a CSV file such as ``curve.csv``; None becomes an empty field."""
        self.write(name, csv_bytes(columns, rows))

    def log(self, text: str) -> None:
        """Append to ``run.log``, with the time; on a full disk the line is lost, and nothing else."""
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            with open(self.path / "run.log", "a", encoding="utf-8") as file:
                file.write(f"{stamp} {text.rstrip()}\n")
        except OSError:
            pass

    # ---- record -------------------------------------------------------------------------------------

    def write_record(self, record: Record) -> None:
        """Write ``record.json``, and first a copy of it to fall back on."""
        content = record_bytes(record)
        if (self.path / "checkpoint").is_dir():
            self.write("checkpoint/record.copy", content)
        self.write("record.json", content)

    def read_record(self) -> Record | None:
        """Read ``record.json``, or its copy if it is damaged; None if there is none.

        Raises
        ------
        UserError
            If there is no valid one.
        """
        path = self.path / "record.json"
        try:
            return parse_record(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            damaged = f"{path} is no valid record ({reason})"
            try:
                record = parse_record((self.path / "checkpoint" / "record.copy").read_bytes())
            except (OSError, ValueError):
                raise UserError(f"{damaged}; mend it, or start over with --restart") from error
        logging.getLogger(__name__).warning("%s: its copy is used", damaged)
        return record

    # ---- checkpoints ----------------------------------------------------------------------------------

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint with its checksum in front; the one before is kept.

        Raises
        ------
        TypeError
            If the state holds anything but tensors, numbers, text, None, and lists, tuples and dicts of these.
        StorageError
            If it cannot be written; the last one stays.
        """
        import torch

        buffer = io.BytesIO()
        torch.save(_plain(state, "state"), buffer)
        content = buffer.getvalue()
        self.write("checkpoint/latest.pt", hashlib.sha256(content).digest() + content, keep="checkpoint/previous.pt")

    def load_checkpoints(self) -> Iterator[tuple[dict[str, Any] | None, str]]:
        """Load the checkpoints, newest first: each with its name, or None with what is wrong with it."""
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
                yield None, f"checkpoint {path.name} is damaged (its checksum does not fit)"
                continue
            try:
                state = torch.load(io.BytesIO(content[DIGEST:]), weights_only=True)
                if not isinstance(state, dict):
                    raise TypeError("no dictionary")
            except Exception as error:  # whoever wrote it knew about checksums; torch may fail in any way
                yield None, f"checkpoint {path.name} cannot be read ({type(error).__name__})"
                continue
            yield state, path.name

    def clear_checkpoints(self) -> None:
        """Remove the checkpoints."""
        for path in self._checkpoints():
            path.unlink(missing_ok=True)

    def _checkpoints(self) -> tuple[Path, Path]:
        folder = self.path / "checkpoint"
        return folder / "latest.pt", folder / "previous.pt"


def _plain(value: Any, where: str) -> Any:
    """The same with all tensors on the CPU; refuses what could not be loaded again without running code."""
    import torch

    if isinstance(value, Mapping):
        return {_plain(key, f"{where}, a key"): _plain(inner, f"{where}[{key!r}]") for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        kind = list if isinstance(value, list) else tuple
        return kind(_plain(inner, f"{where}[{index}]") for index, inner in enumerate(value))
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    raise TypeError(
        f"{where} is of type {type(value).__name__}; a checkpoint may hold tensors, numbers, text, None, "
        "and lists, tuples and dicts of these"
    )
