"""The record of a run: ``record.json``."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

__all__ = [
    "EXTERNAL_PRESET",
    "AnomalyCount",
    "ClaimedErrors",
    "Evaluations",
    "Record",
    "StateSpace",
    "Status",
    "parse_record",
    "record_bytes",
    "to_json",
    "warnings_in",
]

EXTERNAL_PRESET = "self-reported"  # of results of other programs, whose evaluations a user has stated
Status = Literal["running", "finished", "budget", "failed"]


LARGEST = 2**63 - 1
Count = Annotated[int, Field(ge=0, le=LARGEST)]


class Evaluations(BaseModel):
    """Energy evaluations: in total, by phase, and as the method's publication counts them.

    `with_gradient` are those of the total whose gradient was asked for; None where it is not known.
    """

    total: Count
    by_phase: dict[str, Count]
    publication_convention: Count
    with_gradient: Count | None = None


class AnomalyCount(BaseModel):
    """The number of anomalies of one kind, and the number of occasions."""

    count: int
    occasions: int


class ClaimedErrors(BaseModel):
    """The method's own standard errors of the final free energies in kT, over bins below `below_kT` of all maps.

    The mean is weighted by the estimated probability.
    """

    mean_kT: float
    largest_kT: float
    below_kT: float


class StateSpace(BaseModel):
    """Samples of simulations and those outside the state space, proposals of flows and those rejected as outside."""

    samples: int
    outside: int
    proposed: int
    rejected: int


def warnings_in(diagnostics: Mapping[str, Any]) -> list[str]:
    """Return the warnings in a method's diagnostics, whatever form it gave them."""
    found = diagnostics.get("warnings")
    if found is None:
        return []
    return [str(warning) for warning in found] if isinstance(found, (list, tuple)) else [str(found)]


class Record(BaseModel):
    """Everything about a run except its arrays; the content of ``record.json``."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[3] = 3
    origin: Literal["run", "external"] = "run"
    system: str
    system_version: str
    method: str
    preset: str
    seed: Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
    config: dict[str, Any]
    config_hash: str
    engine: str
    device: str
    threads: Count
    budget: Count | None
    status: Status
    reason: str | None = None
    evaluations: Evaluations
    metrics: dict[str, float | None]
    metrics_version: int | None = None
    anomalies: dict[str, AnomalyCount] = {}
    state_space: StateSpace | None = None
    density: dict[str, Any] | None = None
    claimed_errors: ClaimedErrors | None = None
    diagnostics: dict[str, Any] = {}
    seconds: dict[str, dict[str, float]] = {}
    reference: dict[str, Any] | None = None
    provenance: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, data: Any) -> Any:
        """Accept a record of schema version 1 or 2."""
        if not isinstance(data, dict) or data.get("schema_version") not in (1, 2):
            return data
        return (_renamed(data) if data["schema_version"] == 1 else data) | {"schema_version": 3}

    @property
    def warnings(self) -> list[str]:
        """What the method warns of in its diagnostics."""
        return warnings_in(self.diagnostics)

    @property
    def wall_seconds(self) -> float:
        """Wall seconds of the method, without scoring; nan for an external result, whose time is unknown."""
        if self.origin == "external":
            return math.nan
        return sum(spent.get("wall", 0.0) for spent in self.seconds.values())


# kinds of anomalies that have other names in records of schema version 1
OLDER_KINDS = {
    "lost_walker": "diverged_walker",
    "unusable_label": "unusable_sample",
    "no_spread": "collapsed_ensemble",
}


def _renamed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Give the anomalies of a record of schema version 1 their names of version 2."""
    found = dict(data)
    anomalies = found.pop("incidents", {})
    count = found.pop("nonfinite_energies", None)  # the only count in the first records
    if count and isinstance(found.get("evaluations"), dict):
        anomalies = {"nonfinite_energy": {"count": count, "occasions": found["evaluations"].get("total")}}
    if isinstance(anomalies, dict):
        anomalies = {OLDER_KINDS.get(kind, kind): counts for kind, counts in anomalies.items()}
    return found | {"anomalies": anomalies}


def to_json(value: Any) -> str:
    """Return valid JSON; non-finite numbers become the strings "inf", "-inf" and "nan"."""
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
    """Return the SHA-256 of the values, independent of their layout in the file."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def record_bytes(record: Record) -> bytes:
    """Return the content of ``record.json``, including a checksum of its values."""
    content = json.loads(to_json(record.model_dump()))
    return to_json(content | {"checksum": _checksum(content)}).encode()


def parse_record(content: bytes) -> Record:
    """Parse the content of a ``record.json``; the checksum is optional.

    Raises
    ------
    ValueError
        With a one-line message, if it is not a record, or was changed after it was written.
    """
    try:
        data = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"must be an object, not {type(data).__name__}")
    checksum = data.pop("checksum", None)
    if checksum is not None and checksum != _checksum(data):
        raise ValueError("the checksum does not match: the record was changed or damaged after it was written")
    try:
        return Record.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(" ".join(f"{where}: {first['msg']}".split())) from None
