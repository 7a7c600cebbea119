"""Sweeps: the meaning of a file, mistakes in it, and campaigns that are killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cgbench.campaigns.sweep import progress, read_sweep, task
from cgbench.cli.main import main
from cgbench.results.runs import find_runs
from cgbench.running.record import parse_record, record_bytes
from cgbench.running.run import prepare, run
from cgbench.running.run_folder import RunFolder

ROOT = Path(__file__).parents[3]


def write(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


def places(path: Path) -> list[str]:
    return [str(job.plan.folder("")) for job in read_sweep(path)]


def test_products_defaults_and_exclusions(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        defaults: {systems: muller_brown, presets: smoke, seeds: 0-2}
        include:
          - methods: [md, umbrella]
          - {methods: metadynamics, seeds: [5, 7-8]}
          - {methods: md, seeds: 0, systems: [muller_brown, aldp]}
        exclude:
          - {methods: umbrella, seeds: [0, 2]}
          - {seeds: 8}
        """,
    )
    assert places(path) == [
        *(f"muller_brown/md/smoke/seed-{seed}" for seed in (0, 1, 2)),
        "muller_brown/umbrella/smoke/seed-1",
        "muller_brown/metadynamics/smoke/seed-5",
        "muller_brown/metadynamics/smoke/seed-7",
        "aldp/md/smoke/seed-0",  # muller_brown's is there already
    ]


def test_overrides_are_a_factor_and_file_runs_apart(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        include:
          - systems: muller_brown
            methods: md
            presets: smoke
            overrides: [{}, {steps: 20}, {steps: 20, step_size: 1.0e-3}]
            budget: 5000
        """,
    )
    jobs = read_sweep(path)
    labels = [job.plan.preset for job in jobs]
    assert labels[0] == "smoke" and len(set(labels)) == 3 and all(label.startswith("smoke") for label in labels)
    command = task(jobs[2], tmp_path / "out", 2).command
    assert command[:5] == (sys.executable, "-P", "-m", "cgbench", "run")
    words = " ".join(command)
    assert "--set steps=20 --set step_size=0.001 --budget 5000 --device cpu" in words
    assert words.endswith(f"--out {tmp_path / 'out'} --threads 2")
    job = prepare("muller_brown", "md", preset="smoke", overrides=jobs[2].overrides, out=tmp_path / "out", threads=1)
    assert job.folder.path == jobs[2].plan.folder(tmp_path / "out")


GOOD = "include: [{systems: muller_brown, methods: md, presets: smoke}]\n"
MISTAKES = {
    "YAML": ("include: [", "cannot be read: line 1, column 11: expected"),
    "no mapping": ("[1, 2]", "must be a mapping of keys to values, not list"),
    "empty": ("", "must be a mapping"),
    "nothing included": ("defaults: {}", "key 'include': Field required"),
    "key": (GOOD + "exlude: []", "unknown key 'exlude': did you mean 'exclude'?"),
    "key of an entry": (
        "include: [{systems: aldp, methods: md, seed: 1}]",
        "include 1 (line 1, column 46): unknown key 'seed': did you",
    ),
    "no method": ("include: [{systems: aldp}]", "include 1 (line 1, column 11): key 'methods': Field required"),
    "seeds": ("include: [{systems: aldp, methods: md, seeds: one}]", "key 'seeds.0': Input should be a valid integer"),
    "budget as text": ("include: [{systems: aldp, methods: md, budget: '9'}]", "key 'budget'"),
    "seeds twice": ("include: [{systems: aldp, methods: md, seeds: 0, seeds: 1}]", "the key 'seeds' appears twice"),
    "octal seed": ("include: [{systems: aldp, methods: md, seeds: 010}]", "010 is ambiguous"),
    "seed yes": ("include: [{systems: aldp, methods: md, seeds: yes}]", "yes is ambiguous"),
    "negative seed": ("include: [{systems: aldp, methods: md, seeds: -1}]", "greater than or equal to 0"),
    "no seeds": ("include: [{systems: aldp, methods: md, seeds: []}]", "key 'seeds'"),
    "range that falls": (
        "include: [{systems: aldp, methods: md, seeds: [0, '7-5']}]",
        "include 1 (line 1, column 47): key 'seeds': Value error, range '7-5' must rise and have at most 10,000 seeds",
    ),
    "huge range": ("include: [{systems: aldp, methods: md, seeds: 0-99999999999}]", "at most 10,000 seeds"),
    "range of more digits": (
        f"include: [{{systems: aldp, methods: md, seeds: 0-{'9' * 5000}}}]",
        "key 'seeds.0': Input should be a valid integer, not '0-999",
    ),
    "large seed": (
        f"include: [{{systems: aldp, methods: md, seeds: [0, {10**20 - 1}]}}]",
        f"include 1: --seed must be at most {2**63 - 1}, not {10**20 - 1}",
    ),
    "method": ("include: [{systems: aldp, methods: mdd}]", "include 1: unknown method 'mdd': choose from"),
    "preset": ("include: [{systems: aldp, methods: md, presets: x}]", "include 1: unknown preset 'x' of md on aldp"),
    "override": (
        "include: [{systems: aldp, methods: md, overrides: {stpes: 1}}]",
        "include 1: configuration of md (--set): unknown key 'stpes': did you mean 'steps'",
    ),
    "budget": ("include: [{systems: aldp, methods: md, budget: 0}]", "include 1: --budget must be at least 1, not 0"),
    "exclude": (GOOD + "exclude: [{seeds: 1}]", "exclude 1: no run matches it"),
    "exclude without keys": (GOOD + "exclude: [{}]", "key 'exclude.0': Value error, an exclusion must name systems"),
    "exclude of nothing": (
        GOOD + "exclude: [{seeds: null}]",
        "an exclusion must name systems, methods, presets or seeds",
    ),
    "everything excluded": (GOOD + "exclude: [{methods: md}]", "sweep.yaml: all runs are excluded"),
    "twice": (
        "include: [{systems: aldp, methods: md}, {systems: aldp, methods: md, budget: 9}]",
        "include 2: md on aldp, default, seed 0 is in the file twice, with different settings",
    ),
    "traits": (
        f"include: [{{systems: '{ROOT}/tests/examples/double_well.py:DoubleWell', methods: cgflow_al}}]",
        "needs a system with coordinates; double_well has few_cvs, gradient",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_file_is_one_line(name: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = MISTAKES[name]
    write(tmp_path, content)
    assert main(["sweep", "sweep.yaml"]) == 2
    out, err = capsys.readouterr()
    assert message in err and "sweep.yaml" in err and err.count("\n") == 1 and out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]


def test_mistakes_on_the_command_line(tmp_path: Path, capsys) -> None:
    path = str(write(tmp_path, GOOD))
    (tmp_path / "file").write_text("in the way")
    for arguments, message in (
        (["none.yaml"], "sweep none.yaml cannot be read: No such file"),
        ([path, "--workers", "0"], "--workers must be at least 1, not 0"),
        ([path, "--threads", "0"], "--threads must be at least 1, not 0"),
        ([path, "--out", str(tmp_path / "file")], "cannot write to"),
    ):
        assert main(["sweep", *arguments]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1


def test_published_runs_are_those_of_their_file() -> None:
    jobs = read_sweep(ROOT / "runs" / "published.yaml")
    assert len(jobs) == 468
    named = {str(job.plan.folder("")) for job in jobs}
    found = {str(r.path.relative_to(ROOT / "runs")) for r in find_runs([ROOT / "runs"]) if r.path is not None}
    assert found and found <= named


def test_published_runs_are_of_commits_that_can_be_had() -> None:
    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)

    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("the history is not here")
    sources = {str(run.path): run.record.provenance["git"] for run in find_runs([ROOT / "runs"])}
    assert [path for path, source in sources.items() if source["dirty"]] == []
    commits = {source["commit"] for source in sources.values()}
    assert commits and [c for c in commits if git("merge-base", "--is-ancestor", c, "HEAD").returncode] == []


# two runs with two dozen checkpoints each, and a short one
CAMPAIGN = """
defaults: {systems: muller_brown, presets: smoke}
include:
  - {methods: md, seeds: 0-1, overrides: {walkers: 100, steps: 2000}}
  - methods: umbrella
"""


def arguments(path: Path, out: Path) -> list[str]:
    return ["sweep", str(path), "--workers", "2", "--threads", "1", "--out", str(out)]


def evaluations(out: Path) -> int:
    """All evaluations in the records so far."""
    return sum(json.loads(path.read_text())["evaluations"]["total"] for path in out.rglob("record.json"))


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(2400):
        if true():
            return
        time.sleep(0.05)
    pytest.fail("nothing within two minutes")


def test_killed_and_interrupted_a_sweep_ends_as_single_runs_do(tmp_path: Path, capsys) -> None:
    """SIGKILL to the whole group, then SIGINT to the sweep alone, then to the end."""
    path, out = write(tmp_path, CAMPAIGN), tmp_path / "swept"
    jobs = read_sweep(path)
    process = subprocess.Popen(
        [sys.executable, "-m", "cgbench", *arguments(path, out)], stdout=subprocess.DEVNULL, start_new_session=True
    )
    wait_until(lambda: evaluations(out) > 0)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    killed = evaluations(out)
    wait_until(lambda: "interrupted" in {progress(job, out).state for job in jobs})  # the dead give up their locks

    def interrupt() -> None:
        wait_until(lambda: evaluations(out) > killed)
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # the sweep's own is in place
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert main(arguments(path, out)) == 130
    thread.join()
    assert "run the same command again to resume" in capsys.readouterr().err
    assert not any(RunFolder(job.plan.folder(out)).held() for job in jobs)
    assert main(["sweep", str(path), "--out", str(out), "--status"]) == 0
    assert "interrupted" in capsys.readouterr().out

    assert main(arguments(path, out)) == 0
    assert "3 finished" in capsys.readouterr().out
    for job in jobs:
        single = run(
            job.system,
            job.method,
            preset=job.preset,
            seed=job.seed,
            overrides=job.overrides,
            out=tmp_path / "single",
            threads=1,
        )
        ours, theirs = (job.plan.folder(folder) for folder in (out, tmp_path / "single"))
        assert (ours / "pmf.npz").read_bytes() == (theirs / "pmf.npz").read_bytes()
        record = RunFolder(ours).read_record()
        assert record is not None and record.evaluations == single.evaluations and record.threads == 1
    stamps = [path.stat().st_mtime_ns for path in sorted(out.rglob("*"))]
    assert main(arguments(path, out)) == 0  # nothing is left to do
    assert "0 of 3 runs remaining" in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in sorted(out.rglob("*"))] == stamps


def test_states_failures_and_another_try(tmp_path: Path, capsys) -> None:
    path, out = write(tmp_path, GOOD.replace("presets: smoke", "presets: smoke, seeds: 0-2")), tmp_path / "out"
    jobs = read_sweep(path)
    options = {"preset": "smoke", "out": out, "threads": 1}
    run("muller_brown", "md", **options)
    (out / "muller_brown/md/smoke/seed-1").mkdir(parents=True)
    record = out / "muller_brown/md/smoke/seed-0/record.json"
    failed = parse_record(record.read_bytes())
    failed = failed.model_copy(update={"status": "failed", "reason": "OSError: no space left", "seed": 1})
    (out / "muller_brown/md/smoke/seed-1/record.json").write_bytes(record_bytes(failed))
    holder = prepare("muller_brown", "md", seed=2, **options)
    assert [progress(job, out).state for job in jobs] == ["finished", "failed", "running"]
    assert main(["sweep", str(path), "--out", str(out), "--status"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in table[3].split("|")[1:-1]] == [
        *("muller_brown", "md", "smoke", "failed", "1"),
        "3,552  OSError: no space left",
    ]
    assert table[-1] == "1 finished, 1 running, 1 failed"
    # neither the failed run nor the one of another process is touched
    assert main(["sweep", str(path), "--out", str(out), "--threads", "1"]) == 1
    captured = capsys.readouterr()
    assert "0 of 3 runs remaining" in captured.out
    assert "cgbench: md on muller_brown, smoke, seed 1: failed: OSError: no space left\n" in captured.err
    assert "cgbench: md on muller_brown, smoke, seed 2: running\n" in captured.err
    holder.execute()
    assert main(["sweep", str(path), "--out", str(out), "--threads", "1", "--retry-failed"]) == 0
    assert "1 of 3 runs remaining" in capsys.readouterr().out


def test_runs_of_other_code_are_shown_and_renewed_on_request(tmp_path: Path, capsys) -> None:
    path, out = write(tmp_path, GOOD.replace("presets: smoke", "presets: smoke, seeds: 0-1")), tmp_path / "out"
    command = ["sweep", str(path), "--out", str(out), "--threads", "1"]
    assert main(command) == 0
    records = [out / f"muller_brown/md/smoke/seed-{seed}/record.json" for seed in (0, 1)]
    ours, kept = parse_record(records[0].read_bytes()), records[1].read_bytes()
    older = ours.model_copy(update={"provenance": ours.provenance | {"code": "0123456789abcdef"}})
    records[0].write_bytes(record_bytes(older))
    capsys.readouterr()
    assert main([*command, "--status"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split("|")[-2].split("  ")[-1].strip() for line in table[2:4]] == ["other code", "3,552"]
    assert table[-1] == "2 finished, 1 made by other code"
    assert main(command) == 0
    assert "0 of 2 runs remaining" in capsys.readouterr().out and parse_record(records[0].read_bytes()) == older
    assert main([*command, "--renew"]) == 0
    assert "1 of 2 runs remaining" in capsys.readouterr().out and records[1].read_bytes() == kept
    renewed = parse_record(records[0].read_bytes())
    assert renewed.provenance["code"] == ours.provenance["code"] and renewed.metrics == ours.metrics
    assert main([*command, "--renew"]) == 0 and "0 of 2 runs remaining" in capsys.readouterr().out
    records[1].write_bytes(record_bytes(renewed.model_copy(update={"seed": 1, "config_hash": "0" * 64})))
    assert main(command) == 1
    captured = capsys.readouterr()
    assert "seed 1: other settings: " in captured.err and "holds a run with config_hash" in captured.err
    assert "1 finished, 1 other settings" in captured.out
    assert main([*command, "--renew"]) == 0
    assert "1 of 2 runs remaining" in capsys.readouterr().out
    assert parse_record(records[1].read_bytes()).config_hash == renewed.config_hash


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path, capsys) -> None:
    path = write(
        tmp_path,
        """
        defaults: {systems: muller_brown, presets: smoke, methods: md}
        include: [{seeds: 0, budget: 5}, {seeds: 1}]
        """,
    )
    assert main(["sweep", str(path), "--out", str(tmp_path / "out"), "--workers", "2"]) == 1
    captured = capsys.readouterr()
    assert "1 finished, 1 failed" in captured.out
    assert "seed 0: failed: no estimate within the budget" in captured.err and captured.err.count("\n") == 1


def test_runs_ignore_modules_in_the_working_directory(tmp_path: Path, capsys, monkeypatch) -> None:
    path = write(tmp_path, GOOD)
    for name in ("cgbench", "cgbench_methods", "methods", "systems"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('shadowed')\n")
    (tmp_path / "torch.py").write_text("raise SystemExit('shadowed')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    shadowed = subprocess.run([sys.executable, "-m", "cgbench", "--help"], capture_output=True, text=True)
    assert shadowed.returncode == 1 and shadowed.stderr == "shadowed\n"  # the folder is as hostile as it should be
    assert main(["sweep", str(path), "--threads", "1"]) == 0
    assert "1 finished" in capsys.readouterr().out


def test_a_folder_of_something_else_is_reported(tmp_path: Path, capsys) -> None:
    path, out = write(tmp_path, GOOD), tmp_path / "out"
    run("muller_brown", "md", preset="smoke", out=out, threads=1)
    folder = RunFolder(out / "muller_brown/md/smoke/seed-0")
    folder.write_record(folder.read_record().model_copy(update={"system_version": "0"}))
    assert main(["sweep", str(path), "--out", str(out)]) == 1
    assert "holds a run with system_version '0', not '1'" in capsys.readouterr().err
