"""Structures that the tests of molecules share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cgbench_systems.molecule import Molecule, load_molecule

DATA = Path(__file__).with_name("data")
VALINE, TETRA = DATA / "ace_val_nme.pdb", DATA / "ace_aaa_nme.pdb"
FORCE_FIELD = "[amber96.xml, implicit/obc1.xml]"


@pytest.fixture
def define(tmp_path: Path) -> Callable[..., Path]:
    """Write a molecule's file."""

    def written(pdb: Path = VALINE, cvs: str = "[phi 2, psi 2]", more: str = "", name: str = "my.yaml") -> Path:
        path = tmp_path / name
        path.write_text(f"pdb: {pdb}\nforce_field: {FORCE_FIELD}\ncvs: {cvs}\n{more}")
        return path

    return written


@pytest.fixture(scope="session")
def valine(tmp_path_factory: pytest.TempPathFactory) -> Molecule:
    path = tmp_path_factory.mktemp("valine") / "val.yaml"
    path.write_text(
        f"pdb: {VALINE}\nforce_field: {FORCE_FIELD}\ncvs: [phi 2, psi 2]\nbasins: {{up: {{phi 2: [0, 180]}}}}"
    )
    return load_molecule(path)()


@pytest.fixture(scope="session")
def tetra(tmp_path_factory: pytest.TempPathFactory) -> Molecule:
    path = tmp_path_factory.mktemp("tetra") / "tetra.yaml"
    path.write_text(f"pdb: {TETRA}\nforce_field: [amber99sbildn.xml, amber99_obc.xml]\ncvs: [phi 3, psi 3]")
    return load_molecule(path)()
