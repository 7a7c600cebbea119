"""Pictures, progress and figures' arrays are decoration: when they fail, the run is finished all the same."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cgbench.drawing.pmf
from cgbench.cli import run as cli
from cgbench.cli.main import main
from cgbench.drawing.backend import attempt, own_settings
from cgbench.errors import StorageError
from cgbench.running.run import Run, prepare
from cgbench.running.run_folder import RunFolder

OPTIONS: dict[str, Any] = {"preset": "smoke", "threads": 1, "overrides": ["walkers=2", "steps=20"]}
COMMAND = ["--system", "muller_brown", "--method", "md", "--preset", "smoke", "--threads", "1"]
COMMAND += ["--set", "walkers=2", "--set", "steps=20"]


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Run]:
    return lambda **more: prepare("muller_brown", "md", out=tmp_path, **(OPTIONS | more))


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    return fail


def status(job: Run) -> str:
    return str(json.loads((job.folder.path / "record.json").read_text())["status"])


# ---- pictures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to process string with tex because latex could not be found"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "latex"),
        PermissionError(errno.EACCES, "Permission denied", "fontlist.json"),
        ImportError("No module named 'matplotlib'"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_picture_that_cannot_be_drawn_is_a_warning(start, monkeypatch, error: Exception) -> None:
    found: list[str] = []
    job = start()

    def fail(*arguments: Any) -> None:
        found.append(status(job))
        raise error

    monkeypatch.setattr(cgbench.drawing.pmf, "draw_pmf", fail)
    assert job.execute().status == "finished" and found == ["finished"]  # the record was written first
    assert (job.folder.path / "pmf.npz").exists()
    (warning,) = (line for line in job.messages if "pmf.png cannot be drawn" in line)
    assert type(error).__name__ in warning and "\n" not in warning
    assert warning in (job.folder.path / "run.log").read_text()


def test_a_full_disk_is_still_a_storage_error_but_the_record_is_final(start, monkeypatch) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(cgbench.drawing.pmf, "draw_pmf", raising(error))
    job = start()
    with pytest.raises(StorageError, match=r"pmf.png: No space left on device; the run is complete"):
        job.execute()
    assert status(job) == "finished" and not job.folder.held()


def test_arrays_for_figures_that_fail_cost_these_arrays(start) -> None:
    for extra in (raising(ValueError("no stages")), lambda: {"objects": np.array([object()])}):
        job = start(restart=True)
        job.method.extra_arrays = extra
        assert job.execute().status == "finished"
        with np.load(job.folder.path / "pmf.npz") as arrays:
            assert "probability" in arrays
        assert any("extra_arrays failed" in line for line in job.messages)


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "abacus"])
def test_a_backend_that_is_missing_here(tmp_path: Path, backend: str) -> None:
    """A new process, because matplotlib reads the variable when it is imported; the variable stays as it was."""
    script = "from matplotlib_free import run; print(run())"
    (tmp_path / "matplotlib_free.py").write_text(
        "import os\n"
        "def run():\n"
        "    from cgbench.drawing.backend import attempt\n"
        "    def draw():\n"
        "        from cgbench.drawing.style import new_figure, save_figure\n"
        "        from pathlib import Path\n"
        "        figure = new_figure(2.0)\n"
        "        figure.add_subplot().set_title('$x^2$')\n"
        "        save_figure(figure, Path('picture.png'))\n"
        "    from cgbench.running.registry import load\n"
        "    load('method', 'plugin.py:Plugin')\n"
        "    return attempt(draw), os.environ['MPLBACKEND']\n"
    )
    plugin = (
        "import matplotlib\nfrom cgbench.contracts.method import Method\nclass Plugin(Method):\n    name = 'plugin'\n"
        "    estimates = state_dict = load_state_dict = lambda self, *state: None\n"
    )
    (tmp_path / "plugin.py").write_text(plugin)  # as nflows does
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.family: no such font\n")  # read from here
    environment = os.environ | {"MPLBACKEND": backend}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert found.stdout.strip() == str((None, backend)), found.stderr
    assert (tmp_path / "picture.png").stat().st_size > 200


def test_settings_of_the_process_are_left_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    matplotlib.rcParams["text.usetex"] = True
    try:
        with own_settings():
            assert not matplotlib.rcParams["text.usetex"]
        assert matplotlib.rcParams["text.usetex"]
    finally:
        matplotlib.rcParams["text.usetex"] = before["text.usetex"]
    assert attempt(lambda: None) is None
    assert dict(matplotlib.rcParams) == before


def test_a_reference_that_cannot_be_drawn_is_an_error_line(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(cgbench.drawing.pmf, "draw_reference", raising(RuntimeError("no latex\nat all")))
    assert main(["reference", "show", "muller_brown", "--out", str(tmp_path / "x.png")]) == 1
    said = capsys.readouterr()
    assert "noise floor" in said.out and said.err.count("\n") == 1
    assert "x.png cannot be drawn: RuntimeError: no latex at all" in said.err


def test_a_report_without_matplotlib_has_colours(monkeypatch) -> None:
    from cgbench.results.report import arrays

    whole = {name: bytes.fromhex(arrays.colour_table(name)) for name in arrays.ANCHORS}
    monkeypatch.setattr(arrays, "attempt", lambda draw: "ImportError: no matplotlib")
    for name, table in whole.items():
        replaced = bytes.fromhex(arrays.colour_table(name))
        assert len(replaced) == len(table) == 768
        assert max(abs(a - b) for a, b in zip(replaced, table, strict=True)) < 20


def test_a_figure_that_cannot_be_drawn_leaves_the_others(tmp_path: Path, monkeypatch, capsys) -> None:
    from cgbench_paper.figures import fig1_scheme

    (tmp_path / "runs").mkdir()
    old = tmp_path / "paper" / "figures" / "fig1_scheme.png"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"older than its data")
    monkeypatch.setattr(fig1_scheme, "draw", raising(RuntimeError("no latex")))
    names = ["fig1_scheme", "table1"]
    assert main(["paper", *names, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "paper")]) == 1
    said = capsys.readouterr()
    assert said.err == "cgbench: fig1_scheme cannot be drawn: RuntimeError: no latex\n"
    assert "table1" in said.out and not old.exists()


# ---- progress --------------------------------------------------------------------------------------------


def test_a_report_of_progress_that_fails_is_not_called_again(start) -> None:
    calls: list[int] = []

    def report(job: Run) -> None:
        calls.append(job.ledger.total)
        raise UnicodeEncodeError("ascii", "→", 0, 1, "ordinal not in range(128)")

    job = start(on_estimate=report)
    assert job.execute().status == "finished" and len(calls) == 1
    assert any("the progress report failed (UnicodeEncodeError" in line for line in job.messages)


@pytest.mark.parametrize("broken", ["rich.live.Live.start", "rich.console.Console.__init__", "rich.live.Live.stop"])
def test_a_terminal_that_rich_cannot_use(tmp_path: Path, monkeypatch, capsys, broken: str) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setattr(broken, raising(RuntimeError("strange terminal")))
    assert main(["run", *COMMAND, "--out", str(tmp_path)]) == 0
    assert "finished" in capsys.readouterr().out


def test_a_method_that_describes_itself_badly(start, monkeypatch) -> None:
    job = start()
    shown = cli._Progress(job)
    monkeypatch.setattr(type(job.method), "progress", "half")
    assert shown._line() == ""
    shown._print(job)
    job.folder.release()


def test_the_summary_names_only_files_that_exist(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(cgbench.drawing.pmf, "draw_pmf", raising(RuntimeError("no latex")))
    assert main(["run", *COMMAND, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "pmf.png" not in said.out and said.err.count("\n") == 1
    assert "warning: pmf.png cannot be drawn" in said.err
    (folder,) = (path.parent for path in tmp_path.rglob("record.json"))
    assert RunFolder(folder).read_record().status == "finished"
