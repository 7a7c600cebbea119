"""Batched force field against OpenMM's CPU platform, energies and forces of alanine dipeptide.

    python tests/benchmarks/bench_engine.py [--batch 1024] [--threads 2] [--rounds 7] [--compile]

Prints evaluations per second and the ratio of throughputs, lowest - median - highest over paired rounds: of the kernel
in C++, of that in torch and, if asked for, of what torch.compile makes of the latter.
"""

from __future__ import annotations

import argparse
import os

import torch
from timing import paired

from cgbench_systems.aldp import AlanineDipeptide
from cgbench_systems.molecular.forcefield import TorchForceField
from cgbench_systems.molecular.native_forcefield import NativeForceField
from cgbench_systems.molecular.openmm_engine import OpenMMEngine

REPEATS = {"native": 100, "torch": 10, "compiled": 10}  # of one batch, so that rounds of all are long enough


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="torch.compile as well, which takes a minute")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    molecule = AlanineDipeptide()
    x = molecule.initial_configuration().repeat(options.batch, 1, 1)
    x = x + 0.002 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    openmm = OpenMMEngine(molecule.openmm_system(), molecule.temperature, "CPU")
    kernels = ["native"] * NativeForceField.serves(x) + ["torch"] + ["compiled"] * options.compile
    print(f"alanine dipeptide, batch of {options.batch}, {options.threads} threads, energies and forces")
    for dtype in (torch.float32, torch.float64):
        for kernel in kernels:
            os.environ["CGBENCH_NATIVE"] = "1" if kernel == "native" else "0"
            engine = TorchForceField.from_openmm(molecule.openmm_system(), molecule.temperature)
            if kernel == "compiled":
                engine.compile()
            batch, repeats = x.to(dtype), REPEATS[kernel]
            slow, fast, ratios = paired(
                lambda: openmm.energy_and_gradient(x),
                lambda engine=engine, batch=batch, repeats=repeats: [
                    engine.energy_and_gradient(batch) for _ in range(repeats)
                ],
                options.rounds,
            )
            name = f"{str(dtype).removeprefix('torch.')} {kernel}"
            low, middle, high = (repeats * ratio for ratio in ratios)
            print(
                f"{name:<18} {repeats * options.batch / fast:>9,.0f}/s   OpenMM CPU {options.batch / slow:>6,.0f}/s   "
                f"ratio {low:.0f} - {middle:.0f} - {high:.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
