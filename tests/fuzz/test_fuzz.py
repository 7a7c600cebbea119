"""Nonsense from outside: one clear line and exit code 2, never a traceback, never code that runs."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cgbench.campaigns.sweep import read_sweep
from cgbench.cli.main import main
from cgbench.contracts.method import MethodConfig
from cgbench.errors import UserError
from cgbench.results.runs import FoundRun, find_runs
from cgbench.running.configuration import make_config
from cgbench.running.record import Evaluations, Record, parse_record, record_bytes
from cgbench.running.registry import load, names
from cgbench.running.run_folder import RunFolder
from cgbench.storage.files import npz_bytes
from cgbench.storage.lock import Holder
from cgbench_paper.records import arrays_of

ROOT = Path(__file__).parent.parent.parent
FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# what YAML makes of a value, and some that it stumbles over
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.dates(),
    st.binary(max_size=6),
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
AWKWARD = [
    "0x",
    "1e999",
    "2024-13-45",
    "!!python/object:os.system []",
    "&a [*a]",
    "[" * 3000,
    "~",
    "{}",
    "\x00",
    "\ud800",
]
yaml_texts = st.one_of(st.text(max_size=30), st.sampled_from(AWKWARD), trees.map(yaml.safe_dump))


def one_line(error: Exception) -> bool:
    return "\n" not in str(error) and len(str(error)) > 10


def paths(model: Any, prefix: str = "") -> list[str]:
    """All keys of a configuration, dotted."""
    found = []
    for name, field in model.model_fields.items():
        found.append(prefix + name)
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and hasattr(inner, "model_fields"):
                found += paths(inner, f"{prefix}{name}.")
    return found


METHODS = {name: load("method", name) for name in names("method")}
KEYS = [(name, key) for name, cls in METHODS.items() for key in paths(cls.Config)]


# ---- configurations ------------------------------------------------------------------------------------


@FUZZ
@given(st.sampled_from(sorted(METHODS)), st.one_of(st.text(max_size=40), st.text(max_size=10).map("a.b=".__add__)))
@example("md", "walkers=" + "[" * 3000)
@example("md", "a" + ".a" * 2000 + "=1")
def test_any_text_for_set(method: str, text: str) -> None:
    try:
        config = make_config(METHODS[method], "aldp", "default", [text])
    except UserError as error:
        assert one_line(error)
    else:
        assert isinstance(config, MethodConfig)


@settings(FUZZ, max_examples=600)
@given(st.sampled_from(KEYS), yaml_texts)
def test_any_value_for_any_key(key: tuple[str, str], text: str) -> None:
    method, name = key
    try:
        config = make_config(METHODS[method], "aldp", "default", [f"{name}={text}"])
    except UserError as error:
        assert one_line(error)
        return
    place: Any = config
    for part in name.split("."):
        place = getattr(place, part, None)
    numbers = place if isinstance(place, tuple | list) else [place]
    assert all(math.isfinite(number) for number in numbers if isinstance(number, float)), (name, text)


@FUZZ
@given(content=st.one_of(st.binary(max_size=60), yaml_texts.map(lambda text: text.encode(errors="surrogatepass"))))
def test_any_bytes_for_a_preset(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "aldp").mkdir(exist_ok=True)
    (tmp_path / "aldp" / "default.yaml").write_bytes(content)
    for method in ("md", "cgflow_al"):
        cls = type("Elsewhere", (METHODS[method],), {"presets_folder": classmethod(lambda cls: tmp_path)})
        try:
            make_config(cls, "aldp", "default")
        except UserError as error:
            assert one_line(error)


@FUZZ
@given(
    content=st.one_of(
        st.binary(max_size=60),
        yaml_texts.map(lambda text: text.encode(errors="surrogatepass")),
        st.fixed_dictionaries(
            {"include": st.lists(st.dictionaries(st.sampled_from(["systems", "methods", "seeds", "presets"]), trees))},
            optional={"defaults": trees, "exclude": trees},
        ).map(lambda tree: yaml.safe_dump(tree).encode(errors="surrogatepass")),
        st.tuples(st.sampled_from(["overrides", "seeds", "budget", "engine", "device", "exclude"]), trees).map(
            lambda pair: yaml.safe_dump(
                {"include": [{"systems": "muller_brown", "methods": "md", pair[0]: pair[1]}]}
            ).encode(errors="surrogatepass")
        ),
    )
)
def test_any_bytes_for_a_sweep(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(content)
    try:
        read_sweep(path)
    except UserError as error:
        assert one_line(UserError(" ".join(str(error).split())))


# ---- the command line -----------------------------------------------------------------------------------


@settings(FUZZ, max_examples=60)
@given(
    arguments=st.lists(
        st.one_of(
            st.sampled_from(
                ["run", "sweep", "leaderboard", "list", "--system", "--method", "aldp", "md", "--set", "--seed"]
            ),
            st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8),
        ),
        max_size=5,
    )
)
def test_any_command_line(arguments: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(arguments)
    err = capsys.readouterr().err
    assert code in (0, 2) and err.count("\n") == (code == 2)


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_values_on_the_command_line(text: str, tmp_path: Path, capsys) -> None:
    code = main(
        ["run", "--system", "muller_brown", "--method", "md", "--set", f"walkers={text}", "--out", str(tmp_path)]
    )
    out, err = capsys.readouterr()
    assert code == 2 and out == "" and err.count("\n") == 1 and "walkers" in err


# ---- records ----------------------------------------------------------------------------------------------

RECORD = Record(
    system="muller_brown",
    system_version="1",
    method="md",
    preset="default",
    seed=0,
    config={"walkers": 3},
    config_hash="00",
    engine="torch",
    device="cpu",
    threads=1,
    budget=None,
    status="finished",
    evaluations=Evaluations(total=3, by_phase={"production": 3}, publication_convention=3),
    metrics={"forward_kld": 0.5},
)
WRITTEN = record_bytes(RECORD)
PLAIN = {key: value for key, value in json.loads(WRITTEN).items() if key != "checksum"}


@st.composite
def damaged(draw: Callable[..., Any], content: bytes) -> bytes:
    """Cut off, or with some bytes changed."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(changed) - 1))
        changed[at] = draw(st.integers(0, 255))
    return bytes(changed[: draw(st.integers(0, len(changed)))] if draw(st.booleans()) else changed)


@st.composite
def other_values(draw: Callable[..., Any]) -> bytes:
    """A record without a checksum, of which a value is something else."""
    key = draw(st.sampled_from([*PLAIN, "nonfinite_energies", "unknown"]))
    return json.dumps(PLAIN | {key: draw(trees)}, default=str).encode(errors="surrogatepass")


@settings(FUZZ, max_examples=400)
@given(st.one_of(st.binary(max_size=80), damaged(WRITTEN), other_values()))
@example(b"[" * 100_000)
@example(b"\xff\xfe{\x00}\x00")
@example(b'{"seed": 1' + b"0" * 5000 + b"}")
def test_any_bytes_for_a_record(content: bytes) -> None:
    try:
        record = parse_record(content)
    except ValueError as error:
        assert one_line(error)
    else:
        assert parse_record(record_bytes(record)) == record or "nan" in content.decode().lower()


@settings(FUZZ, max_examples=60)
@given(
    record=st.binary(max_size=80),
    curve=st.one_of(st.binary(max_size=40), st.text(max_size=40).map(lambda text: text.encode())),
)
def test_any_bytes_in_a_folder_of_runs(record: bytes, curve: bytes, tmp_path: Path, capsys) -> None:
    place = tmp_path / "muller_brown" / "md" / "default" / "seed-0"
    place.mkdir(parents=True, exist_ok=True)
    (place / "record.json").write_bytes(WRITTEN)
    (place / "curve.csv").write_bytes(curve)
    try:
        find_runs([tmp_path])
    except UserError as error:
        assert one_line(UserError(" ".join(str(error).split())))
    (place / "record.json").write_bytes(record)
    for verb, *more in (["leaderboard"], ["report", "--out", str(tmp_path / "page.html")]):
        assert main([verb, "--runs", str(tmp_path), *more]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "record.json is not a valid record" in err


ARRAYS = npz_bytes({"probability": np.full(100, 0.01), "centers_0": np.arange(100.0)})


@FUZZ
@given(
    content=st.one_of(st.binary(max_size=60), damaged(ARRAYS), st.sampled_from([npz_bytes({"x": np.arange(3)}), b"PK"]))
)
def test_any_bytes_for_the_arrays_of_a_run(content: bytes, tmp_path: Path, capsys) -> None:
    place = tmp_path / "muller_brown" / "md" / "default" / "seed-0"
    place.mkdir(parents=True, exist_ok=True)
    (place / "record.json").write_bytes(WRITTEN)
    (place / "curve.csv").write_text("evaluations,forward_kld\n3,0.5\n")
    (place / "pmf.npz").write_bytes(content)
    code = main(["report", "--runs", str(tmp_path), "--out", str(tmp_path / "page.html")])
    err = capsys.readouterr().err
    assert (code, err.count("\n")) in ((0, 0), (2, 1)) and ("pmf.npz" in err) == (code == 2)
    run = FoundRun(RECORD, np.array([3.0]), np.array([0.5]), None, place)
    try:
        arrays_of(run)
    except UserError as error:
        assert "pmf.npz cannot be read" in str(error)


# ---- checkpoints, locks -------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> Any:
        return (os.system, ("touch evil",))


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


GOOD = saved({"x": torch.arange(5), "identity": {"seed": 0}})
checkpoints = st.one_of(
    st.binary(max_size=60),
    damaged(GOOD),
    st.sampled_from(
        [saved(Evil()), saved({"x": [Evil()]}), saved([1]), saved(np.float64(1.0)), b"cos\nsystem\n(S'touch evil'\ntR."]
    ),
)


@FUZZ
@given(content=checkpoints, with_checksum=st.booleans())
def test_any_bytes_for_a_checkpoint(content: bytes, with_checksum: bool, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(tmp_path / "run")
    (folder.path / "checkpoint").mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(content).digest() if with_checksum else b""
    (folder.path / "checkpoint" / "latest.pt").write_bytes(digest + content)
    ((state, what),) = folder.load_checkpoints()
    assert isinstance(state, dict) or re.search(r"checkpoint latest.pt (is damaged|cannot be read)", what)
    assert with_checksum or state is None
    assert not (tmp_path / "evil").exists()


@FUZZ
@given(st.one_of(st.binary(max_size=40), trees.map(lambda tree: json.dumps(tree, default=str, skipkeys=True).encode())))
def test_any_bytes_for_a_lock(content: bytes) -> None:
    assert Holder.parse(content) is None
