"""The resources of each SLURM job of a sweep: options of ``cgbench sweep``, checked and converted for submitit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cgbench.errors import UserError

__all__ = ["Resources"]

TIME = r"\d+|(\d+:)?\d+:\d\d|\d+-\d+(:\d\d){0,2}"
OURS = ("array", "job-name", "signal", "output", "error", "open-mode", "requeue", "no-requeue", "wrap")


@dataclass(frozen=True)
class Resources:
    """The resources of a job, with values as for the sbatch options. None means the default of the cluster.

    Attributes
    ----------
    more
        Further options of sbatch; True for an option without a value.

    Raises
    ------
    UserError
        If a value is invalid.
    """

    partition: str | None = None
    time: str | None = None
    gpus: int | None = None
    memory: str | None = None
    account: str | None = None
    more: Mapping[str, str | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.time is not None and not re.fullmatch(TIME, self.time):
            raise UserError(f"--time must be minutes, HH:MM:SS or D-HH:MM:SS, not {self.time!r}")
        if self.gpus is not None and self.gpus < 0:
            raise UserError(f"--gpus must be at least 0, not {self.gpus}")
        if self.memory is not None and not re.fullmatch(r"\d+[KMGT]?B?", self.memory, re.IGNORECASE):
            raise UserError(f"--memory must be a number with a unit, such as 8G, not {self.memory!r}")

    @staticmethod
    def parse(words: Sequence[str]) -> dict[str, str | bool]:
        """Parse further options of sbatch: ``KEY=VALUE``, or ``KEY`` for an option without a value.

        Raises
        ------
        UserError
            For a word that is not an option, or for an option that cgbench sets itself.
        """
        more: dict[str, str | bool] = {}
        for word in words:
            key, equals, value = word.removeprefix("--").partition("=")
            key = key.replace("_", "-")
            if not re.fullmatch(r"[a-z][a-z-]*", key):
                raise UserError(f"--slurm must be KEY=VALUE, an option of sbatch such as qos=high, not {word!r}")
            if key in OURS:
                raise UserError(f"--slurm {word}: cgbench sets {key} itself; leave it out")
            more[key] = value if equals else True
        return more

    def overruled(self) -> list[str]:
        """Return the environment variables of sbatch that would conflict with these resources."""
        given = {
            "PARTITION": self.partition,
            "TIMELIMIT": self.time,
            "GPUS_PER_NODE": self.gpus,
            "MEM_PER_NODE": self.memory,
            "ACCOUNT": self.account,
        }
        names = [name for name, value in given.items() if value is not None]
        names += [key.upper().replace("-", "_") for key in (*self.more, *OURS)]
        return [f"SBATCH_{name}" for name in (*names, "ARRAY_INX")]

    def parameters(self) -> dict[str, Any]:
        """Return the resources under submitit's names."""
        return {
            "partition": self.partition,
            "time": self.time,
            "gpus_per_node": self.gpus,
            "mem": self.memory,
            "account": self.account,
        }
