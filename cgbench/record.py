"""The record of a run: everything about it but its arrays."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

__all__ = ["Evaluations", "Incident", "Record", "Status", "parse_record", "record_bytes", "to_json"]

Status = Literal["running", "finished", "budget", "failed"]


class Evaluations(BaseModel):
    """Energy evaluations: all, by phase, and as the method's publication counts them."""

    total: int
    by_phase: dict[str, int]
    publication_convention: int


class Incident(BaseModel):
    """How often numbers of one kind went wrong, and out of how many."""

    count: int
    occasions: int


class Record(BaseModel):
    """Everything about a run but its arrays; the content of ``record.json``."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    system: str
    system_version: str
    method: str
    preset: str
    seed: int
    config: dict[str, Any]
    config_hash: str
    engine: str
    device: str
    threads: int
    budget: int | None
    status: Status
    reason: str | None = None
    evaluations: Evaluations
    metrics: dict[str, float | None]
    incidents: dict[str, Incident] = {}
    density: dict[str, Any] | None = None
    diagnostics: dict[str, Any] = {}
    seconds: dict[str, dict[str, float]] = {}
    reference: dict[str, Any] | None = None
    provenance: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _of_older_records(cls, data: Any) -> Any:
        """Records once had one count of incidents alone."""
        if isinstance(data, dict) and "nonfinite_energies" in data and isinstance(data.get("evaluations"), dict):
            data = dict(data)
            count = data.pop("nonfinite_energies")
            if count:
                data["incidents"] = {
                    "nonfinite_energy": {"count": count, "occasions": data["evaluations"].get("total")}
                }
        return data

    @property
    def wall_seconds(self) -> float:
        """Wall seconds of the method, scoring left out."""
        return sum(spent.get("wall", 0.0) for spent in self.seconds.values())


def to_json(value: Any) -> str:
    """Valid JSON: numbers that are not finite become the strings "inf", "-inf" and "nan"."""
    return json.dumps(_clean(value), indent=2, allow_nan=False) + "\n"


def _clean(item: Any) -> Any:
    if isinstance(item, float) and not math.isfinite(item):
        return str(item)
    if isinstance(item, Mapping):
        return {str(key): _clean(inner) for key, inner in item.items()}
    if isinstance(item, (list, tuple)):
        return [_clean(inner) for inner in item]
    return item


def _checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of the values, however they are laid out in the file."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def record_bytes(record: Record) -> bytes:
    """Return the content of ``record.json``, with a checksum of its values."""
    content = json.loads(to_json(record.model_dump()))
    return to_json(content | {"checksum": _checksum(content)}).encode()


def parse_record(content: bytes) -> Record:
    """Read what `record_bytes` returned; records without a checksum are read, too.

    Raises
    ------
    ValueError
        In one line, if it is no record, or not what was written.
    """
    try:
        data = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"must be an object, not {type(data).__name__}")
    checksum = data.pop("checksum", None)
    if checksum is not None and checksum != _checksum(data):
        raise ValueError("the checksum does not fit: it was changed or damaged after it was written")
    try:
        return Record.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(" ".join(f"{where}: {first['msg']}".split())) from None
