"""Both flow methods whole, against the exact PMF of Müller-Brown."""

from __future__ import annotations

import pytest

from cgbench.running.run import prepare, run


@pytest.mark.parametrize("method", ["cgflow_al", "cgflow_grid"])
def test_default_on_muller_brown_meets_its_target(method: str, tmp_path) -> None:
    """Forward KLD at most 2e-3 with at most 1e5 evaluations, from one minimum, over three seeds."""
    for seed in range(3):
        record = run("muller_brown", method, out=tmp_path, seed=seed, threads=1)
        assert record.status == "finished"
        assert record.metrics["forward_kld"] < 2e-3
        assert record.evaluations.total < 1e5
        assert abs(record.metrics["delta_f_error/product (lower right)"]) < 0.1


def test_publication_counts_training_alone(tmp_path) -> None:
    small = ["recipe.by_energy.epochs_first=2", "recipe.walk.max_iterations=1", "recipe.ensemble.epochs=2"]
    record = run("muller_brown", "cgflow_al", preset="paper", overrides=small, out=tmp_path, threads=1)
    phases = record.evaluations.by_phase
    assert set(phases) == {"seed_md", "train", "validate", "label"}
    assert record.evaluations.publication_convention == phases["train"]
    ours = run("muller_brown", "cgflow_al", preset="smoke", out=tmp_path, threads=1)
    assert ours.evaluations.publication_convention == ours.evaluations.total


def test_published_counts_on_alanine_dipeptide(tmp_path) -> None:
    """6.0e6 evaluations in the first iteration of active learning, 2.4e7 in grid training, as published."""
    for method, iteration in (("cgflow_al", 6.0e6), ("cgflow_grid", 2.4e7)):
        job = prepare("aldp", method, preset="paper", out=tmp_path / method, threads=1)
        config = job.config.recipe
        points = 5000 if config.grid is None else config.grid**2
        training = points * (1 - config.walk.held_out) * config.by_energy.samples * config.by_energy.epochs_first
        assert training == pytest.approx(iteration)
    assert prepare("aldp", "cgflow_al", preset="paper", out=tmp_path / "x").config.recipe.seeding.steps == 50_000
