"""What all pictures share."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from cgbench.storage.files import write_atomically

__all__ = ["save_figure"]


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure atomically, in the format that the path's suffix says."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=130)
    write_atomically(path, buffer.getvalue())
