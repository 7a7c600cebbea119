"""The registry of systems and methods: entry points, or a class in a file."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

from cgbench.drawing.backend import hidden_backend
from cgbench.errors import UserError, choices

__all__ = ["Kind", "Plugin", "file_formats", "load", "names", "plugins"]

Kind = Literal["system", "method"]
GROUPS = {"system": "cgbench.systems", "method": "cgbench.methods"}


@dataclass(frozen=True)
class Plugin:
    """A registered name with its class, or with the reason why the class cannot be loaded."""

    name: str
    cls: Any
    broken: str | None = None


def _entries(kind: Kind) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUPS[kind])}


def file_formats() -> dict[str, EntryPoint]:
    """Return the plugins that make systems from files, by the suffix of the file."""
    return {entry.name: entry for entry in entry_points(group="cgbench.system_files")}


def names(kind: Kind) -> list[str]:
    """Return the registered names, sorted, without importing anything."""
    return sorted(_entries(kind))


def plugins(kind: Kind) -> list[Plugin]:
    """Return all registered plugins; a plugin that cannot be imported is listed with the reason."""
    found = []
    for name, entry in sorted(_entries(kind).items()):
        try:
            with hidden_backend():
                cls = entry.load()
            found.append(Plugin(name, _checked(kind, cls, f"entry point {name!r}")))
        except Exception as error:  # a plugin can raise anything
            found.append(Plugin(name, None, f"{type(error).__name__}: {error}".splitlines()[0]))
    return found


def load(kind: Kind, name: str) -> Any:
    """Return the class registered as `name`, the class in ``path/to/file.py:Class``, or the system that a file defines.

    Raises
    ------
    UserError
        If the name is unknown, the file or class is missing, or the import fails.
    """
    if ".py:" in name:
        return _load_file(kind, name)
    if kind == "system" and (suffix := Path(name).suffix.removeprefix(".")) in file_formats():
        path = Path(name)
        if not path.is_file():
            raise UserError(f"no file {name!r} (from --system)")
        return _checked(kind, file_formats()[suffix].load().load(path), name)
    entries = _entries(kind)
    if name not in entries:
        more = " or path/to/molecule.yaml" if kind == "system" else ""
        raise UserError(f"unknown {kind} {name!r}: choose from {choices(entries)}, or give path/to/file.py:Class{more}")
    try:
        with hidden_backend():  # nflows, for one, imports matplotlib
            loaded = entries[name].load()
    except Exception as error:  # a plugin can raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{kind} {name!r} cannot be imported: {reason}") from error
    return _checked(kind, loaded, f"entry point {name!r}")


def _load_file(kind: Kind, name: str) -> Any:
    path_text, _, class_name = name.rpartition(":")
    path = Path(path_text).resolve()
    if not path.is_file():
        raise UserError(f"no file {path_text!r} (from --{kind} {name}): give path/to/file.py:Class")
    module_name = f"cgbench_plugin_{abs(hash(str(path)))}"
    if module_name in sys.modules:
        module = sys.modules[module_name]
    else:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            with hidden_backend():
                spec.loader.exec_module(module)
        except Exception as error:  # a plugin can raise anything
            del sys.modules[module_name]
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"{path_text} cannot be imported: {reason}") from error
    if not hasattr(module, class_name):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise UserError(f"{path_text} has no class {class_name!r}: it has {choices(classes)}")
    return _checked(kind, getattr(module, class_name), name)


def _checked(kind: Kind, cls: Any, origin: str) -> Any:
    if kind == "system":
        from cgbench.contracts.system import System as Base
    else:
        from cgbench.contracts.method import Method as Base  # type: ignore[assignment]
    if not (isinstance(cls, type) and issubclass(cls, Base)):
        raise UserError(f"{origin} is not a subclass of {Base.__module__}.{Base.__name__}")
    if not getattr(cls, "name", None):
        raise UserError(f"{origin}: the class {cls.__name__} has no attribute 'name'")
    return cls
