"""A reference built, certified, compared and read again through the command, on a molecule whose PMF is known."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgbench.cli.main import main
from cgbench.contracts.pmf import basin_mask
from cgbench.running.registry import load
from cgbench.scoring.divergences import forward_kld
from cgbench.scoring.referee import Referee
from cgbench.scoring.reference_files import load_reference
from cgbench.storage.lock import FolderLock
from cgbench_systems.molecular.reference.certificate import write_facts
from cgbench_systems.molecular.stored_samples import load_samples

PLUGIN = Path(__file__).with_name("small_molecule.py")


class Workplace:
    """A folder with a copy of the plugin, to which its reference is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plugin = f"{shutil.copy(PLUGIN, folder)}:Chain"
        self.reference = folder / "reference"
        self.checkpoints = folder / "checkpoints"

    def call(self, command: str, *options: str) -> int:
        return main(["reference", command, self.plugin, "--threads", "1", *options])

    def build(self, *options: str) -> int:
        return self.call("build", "--out", str(self.checkpoints), *options)

    @property
    def system(self) -> Any:
        return load("system", self.plugin)()

    @property
    def certificate(self) -> dict[str, Any]:
        return dict(json.loads((self.reference / "reference.json").read_text()))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workplace, str]]:
    """A certified reference whose build was interrupted once, and what the second command printed."""
    torch.set_num_threads(1)
    workplace = Workplace(tmp_path_factory.mktemp("chain"))
    kind = sys.modules[load("system", workplace.plugin).__module__].SmallBiased
    save = kind.save

    def stop(route: Any) -> None:
        save(route)
        if len(route.blocks) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "save", stop)
        assert workplace.build("--certify", "--compare") == 130
    assert not workplace.reference.exists()
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **options: lines.append(" ".join(map(str, words))))
        assert workplace.build("--certify", "--compare") == 0
    yield workplace, "\n".join(lines)


@pytest.fixture(scope="module")
def sampled(built: tuple[Workplace, str]) -> Workplace:
    """The workplace with samples of its reference."""
    workplace, _ = built
    assert workplace.call("samples") == 0
    return workplace


def test_an_interrupted_build_continues(built: tuple[Workplace, str]) -> None:
    _, printed = built
    assert "biased: continuing from 2 blocks" in printed
    blocks = [line.partition(" ")[2].partition(",")[0] for line in printed.splitlines() if ": block " in line]
    assert blocks == [
        *(f"biased: block {number}" for number in range(3, 33)),
        *(f"umbrella: block {number}" for number in range(1, 17)),
        *(f"unbiased: block {number}" for number in range(1, 21)),
    ]


def test_the_certified_pmf_is_the_exact_one(built: tuple[Workplace, str]) -> None:
    workplace, _ = built
    system = workplace.system
    reference, exact = load_reference(workplace.reference, system.cvs), system.exact()
    assert 2e-4 < reference.noise_floor < 5e-3
    assert forward_kld(exact.probability, reference.pmf.probability) < 5 * reference.noise_floor
    assert reference.standard_error is not None
    z = (reference.pmf.probability - exact.probability) / reference.standard_error
    assert float(np.sqrt(np.mean(z**2))) < 3.0
    for basin in system.basins:
        certified = reference.details["basins"][basin.name]
        true = exact.population(basin_mask(system.cvs, basin.contains))
        assert certified["population"] == pytest.approx(true, abs=4 * certified["population_standard_error"])
        assert certified["population_standard_error"] < 0.02


def test_the_certificate_holds_all_facts_and_checks(built: tuple[Workplace, str]) -> None:
    workplace, printed = built
    record = workplace.certificate
    assert record["bias"] == {"hills": 40, "bias_factor": 4.0, "width_rad": 0.35, "fourier_order": 12}
    assert record["walkers"] == 128 and record["production_steps"] == 28 * 100 * 128
    assert record["production_ps_per_walker"] == pytest.approx(2.8)
    assert record["standard_errors"] == "bootstrap over 7 groups of 0.4 ps, 20 resamples"
    assert record["force_field"] == "bonds, angles and torsions of a chain of 5 atoms"
    assert set(record["discretisation"]["held_out_kld_by_order"]) == {"2", "3", "4"}
    assert all(len(populations) == 7 for populations in record["stationarity"].values())
    checks = {check["name"]: check["passed"] for check in record["checks"]}
    kinds = [name.partition(",")[0] for name in checks]
    assert kinds == ["umbrella + MBAR"] * 5 + ["unbiased from weighted starts"] * 3 + ["OpenMM dynamics"] * 2
    assert all(checks.values()), record["checks"]
    assert all(name in printed for name in checks)
    assert np.isfinite(record["mean_reduced_energy"]["value"])
    json.dumps(record, allow_nan=False)


def test_energies_of_the_certificate_are_those_of_openmm(built: tuple[Workplace, str]) -> None:
    workplace, _ = built
    system = workplace.system
    points = workplace.certificate["fixed_configurations"]
    s = torch.tensor([point["cvs"] for point in points], dtype=torch.float64)
    x, _ = system.coordinates.to_cartesian(s, torch.zeros(len(s), 7, dtype=torch.float64))
    energies = [point["reduced_energy"] for point in points]
    np.testing.assert_allclose(system.reduced_energy(x).numpy(), energies, atol=1e-9)


def test_comparing_again_replaces_the_checks(built: tuple[Workplace, str]) -> None:
    workplace, _ = built
    before = workplace.certificate
    assert workplace.build("--compare", "--route", "openmm", "--blocks", "20") == 0
    after = workplace.certificate
    assert len(after["checks"]) == len(before["checks"])
    assert [check["detail"].split(",")[0] for check in after["checks"][-2:]] == ["20 trajectories"] * 2
    assert after["checks"][:-2] == before["checks"][:-2]


def test_samples_are_written_from_the_reference(sampled: Workplace) -> None:
    system = sampled.system
    samples, exact = system.reference_samples(), system.exact()
    assert samples.shape == (200, 5, 3)
    counts = system.cvs.histogram(system.collective_variables(samples).numpy())
    for basin in system.basins:
        mask = basin_mask(system.cvs, basin.contains)
        population = exact.population(mask)
        error = np.sqrt(population * (1 - population) / 200)
        assert counts[mask].sum() / 200 == pytest.approx(population, abs=4 * error)


def test_samples_of_another_certificate_or_version_are_not_used(sampled: Workplace) -> None:
    folder, certificate = sampled.reference, sampled.certificate
    assert load_samples(folder, "1") is not None and load_samples(folder, "2") is None
    try:
        write_facts(folder, new=True, **{k: v for k, v in certificate.items() if k != "samples_sha256"})
        assert load_samples(folder, "1") is None
    finally:
        write_facts(folder, new=True, **certificate)


def test_a_better_certificate_is_not_replaced(built: tuple[Workplace, str], capsys: pytest.CaptureFixture[str]) -> None:
    workplace, _ = built
    certificate = workplace.certificate
    try:
        write_facts(workplace.reference, production_steps=certificate["production_steps"] + 1)
        assert workplace.build("--route", "biased", "--certify") == 2
        assert "has a certificate of" in (err := capsys.readouterr().err) and err.count("\n") == 1
        write_facts(workplace.reference, production_steps=certificate["production_steps"] + 1, system_version="0")
        load_route = workplace.system.reference_builder(workplace.checkpoints)
        load_route.check_certifiable(1)  # a certificate of another version may be replaced
    finally:
        write_facts(workplace.reference, new=True, **certificate)


def test_two_builds_in_one_folder_are_refused(built: tuple[Workplace, str], capsys: pytest.CaptureFixture[str]) -> None:
    workplace, _ = built
    lock = FolderLock(workplace.checkpoints / "lock")
    lock.acquire()
    try:
        assert workplace.build("--route", "biased") == 2
    finally:
        lock.release()
    assert "another process is running in this folder" in capsys.readouterr().err


def test_the_reference_is_shown_and_verified(built: tuple[Workplace, str], capsys: pytest.CaptureFixture[str]) -> None:
    workplace, _ = built
    assert main(["reference", "show", workplace.plugin]) == 0
    assert "passed  umbrella + MBAR" in capsys.readouterr().out
    assert workplace.call("verify") == 0, capsys.readouterr().out
    assert capsys.readouterr().out.count("passed  ") == 5


def test_runs_are_scored_against_it(built: tuple[Workplace, str], tmp_path: Path) -> None:
    workplace, _ = built
    referee = Referee(workplace.system)
    assert referee.problem is None
    scores = referee.score(workplace.system.exact())
    assert scores["forward_kld"] is not None and 0 < scores["forward_kld"] < 0.02
    settings = ["--set", "walkers=50", "--set", "steps=200"]
    command = ["run", "--method", "md", "--system", workplace.plugin, "--threads", "1", "--out", str(tmp_path)]
    assert main([*command, *settings]) == 0
    (path,) = tmp_path.rglob("record.json")
    record = json.loads(path.read_text())
    assert record["reference"]["sha256"] == workplace.certificate["sha256"]
    assert 0 < record["metrics"]["forward_kld"] < 2.0


MISTAKES = {
    "unknown route": (["--route", "fly"], "unknown route 'fly' (--route): choose from biased, openmm, umbrella, un"),
    "no blocks": (["--blocks", "0"], "--blocks must be at least 1, not 0"),
    "no threads": (["--threads", "0"], "--threads must be from 1 to 1024, not 0"),
    "device": (["--device", "tpu9"], "device 'tpu9' cannot be used here"),
    "certify another route": (["--route", "umbrella", "--certify"], "from route biased: add --route biased"),
    "compare without a reference": (["--route", "umbrella", "--compare"], "cannot be read: [Errno 2] No such file"),
    "unbiased first": (["--route", "unbiased"], "starts from route biased, which has no samples in"),
    "too short": (
        ["--route", "biased", "--blocks", "1", "--certify"],
        "a certificate needs at least 20 blocks of route biased (--blocks), not 1 in {checkpoints}",
    ),
    "no such engine": (["--engine", "abacus"], "engine 'abacus'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workplace = Workplace(tmp_path)
    options, message = MISTAKES[name]
    assert workplace.build(*options) == 2
    err = capsys.readouterr().err
    assert message.format(checkpoints=workplace.checkpoints) in err
    assert err.startswith("cgbench: ") and err.count("\n") == 1
    assert not workplace.reference.exists()
    if name in ("too short", "no such engine"):
        assert not list(workplace.folder.rglob("*.pt"))  # refused before anything was sampled


def test_a_route_too_short_to_compare_is_one_line(
    built: tuple[Workplace, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workplace, _ = built
    options = ["--out", str(tmp_path), "--route", "umbrella", "--blocks", "1", "--compare"]
    assert workplace.call("build", *options) == 2
    err = capsys.readouterr().err
    assert "route umbrella has 1 blocks in" in err and "the first 4 are equilibration" in err and err.count("\n") == 1
    assert workplace.build("--route", "openmm", "--blocks", "1", "--compare") == 2
    assert "route openmm needs at least 2 trajectories (--blocks), not 1" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workplace = Workplace(tmp_path)
    workplace.checkpoints.write_text("in the way")
    assert workplace.build() == 2
    err = capsys.readouterr().err
    assert f"cannot write to {workplace.checkpoints}: " in err and err.count("\n") == 1


def altered(built: tuple[Workplace, str], folder: Path, old: str, new: str) -> Workplace:
    """The finished checkpoints with another version of the plugin."""
    workplace = Workplace(folder)
    shutil.copytree(built[0].checkpoints, workplace.checkpoints)
    path = folder / PLUGIN.name
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    return workplace


def test_checkpoints_of_another_molecule_are_refused(
    built: tuple[Workplace, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workplace = altered(built, tmp_path, 'name = "chain"', 'name = "other"')
    assert workplace.build("--route", "biased") == 2
    err = capsys.readouterr().err
    assert "is of chain, version 1, 128 walkers, not of other, version 1, 128 walkers: choose another folder" in err


def test_a_basin_that_was_never_visited_is_named(
    built: tuple[Workplace, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workplace = altered(built, tmp_path, '"phi>0", lambda columns: columns[0] >= 0', '"far", lambda c: c[0] > 9')
    assert workplace.build("--route", "biased", "--certify") == 2
    assert "route biased never visited far: build more blocks (--blocks)" in capsys.readouterr().err


def test_a_system_without_basins_is_refused(
    built: tuple[Workplace, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workplace = altered(built, tmp_path, "self.basins = (", "self.none = (")
    assert workplace.build() == 2
    assert "system chain has no basins" in capsys.readouterr().err
