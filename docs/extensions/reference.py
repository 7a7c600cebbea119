"""The API reference: one page for each package, with what its modules define, and names that lead to it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import shutil
from pathlib import Path
from types import FunctionType
from typing import Any

from docutils import nodes
from sphinx import addnodes

__all__ = ["setup"]

OURS = "cgbench"  # all import names of this project begin so


def packages(name: str) -> list[str]:
    """Return the names of the packages directly inside the package `name`."""
    path = getattr(importlib.import_module(name), "__path__", [])
    return sorted(module.name for module in pkgutil.iter_modules(path) if module.ispkg)


def own_members(name: str) -> list[str]:
    """Return the public names that the module `name` defines itself, so that each is documented once."""
    module = importlib.import_module(name)
    public = getattr(module, "__all__", [])
    return [member for member in public if getattr(getattr(module, member), "__module__", name) == name]


def remove_old_pages(app: Any) -> None:
    """Remove the generated pages: autosummary does not look again at what is inside a package that has one."""
    shutil.rmtree(Path(app.srcdir) / "api" / "generated", ignore_errors=True)


def _found(module: str | None, target: str) -> Any:
    """Return the object that `target` means inside `module`, or None."""
    if target.startswith(OURS):
        for cut in range(target.count("."), -1, -1):
            parts = target.split(".")
            try:
                value: Any = importlib.import_module(".".join(parts[: cut + 1]))
            except ImportError:
                continue
            return _attribute(value, parts[cut + 1 :])
        return None
    return _attribute(importlib.import_module(module), target.split(".")) if module else None


def _attribute(value: Any, names: list[str]) -> Any:
    for name in names:
        value = getattr(value, name, None)
    return value


def qualify(app: Any, doctree: nodes.document) -> None:
    """Replace Python names, as a docstring or an annotation has them, by full ones: short names may be ambiguous."""
    for node in doctree.findall(addnodes.pending_xref):
        if node.get("refdomain") == "py":
            found = _found(node.get("py:module"), node["reftarget"])
            if isinstance(found, type | FunctionType) and found.__module__.startswith(OURS):
                node["reftarget"], node["refspecific"] = f"{found.__module__}.{found.__qualname__}", False


def leave_as_text(app: Any, env: Any, node: Any, contnode: nodes.Element) -> nodes.Element | None:
    """Show a Python name that has no page as text: names of other projects, private ones, constants.

    A name of this project that does not exist stays unresolved, and Sphinx warns.
    """
    target = str(node["reftarget"])
    known = not target.startswith(OURS) or _found(None, target) is not None
    return contnode if node.get("refdomain") == "py" and known else None


def skip_described(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what the docstring of a class describes already, under Attributes: properties and other classes."""
    if what == "class" and isinstance(obj, type):
        return True if obj.__name__ != name.rpartition(".")[2] else None
    getter = getattr(obj, "fget", None) or getattr(obj, "func", None)
    if what != "class" or not isinstance(getter, FunctionType):
        return None
    owner = _found(getter.__module__, getter.__qualname__.rpartition(".")[0])
    _, _, section = inspect.cleandoc(getattr(owner, "__doc__", None) or "").partition("\nAttributes\n")
    section = re.split(r"\n\w+\n--", section)[0]
    described = {one for line in re.findall(r"^\w.*", section, re.MULTILINE) for one in re.split(r"\W+", line)}
    return True if getter.__name__ in described else None


def keep_formulas(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Show indented blocks of docstrings, which hold formulas, as they are written."""
    shown: list[str] = []
    before, literal = 0, None  # indentation of the last line that is not empty, and of the paragraph before a block
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip():
            if literal is not None and indent <= literal:
                literal = None
            elif literal is None and shown and not shown[-1].strip() and indent >= before + 4:
                literal = before
                shown += [" " * before + "::", ""]
            before = indent if literal is None else before
        shown.append(line)
    lines[:] = shown


def setup(app: Any) -> dict[str, Any]:
    """Register the extension."""
    app.config.autosummary_context = {"own_members": own_members, "packages": packages}
    app.connect("builder-inited", remove_old_pages, priority=100)  # before pages are generated
    app.connect("autodoc-skip-member", skip_described)
    app.connect("autodoc-process-docstring", keep_formulas, priority=400)  # before napoleon reads the sections
    app.connect("doctree-read", qualify)
    app.connect("missing-reference", leave_as_text)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
