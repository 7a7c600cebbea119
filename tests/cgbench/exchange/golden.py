"""Writers of the formats of other programs, from their descriptions, and the PMFs that golden files are made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline

from cgbench.contracts.pmf import PMF
from cgbench.contracts.reference import Reference
from cgbench.contracts.system import Basin
from cgbench.exchange.landscape import GAS_CONSTANT
from cgbench_systems.aldp import AlanineDipeptide
from cgbench_systems.molecular.system import angle_range, torsion_cvs

KT = GAS_CONSTANT * 300.0  # kJ/mol
KCAL = KT / 4.184
Array = np.ndarray


class PhiOfAlanine(AlanineDipeptide):
    """Alanine dipeptide with the CV phi alone: its reference is the marginal of that of aldp."""

    name = "phi_of_aldp"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.torsions = self.torsions[:1]
        self.cvs, self.maps = torsion_cvs(("phi",)), ((0,),)
        self.basins = (Basin("phi>0", angle_range([(0, 180)])),)

    def reference(self) -> Reference:
        whole = AlanineDipeptide().reference()
        pmf = PMF(self.cvs, whole.pmf.probability.sum(1))
        return Reference(pmf, None, whole.noise_floor, whole.source, whole.sha256)


class Truth:
    """A smooth periodic free energy in kT: splines through the bins of a PMF, with Fourier noise."""

    def __init__(self, pmf: PMF, noise: float, seed: int) -> None:
        self.cvs = pmf.cvs
        random = np.random.default_rng(seed)
        self.waves = random.integers(-3, 4, size=(12, len(pmf.cvs)))
        self.phases = random.uniform(0, 2 * np.pi, 12)
        self.noise = noise
        self.energy = pmf.free_energy

    def on(self, *axes: Array) -> Array:
        """Values on the grid of these coordinates, in radians."""
        values = self.energy
        for k, s in enumerate(axes):
            x = np.append(self.cvs.centers(k), self.cvs.centers(k)[0] + 2 * np.pi)
            closed = np.concatenate([values, values.take([0], axis=k)], axis=k)
            values = CubicSpline(x, closed, axis=k, bc_type="periodic")(x[0] + (s - x[0]) % (2 * np.pi))
        mesh = np.meshgrid(*axes, indexing="ij")
        for wave, phase in zip(self.waves, self.phases, strict=True):
            place = sum(w * m for w, m in zip(wave, mesh, strict=True))
            values = values + self.noise / np.sqrt(6) * np.cos(place + phase)
        return values

    def pmf(self, subdivisions: int = 8) -> PMF:
        """The PMF on the grid, integrated much more finely than a file has points."""
        fine = self.on(*(self.cvs.centers(k, subdivisions) for k in range(len(self.cvs))))
        shape = [size for bins in self.cvs.bins for size in (bins, subdivisions)]
        density = np.exp(-(fine - fine.min())).reshape(shape)
        return PMF(self.cvs, density.sum(axis=tuple(range(1, 2 * len(self.cvs), 2))))


def nodes(count: int, low: float = -np.pi, high: float = np.pi, closed: bool = False) -> Array:
    return np.linspace(low, high, count + 1)[: None if closed else -1]


def middles(count: int, low: float = -np.pi, high: float = np.pi) -> Array:
    return low + (high - low) / count * (np.arange(count) + 0.5)


def blocks(rows: list[str], length: int) -> str:
    """Rows with an empty line after each `length` of them."""
    parts = ["\n".join(rows[start : start + length]) for start in range(0, len(rows), length)]
    return "\n\n".join(parts) + "\n"


def plumed(
    path: Path,
    axes: dict[str, Array],
    values: Array,
    *,
    value: str = "file.free",
    bins: int | None = None,
    extra: tuple[str, ...] = (),
    periodic: bool = True,
) -> Path:
    """First CV fastest, an empty line after each of its rows, limits as the word pi."""
    names = list(axes)
    lines = [f"#! FIELDS {' '.join(names)} {value} {' '.join('der_' + name for name in names)}", *extra]
    for name, x in axes.items():
        lines += [f"#! SET min_{name} -pi", f"#! SET max_{name} pi", f"#! SET nbins_{name}  {bins or len(x)}"]
        lines += [f"#! SET periodic_{name} {str(periodic).lower()}"]
    x = list(axes.values())
    order = np.ndindex(*(len(one) for one in reversed(x)))
    rows = []
    for index in order:
        at = index[::-1]
        place = "".join(f"{x[k][i]:13.7f}" for k, i in enumerate(at))
        number = f"{values[at]:16.9f}" if value != "hh" else f" {values[at]:.9e}"
        rows.append(f"{place}{number}{'    0.0000000' * len(x)}")
    path.write_text("\n".join(lines) + "\n" + blocks(rows, len(x[0]) if len(x) > 1 else len(rows)))
    return path


def colvars(path: Path, axes: list[Array], values: Array, lower: list[float], periodic: bool = True) -> Path:
    """Last CV fastest; the header has the lower edge of the first bin."""
    lines = [f"# {len(axes)}"]
    for x, low in zip(axes, lower, strict=True):
        lines.append(f"# {low:.14e} {x[1] - x[0]:.14e} {len(x):10d}  {int(periodic)}")
    rows = [
        " " + " ".join(f"{axes[k][i]:.14e}" for k, i in enumerate(at)) + f"   {values[at]:.14e}"
        for at in np.ndindex(*values.shape)
    ]
    path.write_text("\n".join(lines) + "\n\n" + blocks(rows, values.shape[-1]))
    return path


def wham_1d(path: Path, x: Array, values: Array, error: Array | None = None) -> Path:
    p = np.exp(-values)
    rows = ["#Coor\t\tFree\t+/-\t\tProb\t\t+/-"]
    error = np.zeros_like(values) if error is None else error
    rows += [f"{a:.6f}\t{b:.9f}\t{e:.6f}\t{c:.9f}\t0.000000" for a, b, c, e in zip(x, values, p, error, strict=True)]
    path.write_text("\n".join([*rows, "#Window\t\tFree\t+/-", "#0\t0.000000\t0.000000", "#1\t-1.2\t0.000000"]) + "\n")
    return path


def wham_2d(path: Path, axes: list[Array], values: Array, masked: Array | None = None) -> Path:
    """Second CV fastest; unvisited bins are inf, masked ones 9999999."""
    rows = ["#X\t\tY\t\tFree\t\tPro"]
    for i, j in np.ndindex(*values.shape):
        energy = 9999999.0 if masked is not None and masked[i, j] else values[i, j]
        rows.append(f"{axes[0][i]:.6f}\t{axes[1][j]:.6f}\t{energy:.9f}\t{np.exp(-values[i, j]):.6e}")
        if j == values.shape[1] - 1:
            rows.append("")
    path.write_text("\n".join(rows) + "\n")
    return path


def gmx_wham(
    path: Path, x: Array, values: Array, label: str = "E (kJ mol\\S-1\\N)", title: str = "Umbrella potential"
) -> Path:
    lines = [
        "# gmx wham is part of G R O M A C S:",
        "#",
        f'@    title "{title}"',
        '@    xaxis  label "\\xx\\f{} (deg)"',
    ]
    lines += [f'@    yaxis  label "{label}"', "@TYPE xy"]
    lines += [f"{a:.6e}\t{b:.9e}" for a, b in zip(x, values, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def gmx_sham(path: Path, values: Array) -> Path:
    """Flat index, last CV fastest; bins without samples are left out."""
    flat = values.reshape(-1)
    rows = [f"{k:5d}  {flat[k]:10.8e}  0.00000e+00  0.00000e+00" for k in np.flatnonzero(np.isfinite(flat))]
    path.write_text("\n".join(rows) + "\n")
    return path


def colvar_file(path: Path, s: Array, bias: Array, *, restarts: int = 0, name: str = "metad.rbias") -> Path:
    header = ["#! FIELDS time phi psi " + name, "#! SET min_phi -pi", "#! SET max_phi pi"]
    rows = [f" {t:.6f} {a:.6f} {b:.6f} {v:.6f}" for t, (a, b), v in zip(range(len(s)), s, bias, strict=True)]
    parts = np.array_split(np.array(rows), restarts + 1)
    path.write_text("".join("\n".join([*header, *part]) + "\n" for part in parts))
    return path


Writer = Callable[[Path, PMF], tuple[Path, dict[str, Any]]]


def same_grid() -> dict[str, Writer]:
    """Golden files of two CVs whose points are the bin centres of aldp: nothing is interpolated.

    Each writes a PMF on the grid and returns the options that its format needs.
    """

    def degrees(pmf: PMF) -> list[Array]:
        return [np.degrees(pmf.centers(k)) for k in range(2)]

    def own_plumed(path: Path, pmf: PMF) -> tuple[Path, dict[str, Any]]:
        pmf.to_plumed(path / "fes.dat", temperature=300.0)
        return path / "fes.dat", {}

    def metadynamics(path: Path, pmf: PMF) -> tuple[Path, dict[str, Any]]:
        file = colvars(path / "out.pmf", degrees(pmf), KCAL * pmf.free_energy, [-180.0, -180.0])
        return file, {"unit": "kcal/mol"}

    def half_circle(path: Path, pmf: PMF) -> tuple[Path, dict[str, Any]]:
        """From 0 to 360 degrees."""
        values = np.roll(pmf.free_energy, (50, 50), (0, 1))
        file = colvars(path / "out.pmf", [middles(100, 0, 360)] * 2, KT * values, [0.0, 0.0])
        return file, {"unit": "kJ/mol"}

    def padded(path: Path, pmf: PMF) -> tuple[Path, dict[str, Any]]:
        """With periodic padding of five bins on each side."""
        values = np.pad(KCAL * pmf.free_energy, 5, mode="wrap")
        return wham_2d(path / "wham.dat", [middles(110, -198, 198)] * 2, values), {}

    def sham(path: Path, pmf: PMF) -> tuple[Path, dict[str, Any]]:
        file = gmx_sham(path / "ener.xvg", KT * pmf.free_energy)
        return file, {"temperature": 300.0, "ranges": ((-180.0, 180.0, 100), (-180.0, 180.0, 100))}

    def pymbar(path: Path, pmf: PMF) -> tuple[Path, dict[str, Any]]:
        order = np.random.default_rng(0).permutation(10_000)
        values = pmf.free_energy.reshape(-1)[order]
        np.savez(path / "fes.npz", f_i=values, df_i=0.1 + 0 * values, x=pmf.cvs.grid()[order])
        return path / "fes.npz", {}

    def own_npz(path: Path, pmf: PMF) -> tuple[Path, dict[str, Any]]:
        np.savez(path / "pmf.npz", **pmf.arrays())
        return path / "pmf.npz", {}

    def csv(path: Path, pmf: PMF) -> tuple[Path, dict[str, Any]]:
        rows = ["psi (deg);phi (deg);free energy (kcal/mol)"]  # columns in another order than the CVs
        places = np.degrees(pmf.cvs.grid())
        rows += [
            f"{b:.9f};{a:.9f};{f:.12g}" for (a, b), f in zip(places, KCAL * pmf.free_energy.reshape(-1), strict=True)
        ]
        (path / "pmf.csv").write_text("\n".join(rows) + "\n")
        return path / "pmf.csv", {}

    return {
        "plumed": own_plumed,
        "colvars": metadynamics,
        "colvars 0 to 360": half_circle,
        "wham-2d": padded,
        "gmx-sham": sham,
        "pymbar": pymbar,
        "npz": own_npz,
        "csv": csv,
    }


def other_grid() -> dict[str, Callable[[Path, Truth], tuple[Path, dict[str, Any]]]]:
    """Golden files of two CVs at other points than the bin centres of aldp."""

    def sum_hills(path: Path, truth: Truth) -> tuple[Path, dict[str, Any]]:
        x = nodes(100)
        return plumed(path / "fes.dat", {"phi": x, "psi.x": x}, KT * truth.on(x, x) - 40.0), {}

    def older(path: Path, truth: Truth) -> tuple[Path, dict[str, Any]]:
        """With the end point, and psi as the first CV."""
        x = nodes(120, closed=True)
        return plumed(path / "fes.dat", {"psi": x, "phi": x}, KT * truth.on(x, x).T, bins=120), {}

    def histogram(path: Path, truth: Truth) -> tuple[Path, dict[str, Any]]:
        x = nodes(150)
        density = np.exp(-truth.on(x, x))
        extra = ("#! SET normalisation  20.000000",)
        return plumed(path / "hh.dat", {"phi": x, "psi": x}, density, value="hh", extra=extra), {}

    def abf(path: Path, truth: Truth) -> tuple[Path, dict[str, Any]]:
        """At the lower edges of the bins, and the header shifted by half a bin, as Colvars integrates forces."""
        x = nodes(72)
        degrees = np.degrees(x)
        return colvars(path / "abf.pmf", [degrees, degrees], KCAL * truth.on(x, x), [-182.5] * 2), {"unit": "kcal/mol"}

    def openmm(path: Path, truth: Truth) -> tuple[Path, dict[str, Any]]:
        """The last CV is axis 0, and both end points are stored."""
        x, y = nodes(100, closed=True), nodes(80, closed=True)
        np.save(path / "free_energy.npy", KT * truth.on(x, y).T)
        return path / "free_energy.npy", {}

    def coarse_csv(path: Path, truth: Truth) -> tuple[Path, dict[str, Any]]:
        x = middles(60)
        rows = ["phi (rad),psi (rad),pmf (kT)"]
        rows += [f"{a:.9f},{b:.9f},{f:.9g}" for (a, b), f in zip(grid(x, x), truth.on(x, x).reshape(-1), strict=True)]
        (path / "pmf.csv").write_text("\n".join(rows) + "\n")
        return path / "pmf.csv", {}

    return {
        "plumed": sum_hills,
        "plumed older": older,
        "plumed-histogram": histogram,
        "colvars abf": abf,
        "openmm": openmm,
        "csv coarse": coarse_csv,
    }


def grid(*axes: Array) -> Array:
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
