"""Peptides from a sequence: what is built, and the cache."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from cgbench import native
from cgbench_systems.molecule import sequence
from cgbench_systems.molecule.sequence import build_peptide
from cgbench_systems.molecule.structure import Structure, create_system


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cached peptides, empty."""
    monkeypatch.setattr(native, "cache_folders", lambda: (tmp_path / "cache" / "native",))
    return tmp_path / "cache" / "peptides"


def test_the_second_call_needs_no_pdbfixer(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topology, positions = build_peptide("ACE SER NME")
    (kept,) = cache.iterdir()
    assert kept.name.startswith("ace-ser-nme-")
    monkeypatch.setitem(sys.modules, "pdbfixer", None)
    again, same = build_peptide("ace ser  nme")
    np.testing.assert_array_equal(same, positions)
    assert [str(atom) for atom in again.atoms()] == [str(atom) for atom in topology.atoms()]
    with pytest.raises(ImportError):
        build_peptide("ACE THR NME")


def test_other_versions_build_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_peptide("ACE GLY NME")
    monkeypatch.setattr(sequence.metadata, "version", lambda package: "0.0")
    build_peptide("ACE GLY NME")
    assert len(list(cache.iterdir())) == 2


def test_a_damaged_file_is_built_again(cache: Path) -> None:
    _, positions = build_peptide("ACE GLY NME")
    (kept,) = cache.iterdir()
    whole = kept.read_text()
    kept.write_text(whole[:500])
    _, again = build_peptide("ACE GLY NME")
    np.testing.assert_allclose(again, positions, atol=2e-3)  # OpenMM places hydrogens with its fastest platform
    assert kept.read_text().endswith(whole[-200:])


def test_a_cache_that_cannot_be_used_is_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(native, "cache_folders", lambda: (tmp_path / "file" / "native",))
    assert len(build_peptide("ACE GLY NME")[1]) == 19
    monkeypatch.setattr(native, "cache_folders", lambda: ())
    assert len(build_peptide("ACE GLY NME")[1]) == 19


@pytest.mark.parametrize("names", ["HIS PRO LYS", "ACE TRP ASP NME"])
def test_no_bond_is_lost_in_the_file(names: str, cache: Path) -> None:
    structure = Structure(*build_peptide(names), "sequence")
    assert len(structure.graph.pieces()) == 1
    create_system(structure, ["amber96.xml", "implicit/obc1.xml"], Path())
