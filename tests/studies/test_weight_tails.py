"""Weights of configurations from biased dynamics, and of the flow's samples."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from cgbench.cli.main import guarded
from cgbench.running.run import prepare
from studies import weight_tails


def test_shares_of_known_weights(generator) -> None:
    """Weights of a Gaussian that is wider than its proposal: the shares above a limit are known integrals."""
    n = 400_000
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    wide = 1.3  # target N(0, wide^2), proposal N(0, 1): ln w = z^2 (1 - 1 / wide^2) / 2 - ln wide
    log_weight = lambda z: 0.5 * z**2 * (1 - wide**-2) - torch.tensor(wide).log()  # noqa: E731
    height = torch.full((n,), 3.0)
    (row,) = weight_tails.table_of(height, log_weight(wide * noise[:, 0]), log_weight(noise[:, 1]))
    assert (row["height_from"], row["height_to"], row["configurations"]) == (2.0, 4.0, n)
    assert abs(row["mean_weight"] - 1.0) < 5 * row["mean_weight_se"]
    z = (2 * torch.tensor(5 * wide, dtype=torch.float64).log() / (1 - wide**-2)).sqrt()
    mass = float(torch.special.erfc(z / wide / 2**0.5))
    assert abs(row["dynamics_above_5"] - mass) < 5 * (mass / n) ** 0.5
    assert abs(row["flow_above_5"] - mass) < 0.2 * mass


def test_published_table_has_the_columns_of_the_study(generator) -> None:
    height, dynamics, flow = 12 * torch.rand(3, 2000, generator=generator, dtype=torch.float64)
    rows = weight_tails.table_of(height, dynamics, flow)
    published = (Path(__file__).parents[2] / "runs" / "aldp" / "weight_tails" / "weight_tails.csv").read_text()
    header, *lines = published.splitlines()
    assert header.split(",") == list(rows[0])
    assert [float(line.split(",")[0]) for line in lines] == [row["height_from"] for row in rows]


def test_a_flow_that_is_too_narrow_has_heavy_tails(tmp_path) -> None:
    """The Gaussian of a good flow on Müller-Brown, narrowed to half its width, misses part of the distribution."""
    job = prepare(
        "muller_brown", "cgflow_al", preset="default", overrides=["recipe.labels.max_rounds=1"], out=tmp_path, threads=1
    )
    job.execute()
    recipe = job.method.recipe
    good = _above_five(recipe, job.streams)
    with torch.no_grad():
        for name, parameter in recipe.flow.named_parameters():
            if name.endswith("log_diagonal"):
                parameter[0] -= math.log(2.0)
    bad = _above_five(recipe, job.streams)
    assert len(good) >= 3 and len(bad) >= 3
    assert max(good.values()) < 0.05
    for share in bad.values():  # of a Gaussian: w = exp(3 z^2 / 2) / 2 is above 5 for |z| > 1.24, a share of 0.215
        assert 0.1 < share < 0.4


def _above_five(recipe, streams) -> dict[float, float]:
    weights = weight_tails.weights_under_dynamics(recipe, streams, walkers=64, steps=600, stride=20)
    rows = weight_tails.table_of(*weights)
    return {row["height_from"]: row["dynamics_above_5"] for row in rows}


def test_mistakes_cost_one_line(tmp_path, capsys) -> None:
    for arguments, message in (
        (["--preset", "paper"], "weight_tails: preset 'paper' of cgflow_al has no recipe of kind harmonic"),
        (
            ["--preset", "smoke", "--walkers", "2", "--steps", "10", "--stride", "5"],
            "weight_tails: too few configurations",
        ),
        (["--walkers", "some"], "weight_tails: Invalid value for '--walkers'"),
        (["--walkers", "0"], "weight_tails: Invalid value for '--walkers'"),
        (["--stride", "0"], "weight_tails: Invalid value for '--stride'"),
        (["--steps", "10", "--stride", "20"], "weight_tails: --stride 20 must not exceed --steps 10"),
        (["--system", "val"], "weight_tails: val has free torsions"),
    ):
        arguments = ["--system", "muller_brown", "--out", str(tmp_path), *arguments]
        assert guarded(weight_tails.command, "weight_tails", arguments) == 2
        assert capsys.readouterr().err.startswith(message)
