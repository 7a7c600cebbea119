"""Encoding of free energies and colour tables as short text, for the page."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.drawing.backend import attempt

__all__ = ["STORED_TO", "colour_table", "decode", "encode"]

STORED_TO = 30.0  # kT; largest free energy stored for large grids
LARGE = 1000  # bins; larger grids store two bytes per bin
ANCHORS = {
    "viridis": "440154 472c7b 3a528b 2c728e 20908c 28ae7f 5ec961 aadb32 fde724",
    "RdBu_r": "053061 2971b1 6bacd0 c2ddeb f7f6f6 faccb4 e48065 bb2a33 67001f",
}
TOP = 65535  # stands for every free energy from STORED_TO


def encode(free_energy: NDArray[np.float64]) -> dict[str, Any]:
    """Encode a free energy.

    Parameters
    ----------
    free_energy
        In kT, non-negative, infinite where the probability is zero; one or two axes.

    Returns
    -------
    dict
        ``shape``; ``type``, "float32" for a grid of at most 1,000 bins, else "uint16" in steps of ``step`` kT, with
        65535 for `STORED_TO` and above; ``values``, the little-endian bytes in base64, last axis fastest.
    """
    coded: dict[str, Any] = {"shape": list(free_energy.shape)}
    if free_energy.size <= LARGE:
        content = free_energy.astype("<f4")
        coded["type"] = "float32"
    else:
        step = STORED_TO / (TOP - 1)
        content = np.where(free_energy < STORED_TO, np.rint(np.minimum(free_energy, STORED_TO) / step), TOP)
        content = content.astype("<u2")
        coded |= {"type": "uint16", "step": step}
    return coded | {"values": base64.b64encode(np.ascontiguousarray(content).tobytes()).decode("ascii")}


def decode(coded: dict[str, Any]) -> NDArray[np.float64]:
    """Decode what `encode` returned; values stored as 65535 are infinite."""
    content = base64.b64decode(coded["values"])
    if coded["type"] == "float32":
        return np.frombuffer(content, "<f4").astype(np.float64).reshape(coded["shape"])
    levels = np.frombuffer(content, "<u2").reshape(coded["shape"])
    return np.where(levels == TOP, np.inf, levels * float(coded["step"]))


def colour_table(name: str) -> str:
    """Return 256 colours of a colour map in `ANCHORS`, six hexadecimal digits each.

    The table is matplotlib's; if matplotlib cannot be used here, it is interpolated between a few of its colours.
    """
    tables: list[NDArray[np.uint8]] = []

    def read() -> None:
        import matplotlib

        tables.append(matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3].astype(np.uint8))

    if attempt(read) is not None:
        anchors = np.array([list(bytes.fromhex(colour)) for colour in ANCHORS[name].split()])
        at = np.linspace(0, 255, len(anchors))
        columns = [np.interp(np.arange(256), at, anchors[:, channel]) for channel in range(3)]
        tables.append(np.rint(np.stack(columns, axis=1)).astype(np.uint8))
    return tables[0].tobytes().hex()
