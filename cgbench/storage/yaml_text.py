"""YAML for configuration: plain data only, with one-line error messages."""

from __future__ import annotations

import math
from typing import Any

import yaml

__all__ = ["read_yaml"]


def read_yaml(text: str) -> Any:
    """Read YAML that contains only lists, mappings with text keys, text, numbers, booleans and null.

    Raises
    ------
    ValueError
        With a one-line message, for anything else.
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
                raise ValueError(f"the key {key!r} is not text; put it in quotes")
            _check(inner)
    elif isinstance(value, list):
        for inner in value:
            _check(inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"the number {value} is not finite")
    elif not (value is None or isinstance(value, str | bool | int | float)):
        raise ValueError(
            f"{value!r} is a {type(value).__name__}, which is not allowed; put it in quotes to make it text"
        )
