"""The HTML page: content, style and scripts in one file that runs no other script."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any

__all__ = ["render"]

SCRIPTS = ("core.js", "board.js", "axes.js", "curves.js", "maps.js", "panels.js", "runs.js", "main.js")
ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def render(content: Mapping[str, Any]) -> str:
    """Combine content, style and scripts to one HTML page.

    Records are not trusted: their text is escaped and cannot end the data block, the scripts write text and never
    markup, and the security policy of the page allows only the hash of our script.
    """
    script = "\n".join(_asset(name) for name in SCRIPTS)
    style = _asset("style.css")
    return Template(_asset("page.html")).substitute(
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        data=_json(content),
    )


def _asset(name: str) -> str:
    return resources.files("cgbench.results.report").joinpath("page", name).read_text(encoding="utf-8")


def _json(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.translate(ESCAPES)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
