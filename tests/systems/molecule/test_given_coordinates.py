"""Z-matrices, stereocentres and positions that the file of a molecule gives; alanine dipeptide is such a molecule."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from cgbench.errors import UserError
from cgbench_systems.aldp import AlanineDipeptide
from cgbench_systems.molecule import load_molecule

FOLDER = AlanineDipeptide.file.parent
FILES = ("ace_ala_nme.pdb", "system.xml", "initial_configuration.txt")


@pytest.fixture
def alanine(tmp_path: Path) -> Callable[..., Path]:
    """Write the file of alanine dipeptide with one change, next to copies of what it names."""
    for name in FILES:
        shutil.copy(FOLDER / name, tmp_path / name)

    def written(change: Callable[[dict], object] = lambda content: None) -> Path:
        content = yaml.safe_load(AlanineDipeptide.file.read_text())
        change(content)
        path = tmp_path / "molecule.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return written


def test_the_automatic_zmatrix_gives_the_same_density(alanine: Callable[..., Path], aldp: AlanineDipeptide) -> None:
    other = load_molecule(alanine(lambda content: [content.pop("coordinates"), content.pop("version")]))()
    assert set(other.coordinate_sets) == {"default"} and set(aldp.coordinate_sets) == {"default", "literature"}
    generator = torch.Generator().manual_seed(0)
    y = 0.5 * torch.randn(50, 58, generator=generator, dtype=torch.float64)
    s = torch.pi * (2 * torch.rand(50, 2, generator=generator, dtype=torch.float64) - 1)
    x, log_det = aldp.coordinates.to_cartesian(s, torch.where(aldp.coordinates.periodic, 0.5 * y, y))
    s_other, y_other, inverse = other.coordinates.to_internal(x)
    torch.testing.assert_close(s_other, s, rtol=0, atol=1e-9)
    torch.testing.assert_close(other.coordinates.to_cartesian(s_other, y_other)[1], -inverse)
    assert other.coordinates.rows != aldp.coordinates.rows
    torch.testing.assert_close(inverse, -log_det)  # it depends on bonds and angles alone, and these are the same
    assert bool((other.coordinates.in_state_space(x) == aldp.coordinates.in_state_space(x)).all())


def test_every_key_makes_another_version(alanine: Callable[..., Path], tmp_path: Path) -> None:
    def version(change: Callable[[dict], object] = lambda content: None) -> str:
        return load_molecule(alanine(lambda content: [content.pop("version"), change(content)])).version

    def widen(content: dict) -> None:
        content["coordinates"]["default"]["scales"] = [0.005, 0.06, 0.1]

    versions = [version(), version(widen)]
    versions += [version(lambda content, key=key: content.pop(key)) for key in ("positions", "stereocentres")]
    (tmp_path / "initial_configuration.txt").write_text("0 0 0\n")
    versions.append(version())
    assert len(set(versions)) == len(versions)


def _row(content: dict, number: int, row: list[str]) -> None:
    content["coordinates"]["default"]["rows"][number] = row


MISTAKES: dict[str, tuple[Callable[[dict], object], str]] = {
    "no default": (lambda c: c["coordinates"].pop("default"), "coordinates need a set named default"),
    "unknown atom": (lambda c: _row(c, 5, ["2:XX", "2:N", "2:CA", "1:C"]), "has no atom '2:XX': choose from"),
    "atom twice": (lambda c: _row(c, 5, ["2:HA", "2:CA", "2:N", "2:C"]), "coordinates default: "),
    "no row": (lambda c: c["coordinates"]["default"]["rows"].pop(), "no row for atom 21"),
    "too early": (lambda c: c["coordinates"]["default"]["rows"].reverse(), "placed before"),
    "three atoms": (lambda c: _row(c, 5, ["2:H", "2:N", "2:CA"]), "coordinates.default.rows.5"),
    "another torsion": (lambda c: _row(c, 0, ["1:C", "2:N", "2:C", "2:CA"]), "phi must be the dihedral of one row"),
    "scales": (lambda c: c["coordinates"]["default"].update(scales=[0.005, 0.0, 0.1]), "scales must be positive"),
    "two scales": (lambda c: c["coordinates"]["default"].update(scales=[0.005, 0.1]), "coordinates.default.scales"),
    "rotor": (
        lambda c: c["coordinates"]["default"].update(rotors=[["2:HB1", "2:HB3", "1:H1"]]),
        "coordinates default: rotor",
    ),
    "unknown key": (lambda c: c["coordinates"]["default"].update(colour="red"), "coordinates.default.colour"),
    "no stereocentre": (lambda c: c.update(stereocentres={"2:CB": ["2:CA", "2:HB1", "2:HB2"]}), "2:CB must be one"),
    "not bonded": (lambda c: c.update(stereocentres={"2:CA": ["2:N", "2:C", "2:O"]}), "neighbours of it"),
    "no positions": (lambda c: c.update(positions="nothing.txt"), "nothing.txt cannot be read"),
    "other positions": (lambda c: c.update(positions="ace_ala_nme.pdb"), "three numbers in each line"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str, alanine: Callable[..., Path]) -> None:
    change, expected = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        load_molecule(alanine(change))()
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_positions_of_another_molecule(alanine: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "initial_configuration.txt").write_text("0 0 0\n1 0 0\n")
    with pytest.raises(UserError, match="must be 22 lines of three finite numbers"):
        load_molecule(alanine())()
