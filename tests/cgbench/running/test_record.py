"""Files of a run: atomic, checked, and readable by others."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgbench.errors import StorageError, UserError
from cgbench.running.record import AnomalyCount, Evaluations, Record, StateSpace, parse_record, record_bytes, to_json
from cgbench.running.run_folder import RunFolder
from cgbench.storage import files
from cgbench.storage.files import npz_bytes, write_atomically


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

    def load() -> tuple[list[int], list[str]]:
        found = list(folder.load_checkpoints())
        return [state["number"] for state, _ in found if state], [what for state, what in found if not state]

    assert load() == ([2, 1], [])
    latest = folder.path / "checkpoint" / "latest.pt"
    content = bytearray(latest.read_bytes())
    content[len(content) // 2] ^= 1
    latest.write_bytes(content)
    assert load() == ([1], ["checkpoint latest.pt is damaged (its checksum does not match)"])
    (folder.path / "checkpoint" / "previous.pt").write_bytes(b"short")
    assert load()[0] == [] and len(load()[1]) == 2
    folder.clear_checkpoints()
    assert load() == ([], [])


class Evil:
    def __reduce__(self):
        return (os.system, ("touch evil",))


def test_a_checkpoint_runs_no_code(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match=r"state\['x'\]\[0\] is of type Evil; a checkpoint may contain tensors"):
        folder.save_checkpoint({"x": [Evil()]})
    buffer = io.BytesIO()
    torch.save({"x": Evil()}, buffer)
    content = buffer.getvalue()
    (folder.path / "checkpoint" / "latest.pt").write_bytes(hashlib.sha256(content).digest() + content)
    assert list(folder.load_checkpoints()) == [(None, "checkpoint latest.pt cannot be read (UnpicklingError)")]
    assert not (tmp_path / "evil").exists()


RECORD = Record(
    system="s",
    system_version="1",
    method="m",
    preset="default",
    seed=0,
    config={"a": 1e-3, "b": [1, None]},
    config_hash="00",
    engine="torch",
    device="cpu",
    threads=1,
    budget=None,
    status="finished",
    evaluations=Evaluations(total=3, by_phase={"train": 3}, publication_convention=3),
    metrics={"forward_kld": 0.1 + 0.2, "reverse_kld": math.inf},
)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 99}', "[" * 100_000, "\x00\xff"])
def test_a_bad_record_is_named(folder, text: str) -> None:
    assert folder.read_record() is None
    (folder.path / "record.json").write_text(text)
    with pytest.raises(UserError, match="is not a valid record") as caught:
        folder.read_record()
    assert "\n" not in str(caught.value)


def test_a_record_comes_back_and_a_change_to_it_is_noticed() -> None:
    content = record_bytes(RECORD)
    assert parse_record(content) == RECORD
    assert parse_record(json.dumps(json.loads(content)).encode()) == RECORD  # laid out differently
    with pytest.raises(ValueError, match="the checksum does not match"):
        parse_record(content.replace(b'"total": 3', b'"total": 2'))


def version_1(**changes: Any) -> bytes:
    """The record as schema version 1 had it."""
    old = json.loads(record_bytes(RECORD))
    for name in ("checksum", "anomalies", "state_space"):
        del old[name]
    return json.dumps(old | {"schema_version": 1} | changes).encode()


def test_the_first_records_with_a_single_count_are_upgraded() -> None:
    assert parse_record(version_1(nonfinite_energies=0)) == RECORD
    anomaly = parse_record(version_1(nonfinite_energies=2)).anomalies["nonfinite_energy"]
    assert (anomaly.count, anomaly.occasions) == (2, 3)


RENAMED = {
    "lost_walker": "diverged_walker",
    "unusable_label": "unusable_sample",
    "no_spread": "collapsed_ensemble",
    "dominant_weight": "dominant_weight",  # not renamed
    "of my own": "of my own",
}


@pytest.mark.parametrize("old", RENAMED)
def test_anomalies_of_version_1_are_upgraded(old: str) -> None:
    record = parse_record(version_1(incidents={old: {"count": 2, "occasions": 30}}))
    assert record.schema_version == 3
    assert record.anomalies == {RENAMED[old]: AnomalyCount(count=2, occasions=30)}
    assert parse_record(record_bytes(record)) == record


@pytest.mark.parametrize("version", [2, 3])
def test_later_versions_do_not_accept_the_names_of_version_1(version: int) -> None:
    with pytest.raises(ValueError, match="incidents: Extra inputs are not permitted"):
        parse_record(version_1(schema_version=version, incidents={}))


def test_version_2_is_read_without_counts_of_the_state_space() -> None:
    old = json.loads(record_bytes(RECORD))
    del old["checksum"], old["state_space"]
    assert parse_record(json.dumps(old | {"schema_version": 2}).encode()) == RECORD
    assert RECORD.state_space is None


def test_counts_of_the_state_space_come_back() -> None:
    counts = StateSpace(samples=3, outside=1, proposed=20, rejected=4)
    record = RECORD.model_copy(update={"state_space": counts})
    assert parse_record(record_bytes(record)) == record


def test_published_records_of_version_1_are_upgraded() -> None:
    """Everything but the version and the name of the anomalies is what the file says, checksum included."""
    paths = sorted((Path(__file__).parents[3] / "runs").glob("*/*/*/*/record.json"))
    counted = set()
    for path in paths:
        old = json.loads(path.read_bytes())
        if old["schema_version"] != 1:
            continue
        new = json.loads(record_bytes(parse_record(path.read_bytes())))
        assert new["schema_version"] == 3 and new.pop("state_space") is None
        assert new["evaluations"].pop("with_gradient") is None
        anomalies = {RENAMED.get(kind, kind): counts for kind, counts in old.get("incidents", {}).items()}
        counted |= set(anomalies)
        assert new["anomalies"] == anomalies
        ours, theirs = ({k: v for k, v in r.items() if k not in VERSIONED} for r in (new, old))
        assert (
            ours == {"density": None, "claimed_errors": None, "metrics_version": None, "origin": "run"} | theirs
        )  # newer fields
    assert "dominant_weight" in counted  # records with anomalies were among them


VERSIONED = ("schema_version", "anomalies", "incidents", "nonfinite_energies", "checksum")


def test_a_damaged_record_is_replaced_by_its_copy(folder, caplog) -> None:
    folder.write_record(RECORD)
    path = folder.path / "record.json"
    path.write_bytes(path.read_bytes()[:-100])
    assert folder.read_record() == RECORD
    assert "record.json is not a valid record (not valid JSON" in caplog.text and "using its backup copy" in caplog.text
    (folder.path / "checkpoint" / "record.copy").write_bytes(b"")
    with pytest.raises(UserError, match="start over with --restart"):
        folder.read_record()


def test_a_file_that_cannot_be_written_stays_as_it_was(folder, monkeypatch) -> None:
    folder.write_record(RECORD)
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}

    def full(*arguments) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    changed = RECORD.model_copy(update={"seed": 1})
    with pytest.raises(StorageError, match=r"cannot write .*: No space left on device"):
        folder.write_record(changed)
    with pytest.raises(StorageError, match=r"latest.pt: No space left on device"):
        folder.save_checkpoint({"x": 1})
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def start_together(folder: Path, barrier: Any, found: Any) -> None:
    """Create a folder at the same time as another process."""
    own = RunFolder(folder)
    barrier.wait()
    try:
        own.create()
        found.put("created")
    except UserError as error:
        found.put(str(error))
    barrier.wait()
    own.release()


def test_of_two_that_start_at_once_the_second_is_told_why(tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    for number in range(20):
        barrier, found = context.Barrier(2), context.Queue()
        given = (tmp_path / str(number), barrier, found)
        both = [context.Process(target=start_together, args=given) for _ in range(2)]
        for one in both:
            one.start()
        answers = sorted(found.get(timeout=60) for _ in both)
        for one in both:
            one.join()
        assert "another process is running" in answers[0] and answers[1] == "created"


@pytest.mark.parametrize("name", ["seed", "threads", "budget", "total", "publication_convention"])
@pytest.mark.parametrize("value", [10**30, -(10**30)])
def test_absurd_numbers_are_refused(name: str, value: int) -> None:
    record = json.loads(record_bytes(RECORD))
    (record["evaluations"] if name in record["evaluations"] else record)[name] = value
    record.pop("checksum", None)
    with pytest.raises(ValueError, match=name):
        parse_record(json.dumps(record).encode())
