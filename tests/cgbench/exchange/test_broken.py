"""Broken files give one line and exit code 2, whatever their format."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from golden import KCAL, KT, Truth, colvar_file, gmx_wham, middles, other_grid, same_grid, wham_1d

from cgbench.cli.main import main
from cgbench.contracts.pmf import PMF
from cgbench_systems.aldp import AlanineDipeptide

OPTIONS = {
    "colvars": ["--unit", "kJ/mol"],
    "gmx-sham": ["--range", "-180:180:100", "--range", "-180:180:100"],
}
TEXT = ("plumed", "colvars", "wham-2d", "gmx-sham", "csv", "colvar")
BINARY = ("npz", "pymbar", "openmm", "dcd", "xtc", "trr", "nc")


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, noisy: PMF, truth: Truth, aldp: AlanineDipeptide
) -> dict[str, Path]:
    """One good file of each format."""
    found = {}
    for name in ("plumed", "colvars", "wham-2d", "gmx-sham", "csv", "npz", "pymbar"):
        found[name] = same_grid()[name](tmp_path_factory.mktemp(name), noisy)[0]
    found["openmm"] = other_grid()["openmm"](tmp_path_factory.mktemp("openmm"), truth)[0]
    folder = tmp_path_factory.mktemp("samples")
    found["colvar"] = colvar_file(folder / "COLVAR", np.random.default_rng(0).uniform(-3, 3, (500, 2)), np.zeros(500))
    topology = mdtraj.Topology.from_openmm(aldp.topology())
    x = aldp.initial_configuration().numpy() + 0.001 * np.random.default_rng(0).normal(size=(50, 22, 3))
    for suffix in ("dcd", "xtc", "trr", "nc"):
        found[suffix] = folder / f"t.{suffix}"
        with pytest.warns() if suffix == "nc" else open(os.devnull):
            mdtraj.Trajectory(x, topology).save(str(found[suffix]))
    return found


def refused(path: Path, capfd: pytest.CaptureFixture[str], *options: str) -> str:
    """Score a file; the reason why it is refused, which is one line and all that is printed."""
    code = main(["score", str(path), "--system", "aldp", *options])
    out, err = capfd.readouterr()
    assert (code, out) == (2, ""), err
    assert err.startswith("cgbench: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def damaged(good: Path, folder: Path, change: Callable[[bytes], bytes]) -> Path:
    path = folder / good.name
    path.write_bytes(change(good.read_bytes()))
    return path


@pytest.mark.parametrize("name", [*TEXT, *BINARY])
def test_a_good_file_is_read(name: str, files: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(files[name]), "--system", "aldp", *OPTIONS.get(name, [])]) == 0
    assert "forward KLD" in capfd.readouterr().out


@pytest.mark.parametrize("share", [0.021, 0.611, 0.97])
@pytest.mark.parametrize("name", [*TEXT, *BINARY])
def test_truncated(
    name: str, share: float, files: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Cut in the middle of a line, row or frame."""
    options = OPTIONS.get(name, [])

    def cut(content: bytes) -> bytes:
        end = int(share * len(content))
        while content[end - 1 : end] == b"\n" or content[end : end + 1] == b"\n":
            end -= 1
        return content[:end]

    refused(damaged(files[name], tmp_path, cut), capfd, *options)


@pytest.mark.parametrize("name", ["plumed", "colvars", "wham-2d", "csv"])
def test_truncated_after_a_line(
    name: str, files: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def cut(content: bytes) -> bytes:
        return content[: content.rindex(b"\n", 0, int(0.7 * len(content))) + 1]

    assert "truncated" in refused(damaged(files[name], tmp_path, cut), capfd, *OPTIONS.get(name, []))


@pytest.mark.parametrize("name", [*TEXT, *BINARY])
@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"\0" * 3000, bytes(range(256)) * 20], ids=["", "n", "zero", "binary"]
)
def test_empty_and_binary(
    name: str, content: bytes, files: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = damaged(files[name], tmp_path, lambda good: content)
    reason = refused(path, capfd, *OPTIONS.get(name, []))
    assert content or "is empty" in reason


@pytest.mark.parametrize("name", TEXT)
def test_no_number_or_nan(name: str, files: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A value in the middle that is no number; one that is nan; a word more."""

    def changed(word: str, column: int) -> Callable[[bytes], bytes]:
        def change(content: bytes) -> bytes:
            lines = content.decode().splitlines()
            middle = next(k for k in range(len(lines) // 2, len(lines)) if lines[k].strip())
            mark = ";" if ";" in lines[middle] else None
            words = lines[middle].split(mark)
            words[column] = word
            lines[middle] = (mark or " ").join(words)
            return ("\n".join(lines) + "\n").encode()

        return change

    options = OPTIONS.get(name, [])
    value = {"gmx-sham": 1, "csv": 2, "colvar": 1}.get(name, 2)
    assert "'n0ne' where a number should be" in refused(
        damaged(files[name], tmp_path, changed("n0ne", value)), capfd, *options
    )
    refused(damaged(files[name], tmp_path, changed("1 2" if name != "csv" else "1;2", value)), capfd, *options)
    refused(damaged(files[name], tmp_path, changed("nan", 1)), capfd, *options)
    refused(damaged(files[name], tmp_path, changed("nan", value)), capfd, *options)
    if name not in ("gmx-sham", "colvar"):
        reason = refused(damaged(files[name], tmp_path, changed("-inf", value)), capfd, *options)
        assert ": 1 of 1" in reason and "free energies are nan or -inf: an unvisited point has inf" in reason


@pytest.mark.parametrize("name", ["npz", "pymbar", "openmm"])
def test_arrays_with_nan(name: str, files: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / files[name].name
    if name == "openmm":
        array = np.load(files[name])
        array[3, 4] = np.nan
        np.save(path, array)
    else:
        arrays = dict(np.load(files[name]))
        key = "probability" if name == "npz" else "f_i"
        arrays[key] = np.where(np.arange(arrays[key].size).reshape(arrays[key].shape) == 7, np.nan, arrays[key])
        np.savez(path, **arrays)
    refused(path, capfd)


TEXT_OF_NUMBERS = np.full(4, "x")


@pytest.mark.parametrize(
    ("base", "name", "array", "reason"),
    [
        ("npz", "free_energy_std", np.zeros((3, 4, 5)), "has shape (3, 4, 5), not (100, 100)"),
        ("npz", "free_energy_std", np.full((100, 100), "x"), "holds text, not real numbers"),
        ("npz", "names", np.array("phi"), "has shape (), not (2,)"),
        ("npz", "names", np.arange(2), "holds values of type int64, not text"),
        ("npz", "centers_0", np.array(1.0), "has shape (), not (100,)"),
        ("npz", "probability", np.array(1.0), "has shape (), a PMF has at least 2 bins along each CV"),
        ("npz", "probability", np.full((100, 100), 1j), "holds values of type complex128, not real numbers"),
        ("pymbar", "f_i", np.zeros(0), "has shape (0,), not (points,)"),
        ("pymbar", "x", np.zeros((0, 2)), "has shape (0, 2), not (10000, CVs)"),
        ("pymbar", "x", np.array(1.0), "has shape (), not (10000, CVs)"),
        ("pymbar", "df_i", np.full(10_000, "x"), "holds text, not real numbers"),
        ("cvs", "cvs", np.array(1.0), "has shape (), not (samples, 2)"),
        ("cvs", "cvs", np.zeros((0, 2)), "has shape (0, 2), not (samples, 2)"),
        ("cvs", "cvs", np.full((4, 2), "x"), "holds text, not real numbers"),
        ("cvs", "weights", TEXT_OF_NUMBERS, "holds text, not real numbers"),
        ("cvs", "weights", np.ones((2, 2)), "has shape (2, 2), not (samples,)"),
        ("cvs", "log_weights", TEXT_OF_NUMBERS, "holds text, not real numbers"),
        ("cvs", "log_density_of_reference_samples", TEXT_OF_NUMBERS, "holds text, not real numbers"),
        ("positions", "positions", np.array(1.0), "has shape (), not (frames, 22, 3)"),
        ("positions", "positions", np.zeros((0, 5)), "has shape (0, 5), not (frames, 22, 3)"),
        ("positions", "positions", np.full((4, 66), "x"), "holds text, not real numbers"),
    ],
)
def test_arrays_of_wrong_shape_or_type(
    base: str,
    name: str,
    array: np.ndarray,
    reason: str,
    files: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    arrays = dict(np.load(files[base])) if base in files else {base: np.zeros((4, 2))}
    path = tmp_path / "changed.npz"
    np.savez(path, **(arrays | {name: array}))
    assert f"{path}: array {name!r} {reason}" in refused(path, capfd)


def test_headers_of_two_gigabytes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Files whose header never ends, or claims an array that is not there; nothing of that size is read."""
    size = 2_000_000_000
    for name, start in {
        "fes.dat": b"#! FIELDS phi psi file.free\n" + b"#! SET min_phi -pi\n" * 5000,
        "a.pmf": b"# 2",
    }.items():
        path = tmp_path / name
        path.write_bytes(start)
        os.truncate(path, size)
        refused(path, capfd, "--unit", "kJ/mol")
        path.unlink()
    comment = tmp_path / "long.dat"
    comment.write_bytes(b"# " + b"x" * 100_000)
    assert "no line end in its first 64 kB" in refused(comment, capfd)
    claim = tmp_path / "f.npy"
    claim.write_bytes(b"\x93NUMPY\x02\x00" + size.to_bytes(4, "little") + b"{'descr': '<f8'")
    assert "its header is too long" in refused(claim, capfd)
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (50000, 50000), }\n"
    claim.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 80)
    assert "is no readable array" in refused(claim, capfd)
    shutil.rmtree(tmp_path)


def test_code_in_an_archive_does_not_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", np.array([print], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", f_i=np.array([print], dtype=object), x=np.zeros((1, 2)))
    for name in ("a.npy", "a.npz"):
        assert "bject" in refused(tmp_path / name, capfd)


OTHERS = {
    "HILLS": ("#! FIELDS time phi psi sigma_phi sigma_psi height biasf\n 1 0 0 .3 .3 1 10\n", "is a HILLS file"),
    "KERNELS": ("#! FIELDS time phi psi sigma_phi sigma_psi height logweight\n 1 0 0 1 1 1 1\n", "OPES kernels"),
    "gibbs.xpm": ("/* XPM */\n/* by gmx sham */\n", "gmx sham -dist ener.xvg"),
    "f.grad": ("# 2\n# -3 1 2 0\n# -3 1 2 0\n\n -2 -2 0.1 0.1\n".replace(" 0.1 0.1", " 0.1  0.1"), "holds gradients"),
    "one.grad": ("# 1\n# -3 1 2 0\n\n -2.5 0.1\n -1.5 0.2\n", "holds gradients"),
    "letter.txt": ("Dear reader,\nthis is no PMF\n", "none of which is"),
    "words.txt": ("no format at all\n", "of no format that is known here"),
    "noheader.csv": ("1,2,3\n4,5,6\n", "needs a header"),
    "wham.out": ("#Coor\t\tFree\t+/-\t\tProb\t\t+/-\n1 2 0 1 0\n2 2 0 1 0\n", "lacks the lines '#Window"),
    "gap.csv": ("phi,psi,pmf (kT)\n1,1,0\n2,1,0\n1,2,0\n", "rows are no grid of 2 x 2"),
    "uneven.csv": ("phi,pmf (kT)\n1,1\n2,1\n4,1\n", "not evenly spaced"),
    "unit.csv": ("phi,psi,pmf\n1,1,0\n2,1,0\n1,2,0\n2,2,0\n", "names no unit"),
    "negative.csv": ("phi,probability\n1,0.5\n2,-0.25\n", "1 of 2 densities are negative or not finite"),
    "infinite.csv": ("phi,probability\n1,0.5\n2,inf\n", "1 of 2 densities are negative or not finite"),
    "error.csv": (
        "phi,psi,pmf (kT),error (eV)\n1,1,0,1\n2,1,0,1\n1,2,0,1\n2,2,0,1\n",
        "'error (eV)' has the unit 'eV'",
    ),
    "density.xvg": ('@ yaxis label "Density of states"\n 1 0.5\n 2 -0.5\n', "1 of 2 densities are negative"),
    "quote.csv": ('phi,psi,pmf (kT)\n1,1,"0\n' + 30_000 * "2,1,0\n", "is a quotation mark unbalanced?"),
    "eV.csv": ("phi,psi,pmf (eV)\n1,1,0\n2,1,0\n1,2,0\n2,2,0\n", "has the unit 'eV'"),
    "empty.dat": (
        "#! FIELDS phi psi ff\n#! SET nbins_phi 2\n#! SET nbins_psi 2\n 1 1 inf\n 2 1 inf\n 1 2 inf\n 2 2 inf\n",
        "no point has a finite value",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_pmf_is_said(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text, reason = OTHERS[name]
    (tmp_path / name).write_text(text)
    assert reason in refused(tmp_path / name, capfd, *(["--unit", "kT"] if name in ("f.grad",) else []))


def test_one_cv_truncated(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    x = middles(50, -180, 180)
    for file in (wham_1d(tmp_path / "wham.out", x, KCAL * np.cos(x)), gmx_wham(tmp_path / "p.xvg", x, KT * np.cos(x))):
        content = file.read_bytes()
        file.write_bytes(content[: int(0.6 * len(content))])
        assert "truncated" in refused(file, capfd)


def test_bad_options(files: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plumed = files["plumed"]
    assert "unknown format 'plumd'" in refused(plumed, capfd, "--format", "plumd")
    assert "not a whole number" in refused(plumed, capfd, "--evaluations", "many")
    assert "not a whole number" in refused(plumed, capfd, "--evaluations", "inf")
    assert "--temperature must be in kelvin" in refused(plumed, capfd, "--temperature", "-3")
    assert "must be LOWER:UPPER:BINS" in refused(plumed, capfd, "--range", "1:0:x")
    for ends in ("-inf:inf:11", "-1e308:1e308:11", "nan:1:11", "1e17:100000000000000016:11"):
        assert "must be LOWER:UPPER:BINS with finite ends" in refused(plumed, capfd, f"--range={ends}")
    for ends in (["0:1:99999999999"], ["0:1:99999", "0:1:99999"]):
        assert "--range" in refused(files["gmx-sham"], capfd, *(f"--range={one}" for one in ends))
    for factor in ("nan", "inf", "1"):
        assert "--bias-factor must be finite and larger than 1" in refused(plumed, capfd, "--bias-factor", factor)
    assert "--range is for gmx-sham" in refused(plumed, capfd, "--range", "0:1:5")
    assert "--bias is for colvar" in refused(plumed, capfd, "--bias", "none")
    np.save(tmp_path / "square.npy", np.zeros((66, 66)))
    assert "may be a PMF or samples" in refused(tmp_path / "square.npy", capfd)
    assert "needs the number of energy evaluations" in refused(plumed, capfd, "--out", str(tmp_path))
    assert "--topology is for trajectory" in refused(plumed, capfd, "--topology", str(plumed))
    assert "--weights is for colvar, trajectory, samples" in refused(plumed, capfd, "--weights", str(plumed))
    assert "--estimator is for colvar" in refused(plumed, capfd, "--estimator", "smoothed")
    assert "is of format trajectory: --axes is for" in refused(files["dcd"], capfd, "--axes", "2,1")
    assert "is of format trajectory: --unit is for" in refused(files["dcd"], capfd, "--unit", "kT")
    assert "no energy in kcal/mol: leave out --unit" in refused(
        files["colvar"], capfd, "--bias", "none", "--unit", "kcal/mol"
    )
    assert "probabilities, whose free energies are in kT, but --unit says kJ/mol" in refused(
        files["npz"], capfd, "--unit", "kJ/mol"
    )
    for option in (["--method", "external"], ["--seed", "0"], ["--overwrite"]):
        assert f"give --out, or leave out {option[0]}" in refused(plumed, capfd, *option)
    assert "no file" in refused(tmp_path / "nowhere.dat", capfd)
    out = ["--out", str(tmp_path), "--evaluations", "10", "--method"]
    assert "must be a name of letters" in refused(plumed, capfd, *out, "../up")
    for seed in ("-1", str(2**63)):
        assert f"--seed must be from 0 to {2**63 - 1}" in refused(plumed, capfd, *out, "me", "--seed", seed)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    code = main(["score", str(plumed), str(plumed), "--system", "aldp"])
    assert code == 2 and "2 results need --evaluations 2 times" in capfd.readouterr().err
    code = main(["score", str(plumed), "--system", "muller_brown"])
    assert code == 2 and "model without physical units" in capfd.readouterr().err
    code = main(["score", str(plumed), "--system", "muller_brown", "--unit", "kT", "--temperature", "300"])
    assert code == 2 and "model without physical units: leave out --temperature" in capfd.readouterr().err
