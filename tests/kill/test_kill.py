"""SIGKILL anywhere, full disks and damaged files: the same command goes on, and ends as if nothing had been."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cgbench.running.registry import names

# every method on a model potential and on a molecule; molecules from files differ by their content alone
PAIRS = [(method, system) for method in names("method") for system in ("aldp", "muller_brown")]
PAIRS += [("md", system) for system in names("system") if system not in ("aldp", "muller_brown")]
# inside the first writing of a checkpoint, three times; after it; between moving one away and the next into place; and
# inside the second writing of the record, which follows a checkpoint
MOMENTS = [("latest.pt", step, 1) for step in ("half", "sync", "placed", "kept")] + [("record.json", "half", 2)]
RESUMED = re.compile(r"\w after ([\d,]+) evaluations")  # what a run says when it has found a checkpoint


def command(method: str, system: str, out: Path) -> list[str]:
    fixed = ["--method", method, "--system", system, "--preset", "smoke", "--seed", "3", "--threads", "1"]
    return ["run", *fixed, "--out", str(out)]


def folder(out: Path, method: str, system: str) -> Path:
    return out / system / method / "smoke" / "seed-3"


def results(place: Path) -> tuple[bytes, Any, list[str]]:
    """PMF, evaluations, and the curve without its times."""
    record = json.loads((place / "record.json").read_text())
    assert record["status"] == "finished"
    rows = [line.split(",") for line in (place / "curve.csv").read_text().splitlines()]
    times = [rows[0].index(name) for name in ("wall_s", "cpu_s")]
    curve = [",".join(cell for index, cell in enumerate(row) if index not in times) for row in rows]
    return (place / "pmf.npz").read_bytes(), record["evaluations"], curve


def assert_ends_the_same(
    method: str, system: str, launch: Callable[..., dict[str, Any]], out: Path, moments: Sequence[tuple[str, str, int]]
) -> None:
    """A run killed somewhere in its first quarter, then at each of the moments, ends as one that was left alone."""
    whole = launch(*command(method, system, out / "whole"))
    assert whole["returncode"] == 0, whole["err"]
    expected = results(folder(out / "whole", method, system))
    ours = command(method, system, out / "killed")
    share = random.Random(f"{method} {system}").uniform(0.05, 0.25)
    killed = launch(*ours, after_cpu=whole["cpu"] * share)
    assert killed["returncode"] == -signal.SIGKILL
    for moment in moments:
        killed = launch(*ours, at=moment)
        assert killed["returncode"] == -signal.SIGKILL, (moment, killed)
    place = folder(out / "killed", method, system)
    checkpoint = any((place / "checkpoint" / name).exists() for name in ("latest.pt", "previous.pt"))
    ended = launch(*ours)
    assert ended["returncode"] == 0 and ended["err"] == ""
    assert results(place) == expected
    after = RESUMED.findall(ended["out"])
    assert len(after) == checkpoint and not RESUMED.search(whole["out"])
    assert all(0 < int(count.replace(",", "")) <= expected[1]["total"] for count in after)


@pytest.mark.parametrize(
    ("method", "system", "moment"), [(*pair, MOMENTS[n % len(MOMENTS)]) for n, pair in enumerate(PAIRS)]
)
def test_killed_twice_it_ends_bit_identically(method, system, moment, launch, tmp_path: Path) -> None:
    # nothing is moved away before there is a checkpoint
    first = [("latest.pt", "placed", 1)] if moment[1] == "kept" else []
    assert_ends_the_same(method, system, launch, tmp_path, [*first, moment])


@pytest.mark.nightly
@pytest.mark.parametrize(("method", "system"), PAIRS)
def test_killed_at_every_moment_it_ends_bit_identically(method, system, launch, tmp_path: Path) -> None:
    assert_ends_the_same(method, system, launch, tmp_path, MOMENTS)


# ---- a run that is short, with many checkpoints --------------------------------------------------------


METHOD, SYSTEM = "md", "muller_brown"


@pytest.fixture
def half(launch, tmp_path: Path) -> Path:
    """The folder of a run that was killed when it had some checkpoints."""
    out = tmp_path / "out"
    for _ in range(3):
        killed = launch(*command(METHOD, SYSTEM, out), at=("latest.pt", "placed", 1))
        assert killed["returncode"] == -signal.SIGKILL
    place = folder(out, METHOD, SYSTEM)
    assert {path.name for path in (place / "checkpoint").glob("*.pt")} == {"latest.pt", "previous.pt"}
    return place


@pytest.fixture(scope="module")
def undisturbed(launch, tmp_path_factory) -> Any:
    out = tmp_path_factory.mktemp("undisturbed")
    launch(*command(METHOD, SYSTEM, out))
    return results(folder(out, METHOD, SYSTEM))


def again(launch, place: Path) -> dict[str, Any]:
    return launch(*command(METHOD, SYSTEM, place.parents[3]))


def test_the_dead_are_named_and_the_run_goes_on(launch, half: Path, undisturbed) -> None:
    answer = again(launch, half)
    assert "taken over from process" in answer["out"] and "resuming after" in answer["out"]
    assert results(half) == undisturbed


def cut(content: bytes) -> bytes:
    return content[: len(content) // 3]


def flip(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("damage", [cut, flip, lambda content: b""], ids=["cut", "a bit", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(damage, launch, half: Path, undisturbed) -> None:
    latest = half / "checkpoint" / "latest.pt"
    latest.write_bytes(damage(latest.read_bytes()))
    answer = again(launch, half)
    assert "checkpoint latest.pt is damaged (its checksum does not match); skipped" in answer["out"]
    assert "resuming after" in answer["out"] and answer["err"] == ""
    assert results(half) == undisturbed


def test_with_all_checkpoints_damaged_it_starts_over_and_says_so(launch, half: Path, undisturbed) -> None:
    for name in ("latest.pt", "previous.pt"):
        (half / "checkpoint" / name).write_bytes(b"PK")
    answer = again(launch, half)
    assert "no intact checkpoint: starting over" in answer["out"]
    assert results(half) == undisturbed


def test_a_damaged_record_is_named_and_its_copy_used(launch, half: Path, undisturbed) -> None:
    (half / "record.json").write_bytes(cut((half / "record.json").read_bytes()))
    answer = again(launch, half)
    assert (
        "record.json is not a valid record (not valid JSON" in answer["err"]
        and "using its backup copy" in answer["err"]
    )
    assert answer["err"].count("\n") == 1
    assert results(half) == undisturbed


def test_a_checkpoint_of_another_run_is_refused(launch, half: Path, tmp_path: Path) -> None:
    place = folder(tmp_path / "other", METHOD, SYSTEM).with_name("seed-4")
    other = [*command(METHOD, SYSTEM, tmp_path / "other"), "--seed", "4"]
    launch(*other, at=("latest.pt", "placed", 1))
    (place / "checkpoint" / "latest.pt").write_bytes((half / "checkpoint" / "latest.pt").read_bytes())
    answer = launch(*other)
    assert answer["returncode"] == 2 and answer["err"].count("\n") == 1
    assert "belongs to another run; choose another --out, or --restart" in answer["err"]
    assert launch(*other, "--restart")["returncode"] == 0


# ---- full disks ------------------------------------------------------------------------------------------


def assert_stopped_with_one_line(answer: dict[str, Any], reason: str) -> None:
    assert answer["returncode"] == 2, answer
    assert answer["err"].startswith("cgbench: cannot write ") and answer["err"].count("\n") == 1
    assert (
        reason in answer["err"]
        and "free some space, then run the same command again to resume from the last checkpoint" in answer["err"]
    )


def test_a_disk_that_takes_no_more_leaves_the_last_good_state(launch, half: Path, undisturbed) -> None:
    latest = half / "checkpoint" / "latest.pt"
    before = latest.read_bytes()
    largest = len(before) - 1
    assert (half / "record.json").stat().st_size < largest  # it is the checkpoint that does not fit
    answer = launch(*command(METHOD, SYSTEM, half.parents[3]), largest_file=largest)
    assert_stopped_with_one_line(answer, "latest.pt: File too large; stopped after")
    assert latest.read_bytes() == before and not list(half.rglob(".*.new"))
    assert again(launch, half)["returncode"] == 0
    assert results(half) == undisturbed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(launch, small_disk: Path, undisturbed) -> None:
    arguments = command(METHOD, SYSTEM, small_disk)
    assert launch(*arguments, at=("latest.pt", "placed", 1))["returncode"] == -signal.SIGKILL
    ballast = small_disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError:
            pass
    assert_stopped_with_one_line(launch(*arguments), "No space left on device")
    ballast.unlink()
    ended = launch(*arguments)
    assert ended["returncode"] == 0 and "resuming after" in ended["out"]
    assert results(folder(small_disk, METHOD, SYSTEM)) == undisturbed
