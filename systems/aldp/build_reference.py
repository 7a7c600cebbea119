"""Builds the reference PMF of alanine dipeptide from biased molecular dynamics.

    python -m systems.aldp.build_reference --out FOLDER [--publish]

Stage one: well-tempered metadynamics of many walkers that share one bias on (phi, psi). Stage two: its bias
is frozen and, after equilibration, every configuration counts with the weight exp(bias). The run writes a
checkpoint after every block and goes on from it; the last line of the log is the present noise floor.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgbench.files import write_atomically, write_npz
from cgbench.pmf import PMF
from methods.dynamics.bias import FourierBias
from methods.dynamics.langevin import Langevin
from systems.aldp import REFERENCE_FOLDER, AlanineDipeptide

__all__ = ["Builder", "main"]


class Builder:
    """State of a build: walkers, bias, and the weighted histogram of every production block."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.system = AlanineDipeptide(device=options.device)
        if options.compile:
            self.system.compile()
        self.bias = FourierBias()
        self.generator = torch.Generator(device=options.device).manual_seed(options.seed)
        start = self.system.initial_configuration().float()
        self.dynamics = Langevin(
            self.bias.biased(self.system.reduced_energy_and_gradient, self.system.collective_variables),
            self.system.masses.to(options.device),
            self.system.temperature,
            time_step=0.001,
            friction=1.0,
            positions=start[None].repeat(options.walkers, 1, 1),
            generator=self.generator,
        )
        self.deposits = 0
        self.blocks: list[np.ndarray] = []
        self.crossings = 0

    # ---- the two stages ---------------------------------------------------------------------------

    def metadynamics(self) -> None:
        """Deposit hills of the walkers, lower where the bias is high already."""
        o = self.options
        while self.deposits < o.deposits:
            self.dynamics.step(o.pace)
            s, bias = self.bias.last
            heights = o.height / o.walkers * torch.exp(-bias / (o.bias_factor - 1.0))
            self.bias.deposit(s.cpu(), heights.cpu(), o.width)
            self.deposits += 1
            if self.deposits % 20 == 0:
                positive = float((s[:, 0] > 0).double().mean())
                log(
                    f"deposit {self.deposits}/{o.deposits}: walkers at phi > 0 {positive:.3f}, "
                    f"bias to {float(bias.max()):.1f} kT"
                )
                self.save()

    def production(self) -> None:
        """Sample under the frozen bias, one weighted histogram a block."""
        o = self.options
        previous: torch.Tensor | None = None
        while len(self.blocks) < o.blocks:
            histogram = np.zeros(self.system.cvs.bins)
            for _ in range(o.block_steps // o.stride):
                self.dynamics.step(o.stride)
                s, bias = self.bias.last
                weights = torch.exp(bias.double() - o.offset).cpu().numpy()
                histogram += self.system.cvs.histogram(s.double().cpu().numpy(), weights)
                side = s[:, 0] > 0
                if previous is not None:
                    self.crossings += int((side != previous).sum())
                previous = side
            inside = self.system.coordinates.in_state_space(self.dynamics.positions)
            if not bool(inside.all()):
                raise RuntimeError(f"{int((~inside).sum())} walkers left the state space (L, trans)")
            self.blocks.append(histogram)
            self.save()
            log(self.summary())

    def kept(self) -> np.ndarray:
        """Production blocks after equilibration ``[blocks, bins, bins]``."""
        return np.array(self.blocks[self.options.equilibration :])

    def summary(self) -> str:
        """One line on how far the production is."""
        phi = self.system.cvs.centers(0)
        last = self.blocks[-1]
        share = last[phi > 0].sum() / last.sum()
        text = f"block {len(self.blocks)}: P(phi>0) {share:.5f}, crossings {self.crossings}"
        if len(self.kept()) >= 4:
            total = self.kept().sum(0)
            text += (
                f"; all: P(phi>0) {total[phi > 0].sum() / total.sum():.5f}, noise floor {noise_floor(self.kept()):.2e}"
            )
        return text

    # ---- files ------------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path:
        """File that the build goes on from."""
        return Path(self.options.out) / "build.pt"

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "dynamics": self.dynamics.state_dict(),
            "generator": self.generator.get_state(),
            "coefficients": self.bias.coefficients,
            "deposits": self.deposits,
            "crossings": self.crossings,
            "blocks": torch.from_numpy(np.array(self.blocks)),
        }
        temporary = self.checkpoint.with_suffix(".new")
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)

    def load(self) -> None:
        """Go on from the checkpoint if there is one."""
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True)
            self.dynamics.load_state_dict(state["dynamics"])
            self.generator.set_state(state["generator"])
            self.bias.coefficients = state["coefficients"]
            self.deposits, self.crossings = state["deposits"], state["crossings"]
            self.blocks = list(state["blocks"].numpy())
            log(f"going on: {self.deposits} deposits, {len(self.blocks)} blocks")

    def publish(self, folder: Path) -> None:
        """Write ``reference.npz`` and ``reference.json``."""
        blocks = self.kept()
        pmf, standard_error = estimate(self.system, blocks)
        folder.mkdir(parents=True, exist_ok=True)
        write_npz(folder / "reference.npz", pmf.arrays() | {"standard_error": standard_error})
        phi = self.system.cvs.centers(0)
        shares = blocks[:, phi > 0].sum((1, 2)) / blocks.sum((1, 2))
        o = self.options
        facts: dict[str, Any] = {
            "source": f"well-tempered metadynamics, then {o.walkers} walkers under its frozen bias, reweighted",
            "sha256": hashlib.sha256((folder / "reference.npz").read_bytes()).hexdigest(),
            "noise_floor": noise_floor(blocks),
            "force_field": "amber96.xml + implicit/obc1.xml (OpenMM), no cutoff, no constraints",
            "temperature_K": self.system.temperature,
            "engine": "batched torch force field, float32, Langevin middle scheme, 1 fs, 1/ps",
            "system_version": self.system.version,
            "options": {k: v for k, v in vars(o).items() if k not in ("out", "publish", "publish_only", "blocks")},
            "production_steps": int(len(blocks) * o.block_steps * o.walkers),
            "production_ps_per_walker": len(blocks) * o.block_steps * 0.001,
            "crossings_of_phi_0_or_180": self.crossings,
            "empty_bins": int((pmf.probability == 0).sum()),
            "population_phi_positive": float(pmf.population(np.broadcast_to((phi > 0)[:, None], pmf.cvs.bins))),
            "population_phi_positive_standard_error": float(shares.std(ddof=1) / np.sqrt(len(shares))),
            "discretisation": "probability of each of 100 x 100 bins of 3.6 degrees; no smoothing",
            "torch": torch.__version__.split("+")[0],
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        }
        write_atomically(folder / "reference.json", (json.dumps(facts, indent=2) + "\n").encode())
        log(f"published to {folder}: noise floor {facts['noise_floor']:.2e}")


def estimate(system: AlanineDipeptide, blocks: np.ndarray, resamples: int = 200) -> tuple[PMF, np.ndarray]:
    """Estimate PMF and standard error of its probabilities by bootstrap over blocks."""
    pmf = PMF(system.cvs, blocks.sum(0))
    random = np.random.default_rng(0)
    draws = []
    for _ in range(resamples):
        sample = blocks[random.integers(len(blocks), size=len(blocks))].sum(0)
        draws.append(sample / sample.sum())
    return pmf, np.std(draws, axis=0, ddof=1)


def noise_floor(blocks: np.ndarray) -> float:
    """Forward KLD that the noise of the whole causes, from that between its even and odd blocks.

    The divergence between halves of independent noise is four times that of the whole against the truth.
    Bins that one half has not visited are left out; they hold next to nothing.
    """
    p, q = (half / half.sum() for half in (blocks[::2].sum(0), blocks[1::2].sum(0)))
    both = (p > 0) & (q > 0)
    return float((p[both] * np.log(p[both] / q[both])).sum() / 4.0)


def log(text: str) -> None:
    """Print with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main() -> None:
    """Build, or go on building, and publish if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder of the checkpoint")
    parser.add_argument("--publish", action="store_true", help="write the reference files at the end")
    parser.add_argument("--publish-only", action="store_true", help="publish what there is and end")
    parser.add_argument("--walkers", type=int, default=2048)
    parser.add_argument("--deposits", type=int, default=300)
    parser.add_argument("--pace", type=int, default=100, help="steps between deposits")
    parser.add_argument("--height", type=float, default=25.0, help="kT, all walkers of a deposit together")
    parser.add_argument("--width", type=float, default=0.25, help="rad")
    parser.add_argument("--bias-factor", type=float, default=15.0)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--equilibration", type=int, default=10, help="blocks left out at the start")
    parser.add_argument("--block-steps", type=int, default=1000)
    parser.add_argument("--stride", type=int, default=10)
    parser.add_argument("--offset", type=float, default=15.0, help="kT, subtracted from the bias in weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    Path(options.out).mkdir(parents=True, exist_ok=True)
    builder = Builder(options)
    builder.load()
    if not options.publish_only:
        builder.metadynamics()
        builder.production()
    if options.publish or options.publish_only:
        builder.publish(REFERENCE_FOLDER)


if __name__ == "__main__":
    main()
