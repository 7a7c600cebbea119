"""The registry of systems and methods: entry points, or a class in a file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgbench.drawing.backend import hidden_backend
from cgbench.errors import PluginError, UserError, choices
from cgbench.running.plugins import Kind, check_class, construct_system, explain

if TYPE_CHECKING:
    from cgbench.contracts.system import System

__all__ = ["Kind", "Plugin", "build_system", "file_formats", "load", "names", "plugins"]

GROUPS = {"system": "cgbench.systems", "method": "cgbench.methods"}
PREFIX = "cgbench_plugin_"  # of the names of modules from files
_defined: dict[tuple[Path, bytes, str], Any] = {}  # systems from files, by path, content and version


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
            found.append(Plugin(name, check_class(kind, cls, f"entry point {name!r}")))
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
        try:
            loaded = file_formats()[suffix].load().load(path)
        except UserError:
            raise
        except Exception as error:  # a plugin can raise anything
            raise PluginError(f"system {name} cannot be loaded: {explain(error)}") from error
        cls = check_class(kind, loaded, name)
        return _defined.setdefault((path.resolve(), path.read_bytes(), cls.version), cls)  # one class for all callers
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
    return check_class(kind, loaded, f"entry point {name!r}")


def build_system(name: str, *, engine: str | None = None, device: str = "cpu") -> System:
    """Load and build the system of that name, as `load` finds it.

    Raises
    ------
    UserError
        If `load` fails, there is no such engine, the constructor fails, or an attribute is missing or has the wrong
        type.
    """
    return construct_system(load("system", name), name, engine, device)


def _load_file(kind: Kind, name: str) -> Any:
    path_text, _, class_name = name.rpartition(":")
    path = Path(path_text).resolve()
    if not path.is_file():
        raise UserError(f"no file {path_text!r} (from --{kind} {name}): give path/to/file.py:Class")
    module_name = f"{PREFIX}{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"
    if module_name in sys.modules:
        module = sys.modules[module_name]
    else:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            with _neighbours(path.parent), hidden_backend():
                spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # a plugin can raise anything
            del sys.modules[module_name]
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"{path_text} cannot be imported: {reason}") from error
    if not hasattr(module, class_name):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise UserError(f"{path_text} has no class {class_name!r}: it has {choices(classes)}")
    return check_class(kind, getattr(module, class_name), name)


# ---- modules beside a file --------------------------------------------------------------------------

_folders: list[str] = []  # of plugin files, in the order they were loaded; all are in sys.path


@contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Make the modules beside a plugin's file importable, inside the context and for later imports by the plugin.

    The folder is the last in ``sys.path`` and cannot hide an installed module. Files in different folders may have
    neighbours of the same name: inside the context, those of other folders are set aside.
    """
    own = str(folder)
    others = [other for other in _folders if other != own]
    aside = {name: module for name, module in list(sys.modules.items()) if others and _home(name) in others}
    added = own not in sys.path
    if added:
        sys.path.append(own)
        _folders.append(own)
    elsewhere = [path for path in sys.path if path in others]
    sys.path[:] = [path for path in sys.path if path not in others]
    for name in aside:
        del sys.modules[name]
    importlib.invalidate_caches()  # the files may be new
    try:
        yield
    except BaseException:
        if added:
            sys.path.remove(own)
            _folders.remove(own)
        raise
    finally:
        sys.path += elsewhere
        for name, module in aside.items():
            sys.modules.setdefault(name, module)


def _home(name: str) -> str | None:
    """Return the folder that contains the top-level module or package a module belongs to; None for a plugin's file."""
    top = getattr(sys.modules.get(name.partition(".")[0]), "__dict__", {})  # a lazy module may import on getattr
    paths = top.get("__path__")  # of a package, also without __init__.py
    places = [top.get("__file__"), *(paths if paths is not None else ())]
    place = next((place for place in places if isinstance(place, str)), None)
    if place is None or name.startswith(PREFIX):
        return None
    in_package = os.path.basename(place).startswith("__init__.")
    return os.path.dirname(os.path.dirname(place) if in_package else place)
