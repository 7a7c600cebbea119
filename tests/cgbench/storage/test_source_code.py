"""Fingerprints of code: what changes them and what does not, on small packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgbench.storage.source_code import fingerprint, imported_files

FILES = {
    "one/__init__.py": '"""A package."""\n',
    "one/method.py": (
        '"""A method."""\n\nimport math\nfrom typing import TYPE_CHECKING\n\nfrom one import shared\n'
        "from two.lib import helper\n\nif TYPE_CHECKING:\n    from one.types_only import Kind\n"
        "else:\n    import one.real\n\n\n"
        "def run(x):\n    from one.late import tool\n    from two.elsewhere.far import away\n\n"
        '    return tool(helper(x))  # the "answer"\n'
    ),
    "one/shared.py": "from . import constants\nfrom .constants import C as D\n",
    "one/constants.py": "C = 1.0\n",
    "one/types_only.py": "Kind = int\n",
    "one/real.py": "",
    "one/late.py": "tool = abs\n",
    "one/unused.py": "X = 1\n",
    "one/kernel.cpp": "// text\nint f() { return 1; }\n",
    "one/notes.txt": "nothing\n",
    "two/__init__.py": "",
    "two/lib.py": "import three\nfrom one import method\n\nhelper = three.f\n",  # a circle
    "two/elsewhere/__init__.py": "",
    "two/elsewhere/far.py": "away = 1\n",
    "three.py": "f = abs\n",
}


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"one": tmp_path / "one", "two": tmp_path / "two", "three": tmp_path / "three.py"}


def code(places: dict[str, Path]) -> str:
    return fingerprint(["one.method"], places)


def test_imports_are_followed(places: dict[str, Path]) -> None:
    """Relative ones and circles too; not those for types alone, and late ones from the same package only."""
    found = imported_files(["one.method"], places)
    assert list(found) == [
        "one",
        "one.constants",
        "one.late",
        "one.method",
        "one.real",
        "one.shared",
        "one/kernel.cpp",
        "three",
        "two",
        "two.lib",
    ]
    assert found["one"] == places["one"] / "__init__.py" and found["three"] == places["three"]
    assert list(imported_files(["one.constants", "nowhere.at_all"], places)) == [
        "one",
        "one.constants",
        "one/kernel.cpp",
    ]


def test_what_is_behind_a_function_counts_where_the_function_is_used(places: dict[str, Path]) -> None:
    """Neither its definition nor words are a use; its name may be used in any file that counts."""
    behind = {"simulate": "two.elsewhere.far"}
    assert fingerprint(["one.method"], places, behind) == code(places)
    shared = places["one"] / "shared.py"
    shared.write_text("def simulate():  # x.simulate()\n    from two.elsewhere.far import away\n\n    return away\n")
    assert fingerprint(["one.method"], places, behind) == code(places)
    shared.write_text(shared.read_text() + "\n\ndef run(x):\n    return x.simulate()\n")
    found = imported_files(["one.method"], places, behind)
    assert set(found) - set(imported_files(["one.method"], places)) == {"two.elsewhere", "two.elsewhere.far"}
    before = fingerprint(["one.method"], places, behind)
    (places["two"] / "elsewhere" / "far.py").write_text("away = 2\n")
    assert fingerprint(["one.method"], places, behind) != before


@pytest.mark.parametrize("name", sorted(FILES))
def test_code_that_is_used_counts(places: dict[str, Path], name: str) -> None:
    before = code(places)
    with open(places["one"].parent / name, "a") as file:
        file.write("new = 1\n")
    used = name not in ("one/types_only.py", "one/unused.py", "one/notes.txt") and "elsewhere" not in name
    assert (code(places) != before) is used


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A method."""\n', '"""Words\non two lines."""\n'),
        ('"""A method."""\n', ""),
        ('  # the "answer"', ""),
        ("def run(x):\n", "\n\n# why\ndef run(x):\n\n"),
        ("def run(x):\n", 'def run(x):\n    """What it does: \'#\'."""\n'),
    ],
)
def test_words_do_not_count(places: dict[str, Path], old: str, new: str) -> None:
    before, path = code(places), places["one"] / "method.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert code(places) == before


def test_strings_and_indentation_count(places: dict[str, Path]) -> None:
    path = places["one"] / "constants.py"
    codes = []
    for text in ("C = '# 1'\n", "C = '# 2'\n", "if C:\n    D = 1\nE = 1\n", "if C:\n    D = 1\n    E = 1\n"):
        path.write_text(text)
        codes.append(code(places))
    assert len(set(codes)) == 4


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('def f(): "doc"; return 1', 'def f(): "doc"; return 2'),
        ('class A: "doc"; x = 1', 'class A: "doc"; x = 2'),
        ('"""µ"""; x = 1', '"""µ"""; x = 2'),
        ("a = 1\n\x0c\nb = 1  # c", "a = 1\n\x0c\nb = 2  # c"),
        ("a = 'x\u2028y'\nb = 12345\nc = 1 # c", "a = 'x\u2028y'\nb = 12000\nc = 1 # c"),
        ('s = """a\n\nb"""', 's = """a\nb"""'),
        ('s = """a \nb"""', 's = """a\nb"""'),
    ],
)
def test_statements_count_whatever_is_beside_them(places: dict[str, Path], first: str, second: str) -> None:
    path = places["one"] / "constants.py"
    codes = []
    for text in (first, second, f"{first}\n", f"{first}  # words"):
        path.write_text(text)
        codes.append(code(places))
    assert codes[0] != codes[1] and codes[0] == codes[2] == codes[3]


def test_a_module_is_known_by_its_file(tmp_path: Path) -> None:
    """The name by which a class in a file was loaded says where the file is."""
    path = tmp_path / "mine.py"
    path.write_text("X = 1\n")
    codes = {fingerprint([name], {name: path}) for name in ("loaded_1", "loaded_2", "mine")}
    assert len(codes) == 1 and fingerprint(["loaded_1"], {"loaded_1": path.rename(tmp_path / "other.py")}) not in codes


def test_the_place_does_not_count(places: dict[str, Path], tmp_path: Path) -> None:
    before = code(places)
    (tmp_path / "moved").mkdir()
    for name in ("one", "two", "three.py"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert code({name: tmp_path / "moved" / path.name for name, path in places.items()}) == before


def test_a_file_that_is_not_python(places: dict[str, Path]) -> None:
    (places["one"] / "shared.py").write_text("def (\n")
    with pytest.raises(SyntaxError):
        code(places)
