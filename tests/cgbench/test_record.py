"""Files of a run: atomic, checked, and readable by others."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest
import torch

from cgbench import files
from cgbench.errors import UserError
from cgbench.files import npz_bytes, write_atomically
from cgbench.record import RunFolder, to_json


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    made = RunFolder(tmp_path / "system" / "method" / "default" / "seed-0")
    made.create()
    return made


def test_a_kill_while_writing_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "record.json"
    write_atomically(path, b"old")

    def killed(*arguments) -> None:
        raise KeyboardInterrupt

    for step in ("fsync", "replace"):
        monkeypatch.setattr(files.os, step, killed)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(path, b"new and longer")
        assert path.read_bytes() == b"old"
        monkeypatch.undo()
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_npz_depends_on_the_arrays_alone() -> None:
    a = npz_bytes({"x": np.arange(3), "y": np.ones(2)})
    b = npz_bytes({"y": np.ones(2), "x": np.arange(3)})
    assert a == b


def test_json_has_no_bare_infinities() -> None:
    text = to_json({"a": math.inf, "b": [-math.inf, math.nan, 1.0], "c": {"d": (2, 3)}})
    assert json.loads(text) == {"a": "inf", "b": ["-inf", "nan", 1.0], "c": {"d": [2, 3]}}


def test_a_damaged_checkpoint_falls_back_to_the_one_before(folder) -> None:
    for number in range(3):
        folder.save_checkpoint({"number": number, "x": torch.arange(1000)})
    state, warnings = folder.load_checkpoint()
    assert state["number"] == 2 and warnings == []
    latest = folder.path / "checkpoint" / "latest.pt"
    content = bytearray(latest.read_bytes())
    content[len(content) // 2] ^= 1
    latest.write_bytes(content)
    state, warnings = folder.load_checkpoint()
    assert state["number"] == 1 and "latest.pt is damaged" in warnings[0]
    (folder.path / "checkpoint" / "previous.pt").write_bytes(b"short")
    state, warnings = folder.load_checkpoint()
    assert state is None and len(warnings) == 2
    folder.clear_checkpoints()
    assert folder.load_checkpoint() == (None, [])


def test_a_checkpoint_runs_no_code(folder) -> None:
    class Evil:
        def __reduce__(self):
            return (os.system, ("true",))

    folder.save_checkpoint({"x": Evil()})
    with pytest.raises(Exception, match="[Ww]eights.only|Unsupported"):
        folder.load_checkpoint()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 99}'])
def test_a_bad_record_is_named(folder, text: str) -> None:
    assert folder.read_record() is None
    (folder.path / "record.json").write_text(text)
    with pytest.raises(UserError, match="is no valid record") as caught:
        folder.read_record()
    assert "\n" not in str(caught.value)


def test_two_runs_cannot_share_a_folder(folder) -> None:
    other = RunFolder(folder.path)
    with pytest.raises(UserError, match="another process is running"):
        other.create()
    folder.release()
    other.create()
