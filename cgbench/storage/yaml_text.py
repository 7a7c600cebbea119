"""YAML as configuration uses it: plain data, and one line for what cannot be read."""

from __future__ import annotations

import math
from typing import Any

import yaml

__all__ = ["read_yaml"]


def read_yaml(text: str) -> Any:
    """Read YAML that holds mappings with text as keys, lists, text, numbers, booleans and null.

    Raises
    ------
    ValueError
        In one line, for anything else.
    """
    try:
        content = yaml.safe_load(text)
        _check(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError, LookupError, TypeError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
    return content


def _check(value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} is no text")
            _check(inner)
    elif isinstance(value, list):
        for inner in value:
            _check(inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"the number {value} is not finite")
    elif not (value is None or isinstance(value, str | bool | int | float)):
        raise ValueError(f"{value!r} is a {type(value).__name__}, which configurations do not use; quotes make it text")
