"""What all tests share: fixtures, how many examples hypothesis makes up, and which tests run in one process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from cgbench_systems.aldp import AlanineDipeptide

# the same examples every time, unless --hypothesis-profile nightly asks for others
settings.register_profile("normal", max_examples=50, deadline=None, derandomize=True, database=None)
settings.register_profile("nightly", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile("normal")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests that share a module's fixture in one process, where the fixture is made once."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None and _shares_a_fixture(item):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def _shares_a_fixture(item: pytest.Item) -> bool:
    information = getattr(item, "_fixtureinfo", None)
    if information is None:
        return False
    scopes = {definitions[-1].scope for definitions in information.name2fixturedefs.values()}
    return "module" in scopes


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two workers on two cores: one thread each."""
    torch.set_num_threads(1)
    yield


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20240717)


@pytest.fixture(scope="session")
def aldp() -> AlanineDipeptide:
    return AlanineDipeptide()


@pytest.fixture(scope="session")
def varied_configurations(aldp: AlanineDipeptide) -> torch.Tensor:
    """1,200 configurations of alanine dipeptide: thermal, hot, strained, and over all of the torus."""
    from cgbench_methods.lib.sampling.langevin import Langevin

    generator = torch.Generator().manual_seed(1)
    parts = []
    for temperature in (300.0, 1000.0):
        dynamics = Langevin(
            aldp.reduced_energy_and_gradient,
            aldp.masses,
            temperature,
            time_step=0.001,
            friction=5.0,
            positions=aldp.initial_configuration().repeat(300, 1, 1),
            generator=generator,
        )
        dynamics.step(200)
        parts.append(dynamics.positions)
    periodic = aldp.coordinates.periodic
    for spread in (1.0, 3.0):  # in thermal widths
        s = torch.pi * (2 * torch.rand(300, 2, generator=generator, dtype=torch.float64) - 1)
        y = torch.randn(300, len(periodic), generator=generator, dtype=torch.float64)
        turn = torch.pi / 3 * (2 * torch.rand(y.shape, generator=generator, dtype=torch.float64) - 1)
        x, _ = aldp.coordinates.to_cartesian(s, torch.where(periodic, turn, spread * y))
        parts.append(x)
    return torch.cat(parts)
