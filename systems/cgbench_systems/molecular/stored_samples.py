"""Equilibrium configurations beside a reference, tied to it by their hash in the certificate."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from cgbench.storage.files import npz_bytes, write_atomically

__all__ = ["load_samples", "write_samples"]


def write_samples(folder: Path, positions: torch.Tensor) -> None:
    """Write configurations ``[samples, atoms, 3]`` in nm, and their hash into the certificate."""
    content = npz_bytes({"positions": positions.cpu().numpy()})
    write_atomically(folder / "samples.npz", content)
    path = folder / "reference.json"
    record = json.loads(path.read_text(encoding="utf-8")) | {"samples_sha256": hashlib.sha256(content).hexdigest()}
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())


def load_samples(folder: Path, version: str) -> torch.Tensor | None:
    """Return the configurations that belong to a certificate and a version of the system, float64.

    None if there are none, or they were drawn with another certificate, which a new one does not name any more.
    """
    try:
        record = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
        content = (folder / "samples.npz").read_bytes()
    except FileNotFoundError:
        return None
    if record.get("system_version") != version or record.get("samples_sha256") != hashlib.sha256(content).hexdigest():
        return None
    with np.load(folder / "samples.npz", allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["positions"].astype(np.float64))
