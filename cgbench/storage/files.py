"""Atomic files: written under a temporary name, synced, and moved into place."""

from __future__ import annotations

import csv
import io
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["csv_bytes", "npz_bytes", "read_npz", "write_atomically", "write_npz"]


def write_atomically(path: Path, content: bytes, keep: Path | None = None) -> None:
    """Replace the content of `path`; a kill at any moment leaves either the old file or the new one.

    Parameters
    ----------
    path, content
        The file and its new content.
    keep
        Where to move the old file, if it exists. A kill right after this move leaves no file at `path`.

    Raises
    ------
    OSError
        If the file cannot be written, for example on a full disk; the old file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Sync a folder, where the platform supports it: a renaming then survives a power failure."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def csv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return a CSV table with a header; None becomes an empty field."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a compressed npz archive whose bytes depend only on the arrays (no time stamps)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(arrays):
            part = io.BytesIO()
            np.lib.format.write_array(part, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, part.getvalue())
    return buffer.getvalue()


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an npz archive atomically."""
    write_atomically(path, npz_bytes(arrays))


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of an npz archive, without running any code that it may contain.

    Raises
    ------
    ValueError
        With a one-line message, if the file is missing, damaged, or contains Python objects.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("not an npz archive")
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # numpy and zipfile can raise anything on a damaged archive
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from error
