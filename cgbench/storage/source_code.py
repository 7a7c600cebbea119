"""A fingerprint of source code: of modules and what they import, without comments, docstrings and blank lines."""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["fingerprint", "imported_files"]

KERNELS = (".cpp", ".hpp")


def fingerprint(modules: Iterable[str], places: Mapping[str, Path], behind: Mapping[str, str] | None = None) -> str:
    """Return a hash of the code of some modules and of all that they import from known places.

    The hash changes with every statement, but not with comments, docstrings, blank lines, or the place of a package.

    Parameters
    ----------
    modules, places, behind
        As in `imported_files`. A top-level module whose name is not that of its file, because it was loaded from the
        file, is known by the name of the file.

    Returns
    -------
    str
        64 bits of SHA-256, in hexadecimal digits.

    Raises
    ------
    OSError, SyntaxError, UnicodeDecodeError
        If a file cannot be read.
    """
    digest = hashlib.sha256()
    found = imported_files(modules, places, behind)
    for name, path in sorted((_lasting(name, path), path) for name, path in found.items()):
        text = _read(path).code if path.suffix == ".py" else path.read_text(encoding="utf-8")
        digest.update(f"{name}\n{len(text)}\n{text}".encode())
    return digest.hexdigest()[:16]


def imported_files(
    modules: Iterable[str], places: Mapping[str, Path], behind: Mapping[str, str] | None = None
) -> dict[str, Path]:
    """Return the files of some modules, of all that they import at any depth, and C++ sources beside them.

    Imports for type checking do not count. Those in functions count only if they are from the same package: what else
    is imported late, such as readers of file formats, is not needed in most runs.

    Parameters
    ----------
    modules
        Names of modules. Those outside the known places are left out, as are imports from elsewhere.
    places
        For each top-level package, its folder; for a top-level module, its file.
    behind
        Modules that functions import late, by the name of the function. Code that uses an attribute of this name
        imports the module.

    Returns
    -------
    dict
        The files by name (that of a module, or of a package and a file in it), sorted.
    """
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _file(name, places)
        if name in found or path is None:
            continue
        found[name] = path
        inside = path.name == "__init__.py"
        package = name if inside else name.rpartition(".")[0]
        source = _read(path)
        imported = [(_absolute(one, package), late) for one, late in source.imports]
        waiting += [*_parents(name), *(one for one, late in imported if not late or one.rpartition(".")[0] == package)]
        waiting += [module for function, module in (behind or {}).items() if function in source.attributes]
        found |= {f"{package}/{file.name}": file for file in path.parent.iterdir() if file.suffix in KERNELS}
    return dict(sorted(found.items()))


def _lasting(name: str, path: Path) -> str:
    """Return the name of a module or file, without what depends on how or from where it was loaded."""
    return name if "." in name or "/" in name or path.name == "__init__.py" else path.stem


def _file(name: str, places: Mapping[str, Path]) -> Path | None:
    """Return the file of a module; None if there is none, for example for a name that is imported from a module."""
    top, *rest = name.split(".")
    if top not in places:
        return None
    place = places[top]
    if place.is_file():
        return place if not rest else None
    path = place.joinpath(*rest)
    return next((file for file in (path / "__init__.py", path.with_name(f"{path.name}.py")) if file.is_file()), None)


def _parents(name: str) -> Iterator[str]:
    while name := name.rpartition(".")[0]:
        yield name


def _absolute(name: str, package: str) -> str:
    """Return the absolute name for an imported one, which has a leading dot for each level of a relative import."""
    rest = name.lstrip(".")
    for _ in range(len(name) - len(rest) - 1):
        package = package.rpartition(".")[0]
    return name if rest == name else f"{package}.{rest}" if rest else package


class _Source(NamedTuple):
    """The code of a file without what does not matter, what it imports, as `_imports`, and attributes that it uses."""

    code: str
    imports: tuple[tuple[str, bool], ...]
    attributes: frozenset[str]


def _read(path: Path) -> _Source:
    state = path.stat()
    return _parsed(path, state.st_mtime_ns, state.st_size)


@cache
def _parsed(path: Path, modified: int, size: int) -> _Source:
    """Read a file once for each state of it."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    lines = source.split("\n")  # as tokenize and ast count them
    in_string = set()  # rows that end in a string: spaces at their ends, and blank ones, belong to it
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        row, column = token.start
        if token.type == tokenize.COMMENT:
            lines[row - 1] = lines[row - 1][:column]
        in_string |= set(range(row - 1, token.end[0] - 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and ast.get_docstring(node, clean=False) is not None:
                _cut(lines, first)
                in_string -= set(range(first.lineno - 1, first.end_lineno or first.lineno))
    kept = [line if row in in_string else line.rstrip() for row, line in enumerate(lines)]
    code = "\n".join(line for row, line in enumerate(kept) if line or row in in_string)
    attributes = frozenset(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return _Source(code, tuple(_imports(tree)), attributes)


def _cut(lines: list[str], node: ast.stmt) -> None:
    """Remove a statement from lines. Columns of the syntax tree count bytes."""
    assert node.end_lineno is not None and node.end_col_offset is not None
    first, last = node.lineno - 1, node.end_lineno - 1
    before = lines[first].encode()[: node.col_offset].decode()
    after = lines[last].encode()[node.end_col_offset :].decode()
    lines[first : last + 1] = [before + after, *[""] * (last - first)]


def _imports(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Yield the names that a module imports, and whether the import is in a function."""
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, late = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base, late
            yield from ((f"{base}{'.' * bool(node.module)}{alias.name}", late) for alias in node.names)
        late |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += [(child, late) for child in node.orelse]
        else:
            waiting += [(child, late) for child in ast.iter_child_nodes(node)]
