"""What the methods charge, compared with the publication's count, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

import cgbench_systems.suite
from cgbench.errors import UserError
from cgbench.running.run import prepare, run
from cgbench_methods.cgflow.published.config import PublishedConfig

SMALL = ("recipe.seeding.steps=100", "recipe.by_example.epochs=1", "recipe.ensemble.epochs=2")
SMALL += ("recipe.by_energy.epochs_first=3", "recipe.by_energy.samples=4", "recipe.walk.max_iterations=1")


def charged(config: PublishedConfig, points: int) -> dict[str, float]:
    """Evaluations of the first iteration with so many points, if every sample is in the state space."""
    per_point = config.by_energy.samples
    training = (1 - config.walk.held_out) * points * per_point * config.by_energy.epochs_first
    validation = config.walk.held_out * points * per_point * config.by_energy.epochs_first
    return {"train": training, "validate": validation, "label": points * per_point}


@pytest.mark.parametrize(("method", "points"), [("cgflow_al", 100), ("cgflow_grid", 20)])
def test_ledger_of_the_first_iteration(method: str, points: int, tmp_path: Path) -> None:
    overrides = (*SMALL, "recipe.grid=20") if method == "cgflow_grid" else SMALL
    job = prepare("muller_brown", method, preset="paper", overrides=overrides, out=tmp_path, threads=1)
    record = job.execute()
    phases = dict(record.evaluations.by_phase)
    assert phases.pop("seed_md") == 101  # the initial configuration and 100 steps
    assert phases == charged(job.config.recipe, points)
    assert record.evaluations.with_gradient == phases["train"]  # Metropolis sampling and labels need no gradient
    assert record.evaluations.publication_convention == phases["train"]  # the publication counts training only


def test_all_evaluations_of_our_recipe_count(tmp_path: Path) -> None:
    record = run("muller_brown", "cgflow_al", preset="smoke", out=tmp_path, threads=1)
    assert set(record.evaluations.by_phase) == {"warm_start", "train", "label"}
    assert record.evaluations.publication_convention == record.evaluations.total


def test_published_counts_on_alanine_dipeptide(tmp_path: Path) -> None:
    """Training charges 6.0e6 in the first iteration of active learning and 2.4e7 with a grid, as published."""
    configs = {
        method: prepare("aldp", method, preset="paper", out=tmp_path, threads=1).config.recipe
        for method in ("cgflow_al", "cgflow_grid")
    }
    seeding = configs["cgflow_al"].seeding
    assert charged(configs["cgflow_al"], seeding.steps // seeding.stride)["train"] == pytest.approx(6.0e6)
    assert charged(configs["cgflow_grid"], configs["cgflow_grid"].grid ** 2)["train"] == pytest.approx(2.4e7)


def test_grid_and_method_must_agree(tmp_path: Path) -> None:
    for method, overrides, message in (
        ("cgflow_al", ["recipe.atlas.grid=6"], "set recipe.atlas.grid to null, not 6, or use cgflow_grid"),
        ("cgflow_grid", ["recipe.atlas.grid=null"], "cgflow_grid needs recipe.atlas.grid"),
        ("cgflow_grid", ["recipe={kind: published}"], "cgflow_grid needs recipe.grid"),
    ):
        with pytest.raises(UserError, match=message):
            prepare("muller_brown", method, overrides=overrides, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_more_weights_cannot_be_clipped_than_there_are(tmp_path: Path) -> None:
    overrides = ["recipe.by_energy.samples=2", "recipe.ensemble.clip_largest=3"]
    with pytest.raises(UserError, match=r"clip_largest \(3\) must be at most by_energy.samples \(2\)"):
        prepare("muller_brown", "cgflow_al", preset="paper", overrides=overrides, out=tmp_path)


def test_recipes_by_number_of_cvs(tmp_path: Path) -> None:
    """The published recipe needs one map; ours has no table over all CVs where there are more than three."""
    with pytest.raises(UserError, match="published recipe of cgflow_al needs pmf_grid"):
        prepare("val_chi", "cgflow_al", overrides=["recipe={kind: published}"], out=tmp_path)
    tetra = str(Path(cgbench_systems.suite.__file__).parent / "tetra" / "molecule.yaml")
    prepare(tetra, "cgflow_al", out=tmp_path)
    with pytest.raises(UserError, match="cgflow_grid needs a system with few_cvs"):
        prepare(tetra, "cgflow_grid", out=tmp_path)
