"""YAML for configuration: plain data that means what it looks like, with one-line error messages.

Scalars follow YAML 1.2: only ``true`` and ``false`` are booleans, numbers are decimal, and ``1e6`` is a whole number.
What YAML 1.1 would read differently (``yes``, ``010``), and a key that appears twice, is an error with line and column.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import yaml

__all__ = ["position", "read_yaml"]

INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
WHOLE = re.compile(r"[-+]?[0-9]+[eE]\+?[0-9]+$")  # 1e6, not 1.0e6
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")
LEADING_ZERO = re.compile(r"[-+]?0[0-9]+$")
OLD_BOOLEANS = re.compile(r"(yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF)$")
LONGEST = 400  # digits of a number


class _Loader(yaml.SafeLoader):
    """Builds plain data by the rules of this module."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # those of YAML 1.1 are not inherited


def _plain(loader: _Loader, node: yaml.ScalarNode) -> Any:
    """Build a scalar without quotes."""
    text = str(node.value)
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if OLD_BOOLEANS.match(text):
        raise ValueError(f"{_mark(node)}: {text} is ambiguous; write true or false, or put it in quotes")
    if LEADING_ZERO.match(text):
        raise ValueError(f"{_mark(node)}: {text} is ambiguous; leave the leading zero out, or put it in quotes")
    if NOT_FINITE.match(text):
        raise ValueError(f"{_mark(node)}: {text} is not a finite number")
    if INTEGER.match(text) and len(text) < LONGEST:
        return int(text)
    if FLOAT.match(text) and len(text) < LONGEST:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"{_mark(node)}: {text} is not a finite number")
        return int(Decimal(text)) if WHOLE.match(text) else number
    return text


def _scalar(loader: _Loader, node: yaml.ScalarNode) -> Any:
    return _plain(loader, node) if node.style is None else node.value


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    """Build a mapping whose keys are text, each once."""
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise ValueError(f"{_mark(key_node)}: the key {key!r} is not text; put it in quotes")
        if key in found:
            raise ValueError(f"{_mark(key_node)}: the key {key!r} appears twice; keep one of them")
        found[key] = loader.construct_object(value_node, deep=True)
    return found


def _sequence(loader: _Loader, node: yaml.SequenceNode) -> list[Any]:
    return [loader.construct_object(inner, deep=True) for inner in node.value]


def _tagged(loader: _Loader, node: yaml.Node) -> Any:
    raise ValueError(f"{_mark(node)}: the tag {node.tag} is not allowed; write plain data")


_Loader.yaml_constructors = {
    "tag:yaml.org,2002:str": _scalar,
    "tag:yaml.org,2002:seq": _sequence,
    "tag:yaml.org,2002:map": _mapping,
    None: _tagged,
}


def _mark(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}, column {node.start_mark.column + 1}"


def read_yaml(text: str) -> Any:
    """Read YAML that contains only lists, mappings with text keys, text, finite numbers, booleans and null.

    Raises
    ------
    ValueError
        With a one-line message that names line and column, for anything else.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - the loader builds plain data only
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(where + " ".join((error.problem or str(error)).split())) from None
    except (yaml.YAMLError, ValueError, OverflowError, LookupError, TypeError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def position(text: str, location: Sequence[str | int]) -> str:
    """Return ``"line 3, column 5"`` of the value at a location (keys and indices); the last part that exists.

    Empty if the text cannot be read.
    """
    try:
        node = yaml.compose(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return ""
    for part in location:
        inner: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            inner = next((value for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            inner = node.value[part]
        if inner is None:
            break
        node = inner
    return "" if node is None else _mark(node)
