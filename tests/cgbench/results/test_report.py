"""The HTML report: the embedded data, hostile records, and invalid requests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from cgbench.cli.main import main
from cgbench.errors import UserError
from cgbench.results.leaderboard import leaderboard
from cgbench.results.report import report
from cgbench.results.report.arrays import STORED_TO, colour_table, decode, encode
from cgbench.results.report.curves import median_curve
from cgbench.results.runs import find_runs
from cgbench.running.record import to_json
from cgbench.running.run_folder import RunFolder
from cgbench.scoring.referee import Referee

RANDOM = np.random.default_rng(7)
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\u2028&amp;"


def rough(*bins: int) -> np.ndarray:
    """A probability over many orders of magnitude, with an empty bin."""
    p = np.exp(-RANDOM.uniform(0.0, 40.0, bins))
    p.flat[3] = 0.0
    return p


def free_energy(folder: Path) -> np.ndarray:
    with np.errstate(divide="ignore"), np.load(folder / "pmf.npz") as arrays:
        f = -np.log(arrays["probability"])
    return f - f.min()


# ---- what is embedded -----------------------------------------------------------------------------------


def test_the_data_are_those_of_the_records(tmp_path, write_run, embedded) -> None:
    folders = [write_run(tmp_path, "maze", "md", rough(60, 50), seed=s) for s in (1, 0)]
    folders.append(write_run(tmp_path, "maze", "fast", rough(60, 50), curve=[(10, 0.2), (20, 1e-5)]))
    content = embedded(report([tmp_path])[0])
    for folder in folders:
        record = RunFolder(folder).read_record()
        assert record is not None
        (run,) = [
            r for r in content["runs"] if (r["record"]["method"], r["record"]["seed"]) == (record.method, record.seed)
        ]
        assert run["record"] == json.loads(to_json(record.model_dump()))
        curve = np.loadtxt(folder / "curve.csv", delimiter=",", skiprows=1)
        assert run["curve"] == {"evaluations": curve[:, 0].tolist(), "forward_kld": curve[:, 1].tolist()}
        shown, true = decode(run["pmfs"][0]), free_energy(folder)
        assert np.array_equal(np.isinf(shown), true >= STORED_TO)
        low = true < STORED_TO
        assert np.abs(shown[low] - true[low]).max() <= 0.5001 * STORED_TO / 65534
    table = leaderboard(find_runs([tmp_path]))
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["leaderboard"]]
    assert [r["method"] for r in rows] == table["method"].tolist()
    assert [r["forward_kld"] for r in rows] == table["forward_kld"].tolist()
    assert rows[0]["evaluations_to_kld_1e-3"] == 20 and rows[1]["evaluations_to_kld_1e-3"] == "inf"
    seeds = {g["method"]: [content["runs"][i]["record"]["seed"] for i in g["runs"]] for g in content["groups"]}
    assert seeds == {"fast": [0], "md": [0, 1]}


def test_the_reference_is_the_referee_s(tmp_path, aldp, write_run, embedded) -> None:
    reference = Referee(aldp).reference
    assert reference is not None
    write_run(tmp_path, "aldp", "md", reference.pmf.probability)
    (system,) = embedded(report([tmp_path])[0])["systems"]
    assert system["problem"] is None
    assert [axis["name"] for axis in system["maps"][0]] == ["phi", "psi"] and system["maps"][0][0]["unit"] == "rad"
    assert system["reference"]["sha256"] == reference.sha256
    shown, true = decode(system["reference"]["pmfs"][0]), reference.pmf.free_energy
    assert np.allclose(shown[np.isfinite(shown)], true[np.isfinite(shown)], atol=STORED_TO / 65535)


def test_small_grids_are_stored_in_single_precision(tmp_path, write_run, embedded) -> None:
    folder = write_run(tmp_path, "line", "md", rough(100))
    (run,) = embedded(report([tmp_path])[0])["runs"]
    assert np.allclose(decode(run["pmfs"][0]), free_energy(folder), rtol=1e-7)


def test_of_three_variables_the_third_is_summed_out(tmp_path, write_run, embedded) -> None:
    p = RANDOM.uniform(0.1, 1.0, (5, 4, 3))
    write_run(tmp_path, "cube", "md", p)
    (run,) = embedded(report([tmp_path])[0])["runs"]
    expected = -np.log(p.sum(axis=2))
    assert np.allclose(decode(run["pmfs"][0]), expected - expected.min(), atol=1e-6)


def test_a_system_that_cannot_be_loaded_is_shown_without_reference(tmp_path, write_run, embedded) -> None:
    write_run(tmp_path, "maze", "md", rough(60, 50), limits=(0.0, 6.0))
    write_run(tmp_path, "muller_brown", "md", rough(100), system_version="0")
    maze, old = embedded(report([tmp_path])[0])["systems"]
    assert "unknown system 'maze'" in maze["problem"] and maze["reference"] is None
    for axis, bins in zip(maze["maps"][0], (60, 50), strict=True):
        assert (axis["lower"], axis["upper"], axis["bins"]) == (pytest.approx(0.0, abs=1e-9), pytest.approx(6.0), bins)
    assert "version 0 of muller_brown is not installed" in old["problem"]


def test_sixty_runs_stay_below_five_megabytes(tmp_path, write_run) -> None:
    rounds = [{"evaluations": i, "effective_sample_size": float(RANDOM.uniform())} for i in range(60)]
    for seed in range(60):
        write_run(tmp_path, "maze", f"m{seed % 6}", rough(100, 100), seed=seed, diagnostics={"rounds": rounds})
    page, runs = report([tmp_path])
    assert runs == 60 and len(page.encode()) < 5e6


def test_colours_are_those_of_matplotlib() -> None:
    table = np.frombuffer(bytes.fromhex(colour_table("viridis")), np.uint8).reshape(256, 3)
    assert np.allclose(table / 255, matplotlib.colormaps["viridis"].colors, atol=1 / 255)


def test_beyond_the_stored_range_is_infinite() -> None:
    f = np.zeros((40, 40))
    f[0] = STORED_TO - 1e-9
    f[1], f[2] = STORED_TO, np.inf
    shown = decode(encode(f))
    assert (shown[0] == pytest.approx(STORED_TO)) and np.isinf(shown[1:3]).all() and (shown[3:] == 0).all()


def test_groups_are_the_rows_of_the_leaderboard(tmp_path, write_run, embedded) -> None:
    """Different configurations of a preset are not averaged, and a copy of a run counts once."""
    for seed, kind in ((0, "a"), (1, "a"), (2, "b")):
        write_run(tmp_path, "maze", "md", rough(6, 5), seed=seed, config_hash=kind * 64)
    write_run(tmp_path, "maze", "md", rough(6, 5), folder="copy", config_hash="a" * 64)
    content = embedded(report([tmp_path])[0])
    presets = content["columns"].index("preset")
    assert [group["preset"] for group in content["groups"]] == [row[presets] for row in content["leaderboard"]]
    assert [len(group["runs"]) for group in content["groups"]] == [2, 1]


# ---- medians over seeds -----------------------------------------------------------------------------------


def test_median_and_bands_of_power_laws() -> None:
    """Seeds ``c / n`` at different n: straight lines in logarithms, so that interpolation is exact."""
    factors = np.array([0.5, 1.0, 4.0])
    points = [np.array([10.0, 100.0, 1000.0]), np.array([20.0, 900.0]), np.array([5.0, 70.0, 2000.0])]
    curve = median_curve([(n, c / n) for n, c in zip(points, factors, strict=True)])
    assert curve is not None
    n = np.array(curve["evaluations"])
    assert n.tolist() == pytest.approx([20, 70, 100, 900])
    assert np.allclose(np.array(curve["median"]) * n, 1.0, rtol=1e-5)
    assert np.allclose(np.array(curve["lowest"]) * n, 0.5, rtol=1e-5)
    assert np.allclose(np.array(curve["highest"]) * n, 4.0, rtol=1e-5)
    # the interval of the median of three seeds is their range
    assert curve["low"] == curve["lowest"] and curve["high"] == curve["highest"]
    two = median_curve([(n, c / n) for n, c in zip(points[:2], factors[:2], strict=True)])
    assert two is not None and np.isnan(two["low"]).all()


def test_no_median_without_two_seeds_in_common() -> None:
    one = (np.array([1.0, 2.0]), np.array([0.1, 0.05]))
    later = (np.array([3.0, 4.0]), np.array([0.1, 0.05]))
    unscored = (np.array([1.0, 2.0]), np.array([np.nan, np.inf]))
    assert median_curve([one]) is median_curve([one, later]) is median_curve([one, unscored]) is None


# ---- invalid requests and hostile records ---------------------------------------------------------------


def test_a_record_cannot_bring_markup_or_scripts(tmp_path, write_run, elements, embedded) -> None:
    write_run(
        tmp_path, HOSTILE, HOSTILE, rough(60, 50), preset=HOSTILE, folder="hostile", config={HOSTILE: HOSTILE},
        diagnostics={"warnings": [HOSTILE]}, provenance={"cpu": HOSTILE, "packages": {HOSTILE: HOSTILE}},
    )  # fmt: skip
    page, _ = report([tmp_path])
    found = elements(page)
    assert found.tags.count("script") == 2 and "img" not in found.tags and "window.hacked" not in found.scripts[None]
    (run,) = embedded(page)["runs"]
    assert run["record"]["method"] == HOSTILE and run["record"]["config"] == {HOSTILE: HOSTILE}


def test_scripts_write_text_and_reach_for_nothing_outside(tmp_path, write_run, elements) -> None:
    write_run(tmp_path, "maze", "md", rough(60, 50))
    page, _ = report([tmp_path])
    script = elements(page).scripts[None]
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "fetch(",
        "XMLHttp",
        "import(",
    ):
        assert way not in script
    outside = page.replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in outside and "https:" not in outside and "@import" not in outside and "url(" not in outside


def test_the_page_depends_on_the_records_alone(tmp_path, write_run) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "runs", "maze", "md", rough(60, 50), seed=seed)
    pages = []
    for hash_seed in ("1", "2"):
        out = tmp_path / f"{hash_seed}.html"
        subprocess.run(
            [sys.executable, "-m", "cgbench", "report", "--runs", "runs", "--out", str(out)],
            env=os.environ | {"PYTHONHASHSEED": hash_seed}, cwd=tmp_path, check=True, capture_output=True,
        )  # fmt: skip
        pages.append(out.read_bytes())
    assert pages[0] == pages[1]
    assert str(tmp_path).encode() not in pages[0]


def test_the_command_says_what_it_wrote(tmp_path, write_run, capsys) -> None:
    write_run(tmp_path / "runs", "maze", "md", rough(60, 50))
    out = tmp_path / "page.html"
    assert main(["report", "--runs", str(tmp_path / "runs"), "--out", str(out)]) == 0
    assert "page.html: 1 run," in capsys.readouterr().out and out.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "nowhere"], "no folder of runs 'nowhere' (--runs)"),
        (["--runs", "empty"], "no finished run below 'empty' (--runs): nothing to report"),
        (["--out", "page.pdf"], "cannot write page.pdf: the suffix must be .html"),
        (["--out", "no/page.html"], "cannot write no/page.html: No such file or directory"),
        (["--runs", "damaged"], "pmf.npz cannot be read"),
        (["--runs", "uneven"], "does not match its bin centres"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, tmp_path, monkeypatch, capsys, write_run) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("runs"), "maze", "md", rough(6, 5))
    (write_run(Path("damaged"), "maze", "md", rough(6, 5)) / "pmf.npz").write_bytes(b"PK nonsense")
    np.savez(
        write_run(Path("uneven"), "maze", "md", rough(6)) / "pmf.npz", probability=rough(6), centers_0=np.arange(5)
    )
    Path("empty").mkdir()
    assert main(["report", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err and captured.err.count("\n") == 1
    assert not list(tmp_path.glob("**/*.html"))


def test_a_run_without_pmf_is_shown_without(tmp_path, write_run, embedded) -> None:
    (write_run(tmp_path, "maze", "md", rough(6, 5)) / "pmf.npz").unlink()
    content = embedded(report([tmp_path])[0])
    assert content["runs"][0]["pmfs"] == [] and content["systems"][0]["maps"] == []


def test_a_broken_curve_is_named(tmp_path, write_run) -> None:
    (write_run(tmp_path, "maze", "md", rough(6, 5)) / "curve.csv").write_text("nonsense\n1\n")
    with pytest.raises(UserError, match="curve .* cannot be read"):
        report([tmp_path])
