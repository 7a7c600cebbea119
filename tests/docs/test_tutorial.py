"""The tutorial, as a reader would follow it, with the presets of tests and without the reference."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from doc_pages import DOCS, blocks

from cgbench.cli.main import main

PAGE = DOCS / "tutorial.md"


def test_the_tutorial_can_be_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(DOCS / "examples" / "glycine.pdb", tmp_path)
    text = PAGE.read_text(encoding="utf-8").replace("/default/", "/smoke/")
    names: dict[str, object] = {}
    done = []
    for language, block in re.findall(r"^```(sh|python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language == "python":
            exec(compile(block, "docs/tutorial.md", "exec"), names)
            continue
        for line in block.splitlines():
            words = shlex.split(line)[1:]
            if words[0] == "reference":
                continue
            if words[0] == "run":
                words += ["--preset", "smoke", "--threads", "1"]
            assert main(words) == 0, line
            done.append(words[0])
    said = capsys.readouterr().out
    assert done == ["system", "system", "run", "run", "run", "compare", "report"]
    assert "trust " in said and "own errors " in said and "asymmetry: " in said and "umbrella smoke 0" in said
    assert (tmp_path / "report.html").exists() and (tmp_path / "glycine.png").exists()


def test_the_file_in_the_tutorial_is_what_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(DOCS / "examples" / "glycine.pdb", tmp_path)
    new, *_ = "".join(blocks(PAGE, "sh")).splitlines()
    assert main(shlex.split(new)[1:]) == 0
    written = [line for line in Path("glycine.yaml").read_text().splitlines() if not line.startswith("#")]
    (shown,) = blocks(PAGE, "yaml")
    assert [line for line in written if line] == shown.splitlines()
