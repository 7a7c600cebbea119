"""Changed and made-up files never end in anything but one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import KCAL, KT, PhiOfAlanine, colvar_file, colvars, gmx_sham, gmx_wham, middles, plumed, wham_1d, wham_2d
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cgbench.errors import UserError
from cgbench.exchange.formats.detect import SAMPLE_FORMATS, detect
from cgbench.exchange.landscape import Options
from cgbench.exchange.load import load_pmf
from cgbench.exchange.samples import read_samples
from cgbench_systems.aldp import AlanineDipeptide

SAID = Options(unit="kJ/mol", temperature=300.0)
RANGES = Options(temperature=300.0, ranges=((-180.0, 180.0, 6),) * 2)
FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small files of each format."""
    path = tmp_path_factory.mktemp("small") / "file"
    x = middles(6, -180, 180)
    values = np.cos(np.radians(x))[:, None] + np.sin(np.radians(x))
    found: dict[str, bytes] = {}

    def keep(name: str, written: Any) -> None:
        found[name] = Path(written).read_bytes()

    keep("plumed", plumed(path, {"phi": x, "psi": x}, KT * values))
    keep("colvars", colvars(path, [x, x], KT * values, [-180.0] * 2))
    keep("wham-2d", wham_2d(path, [x, x], KCAL * values))
    keep("wham", wham_1d(path, x, KCAL * values[0]))
    keep("gmx-wham", gmx_wham(path, x, KT * values[0]))
    keep("gmx-sham", gmx_sham(path, KT * values))
    keep("colvar", colvar_file(path, np.radians(np.stack([x, x], 1)), x))
    rows = [f"{a},{b},{v}" for a, row in zip(x, values, strict=True) for b, v in zip(x, row, strict=True)]
    path.write_text("\n".join(["phi (deg),psi (deg),pmf (kT)", *rows]) + "\n")
    keep("csv", path)
    np.savez(path.with_suffix(".npz"), f_i=values.reshape(-1), x=np.stack(np.meshgrid(x, x), -1).reshape(-1, 2))
    keep("npz", path.with_suffix(".npz"))
    np.save(path.with_suffix(".npy"), values)
    keep("openmm", path.with_suffix(".npy"))
    np.savez(path.with_suffix(".npz"), cvs=np.zeros((4, 2)), weights=np.ones(4))
    keep("samples", path.with_suffix(".npz"))
    np.savetxt(path, np.stack([x, x], 1), header="phi psi")
    keep("text", path)
    return found


def read(path: Path, format: str | None, system: AlanineDipeptide) -> None:
    """Read a file; the only way to fail is one line."""
    try:
        found = "samples" if format == "text" else format or detect(path, (2, 66))
        if found in SAMPLE_FORMATS:
            read_samples(path, found, system, SAID if found == "colvar" else Options())
        else:
            said = RANGES if found == "gmx-sham" else SAID
            load_pmf([path], system.cvs, replace(said, format=found))
    except UserError as error:
        assert "\n" not in str(error).strip() and len(str(error)) > 10


NAMES = ("plumed", "colvars", "wham-2d", "wham", "gmx-wham", "gmx-sham", "colvar", "csv", "npz", "openmm", "samples")
NAMES += ("text",)


@FUZZ
@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_changed_files(
    name: str, data: st.DataObject, small: dict[str, bytes], tmp_path: Path, aldp: AlanineDipeptide, line: PhiOfAlanine
) -> None:
    """Bytes exchanged for others, pieces cut out or doubled."""
    content = bytearray(small[name])
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(content)))
        end = min(len(content), start + data.draw(st.integers(0, 40)))
        new = data.draw(
            st.sampled_from([b"", b"nan", b"inf", b"-1e999", b"\n", b" ", b"0", b"#", b"\xff", b"1e5 2", b"pi"])
        )
        content[start:end] = data.draw(st.sampled_from([new, bytes(content[start:end]) * 2]))
    suffix = {"npz": ".npz", "samples": ".npz", "openmm": ".npy", "csv": ".csv"}.get(
        name, ".xvg" if "gmx" in name else ""
    )
    path = tmp_path / f"file{suffix}"
    path.write_bytes(bytes(content))
    system = line if name in ("wham", "gmx-wham") else aldp
    for format in (None, name):
        read(path, format, system)


@FUZZ
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)), name=st.sampled_from(NAMES))
def test_made_up_files(content: bytes, name: str, tmp_path: Path, aldp: AlanineDipeptide) -> None:
    for suffix in (".dat", ".npz", ".npy", ".csv", ".xvg"):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(content)
        for format in (None, name):
            read(path, format, aldp)
