"""The C++ kernel of the force field against the torch kernel, and its reproducibility."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
import torch

from cgbench import native
from cgbench_systems.molecular.forcefield import TorchForceField
from cgbench_systems.molecular.native_forcefield import NativeForceField
from cgbench_systems.molecular.parameters import BornParameters, ForceFieldParameters, read_parameters
from tests.systems.alanine import initial_positions, make_system

TEMPERATURE = 300.0
DTYPES = (torch.float32, torch.float64)

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def force_field() -> TorchForceField:
    assert NativeForceField.serves(torch.zeros(1))
    return TorchForceField.from_openmm(make_system(), TEMPERATURE)


def both(force_field: TorchForceField, x: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Energies and gradients of the kernel, and those of torch."""
    return force_field._native.energy_and_gradient(x), force_field._in_torch(x)


def vacuum() -> openmm.System:
    system = make_system()
    system.removeForce(next(i for i, f in enumerate(system.getForces()) if isinstance(f, openmm.CustomGBForce)))
    return system


def spheres(atoms: int, engulfing: bool, random: np.random.Generator) -> ForceFieldParameters:
    """Parameters with generalized Born alone, with atoms small enough to be inside others."""
    parameters = ForceFieldParameters(atoms, charge_product=np.zeros((atoms, atoms)))
    parameters.sigma, parameters.epsilon = np.ones((atoms, atoms)), np.zeros((atoms, atoms))
    offset = random.uniform(0.05, 0.3, atoms)
    scaled = offset * random.uniform(0.05, 0.9, atoms)
    parameters.born = BornParameters(
        random.normal(size=atoms), offset, scaled, (1.0, 0.8, 4.85), 137.0, 28.0, engulfing
    )
    return parameters


def test_it_computes_what_torch_computes(force_field, varied_configurations: torch.Tensor) -> None:
    (energy, gradient), (true, true_gradient) = both(force_field, varied_configurations)
    torch.testing.assert_close(energy, true, rtol=1e-12, atol=1e-10)
    difference = (gradient - true_gradient).flatten(1).norm(dim=1) / true_gradient.flatten(1).norm(dim=1)
    assert float(difference.max()) < 1e-12


def test_single_precision_is_as_accurate_as_torchs(force_field, varied_configurations: torch.Tensor) -> None:
    true, true_gradient = force_field._in_torch(varied_configurations)
    errors = []
    for energy, gradient in both(force_field, varied_configurations.float()):
        in_force = (gradient - true_gradient).flatten(1).norm(dim=1) / true_gradient.flatten(1).norm(dim=1)
        errors.append((float(((energy - true) / (1 + true.abs())).abs().mean()), float(in_force.mean())))
    mine, torchs = errors
    assert mine[0] < 1.5 * torchs[0] and mine[1] < 1.5 * torchs[1]
    assert mine[0] < 1e-5 and mine[1] < 1e-5


@pytest.mark.parametrize("engulfing", [True, False])
@pytest.mark.parametrize("size", [0.02, 0.1, 0.3, 2.0, 50.0])
def test_generalized_born_inside_and_far_from_other_atoms(engulfing: bool, size: float) -> None:
    random = np.random.default_rng(3)
    force_field = TorchForceField(spheres(7, engulfing, random), TEMPERATURE)
    x = torch.from_numpy(size * random.normal(size=(333, 7, 3)))
    (energy, gradient), (true, true_gradient) = both(force_field, x)
    torch.testing.assert_close(energy, true, rtol=1e-10, atol=1e-10)
    difference = (gradient - true_gradient).flatten(1).norm(dim=1) / true_gradient.flatten(1).norm(dim=1)
    assert float(difference.median()) < 1e-12 and float(difference.max()) < 1e-8


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_result_does_not_depend_on_its_place(force_field, varied_configurations, dtype: torch.dtype) -> None:
    x = varied_configurations[:150].to(dtype)
    lanes = 64 // x.element_size()
    energy, gradient = force_field.energy_and_gradient(x)
    for size in (1, 2, lanes - 1, lanes, lanes + 1, 3 * lanes + 5):
        for first in (0, 1, 50):
            part, part_gradient = force_field.energy_and_gradient(x[first : first + size])
            assert torch.equal(part, energy[first : first + size])
            assert torch.equal(part_gradient, gradient[first : first + size])
    flipped, flipped_gradient = force_field.energy_and_gradient(x.flip(0))
    assert torch.equal(flipped.flip(0), energy) and torch.equal(flipped_gradient.flip(0), gradient)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_result_does_not_depend_on_the_threads(force_field, varied_configurations, dtype: torch.dtype) -> None:
    x = varied_configurations[:333].to(dtype)
    energy, gradient = force_field.energy_and_gradient(x)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        other, other_gradient = force_field.energy_and_gradient(x)
        assert torch.equal(other, energy) and torch.equal(other_gradient, gradient)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [make_system, vacuum])
def test_results_are_finite_where_those_of_torch_are(make, dtype: torch.dtype) -> None:
    """Pairs of coinciding or nearly coinciding atoms, planar and straight molecules, non-finite positions."""
    force_field = TorchForceField.from_openmm(make(), TEMPERATURE)
    valid = torch.from_numpy(initial_positions()).to(dtype)
    first, second = force_field._master["first"], force_field._master["second"]
    broken = []
    for distance in (0.0, 1e-20, 1e-12, 1e-7):
        for i, j in zip(first.tolist(), second.tolist(), strict=True):
            x = valid.clone()
            x[j] = x[i] + torch.tensor([distance, 0.0, 0.0], dtype=dtype)
            broken.append(x)
    broken += [valid * torch.tensor(scale, dtype=dtype) for scale in ([0, 0, 0], [1, 0, 0], [1, 1, 0])]
    for value in (torch.nan, torch.inf, -torch.inf, 1e15, 1e25):
        broken.append(valid.clone())
        broken[-1][3, 1] = value
    x = torch.stack([configuration for one in broken for configuration in (one, valid)])
    (energy, gradient), (true, true_gradient) = both(force_field, x)
    assert torch.equal(energy.isfinite(), true.isfinite())
    assert torch.equal(gradient.isfinite(), true_gradient.isfinite())
    assert not energy[::2].isfinite().all() and energy[1::2].isfinite().all()
    alone, alone_gradient = force_field.energy_and_gradient(valid[None])
    assert (energy[1::2] == alone).all() and (gradient[1::2] == alone_gradient).all()


def test_memory_layout_gradients_and_empty_batches(force_field, varied_configurations: torch.Tensor) -> None:
    x = varied_configurations[:20]
    energy, gradient = force_field.energy_and_gradient(x)
    scattered = x.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    other, other_gradient = force_field.energy_and_gradient(scattered.requires_grad_())
    assert torch.equal(other, energy) and torch.equal(other_gradient, gradient)
    assert other_gradient.is_contiguous() and not other.requires_grad
    empty, empty_gradient = force_field.energy_and_gradient(x[:0])
    assert empty.shape == (0,) and empty_gradient.shape == (0, 22, 3)


def test_a_single_atom_and_no_bonds() -> None:
    random = np.random.default_rng(5)
    (energy, gradient), (true, true_gradient) = both(
        TorchForceField(spheres(1, True, random), TEMPERATURE), torch.zeros(3, 1, 3, dtype=torch.float64)
    )
    torch.testing.assert_close(energy, true, rtol=1e-14, atol=0.0)
    assert torch.equal(gradient, true_gradient) and not gradient.any()


def test_torch_compile_is_not_called(monkeypatch: pytest.MonkeyPatch, varied_configurations: torch.Tensor) -> None:
    monkeypatch.setattr(torch, "compile", lambda *arguments, **options: pytest.fail("torch.compile was called"))
    force_field = TorchForceField(read_parameters(make_system()), TEMPERATURE)
    force_field.compile()
    force_field.energy_and_gradient(varied_configurations[:3])
