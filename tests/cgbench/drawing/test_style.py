"""The theme does not depend on the user's settings, and every method has one look."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest
import seaborn

from cgbench.drawing.style import COLOURS, line_of_preset, method_looks, new_figure, save_figure, theme, write_picture
from cgbench.errors import UserError

HOSTILE = {
    "text.usetex": True,
    "font.size": 40.0,
    "font.family": ["monospace"],
    "axes.facecolor": "red",
    "savefig.bbox": "tight",
    "savefig.facecolor": "yellow",
    "savefig.transparent": True,
    "lines.linewidth": 9.0,
    "axes.xmargin": 0.4,
    "image.origin": "lower",
    "image.interpolation": "bicubic",
    "pdf.compression": 0,
}


@theme()
def draw(path: Path) -> None:
    figure = new_figure(2.0, 3.0)
    axes = figure.add_subplot()
    axes.plot([1, 10], [1, 100], label="$N^{-1}$")
    axes.imshow([[0.0, 1.0], [2.0, 3.0]], aspect="auto")
    axes.set_xlabel("evaluations")
    axes.legend()
    save_figure(figure, path)


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_pictures_are_the_same_bytes_whatever_the_users_settings(tmp_path: Path, suffix: str) -> None:
    draw(tmp_path / f"plain{suffix}")
    with matplotlib.rc_context(HOSTILE):
        before = dict(matplotlib.rcParams)
        draw(tmp_path / f"hostile{suffix}")
        assert dict(matplotlib.rcParams) == before
    content = (tmp_path / f"plain{suffix}").read_bytes()
    assert len(content) > 1000 and content == (tmp_path / f"hostile{suffix}").read_bytes()
    assert all(word not in content for word in (b"CreationDate", b"<dc:date", b"Software"))


def test_the_palette_is_seaborns_for_the_colour_blind() -> None:
    palette = seaborn.color_palette("colorblind").as_hex()
    assert sorted(set(COLOURS.values()) - {COLOURS["black"]}) == sorted(palette)


def test_a_method_looks_the_same_beside_any_others() -> None:
    known = ["md", "cgflow_al", "cgflow_grid", "umbrella", "metadynamics", "flow_ais_bootstrap"]
    looks = method_looks([*known, "zebra", "aardvark"])
    assert all(method_looks([name])[name] == looks[name] for name in known)
    assert len({look.colour for look in looks.values()}) == len({look.marker for look in looks.values()}) == 8
    assert method_looks(["zebra", *known, "aardvark", "zebra"]) == looks


def test_thirty_unknown_methods_look_different() -> None:
    looks = method_looks([f"method_{number}" for number in range(30)] + ["md", "cgflow_al"])
    assert len(set(looks.values())) == 32


def test_presets_have_different_lines() -> None:
    assert len({line_of_preset(name) for name in ("default", "paper", "long", "another")}) == 4


def test_a_path_that_cannot_be_written_is_the_users_mistake(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "picture.png"
    with pytest.raises(UserError, match=r"cannot write .*picture.png: No such file"):
        write_picture(new_figure(1.0, 1.0), path)
