"""Directives that make tables from the code, so that the documentation cannot differ from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, get_args

import click
import pandas as pd
from docutils import nodes
from docutils.parsers.rst import directives
from pydantic import BaseModel
from sphinx.util.docutils import SphinxDirective

from cgbench import load_method
from cgbench.cli.main import cgbench as commands
from cgbench.contracts.declarations import Given
from cgbench.counting.anomalies import KINDS
from cgbench.results.tables import leaderboard_markdown
from cgbench.running.configuration import preset_facts, preset_folders
from cgbench.running.registry import names

__all__ = ["setup"]


def _table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


class FromMarkdown(SphinxDirective):
    """A directive whose content is Markdown made from the code."""

    def markdown(self) -> str:
        """Return the content."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Parse the content."""
        return self.parse_text_to_nodes(self.markdown())


class Anomalies(FromMarkdown):
    """The kinds of numerical failures, what is done about them, and their limits."""

    def markdown(self) -> str:
        """Return one row for each kind."""
        rows = []
        for name, kind in KINDS.items():
            limit = f"{kind.limit:.0%} after {kind.at_least:,} occasions" if kind.limit < 1 else "none"
            rows.append([f"`{name}`", kind.meaning, limit])
        return _table(["kind", "what happened and what is done", "limit"], rows)


class Settings(FromMarkdown):
    """All settings of a method, or of one of its recipes: key, default, admissible values and meaning."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"recipe": directives.unchanged}

    def markdown(self) -> str:
        """Return one row for each key, nested keys with dots."""
        model = load_method(self.arguments[0]).Config
        if "recipe" not in self.options:
            return _settings(model, "")
        recipes = get_args(model.model_fields["recipe"].annotation)
        (recipe,) = (one for one in recipes if one.model_fields["kind"].default == self.options["recipe"])
        return _settings(recipe, "recipe.")


def _settings(model: type[BaseModel], prefix: str) -> str:
    return _table(["key", "default", "values", "meaning"], list(_rows(model, prefix)))


def _rows(model: type[BaseModel], prefix: str) -> Iterator[list[str]]:
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from _rows(type(field.default), f"{prefix}{name}.")
            continue
        default = field.default if isinstance(field.default, str) else str(field.default).replace("None", "null")
        limits = [f"{sign} {getattr(bound, attribute):g}" for sign, attribute, bound in _bounds(field.metadata)]
        yield [f"`{prefix}{name}`", f"`{default}`", ", ".join(limits), field.description or ""]


def _bounds(metadata: list[Any]) -> Iterator[tuple[str, str, Any]]:
    for bound in metadata:
        for sign, attribute in ((">", "gt"), ("≥", "ge"), ("<", "lt"), ("≤", "le")):
            if getattr(bound, attribute, None) is not None:
                yield sign, attribute, bound


class Command(FromMarkdown):
    """Usage, help and options of a command; of a group, those of each of its commands."""

    required_arguments = 1

    def markdown(self) -> str:
        """Return the help as Markdown."""
        context = click.Context(commands, info_name="cgbench")
        command = commands.get_command(context, self.arguments[0])
        assert command is not None, self.arguments[0]
        return _help(command, click.Context(command, info_name=self.arguments[0], parent=context))


def _help(command: click.Command, context: click.Context) -> str:
    if isinstance(command, click.Group):
        parts = [command.get_short_help_str(limit=1000)]
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            parts.append(_help(inner, click.Context(inner, info_name=name, parent=context)))
        return "\n\n".join(parts)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    rows = [[f"`{record[0]}`", record[1]] for record in records if record is not None and "--help" not in record[0]]
    options = _table(["option", "meaning"], rows) if rows else ""
    return f"```text\n{usage}\n```\n\n{command.get_short_help_str(limit=1000)}\n\n{options}"


GIVEN = {
    "collective_variables": "CVs and their domain",
    "coordinates": "internal coordinates",
    "state_space": "state space",
    "masses": "masses",
    "gradient": "gradient",
    "hessians": "Hessians",
    "temperatures": "other temperatures",
    "free_energies": "free energies in kT",
    "wells": "wells of torsions",
    "start": "initial configuration",
}


class GivenInAdvance(FromMarkdown):
    """What each registered method is given in advance, as it declares."""

    def markdown(self) -> str:
        """Return one row for each method and variant; methods that are given the same share a row."""
        rows: dict[Given, list[str]] = {}
        for name in names("method"):
            for one in load_method(name).given:
                rows.setdefault(one, []).append(f"`{name}`")
        cells = [
            [", ".join(methods) + f", {one.variant}" * bool(one.variant)]
            + [getattr(one, attribute) or "–" for attribute in GIVEN]
            for one, methods in rows.items()
        ]
        return _table(["method", *GIVEN.values()], cells)


class Tuning(FromMarkdown):
    """How the settings of each preset of a method were chosen, as the presets declare."""

    required_arguments = 1

    def markdown(self) -> str:
        """Return one row for each preset; presets of tests are left out."""
        method = load_method(self.arguments[0])
        rows = []
        for system, presets in preset_folders(method).items():
            for preset in presets:
                facts = preset_facts(method, system, preset)
                if facts is not None and preset != "smoke":
                    where = "any molecule" if system == "any" else f"`{system}`"
                    words = [facts.algorithm, facts.chosen, facts.tried_on or "–", facts.scores]
                    rows.append([f"`{preset}`, {where}", *words, "yes" if facts.protocol else "no"])
        head = ["preset", "algorithm", "which settings were chosen, and how", "trial runs", "scores", "protocol"]
        return _table(head, rows)


class Leaderboard(FromMarkdown):
    """A leaderboard from its CSV file, as the command prints it."""

    required_arguments = 1

    def markdown(self) -> str:
        """Return the table."""
        _, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(path)
        return leaderboard_markdown(pd.read_csv(Path(path)))


class Across(FromMarkdown):
    """Median forward KLDs in a leaderboard's CSV file, preset default: one row for each method, one column a system."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"systems": str.split}

    def markdown(self) -> str:
        """Return the table; the best of each column is in bold, and several seeds are in parentheses."""
        _, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(path)
        table = pd.read_csv(Path(path))
        systems = self.options["systems"]
        rows = table[(table["preset"] == "default") & table["system"].isin(systems)]
        best = rows.groupby("system")["forward_kld"].min()
        cells = {
            (row.method, row.system): _divergence(row.forward_kld, row.n_seeds, row.forward_kld == best[row.system])
            for row in rows.itertuples()
        }
        methods = sorted(set(rows["method"]), key=lambda name: rows[rows["method"] == name]["forward_kld"].median())
        lines = [[f"`{method}`", *(cells.get((method, system), "–") for system in systems)] for method in methods]
        return _table(["method", *(f"`{system}`" for system in systems)], lines)


def _divergence(kld: float, seeds: int, best: bool) -> str:
    text = f"**{kld:.1e}**" if best else f"{kld:.1e}"
    return text if seeds == 1 else f"{text} ({seeds})"


class Certificates(FromMarkdown):
    """The certified references of the systems in the folders that a pattern matches."""

    required_arguments = 1

    def markdown(self) -> str:
        """Return one row for each certificate."""
        _, pattern = self.env.relfn2path(self.arguments[0])
        folder, _, rest = pattern.partition("*")
        rows = []
        for path in sorted(Path(folder).glob(f"*{rest}"), key=lambda path: path.parents[1].name):
            self.env.note_dependency(str(path))
            rows.append(_certificate(path.parents[1].name, json.loads(path.read_text(encoding="utf-8"))))
        head = ["system", "noise floor", "steps", "free energies of basins (kT)", "transitions of rotamers per walker"]
        return _table([*head, "checks passed", "CPU time"], rows)


def _certificate(name: str, record: dict[str, Any]) -> list[str]:
    basins = [
        f"{basin} {entry['free_energy_kT']:.3f} ± {entry['free_energy_standard_error_kT']:.3f}"
        for basin, entry in record["basins"].items()
    ]
    turns = [
        f"{one['torsion']} {one['transitions_per_walker']:.0f}"
        for one in record.get("side_torsions") or record.get("torsions", [])
    ]
    passed = sum(check["passed"] for check in record["checks"])
    seconds = sum(record.get("sampling_cpu_seconds", {}).values())
    return [
        f"`{name}`",
        f"{record['noise_floor']:.1e}",
        f"{record['production_steps']:.1e}",
        "; ".join(basins),
        ", ".join(turns) or "no side chain",
        f"{passed} of {len(record['checks'])}",
        f"{seconds / 60:.0f} min" if seconds else "not recorded",
    ]


def setup(app: Any) -> dict[str, Any]:
    """Register the extension."""
    found = {"anomalies": Anomalies, "settings": Settings, "command": Command, "leaderboard": Leaderboard}
    found |= {"across": Across, "certificates": Certificates, "given": GivenInAdvance, "tuning": Tuning}
    for name, directive in found.items():
        app.add_directive(name, directive)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
