"""Internal coordinates: bijection, log-determinants against autograd, continuity on the torus."""

from __future__ import annotations

import math
import re

import pytest
import torch

from cgbench_systems.molecular.internal_coordinates import Rotor, Scales, ZMatrixCoordinates
from tests.systems.alanine import make_coordinates

SETS = ("default", "literature")


@pytest.fixture(params=SETS)
def coordinates(request) -> ZMatrixCoordinates:
    return make_coordinates(request.param)


def draw(
    coordinates: ZMatrixCoordinates, count: int, generator: torch.Generator, spread: float = 0.8
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ``s`` on the torus and ``y`` of a few thermal widths, periodic ones over their whole period."""
    s = math.pi * (2 * torch.rand(count, 2, generator=generator, dtype=torch.float64) - 1)
    y = spread * torch.randn(count, len(coordinates.names), generator=generator, dtype=torch.float64)
    fraction = torch.rand(y.shape, generator=generator, dtype=torch.float64)
    low, high = (torch.where(coordinates.periodic, b, 0.0) for b in (coordinates.lower, coordinates.upper))
    return s, torch.where(coordinates.periodic, low + (high - low) * fraction, y)


def turned(a: torch.Tensor, b: torch.Tensor, period: torch.Tensor) -> torch.Tensor:
    """Difference modulo the period (infinite: none)."""
    finite = torch.where(period.isfinite(), period, 1.0)
    return torch.where(period.isfinite(), a - b - finite * torch.round((a - b) / finite), a - b)


def test_round_trip_from_internal(coordinates, generator) -> None:
    s, y = draw(coordinates, 500, generator)
    x, log_det = coordinates.to_cartesian(s, y)
    s_back, y_back, log_det_back = coordinates.to_internal(x)
    period = torch.where(coordinates.periodic, coordinates.upper - coordinates.lower, torch.inf)
    assert float(turned(s_back, s, torch.tensor([2 * math.pi] * 2)).abs().max()) < 1e-10
    assert float(turned(y_back, y, period).abs().max()) < 1e-10
    torch.testing.assert_close(log_det_back, -log_det, rtol=0, atol=1e-10)


def test_round_trip_from_cartesian(varied_configurations, generator) -> None:
    """Distances are recovered; with folded rotors, up to an exchange of equivalent hydrogens."""
    x = varied_configurations[:600]
    literature = make_coordinates("literature")
    s, y, _ = literature.to_internal(x)
    back, _ = literature.to_cartesian(s, y)
    assert float((torch.cdist(back, back) - torch.cdist(x, x)).abs().max()) < 1e-10
    folded = make_coordinates("default")
    s, y, _ = folded.to_internal(x)
    back, _ = folded.to_cartesian(s, y)
    heavy = [1, 4, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18]
    difference = torch.cdist(back[:, heavy], back[:, heavy]) - torch.cdist(x[:, heavy], x[:, heavy])
    assert float(difference.abs().max()) < 1e-10
    again = torch.cat([t for t in folded.to_internal(back)[:2]], dim=1)
    period = torch.where(folded.periodic, folded.upper - folded.lower, torch.inf)
    period = torch.cat([torch.tensor([2 * math.pi] * 2), period])
    assert float(turned(again, torch.cat([s, y], dim=1), period).abs().max()) < 1e-9


def test_folding_keeps_energy_and_chirality(aldp, varied_configurations) -> None:
    """Exchanging the hydrogens of a methyl group changes neither the energy nor the molecule."""
    x = varied_configurations
    s, y, _ = aldp.coordinates.to_internal(x)
    back, _ = aldp.coordinates.to_cartesian(s, y)
    energy, folded = aldp.reduced_energy(x), aldp.reduced_energy(back)
    torch.testing.assert_close(folded, energy, rtol=1e-9, atol=1e-7)
    assert bool((aldp.coordinates.in_state_space(x) == aldp.coordinates.in_state_space(back)).all())
    torch.testing.assert_close(aldp.collective_variables(back), aldp.collective_variables(x), rtol=0, atol=1e-9)


def test_log_det_against_autograd(coordinates, generator) -> None:
    """``slogdet`` of the full map from translation, rotation and internals, up to its constant.

    The rotation enters through its exponential map at the identity, which assumes nothing about how the
    implementation integrates out rigid motion.
    """
    count = 6
    s, y = draw(coordinates, count, generator)

    def place(parameters: torch.Tensor) -> torch.Tensor:
        shift, w = parameters[:3], parameters[3:6]
        zero = torch.zeros((), dtype=torch.float64)
        skew = torch.stack([zero, -w[2], w[1], w[2], zero, -w[0], -w[1], w[0], zero]).reshape(3, 3)
        x, _ = coordinates.to_cartesian(parameters[None, 6:8], parameters[None, 8:])
        return (x[0] @ torch.linalg.matrix_exp(skew).T + shift).flatten()

    _, log_det = coordinates.to_cartesian(s, y)
    truth = []
    for row in range(count):
        parameters = torch.cat([torch.zeros(6, dtype=torch.float64), s[row], y[row]])
        jacobian = torch.autograd.functional.jacobian(place, parameters, vectorize=True)
        truth.append(torch.linalg.slogdet(jacobian).logabsdet)
    excess = log_det - torch.stack(truth)
    assert float((excess - excess[0]).abs().max()) < 1e-8


def test_coordinates_are_continuous_across_the_periods(coordinates, generator) -> None:
    """Values and derivatives are continuous at +-pi (and at the ends of a folded rotor's period)."""
    s, y = draw(coordinates, 20, generator)
    for axis in range(2):
        below, above = s.clone(), s.clone()
        below[:, axis], above[:, axis] = math.pi, -math.pi
        check_seam(coordinates, (below, y), (above, y), 0, axis)
    for axis in coordinates.periodic.nonzero().squeeze(1).tolist():
        if coordinates.rotors:
            continue  # there the two sides differ by an exchange of hydrogens: energy is tested instead
        below, above = y.clone(), y.clone()
        below[:, axis], above[:, axis] = coordinates.upper[axis], coordinates.lower[axis]
        check_seam(coordinates, (s, below), (s, above), 1, axis)


def check_seam(coordinates, first, second, which: int, axis: int) -> None:
    values, slopes = [], []
    for arguments in (first, second):
        tangents = [torch.zeros_like(a) for a in arguments]
        tangents[which][:, axis] = 1.0
        (x, log_det), (dx, dlog) = torch.func.jvp(coordinates.to_cartesian, arguments, tuple(tangents))
        values.append(torch.cat([x.flatten(1), log_det[:, None]], dim=1))
        slopes.append(torch.cat([dx.flatten(1), dlog[:, None]], dim=1))
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("hydrogens", [(0, 2, 3), (11, 12, 13), (19, 20, 21)])
def test_exchange_of_equal_hydrogens_is_folded_away(aldp, varied_configurations, hydrogens) -> None:
    """Cyclic exchanges within a methyl group change neither energy nor coordinates: the fold has no seam."""
    x = varied_configurations[:900]
    s, y, log_det = aldp.coordinates.to_internal(x)
    energy = aldp.reduced_energy(x)
    period = torch.where(aldp.coordinates.periodic, aldp.coordinates.upper - aldp.coordinates.lower, torch.inf)
    for shift in (1, 2):
        exchanged = x.clone()
        exchanged[:, list(hydrogens)] = x[:, [hydrogens[(i + shift) % 3] for i in range(3)]]
        s_new, y_new, log_det_new = aldp.coordinates.to_internal(exchanged)
        torch.testing.assert_close(aldp.reduced_energy(exchanged), energy, rtol=1e-10, atol=1e-8)
        torch.testing.assert_close(s_new, s, rtol=0, atol=1e-12)
        assert float(turned(y_new, y, period).abs().max()) < 1e-9
        torch.testing.assert_close(log_det_new, log_det, rtol=0, atol=1e-10)


def test_in_domain(coordinates, generator) -> None:
    _, y = draw(coordinates, 10, generator)
    assert bool(coordinates.in_domain(y).all())
    distance = next(i for i, name in enumerate(coordinates.names) if name.startswith("distance"))
    y[3, distance] = coordinates.lower[distance] - 1.0
    assert coordinates.in_domain(y).tolist() == [row != 3 for row in range(10)]


def test_order_of_rows_is_checked() -> None:
    chain = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0.1, 0.1, 0], [0.2, 0.1, 0.1], [0.3, 0.0, 0.1]])
    common = {
        "reference_atoms": (1, 0, 2),
        "cv_atoms": (3,),
        "periodic_atoms": (),
        "reference": chain,
        "scales": Scales(0.01, 0.1, 0.1),
    }
    with pytest.raises(ValueError, match="row of atom 3"):
        ZMatrixCoordinates(rows=((3, 4, 2, 1), (4, 2, 1, 0)), **common)
    with pytest.raises(ValueError, match="row of atom 3"):
        ZMatrixCoordinates(rows=((3, 2, 1, 0), (3, 2, 1, 0)), **common)
    fine = ZMatrixCoordinates(rows=((3, 2, 1, 0), (4, 3, 2, 1)), **common)
    s, y, _ = fine.to_internal(chain[None].double())
    back, _ = fine.to_cartesian(s, y)
    torch.testing.assert_close(torch.cdist(back, back), torch.cdist(chain, chain)[None].double(), rtol=0, atol=1e-7)


START = torch.tensor(
    [[0.0, 0, 0], [0.15, 0, 0], [0.2, 0.14, 0], [0.21, 0.2, 0.09], [0.12, 0.2, -0.02], [0.29, 0.18, -0.06]],
    dtype=torch.float64,
)
ROWS = [(3, 2, 1, 0), (4, 2, 1, 3), (5, 2, 1, 3)]


def chain(**changes: object) -> ZMatrixCoordinates:
    """Return coordinates of six atoms, the last three of them a rotor, with changed settings."""
    settings: dict[str, object] = {
        "reference_atoms": (1, 0, 2),
        "rows": ROWS,
        "cv_atoms": (),
        "periodic_atoms": (),
        "reference": START,
        "scales": Scales(0.005, 0.05, 0.1),
        "rotors": [Rotor(3, (4, 5))],
    }
    return ZMatrixCoordinates(**(settings | changes))  # type: ignore[arg-type]


def moved(atom: int, place: tuple[float, float, float]) -> torch.Tensor:
    x = START.clone()
    x[atom] = torch.tensor(place).to(x)
    return x


FREE: dict[str, object] = {"rotors": ()}
DEGENERATE: dict[str, tuple[dict[str, object], str]] = {
    "collinear reference atoms": (
        {"reference": moved(2, (0.3, 0.0, 0.0))},
        "reference atoms (1, 0, 2): atoms 0, 1, 2 are on a straight line in the reference configuration (angle 180 ",
    ),
    "reference atoms folded back": (
        {"reference": moved(2, (0.03, 0.001, 0.0))},
        "atoms 0, 1, 2 are on a straight line",
    ),
    "coinciding reference atoms": (
        {"reference": moved(2, (0.15, 0.0, 0.0))},
        "reference atoms (1, 0, 2): atoms 2 and 1 coincide",
    ),
    "linear angle": (
        {"reference": moved(4, (0.25, 0.28, 0.0))},
        "Z-matrix row of atom 4, (4, 2, 1, 3): atoms 4, 2, 1 are on a straight line",
    ),
    "linear angle behind": (
        FREE | {"rows": [*ROWS[:2], (5, 4, 2, 3)], "reference": moved(4, (0.19, 0.08, -0.09))},
        "Z-matrix row of atom 5, (5, 4, 2, 3): atoms 4, 2, 3 are on a straight line",
    ),
    "no row": (FREE | {"rows": ROWS[:2]}, "the Z-matrix has no row for atom 5"),
    "no rows": (FREE | {"rows": []}, "the Z-matrix has no row for atoms 3, 4, 5"),
    "two rows": (
        FREE | {"rows": [*ROWS, (3, 0, 1, 2)]},
        "row of atom 3, (3, 0, 1, 2): the atom is placed twice, it has",
    ),
    "row of a reference atom": (
        FREE | {"rows": [*ROWS, (0, 3, 1, 2)]},
        "row of atom 0, (0, 3, 1, 2): the atom is placed twice, it is a reference atom",
    ),
    "order": (FREE | {"rows": ROWS[::-1]}, "the atom is placed before atom 3, which it refers to"),
    "repeated reference atoms": ({"reference_atoms": (1, 0, 0)}, "reference atoms: atom 0 repeated; all 3 must be"),
    "two reference atoms": ({"reference_atoms": (1, 0)}, "reference atoms: 3 atoms are needed, not 2"),
    "repeated atom in a row": (
        FREE | {"rows": [*ROWS[:2], (5, 2, 2, 3)]},
        "row of atom 5, (5, 2, 2, 3): atom 2 repeated; all 4 must be different",
    ),
    "atom that refers to itself": (FREE | {"rows": [*ROWS[:2], (5, 5, 2, 3)]}, "atom 5 repeated"),
    "out of range": (FREE | {"rows": [*ROWS, (6, 2, 1, 3)]}, "there is no atom 6; the 6 atoms are numbered from 0"),
    "negative": ({"reference_atoms": (1, 0, -4)}, "reference atoms: there is no atom -4"),
    "no number": (FREE | {"rows": [*ROWS[:2], (5, "CA", 1, 3)]}, "'CA' is not the number of an atom"),
    "short row": (FREE | {"rows": [*ROWS[:2], (5, 2, 1)]}, "4 atoms are needed, not 3"),
    "cv of a reference atom": (FREE | {"cv_atoms": (0,)}, "cv_atoms (0,): atom 0 has no row, and so no dihedral"),
    "cv twice": (FREE | {"cv_atoms": (3, 3)}, "cv_atoms (3, 3): atom 3 is in it twice"),
    "periodic without row": (FREE | {"periodic_atoms": (9,)}, "periodic_atoms (9,): atom 9 has no row"),
    "cv and periodic": (
        FREE | {"cv_atoms": (3,), "periodic_atoms": (4, 3)},
        "periodic_atoms (4, 3): atom 3 is in it and also in cv_atoms (3,)",
    ),
    "cv and rotor": ({"cv_atoms": (3,)}, "rotor (3, 4, 5): atom 3 is in it and also in cv_atoms (3,)"),
    "rotor without row": ({"rotors": [Rotor(3, (4, 0))]}, "rotor (3, 4, 0): atom 0 has no row"),
    "rotor with one atom twice": ({"rotors": [Rotor(3, (4, 4))]}, "rotor (3, 4, 4): atom 4 is in it twice"),
    "rotor relative to another atom": (
        {"rows": [*ROWS[:2], (5, 2, 1, 0)]},
        "rotor (3, 4, 5): the row of atom 5 must be (5, 2, 1, 3), relative to atom 3, not (5, 2, 1, 0)",
    ),
    "scales": ({"scales": Scales(0.0, 0.1, 0.1)}, "the scales must be positive"),
    "shape": ({"reference": torch.zeros(5)}, "must be finite and [atoms, 3], not [5]"),
}


@pytest.mark.parametrize(("changes", "words"), DEGENERATE.values(), ids=DEGENERATE)
def test_a_degenerate_z_matrix_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        chain(**changes)
    assert "\n" not in str(caught.value)


def test_a_sound_z_matrix_is_accepted() -> None:
    """The Z-matrix that the faults are made in has none, and its round trip is exact."""
    for changes in ({}, FREE | {"cv_atoms": (3,), "periodic_atoms": (4,)}):
        coordinates = chain(**changes)
        s, y, _ = coordinates.to_internal(1.01 * START[None])
        back, _ = coordinates.to_cartesian(s, y)
        torch.testing.assert_close(coordinates.to_internal(back)[:2], (s, y), rtol=0, atol=1e-10)
