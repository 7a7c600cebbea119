"""Which formats each option is for: an option that a file has no use for is refused, not ignored."""

from __future__ import annotations

from pathlib import Path

from cgbench.contracts.system import System
from cgbench.errors import UserError, choices
from cgbench.exchange.formats.detect import PMF_FORMATS, SAMPLE_FORMATS
from cgbench.exchange.landscape import Options

__all__ = ["refuse_physical_unit", "refuse_unused"]

# the temperature is for all: it is compared with that of the system
FORMATS = {
    "unit": (*PMF_FORMATS, "colvar"),
    "axes": (*PMF_FORMATS, "colvar", "samples"),
    "ranges": ("gmx-sham", "openmm", "openmm-bias"),
    "bias": ("colvar",),
    "bias_factor": ("openmm-bias",),
    "topology": ("trajectory",),
    "weights": SAMPLE_FORMATS,
    "estimator": SAMPLE_FORMATS,
}
WORDS = {"ranges": "--range", "bias_factor": "--bias-factor"}  # where they differ from the name


def refuse_unused(path: Path, format: str, options: Options, system: System | None) -> None:
    """Refuse options that a file of this format, or of samples of this system, has no use for.

    Raises
    ------
    UserError
        If there is one, or no such format.
    """
    if format not in (known := (*PMF_FORMATS, *SAMPLE_FORMATS, "xpm")):
        raise UserError(f"unknown format {format!r} (--format): choose from {choices(known[:-1])}")
    default = Options()
    for name, formats in FORMATS.items():
        if format not in formats and getattr(options, name) != getattr(default, name):
            option = WORDS.get(name, f"--{name}")
            raise UserError(f"{path} is of format {format}: {option} is for {', '.join(formats)}")
    if options.temperature is not None and system is not None and "molecular" not in system.traits:
        raise UserError(f"{path}: {system.name} is a model without physical units: leave out --temperature")


def refuse_physical_unit(where: str, unit: str, system: System | None) -> None:
    """Refuse energies of a model in another unit than kT.

    Raises
    ------
    UserError
        If the system is a model without physical units, and these are in one.
    """
    if unit != "kT" and system is not None and "molecular" not in system.traits:
        raise UserError(
            f"{where}: {system.name} is a model without physical units, so energies are in kT, not in {unit}: --unit kT"
        )
