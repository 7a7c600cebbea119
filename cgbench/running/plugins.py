"""Classes and instances of plugins, checked: a fault of a plugin becomes one line that says what is wrong and where."""

from __future__ import annotations

import inspect
import math
import numbers
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cgbench.errors import PluginError, UserError, choices

if TYPE_CHECKING:
    from cgbench.contracts.method import Method
    from cgbench.contracts.system import System

__all__ = ["Kind", "check_class", "check_start", "construct", "construct_system", "explain"]

Kind = Literal["system", "method"]


def explain(error: BaseException, *classes: type) -> str:
    """Describe an exception in one line, with its place in the code of the plugin's classes."""
    words = " ".join(str(error).split())
    described = f"{type(error).__name__}: {words}" if words else type(error).__name__
    homes = {folder for cls in classes if (folder := _folder(cls)) is not None}
    places = [
        f"{Path(frame.filename).name}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if any(Path(frame.filename).resolve().is_relative_to(home) for home in homes)
    ]
    return f"{described} ({places[-1]})" if places else described


def _folder(cls: type) -> Path | None:
    try:
        return Path(inspect.getfile(cls)).resolve().parent
    except (TypeError, OSError):  # a class without a file
        return None


def construct(make: Callable[[], Any], kind: Kind, name: str, *classes: type) -> Any:
    """Call a plugin's constructor.

    Raises
    ------
    PluginError
        If the constructor raises anything but a `UserError`, which is passed on.
    """
    try:
        return make()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a plugin may fail in any way
        raise PluginError(f"{kind} {name} cannot be built: {explain(error, *classes)}") from error


def construct_system(cls: type[System], name: str, engine: str | None = None, device: str = "cpu") -> System:
    """Build a system and check its attributes; `name` is what the user calls it.

    Raises
    ------
    UserError
        If the engine is unknown.
    PluginError
        If the constructor fails, or an attribute is missing or has the wrong type.
    """
    system: System = construct(lambda: cls(engine=engine, device=device), "system", name, cls)
    _check_system(system, f"system {name}")
    return system


def check_start(system: System) -> None:
    """Check that the initial configuration is in the state space; systems without coordinates have none.

    Raises
    ------
    UserError
        If it is outside, for any of the coordinate sets.
    PluginError
        If the system cannot tell.
    """
    if "coordinates" not in system.traits:
        return
    try:
        start = system.initial_configuration()[None]
        sets = {"default": system.coordinates, **system.coordinate_sets}
        outside = [name for name, one in sets.items() if not bool(one.in_state_space(start).all())]
        place = system.collective_variables(start)[0].tolist() if outside else []
    except Exception as error:  # a plugin may fail in any way
        raise PluginError(
            f"system {system.name} cannot tell whether its initial configuration is in the state space: "
            f"{explain(error, type(system))}"
        ) from error
    if outside:
        where = ", ".join(f"{name} = {value:.4g}" for name, value in zip(system.cvs.names, place, strict=True))
        raise UserError(
            f"system {system.name}: initial_configuration() ({where}) is outside the state space, as in_state_space of "
            f"coordinates {choices(outside)} says; start from a configuration inside (its mirror image, for example, "
            "has the wrong chirality)"
        )


# ---- classes ------------------------------------------------------------------------------------------


def check_class(kind: Kind, cls: Any, origin: str) -> Any:
    """Return a plugin's class, after checking its type and attributes.

    Raises
    ------
    PluginError
        If it is not a subclass of the contract, is abstract, or an attribute is missing or has the wrong type.
    """
    from cgbench.contracts.method import Method
    from cgbench.contracts.system import System

    base: type[System] | type[Method] = System if kind == "system" else Method
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise PluginError(f"{origin} is not a subclass of {base.__module__}.{base.__name__}")
    if not getattr(cls, "name", None):
        raise PluginError(f"{origin}: the class {cls.__name__} has no attribute 'name'")
    where = f"{origin}: {cls.__name__}"
    if not _is_name(cls.name):
        raise PluginError(f"{where}.name is {cls.name!r}; it must be text that can name a folder")
    if missing := getattr(cls, "__abstractmethods__", None):
        raise PluginError(f"{where} is abstract: it must implement {choices(missing)}")
    if issubclass(cls, System):
        _check_system_class(cls, where)
    elif issubclass(cls, Method):
        _check_method_class(cls, where)
    return cls


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value not in (".", "..") and value.isprintable() and not set(value) & set("/\\")


def _is_texts(value: Any, *types: type[Collection[Any]]) -> bool:
    return isinstance(value, types) and all(isinstance(item, str) for item in value)


def _check_system_class(cls: type[System], where: str) -> None:
    version = getattr(cls, "version", None)
    if not isinstance(version, str) or not version:
        raise PluginError(
            f"{where}.version is {version!r}; it must be a string, changed whenever density or reference change"
        )
    if not _is_texts(cls.engines, tuple, list) or not cls.engines:
        raise PluginError(f"{where}.engines is {cls.engines!r}; it must be a tuple of names, at least one")


def _check_method_class(cls: type[Method], where: str) -> None:
    from pydantic import BaseModel

    from cgbench.contracts.declarations import Given

    if not isinstance(cls.given, tuple) or not all(isinstance(one, Given) for one in cls.given):
        raise PluginError(f"{where}.given is {cls.given!r}; it must be a tuple of cgbench.contracts.declarations.Given")
    for name in ("requires", "uncounted_in_publication"):
        value = getattr(cls, name)
        if not _is_texts(value, set, frozenset):
            raise PluginError(f"{where}.{name} is {value!r}; it must be a frozenset of strings")
    if not (isinstance(cls.Config, type) and issubclass(cls.Config, BaseModel)):
        raise PluginError(
            f"{where}.Config is {cls.Config!r}; it must be a pydantic model, a subclass of "
            "cgbench.contracts.method.MethodConfig"
        )


# ---- systems ------------------------------------------------------------------------------------------


def _check_system(system: System, where: str) -> None:
    """Check the attributes that every run needs; `cgbench check` examines their values."""
    from cgbench.contracts.coordinates import Coordinates
    from cgbench.contracts.cvs import CollectiveVariables
    from cgbench.contracts.maps import States
    from cgbench.contracts.system import Basin

    def attribute(name: str) -> Any:
        try:
            return getattr(system, name)
        except AttributeError as error:
            if name in str(error):
                hint = "" if name in ATTRIBUTES else "; call super().__init__(engine=engine, device=device)"
                raise PluginError(f"{where} has no attribute {name!r}{hint}") from error
            raise PluginError(f"{where}: {name} cannot be read: {explain(error, type(system))}") from error
        except Exception as error:  # a property may fail in any way
            raise PluginError(f"{where}: {name} cannot be read: {explain(error, type(system))}") from error

    for name in ("engine", "device"):
        attribute(name)
    cvs = attribute("cvs")
    if not isinstance(cvs, CollectiveVariables) or not len(cvs):
        raise PluginError(
            f"{where}: cvs is {cvs!r}; it must be a cgbench.contracts.cvs.CollectiveVariables with at least one CV"
        )
    _check_temperature(attribute("temperature"), where)
    traits = attribute("traits")
    if not _is_texts(traits, set, frozenset):
        raise PluginError(f"{where}: traits is {traits!r}; it must be a frozenset of strings")
    _check_maps(attribute("maps"), len(cvs), where)
    states = attribute("states")
    if states is not None and not (isinstance(states, States) and _is_texts(states.names, tuple) and states.names):
        raise PluginError(f"{where}: states is {states!r}; it must be a cgbench.contracts.maps.States, or None")
    basins = attribute("basins")
    if not (isinstance(basins, (tuple, list)) and all(isinstance(basin, Basin) for basin in basins)):
        raise PluginError(f"{where}: basins is {basins!r}; it must be a tuple of cgbench.contracts.system.Basin")
    number = max(len(system.maps), 1)
    for basin in basins:
        if basin.map not in range(number):
            raise PluginError(f"{where}: basin {basin.name} is of map {basin.map}; the last map is {number - 1}")
    if "coordinates" in traits and not isinstance(coordinates := attribute("coordinates"), Coordinates):
        raise PluginError(
            f"{where}: coordinates is a {type(coordinates).__name__}; "
            "it must be a cgbench.contracts.coordinates.Coordinates"
        )


LARGEST_MAP = 3  # CVs


def _check_maps(maps: Any, cvs: int, where: str) -> None:
    """Check that maps are subsets of the CVs; a system with too many CVs for one grid must declare them."""
    if not isinstance(maps, (tuple, list)) or not all(isinstance(axes, (tuple, list)) for axes in maps):
        raise PluginError(f"{where}: maps is {maps!r}; it must be a tuple of tuples of indices of CVs")
    for axes in maps:
        known = all(isinstance(axis, int) and 0 <= axis < cvs for axis in axes)
        if not (known and len(set(axes)) == len(axes) and 1 <= len(axes) <= LARGEST_MAP):
            raise PluginError(f"{where}: map {axes!r} must hold one to {LARGEST_MAP} different CVs of 0 to {cvs - 1}")
    if not maps and cvs > LARGEST_MAP:
        raise PluginError(
            f"{where}: a grid over {cvs} CVs is too large; give maps, a tuple of subsets with at most {LARGEST_MAP} CVs"
        )


ATTRIBUTES = ("cvs", "temperature", "traits", "basins", "coordinates")  # set by the class itself


def _check_temperature(value: Any, where: str) -> None:
    if hasattr(value, "value_in_unit"):
        raise PluginError(
            f"{where}: temperature is {value}, with a unit; it must be a number in kelvin: use .value_in_unit(kelvin)"
        )
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise PluginError(f"{where}: temperature is {value!r}; it must be a number in kelvin")
    if not (math.isfinite(value) and float(value) > 0):
        raise PluginError(f"{where}: temperature is {value!r}; it must be positive")
