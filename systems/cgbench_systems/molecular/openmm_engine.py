"""OpenMM as an engine: slower than the batched force field, and the reference for its energies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import openmm
import torch
from openmm import unit

from cgbench.errors import UserError
from cgbench_systems.molecular.forcefield import GAS_CONSTANT

__all__ = ["OpenMMEngine", "platform_properties"]


def platform_properties(device: str) -> dict[str, str]:
    """Return the properties of OpenMM's platform for a torch device.

    The CPU platform gets one thread, because the order of its sums is not fixed with more, and no run could be
    repeated. CUDA gets the chosen GPU, and double precision where sums need it.
    """
    chosen = torch.device(device)
    if chosen.type != "cuda":
        return {"Threads": "1"}
    return {"DeviceIndex": str(chosen.index or 0), "Precision": "mixed"}


class OpenMMEngine:
    """Energies and gradients from an OpenMM context, one configuration at a time.

    Parameters
    ----------
    system
        The molecule's ``openmm.System``.
    temperature
        In kelvin.
    platform
        Name of an OpenMM platform.
    properties
        Properties of the platform.
    """

    def __init__(
        self,
        system: openmm.System,
        temperature: float,
        platform: str = "CPU",
        properties: Mapping[str, str] | None = None,
    ) -> None:
        self.beta = 1.0 / (GAS_CONSTANT * temperature)
        names = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
        if platform not in names:
            raise UserError(f"OpenMM has no platform {platform!r} on this machine: choose from {', '.join(names)}")
        integrator = openmm.VerletIntegrator(0.001)
        chosen = openmm.Platform.getPlatformByName(platform)
        self.context = openmm.Context(system, integrator, chosen, dict(properties or {}))

    def energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return reduced energies ``[batch]`` and gradients ``[batch, atoms, 3]`` in 1/nm, in the dtype of `x`.

        Configurations with a non-finite position get an infinite energy and no gradient.
        """
        positions = x.detach().cpu().double().numpy()
        energies = np.full(len(positions), np.inf)
        gradients = np.zeros_like(positions)
        for index, configuration in enumerate(positions):
            if not np.all(np.isfinite(configuration)):
                continue
            self.context.setPositions(configuration)
            state = self.context.getState(getEnergy=True, getForces=True)
            energies[index] = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
            forces = state.getForces(asNumpy=True)
            gradients[index] = -forces.value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
        return (
            torch.as_tensor(self.beta * energies).to(x),
            torch.as_tensor(self.beta * gradients).to(x),
        )
