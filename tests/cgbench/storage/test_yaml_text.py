"""YAML means what it looks like; everything else is one line with line and column."""

from __future__ import annotations

from typing import Any

import pytest

from cgbench.storage.yaml_text import position, read_yaml

PLAIN: list[tuple[str, Any]] = [
    ("a: 1", {"a": 1}),
    ("a: 1e6", {"a": 1_000_000}),
    ("a: 2E+3", {"a": 2000}),
    ("a: 1e-3", {"a": 1e-3}),
    ("a: 1.5e3", {"a": 1500.0}),
    ("a: .5", {"a": 0.5}),
    ("a: -7", {"a": -7}),
    ("a: true", {"a": True}),
    ("a: ", {"a": None}),
    ("a: 'yes'", {"a": "yes"}),
    ('a: "010"', {"a": "010"}),
    ("a: 1:30:00", {"a": "1:30:00"}),
    ("a: 0x1f", {"a": "0x1f"}),
    ("a: 1_000", {"a": "1_000"}),
    ("a: 2024-13-45", {"a": "2024-13-45"}),
    ("a: 0-4", {"a": "0-4"}),
    ("[1, x, {b: 0}]", [1, "x", {"b": 0}]),
    ("", None),
]
MISTAKES = [
    ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' appears twice"),
    ("x:\n  b: {c: 1, c: 2}", "line 2, column 13: the key 'c' appears twice"),
    ("a: yes", "line 1, column 4: yes is ambiguous"),
    ("a: [off]", "line 1, column 5: off is ambiguous"),
    ("a: 010", "line 1, column 4: 010 is ambiguous"),
    ("a: .inf", "line 1, column 4: .inf is not a finite number"),
    ("a: 1e999", "line 1, column 4: 1e999 is not a finite number"),
    ("1: a", "line 1, column 1: the key 1 is not text"),
    ("a: !!python/none x", "line 1, column 4: the tag"),
    ("a: [1", "line 1, column 6: "),
    ("a: {b", "line 1, column"),
    ("&a [*a]", "line 1, column 1: "),
    ("&a {b: *a}", "line 1, column 1: "),
    ("[" * 3000, "nested too deeply"),
]


@pytest.mark.parametrize(("text", "value"), PLAIN)
def test_plain_data(text: str, value: Any) -> None:
    found = read_yaml(text)
    assert found == value and repr(found) == repr(value)  # 1 is not True


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=[text[:12] for text, _ in MISTAKES])
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_yaml(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_position() -> None:
    text = "defaults: {seeds: 1}\ninclude:\n  - methods: md\n    budget: many\n"
    assert position(text, ["include", 0, "budget"]) == "line 4, column 13"
    assert position(text, ["include", 0, "nothing"]) == "line 3, column 5"
    assert position(text, ["defaults", "seeds"]) == "line 1, column 19"
    assert position("[", []) == ""
