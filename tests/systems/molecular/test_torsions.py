"""Torsions with their gradient in closed form, against autograd and finite differences."""

from __future__ import annotations

import pytest
import torch

from cgbench_systems.molecular.geometry import dihedral
from cgbench_systems.molecular.torsions import torsions

QUADRUPLES = ((0, 1, 2, 3), (3, 1, 4, 0), (5, 4, 3, 2))  # the atoms of several overlap


def by_autograd(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([dihedral(*(x[:, i] for i in atoms)) for atoms in QUADRUPLES], dim=1)


def points(dtype: torch.dtype = torch.float64, batch: int = 50) -> torch.Tensor:
    return torch.randn(batch, 6, 3, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()


@pytest.fixture(autouse=True, params=["1", "0"], ids=["kernel", "torch"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernel, where there is a compiler, and by the torch formula alone."""
    monkeypatch.setenv("CGBENCH_NATIVE", request.param)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-11), (torch.float32, 2e-4)])
def test_values_and_gradient_are_those_of_autograd(dtype: torch.dtype, error: float) -> None:
    x = points(dtype)
    slopes = torch.randn(len(x), len(QUADRUPLES), dtype=dtype, generator=torch.Generator().manual_seed(2))
    ours, theirs = torsions(x, QUADRUPLES), by_autograd(x)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, atol=error, rtol=0)
    gradients = (torch.autograd.grad(angles, x, slopes)[0] for angles in (ours, theirs))
    torch.testing.assert_close(*gradients, atol=error, rtol=error)


def test_first_and_second_derivatives_by_finite_differences() -> None:
    x = points(batch=3)
    assert torch.autograd.gradcheck(lambda y: torsions(y, QUADRUPLES), (x,))
    assert torch.autograd.gradgradcheck(lambda y: torsions(y, QUADRUPLES), (x,))


def test_a_strided_batch_and_strided_slopes() -> None:
    x = points().detach()[::2].flip(1).requires_grad_()
    slopes = torch.arange(3.0, dtype=x.dtype)[None].expand(len(x), 3)
    (ours,) = torch.autograd.grad(torsions(x, QUADRUPLES), x, slopes)
    (theirs,) = torch.autograd.grad(by_autograd(x), x, slopes)
    torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-11)


def test_plus_pi_is_minus_pi_and_not_a_number_stays_so() -> None:
    flat = torch.tensor([[1.0, 1, 0], [0, 0, 0], [1, 0, 0], [0, -1, 0], [5, 5, 5], [6, 7, 8]], dtype=torch.float64)
    lost = flat.clone()
    lost[0, 0] = torch.nan
    angles = torsions(torch.stack([flat, lost]).requires_grad_(), (QUADRUPLES[0],)).detach()
    assert float(angles[0]) == -torch.pi and bool(angles[1].isnan())


def test_without_a_gradient_the_bits_are_those_of_the_torch_formula() -> None:
    x = points(torch.float32).detach()
    assert torch.equal(torsions(x, QUADRUPLES), by_autograd(x))
