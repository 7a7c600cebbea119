"""Tables in Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cgbench_paper.style import SYSTEMS

__all__ = ["heading", "pipes", "tabular"]


def heading(system: str) -> str:
    """Return the name of a system, with a capital."""
    name = SYSTEMS.get(system, system)
    return name[0].upper() + name[1:]


def pipes(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _tex(text: str) -> str:
    for plain, command in (
        ("&", r"\&"),
        ("%", r"\%"),
        ("_", r"\_"),
        ("±", r"$\pm$"),
        ("≤", r"$\leq$"),
        ("≥", r"$\geq$"),
        ("~", r"$\sim$"),
        ("†", r"$^\dagger$"),
        ("‡", r"$^\ddagger$"),
        ("–", "--"),
        ("ü", r"\"u"),
    ):
        text = text.replace(plain, command)
    return text


def tabular(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a LaTeX table, which needs the package booktabs."""
    lines = [_tex(" & ".join(headings).replace("&", "\0")).replace("\0", "&") + r" \\", r"\midrule"]
    lines += [" & ".join(_tex(cell) for cell in row) + r" \\" for row in rows]
    body = "\n".join(lines)
    return f"\\begin{{tabular}}{{{'l' * len(headings)}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}"
