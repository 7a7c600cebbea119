"""Batched force field against OpenMM's CPU platform, energies and forces of alanine dipeptide.

    python tests/benchmarks/bench_engine.py [--batch 1024] [--threads 2] [--no-compile]

Prints evaluations per second and the ratio of throughputs, lowest - median - highest over paired rounds.
"""

from __future__ import annotations

import argparse

import torch
from timing import paired

from systems.aldp.topology import TEMPERATURE, initial_positions, make_system
from systems.molecular.forcefield import TorchForceField
from systems.molecular.openmm_engine import OpenMMEngine


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.from_numpy(initial_positions()).repeat(options.batch, 1, 1)
    x = x + 0.002 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    openmm = OpenMMEngine(make_system(), TEMPERATURE, "CPU")
    print(f"alanine dipeptide, batch of {options.batch}, {options.threads} threads, energies and forces")
    for dtype in (torch.float32, torch.float64):
        for compiled in (False, True) if options.compile else (False,):
            engine = TorchForceField.from_openmm(make_system(), TEMPERATURE)
            if compiled:
                engine.compile()
            batch = x.to(dtype)
            slow, fast, ratios = paired(
                lambda: openmm.energy_and_gradient(x),
                lambda engine=engine, batch=batch: [engine.energy_and_gradient(batch) for _ in range(10)],
                options.rounds,
            )
            name = f"{str(dtype).removeprefix('torch.')} {'compiled' if compiled else 'eager'}"
            low, middle, high = (10 * ratio for ratio in ratios)
            print(
                f"{name:<18} {10 * options.batch / fast:>9,.0f}/s   OpenMM CPU {options.batch / slow:>6,.0f}/s   "
                f"ratio {low:.0f} - {middle:.0f} - {high:.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
