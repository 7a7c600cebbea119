"""The molecules of the suite that are scored on several maps and on states."""

from __future__ import annotations

import hashlib
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import pytest

from cgbench.contracts.pmf import basin_mask
from cgbench.contracts.system import maps_of, traits_of
from cgbench_systems import suite

SIZES = {"val_chi": (28, 3, 3), "tetra": (42, 3, 8)}  # atoms, maps, states
CLASSES = {cls.name: cls for cls in (suite.valine_chi, suite.tetrapeptide)}
# rare states whose free energy is not known to 0.03 kT, with what is reached (docs/suite.md)
MISSED = {("tetra", "-++"): 0.07, ("tetra", "++-"): 0.07, ("tetra", "+-+"): 0.14, ("tetra", "+++"): 0.15}
MISSED["tetra", "--+"] = 0.031  # an upper bound, which contains the error of the largest state; 0.029 without it
CERTIFIED = sorted(set(SIZES) & {entry.name for entry in entry_points(group="cgbench.systems")})


@pytest.fixture(scope="module", params=SIZES)
def molecule(request: pytest.FixtureRequest) -> Any:
    return CLASSES[request.param]()


def test_it_is_what_it_says(molecule: Any) -> None:
    atoms, maps, states = SIZES[molecule.name]
    assert len(molecule.masses) == atoms and molecule.temperature == 300.0
    assert len(maps_of(molecule)) == maps and len(molecule.states.names) == states
    assert "pmf_grid" not in traits_of(molecule) and molecule.openmm_system().getNumConstraints() == 0


def test_states_cover_every_angle_once(molecule: Any) -> None:
    s = np.random.default_rng(0).uniform(-np.pi, np.pi, (5000, len(molecule.cvs)))
    index = molecule.states.assign(s)
    assert set(index) == set(range(len(molecule.states.names)))


@pytest.fixture(scope="module", params=CERTIFIED)
def certified(request: pytest.FixtureRequest) -> Any:
    return CLASSES[request.param]()


def test_the_reference_is_certified(certified: Any) -> None:
    reference = certified.reference()
    content = (certified.reference_folder / "reference.npz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == reference.sha256 and 0 < reference.noise_floor <= 2e-4
    details = reference.details
    assert all(check["passed"] for check in details["checks"])
    assert {"unbiased from weighted configurations", "OpenMM dynamics"} <= {
        check["name"].partition(",")[0] for check in details["checks"]
    }
    regions = {**details["basins"], **details["states"]}
    for name, region in regions.items():
        assert region["free_energy_standard_error_kT"] < MISSED.get((certified.name, name), 0.03)
    for basin in certified.basins:
        mask = basin_mask(maps_of(certified)[basin.map].cvs, basin.contains)
        population = reference.maps[basin.map].pmf.population(mask)
        assert population == pytest.approx(details["basins"][basin.name]["population"], rel=0.03)
    assert all(torsion["transitions_per_walker"] > 4 for torsion in details["torsions"])


def test_maps_of_the_reference_agree_on_the_cvs_that_they_share(certified: Any) -> None:
    """Two maps with a CV in common have the same marginal of it."""
    maps = list(zip(maps_of(certified), certified.reference().maps, strict=True))
    marginals: dict[str, list[np.ndarray]] = {}
    for one, true in maps:
        for axis, name in enumerate(one.cvs.names):
            others = tuple(k for k in range(len(one.cvs)) if k != axis)
            marginals.setdefault(name, []).append(true.pmf.probability.sum(axis=others))
    for rows in marginals.values():
        for row in rows[1:]:
            assert 0.5 * np.abs(row - rows[0]).sum() < 0.01
