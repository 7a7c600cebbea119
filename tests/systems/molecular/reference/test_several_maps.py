"""References of several maps and of states, on a chain of six atoms whose exact PMFs and populations are known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import States
from cgbench.contracts.pmf import PMF
from cgbench.contracts.reference import Reference
from cgbench.contracts.system import Basin, maps_of
from cgbench.errors import UserError
from cgbench.scoring.divergences import forward_kld
from cgbench.scoring.reference_files import load_reference
from cgbench_systems.molecular.forcefield import GAS_CONSTANT
from cgbench_systems.molecular.geometry import dihedral
from cgbench_systems.molecular.internal_coordinates import Scales, ZMatrixCoordinates
from cgbench_systems.molecular.reference.several_maps.bias import TorsionsBias, disjoint_sets
from cgbench_systems.molecular.reference.several_maps.build import Effort, MapsReferenceBuilder
from cgbench_systems.molecular.reference.several_maps.certificate import certify_maps
from cgbench_systems.molecular.reference.several_maps.routes import (
    BiasedMaps,
    Layout,
    UnbiasedMaps,
    histogram_rows,
)
from cgbench_systems.molecular.reference.several_maps.verify import MapsSampling, verify_maps
from tests.systems.molecular.reference.small_molecule import DIHEDRALS, SIDE, SIDE_WAVES, TEMPERATURE, WAVES, SideChain


class SmallBias(TorsionsBias):
    height = {1: 2.0, 2: 5.0}
    width = 0.35


class SmallBiased(BiasedMaps):
    walkers, block_steps, stride, equilibration, groups = 128, 100, 5, 4, 8
    hills, pace, heating = 40, 12, 150
    kind = SmallBias


class SmallUnbiased(UnbiasedMaps):
    walkers, block_steps, stride, groups = 128, 100, 5, 8
    source = SmallBiased


class SmallBuilder(MapsReferenceBuilder):
    routes = {"biased": 100, "unbiased": 24, "openmm": 50}
    biased, unbiased = SmallBiased, SmallUnbiased
    effort = Effort(orders={2: (2, 3, 4)}, resamples=10, batched=500, steps=(50, 200), samples=100)


class ThreeTorsions(SideChain):
    """Six atoms in a chain; all three dihedral angles are collective variables, scored on two maps."""

    name = "three_torsions"

    def __init__(self, *, engine: str | None = None, device: str = "cpu") -> None:
        super().__init__(engine=engine, device=device)
        self.cvs = CollectiveVariables(
            ("phi", "psi", "chi"), (-np.pi,) * 3, (np.pi,) * 3, (True,) * 3, bins=(20, 20, 24)
        )
        self.maps = ((0, 1), (1, 2))
        third = 2 * np.pi / 3
        self.states = States(("g-", "g+", "t"), lambda s: np.floor((s[:, 2] + third) / third).astype(np.int64) % 3)
        self.basins = (Basin("chi<0", lambda columns: columns[1] < 0, map=1),)
        self.coordinates = ZMatrixCoordinates(
            reference_atoms=(2, 1, 3),
            rows=((0, 1, 2, 3), (4, 3, 2, 1), (5, 4, 3, 2)),
            cv_atoms=(0, 4, 5),
            periodic_atoms=(),
            reference=self.initial_configuration(),
            scales=Scales(0.005, 0.1, 0.1),
        )

    def collective_variables(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([dihedral(*(x[:, atom] for atom in atoms)) for atoms in (*DIHEDRALS, SIDE)], dim=1)

    def exact(self) -> list[PMF]:
        waves = (*WAVES, SIDE_WAVES)

        def of(axes: tuple[int, ...]):
            def free_energy(s: np.ndarray) -> np.ndarray:
                terms = [
                    amplitude * (1 + np.cos(periodicity * s[:, column] - phase))
                    for column, axis in enumerate(axes)
                    for periodicity, phase, amplitude in waves[axis]
                ]
                return np.sum(terms, axis=0) / (GAS_CONSTANT * TEMPERATURE)

            return free_energy

        return [PMF.from_function(one.cvs, of(one.axes), subdivisions=10) for one in maps_of(self)]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[ThreeTorsions, SmallBuilder]:
    folder = tmp_path_factory.mktemp("several_maps")
    system = ThreeTorsions()
    builder = SmallBuilder(system, system.openmm_system(), folder / "work", folder / "reference", {"force_field": "x"})
    builder.build("biased", builder.routes["biased"])
    builder.certify()
    for route in ("unbiased", "openmm"):
        builder.build(route, builder.routes[route])
        builder.compare(route)
    return system, builder


def certified(system: ThreeTorsions, builder: SmallBuilder) -> Reference:
    return load_reference(builder.destination, [one.cvs for one in maps_of(system)])


def test_the_reference_has_the_exact_maps_and_populations(built) -> None:
    system, builder = built
    reference = certified(system, builder)
    for found, exact in zip(reference.maps, system.exact(), strict=True):
        kld = forward_kld(exact.probability, found.pmf.probability)
        assert kld < 3 * reference.noise_floor + 2e-4
        z = (found.pmf.probability - exact.probability) / found.standard_error
        assert np.sqrt(np.mean(z**2)) < 2.5
    assert reference.populations is not None and set(reference.populations) == {"g-", "g+", "t"}
    for (value, error), exact in zip(reference.populations.values(), system.exact_rotamers(), strict=True):
        assert 0 < error < 0.05 and abs(value - exact) < 4 * error
    facts = json.loads((builder.destination / "reference.json").read_text())
    assert all(check["passed"] for check in facts["checks"]), facts["checks"]
    assert len(facts["maps"]) == 2 and facts["basins"]["chi<0"]["population"] > 0
    compared = {check["name"] for check in facts["checks"] if "halves agree" in check["name"]}
    assert {f"production: halves agree on {state}" for state in ("g-", "g+", "t")} < compared


def test_a_drift_that_all_groups_share_fails(built, tmp_path) -> None:
    system, builder = built
    route = SmallBiased(system, builder.folder)
    assert route.load()
    state = route.layout.size - 4  # the first of three, before the sum of no state
    for number, block in enumerate(route.blocks):
        block[:, state] *= 0.02 + 2.0 * (number / len(route.blocks)) ** 2
    orders = builder.effort.orders
    certify_maps(route, tmp_path, {}, orders=orders, resamples=3)
    facts = json.loads((tmp_path / "reference.json").read_text())
    failed = {check["name"] for check in facts["checks"] if not check["passed"]}
    assert "production: halves agree on g-" in failed


def test_a_route_continues_from_its_checkpoint(built, tmp_path) -> None:
    system, builder = built
    whole = builder.built(SmallBiased)
    again = SmallBiased(system, tmp_path)
    again.run(3)
    resumed = SmallBiased(system, tmp_path)
    assert resumed.load()
    resumed.run(6)
    np.testing.assert_array_equal(np.array(resumed.blocks), np.array(whole.blocks[:6]))


def test_verification_accepts_it_and_refuses_another(built) -> None:
    system, builder = built
    reference = certified(system, builder)
    start = torch.from_numpy(np.load(builder.destination / "samples.npz")["positions"])
    sampling = MapsSampling(steps=1500, stride=5, groups=10, least=500, compile=False)
    assert all(check.passed for check in verify_maps(system, reference, start, sampling, log=lambda text: None))
    wrong = {
        **reference.details,
        "states": {k: v | {"population": 0.05} for k, v in reference.details["states"].items()},
    }
    tampered = dataclasses.replace(reference, details=wrong)
    assert not all(check.passed for check in verify_maps(system, tampered, start, sampling, log=lambda text: None))


def test_too_few_blocks_and_missing_routes_are_one_line(tmp_path) -> None:
    system = ThreeTorsions()
    builder = SmallBuilder(system, system.openmm_system(), tmp_path / "work", tmp_path / "reference", {})
    with pytest.raises(UserError, match="no checkpoint in"):
        builder.certify()
    with pytest.raises(UserError, match="starts from route biased"):
        builder.build("unbiased", 1)


def test_disjoint_sets_cover_every_torsion_once() -> None:
    assert disjoint_sets([(0, 1), (0, 2), (1, 2)], 4) == [(0, 1), (2,), (3,)]
    assert disjoint_sets([(0, 1), (2, 3)], 4) == [(0, 1), (2, 3)]
    assert disjoint_sets([(0, 1, 2)], 3) == [(0,), (1,), (2,)]


@pytest.mark.parametrize("frozen", [False, True])
def test_the_bias_has_its_gradient(frozen: bool) -> None:
    system = ThreeTorsions()
    bias = TorsionsBias(system.cvs, system.maps, 1)
    assert bias.sets == [(0, 1), (2,), (3,)]
    bias.deposit(torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    if frozen:
        bias.freeze()
    s = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    energy, slope = bias.energy_and_gradient(s.detach())
    torch.testing.assert_close(energy, bias.energy(s.detach()))
    step = 1e-5
    for axis in range(4):
        shift = torch.zeros(4, dtype=torch.float64)
        shift[axis] = step
        numeric = (bias.energy(s.detach() + shift) - bias.energy(s.detach() - shift)) / (2 * step)
        torch.testing.assert_close(slope[:, axis], numeric, rtol=1e-5, atol=1e-7)


def test_the_mixture_has_equal_shares_and_bounded_weights() -> None:
    """Torsions that are independent, with the biases that metadynamics would find."""
    system, torsions = ThreeTorsions(), 4
    bias, sum_of_terms = TorsionsBias(system.cvs, system.maps, 1), TorsionsBias(system.cvs, system.maps, 1)
    generator = torch.Generator().manual_seed(3)
    # an independent sample of each torsion is drawn from exp(-A), A = a cos s, by its grid
    grid = (torch.arange(72, dtype=torch.float64) + 0.5) * 2 * torch.pi / 72 - torch.pi
    amplitudes = torch.tensor([3.0, 2.0, 4.0, 2.5], dtype=torch.float64)
    density = torch.exp(-amplitudes[:, None] * grid.cos())
    s = grid[torch.multinomial(density, 40_000, replacement=True, generator=generator)].T
    for term, one in zip(bias.terms, bias.sets, strict=True):
        points = torch.from_numpy(term.series.cvs.grid())
        free_energy = (amplitudes[list(one)] * points.cos()).sum(1)
        term.coefficients = term.series.project(
            (-free_energy * (1 - 1 / bias.bias_factor)).reshape(term.series.cvs.bins)
        )
    sum_of_terms.load_state_dict(bias.state_dict())
    bias.freeze()
    weights = torch.exp(bias.energy(s))
    assert float(weights.max()) <= 1.0
    # the ensemble under the mixture has density exp(-A - U): its shares are averages with exp(-U)
    terms = torch.stack([term.energy(s[:, list(one)]) for one, term in zip(bias.sets, bias.terms, strict=True)])
    shares = bias._exponents(terms).exp().mean(1)
    np.testing.assert_allclose(shares / shares.sum(), 0.25, atol=0.03)
    # shares of effective samples of the two ensembles: 1 / (E[exp(-U)] E[exp(U)])
    mixture, everything = (
        1 / float(torch.exp(-one.energy(s)).mean() * torch.exp(one.energy(s)).mean()) for one in (bias, sum_of_terms)
    )
    assert mixture > 0.3 > everything and s.shape[1] == torsions


def test_a_row_holds_all_maps_and_states() -> None:
    system = ThreeTorsions()
    layout = Layout(system)
    s = np.random.default_rng(0).uniform(-np.pi, np.pi, (64, 3))
    weights = np.random.default_rng(1).uniform(0, 1, 64)
    rows = histogram_rows(layout, s, weights, 4)
    for number, one in enumerate(maps_of(system)):
        np.testing.assert_allclose(layout.map(rows, number).sum(0), one.cvs.histogram(one.select(s), weights))
    np.testing.assert_allclose(layout.state_sums(rows).sum(0), [*system.states.counts(s, weights), 0.0])
    np.testing.assert_allclose(rows[1, : 20 * 20].sum(), weights[16:32].sum())


def test_a_system_without_regions_has_no_certificate(tmp_path: Path) -> None:
    system = ThreeTorsions()
    system.states, system.basins = None, ()
    with pytest.raises(UserError, match="no basins or states"):
        SmallBuilder(system, system.openmm_system(), tmp_path, tmp_path, {})
