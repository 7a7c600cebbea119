"""Configurations of methods: presets in YAML, overrides, and one-line error messages."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from cgbench.contracts.declarations import PresetFacts
from cgbench.contracts.method import Method, MethodConfig
from cgbench.errors import UserError, choices
from cgbench.storage.yaml_text import position, read_yaml

__all__ = ["config_hash", "explain", "make_config", "preset_facts", "preset_folders", "preset_names", "validated"]

Model = TypeVar("Model", bound=BaseModel)

DEEPEST = 20  # levels of nested keys
ANY_SYSTEM = "any"  # folder of presets for systems without one of their own
ABOUT = "about"  # key of a preset that holds `PresetFacts` and no settings


def _presets_of(method: type[Method]) -> Path:
    """Return the folder with one folder of presets for each system."""
    root = method.presets_folder()
    own = root / method.name
    return own if own.is_dir() else root


def preset_folders(method: type[Method]) -> dict[str, list[str]]:
    """Return the names of the presets in each folder of a method: of a system, or "any"."""
    paths = sorted(_presets_of(method).glob("*/*.yaml"))
    return {path.parent.name: [other.stem for other in paths if other.parent == path.parent] for path in paths}


def _preset_files(method: type[Method], system: str) -> dict[str, Path]:
    """Return the preset files of a method for a system by name.

    They are in ``presets/<system>``, or ``presets/<method>/<system>`` where a package holds several methods. Those in
    the folder "any" serve where the system has no preset of that name.
    """
    folder = _presets_of(method)
    return {path.stem: path for name in (ANY_SYSTEM, system) for path in (folder / name).glob("*.yaml")}


def preset_names(method: type[Method], system: str) -> list[str]:
    """Return the presets of a method for a system; ["default"] if there are no preset files."""
    return sorted(_preset_files(method, system)) or ["default"]


def config_hash(config: MethodConfig) -> str:
    """Return the hash of a complete configuration, 64 hexadecimal digits."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def make_config(method: type[Method], system: str, preset: str, overrides: Sequence[str] = ()) -> MethodConfig:
    """Read a preset and apply overrides of the form ``key=value`` (dotted keys, YAML values).

    Raises
    ------
    UserError
        For an unknown preset or key, an invalid value, or YAML that cannot be read.
    """
    known = preset_names(method, system)
    if preset not in known:
        raise UserError(f"unknown preset {preset!r} of {method.name} on {system}: choose from {choices(known)}")
    path = _preset_files(method, system).get(preset)
    settings, text = ({}, "") if path is None else _read_preset(path)
    _facts(settings, method, path, text)
    for override in overrides:
        _apply(settings, override)
    try:
        return validated(method.Config, settings)
    except ValidationError as error:
        origin = "--set" if overrides else f"preset {preset}, which has no file"
        if path is not None and not overrides:
            origin = f"{path}, {position(text, error.errors()[0]['loc'])}"
        raise UserError(f"configuration of {method.name} ({origin}): {explain(error, method.Config)}") from error


def preset_facts(method: type[Method], system: str, preset: str) -> PresetFacts | None:
    """Return what a preset declares about itself; None if there is no such preset, or it declares nothing.

    Raises
    ------
    UserError
        If the file cannot be read, or the declaration is wrong.
    """
    path = _preset_files(method, system).get(preset)
    if path is None:
        return None
    settings, text = _read_preset(path)
    return _facts(settings, method, path, text)


def _read_preset(path: Path) -> tuple[dict[str, Any], str]:
    """Return the keys and values of a preset's file, and its text."""
    try:
        text = path.read_text(encoding="utf-8")
        settings = read_yaml(text) or {}
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"preset {path} cannot be read: {reason}") from error
    if not isinstance(settings, dict):
        raise UserError(f"preset {path} must be a mapping of keys to values, not {type(settings).__name__}")
    return settings, text


def _facts(settings: dict[str, Any], method: type[Method], path: Path | None, text: str) -> PresetFacts | None:
    """Take what a preset declares about itself out of its settings."""
    if ABOUT not in settings:
        return None
    try:
        return validated(PresetFacts, settings.pop(ABOUT))
    except ValidationError as error:
        line = position(text, (ABOUT, *error.errors()[0]["loc"]))
        raise UserError(
            f"{ABOUT} of a preset of {method.name} ({path}, {line}): {explain(error, PresetFacts)}"
        ) from error


def validated(model: type[Model], content: Any) -> Model:
    """Check content that was read from YAML, with strict types: text is no number, and a number is no boolean.

    Raises
    ------
    pydantic.ValidationError
        If a key or a value is wrong.
    """
    return model.model_validate_json(json.dumps(content), strict=True)  # JSON has lists where models have tuples


def _apply(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"--set {_shown(override)}: write key=value, with dots in nested keys")
    if len(parts) > DEEPEST:
        raise UserError(f"--set {_shown(key)}: the key has {len(parts)} levels, at most {DEEPEST} are allowed")
    try:
        value = read_yaml(text)
    except ValueError as error:
        raise UserError(f"--set {_shown(key)}: {_shown(text)} is not a YAML value: {error}") from error
    place = settings
    for depth, part in enumerate(parts[:-1]):
        inner = place.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UserError(
                f"--set {_shown(key)}: {_shown('.'.join(parts[: depth + 1]))} is a value and has no nested keys"
            )
        place = inner
    place[parts[-1]] = value


def _shown(value: Any) -> str:
    """Return a value as Python writes it, shortened to one line."""
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Describe the first mistake in one line; for an unknown key, list the allowed keys."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    name = ".".join(location)
    more = f" (and {len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
    if first["type"] == "extra_forbidden":
        keys = _keys_at(model, location[:-1])
        close = difflib.get_close_matches(location[-1], keys, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"unknown key {name!r}: {hint}choose from {choices(keys)}{more}"
    return f"key {name!r}: {first['msg']}, not {_shown(first['input'])}{more}"


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in get_args(annotation) for model in _models(part)]


def _keys_at(model: type[BaseModel], location: list[str]) -> list[str]:
    """Return the allowed keys at a location; a tag of a discriminated union selects its member."""
    candidates = [model]
    for part in location:
        inner = [m for c in candidates if part in c.model_fields for m in _models(c.model_fields[part].annotation)]
        if inner:
            candidates = inner
        else:
            tagged = [
                c for c in candidates if any(part in get_args(field.annotation) for field in c.model_fields.values())
            ]
            candidates = tagged or candidates
    return sorted({key for candidate in candidates for key in candidate.model_fields})
