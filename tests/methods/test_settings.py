"""Settings that make no sense are one line and exit code 2, before anything is evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgbench.cli.main import main

WRONG = [
    *((method, f"fit_orders={orders}", "orders must be positive and increasing") for method in
      ("metadynamics", "opes", "parallel_tempering") for orders in ("[-3,2]", "[0]", "[2,2]", "[4,3]")),
    ("ta_bg", "estimate.fit_orders=[0,2]", "orders must be positive and increasing"),
    ("flow_ais_bootstrap", "estimate.fit_orders=[3,2]", "orders must be positive and increasing"),
    ("cgflow_al", "recipe.pairs.fit_orders=[0]", "orders must be positive and increasing"),
    ("metadynamics", "production_estimates=5000", "less than or equal to 100"),
    ("opes", "barrier=2000", "less than or equal to 600"),
    ("umbrella", "cutoff=1000", "less than or equal to 600"),
    ("umbrella", "width=1e-4", "greater than or equal to 0.001"),
    ("flow_ais_bootstrap", "flow.coordinates=nonsense", "no coordinate set 'nonsense': choose from default"),
    ("cgflow_al", "recipe.coordinates=nonsense", "no coordinate set 'nonsense': choose from default"),
    ("ta_bg", "flow.num_bins=2000", "less than or equal to 500"),
    ("flow_ais_bootstrap", "buffer.largest=1", "must not exceed largest"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "setting", "words"), WRONG)
def test_one_line(method: str, setting: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "--method", method, "--system", "muller_brown", "--preset", "smoke", "--out", str(tmp_path)]
    assert main([*arguments, "--threads", "1", "--set", setting]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("cgbench: ") and err.count("\n") == 1 and words in err
    assert not list(tmp_path.rglob("curve.csv"))
