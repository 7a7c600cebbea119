"""Turns of side chains: what counts, what does not, and what the methods say of a side chain that does not turn."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cgbench.running.run import run
from cgbench_methods.lib.sampling.turns import EVERY, FEW, Turns


def watcher(walkers: int, names: tuple[str, ...] = ("chi",)) -> Turns:
    problem: Any = SimpleNamespace(free_torsions=names, free_torsion_angles=lambda x: x)
    return Turns(problem, walkers)


def look(turns: Turns, *degrees: float) -> None:
    turns.note(torch.tensor(degrees)[:, None] * math.pi / 180, EVERY)


def test_turns_are_counted_and_vibrations_are_not() -> None:
    turns = watcher(3)
    for angles in ((60, 170, 0), (100, -170, 50), (20, 175, -50), (-60, 65, math.nan), (-20, 180, 130)):
        look(turns, *angles)
    # first: from 60 to -60; second: across 180, to 65, and back to 180; third: 0, 50, -50, lost, 130
    assert turns.turns.squeeze(1).tolist() == [1, 2, 1]
    assert turns.diagnostics()["turns_per_walker"] == {"chi": pytest.approx(4 / 3)}


def test_the_rate_of_two_equal_wells_and_the_memory_of_the_start() -> None:
    """At the limit, walkers that hop between two wells have forgotten their start: exp(-2 r t) with r t turns."""
    generator = torch.Generator().manual_seed(0)
    turns, well, hop = watcher(4000), torch.zeros(4000, dtype=torch.long), 0.05
    looks = round(FEW / hop)
    for _ in range(looks):
        well ^= (torch.rand(4000, generator=generator) < hop).long()
        angles = math.pi * well + 0.3 * torch.randn(4000, generator=generator)
        turns.note(angles[:, None], EVERY)
    assert float(turns.turns.double().mean()) == pytest.approx(FEW, rel=0.05)
    memory = float((1.0 - 2.0 * well.double()).mean())
    assert abs(memory) < 4 / math.sqrt(4000)


def test_it_looks_only_now_and_then() -> None:
    turns = watcher(1)
    for number in range(10):
        turns.note(torch.tensor([[math.pi * (number % 2)]]), EVERY // 4)
    assert int(turns.turns) == 0  # looks at numbers 3 and 7, where the angle is the same


def test_walkers_are_followed_when_they_exchange() -> None:
    turns = watcher(2)
    look(turns, 60, -60)
    turns.reorder(torch.tensor([1, 0]))
    look(turns, -60, 60)
    assert turns.turns.sum() == 0


def test_verdict_and_state() -> None:
    turns = watcher(1)
    for number in range(6):
        look(turns, 180 * (number % 2))
    assert turns.warnings() == [] and "reliable" not in turns.diagnostics()
    copy = watcher(1)
    copy.load_state_dict(turns.state_dict())
    look(copy, 180)
    look(copy, 0)
    assert int(copy.turns) == 6 and int(turns.turns) == 5
    slow = watcher(2)
    look(slow, 0, 0)
    assert slow.diagnostics()["reliable"] is False
    assert slow.warnings()[0].startswith("side chains turn too rarely (chi: 0 turns per walker);")


def test_without_free_torsions_nothing_is_said() -> None:
    turns = watcher(3, ())
    turns.note(torch.zeros(3, 0), EVERY)
    assert turns.diagnostics() == {} and turns.warnings() == []


@pytest.mark.parametrize("method", ["md", "metadynamics", "opes", "umbrella"])
def test_simulations_say_that_a_side_chain_has_not_turned(method: str, tmp_path: Any) -> None:
    record = run("val", method, preset="smoke", seed=0, out=tmp_path, threads=1)
    diagnostics = record.diagnostics
    assert list(diagnostics["turns_per_walker"].values()) == [0.0] and diagnostics["reliable"] is False
    assert any("side chains turn too rarely" in warning for warning in diagnostics["warnings"])


def test_molecules_without_side_chains_have_no_such_warning(tmp_path: Any) -> None:
    record = run("gly", "md", preset="smoke", seed=0, out=tmp_path, threads=1)
    assert "turns_per_walker" not in record.diagnostics and "side chains" not in str(record.diagnostics["warnings"])
