"""What figures show of a run's way: its stages, and where its weights are good."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.cvs import CollectiveVariables
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.common.training import Flow
from cgbench_methods.lib.estimators.importance import kish

__all__ = ["Stages", "configurations_of", "efficiency_map"]

BINS_PER_CELL = 2  # of the PMF's grid, along each CV, in a cell of the map of efficiencies
KERNEL = 0.04  # of the domain: standard deviation of the kernel that samples are gathered with
LEAST_SAMPLES = 20  # in a kernel, for an efficiency to be stated
CONFIGURATIONS = 4  # of the flow, at each bin
RESOLUTION = 2.0**-10  # kT: finer than any figure shows; rounded numbers compress well


class Stages:
    """The model PMF, its spread and the points chosen from it, at each stage of exploration.

    Parameters
    ----------
    cvs
        Collective variables and their grid.
    """

    SHOWN = 3  # stages that are kept for figures of two CVs and more; of one CV all are

    def __init__(self, cvs: CollectiveVariables) -> None:
        self.cvs = cvs
        self._stages: list[dict[str, Any]] = []

    def add(
        self,
        name: str,
        evaluations: int,
        mean: torch.Tensor,
        std: torch.Tensor,
        threshold: float,
        points: torch.Tensor,
        configurations: torch.Tensor | None = None,
    ) -> None:
        """Add a stage.

        Parameters
        ----------
        name
            What the method was doing: "atlas", "train", "label", "iteration".
        evaluations
            Evaluations so far.
        mean, std
            PMF and its spread in kT at the bin centres, each ``[cells]``.
        threshold
            Spread in kT at which walkers stop.
        points
            Points chosen to be explored next, ``[points, cvs]``; there may be none.
        configurations
            Configurations that the flow maps back from values of the CVs, ``[samples, ...]``.
        """
        none = torch.zeros(0, dtype=torch.float32)
        self._stages.append(
            {
                "name": name,
                "evaluations": evaluations,
                "free_energy": _rounded(mean - mean.min()),
                "std": _rounded(std),
                "threshold": threshold,
                "points": points.float().cpu(),
                "configurations": none if configurations is None else configurations.detach().float().cpu(),
            }
        )

    def _shown(self) -> list[dict[str, Any]]:
        """First, middle and last of the stages that chose points; all stages where there is one CV."""
        if len(self.cvs) == 1:
            return self._stages
        exploring = [stage for stage in self._stages if len(stage["points"])]
        chosen = np.linspace(0, len(exploring) - 1, min(self.SHOWN, len(exploring))).round().astype(int)
        return [exploring[index] for index in chosen]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Named arrays for ``pmf.npz``.

        ``stage_name``, ``stage_evaluations``, ``stage_threshold`` (kT) ``[stages]``; ``stage_free_energy`` and
        ``stage_std`` (kT) ``[stages, *bins]``; ``stage_points`` ``[points, cvs]`` of all stages, and ``stage_of_point``
        ``[points]``; ``stage_configurations`` ``[samples, ...]``, and ``stage_of_configuration``.
        """
        stages = self._shown()
        if not stages:
            return {}
        found: dict[str, NDArray[Any]] = {
            "stage_name": np.array([stage["name"] for stage in stages]),
            "stage_evaluations": np.array([stage["evaluations"] for stage in stages], dtype=np.int64),
            "stage_threshold": np.array([stage["threshold"] for stage in stages], dtype=np.float32),
        }
        for name in ("free_energy", "std"):
            found[f"stage_{name}"] = np.stack([stage[name].numpy().reshape(self.cvs.bins) for stage in stages])
        for singular, plural in (("point", "points"), ("configuration", "configurations")):
            present = [number for number, stage in enumerate(stages) if len(stage[plural])]
            if present:
                found[f"stage_{plural}"] = np.concatenate([stages[number][plural].numpy() for number in present])
                lengths = [len(stages[number][plural]) for number in present]
                found[f"stage_of_{singular}"] = np.repeat(np.array(present, dtype=np.int32), lengths)
        return found

    def state_dict(self) -> dict[str, Any]:
        """All stages."""
        return {"stages": [dict(stage) for stage in self._stages]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._stages = [dict(stage) for stage in state["stages"]]


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return (torch.round(values.detach() / RESOLUTION) * RESOLUTION).float().cpu()


@torch.no_grad()
def configurations_of(
    flow: Flow,
    coordinates: Coordinates,
    cvs: CollectiveVariables,
    features: Callable[[torch.Tensor], torch.Tensor],
    streams: Streams,
    device: str,
) -> torch.Tensor | None:
    """Configurations that a flow maps back from the bin centres ``[samples, ...]``; of one CV only.

    Of more CVs, no figure shows configurations: None then, and nothing is drawn.
    """
    if len(cvs) > 1:
        return None
    s = torch.from_numpy(cvs.grid()).repeat_interleave(CONFIGURATIONS, 0).to(device)
    y, _ = flow.sample_with_log_prob(features(s), streams.torch("figure samples", device))
    return coordinates.to_cartesian(s, y)[0]


def efficiency_map(cvs: CollectiveVariables, s: torch.Tensor, excess: torch.Tensor) -> torch.Tensor:
    """Effective sample size of weights as a fraction of the samples, by place.

    Kish's ``(sum k w)^2 / (sum k sum k w^2)`` with a Gaussian kernel ``k`` around each cell's centre.

    Parameters
    ----------
    s
        Values of the CVs ``[samples, cvs]``.
    excess
        Log-weights plus the PMF at `s` ``[samples]``: zero on the whole for a flow that is exact.

    Returns
    -------
    torch.Tensor
        Float32, one value per cell of two bins along each CV (rounded up); not a number where the kernel holds fewer
        than 20 samples.
    """
    shape = tuple(-(-bins // BINS_PER_CELL) for bins in cvs.bins)
    s, excess = s.cpu(), excess.cpu()
    index = np.unravel_index(cvs.bin_index(s.numpy(), nearest=True), cvs.bins)
    cell = torch.from_numpy(np.ravel_multi_index([i // BINS_PER_CELL for i in index], shape))
    weights = torch.nan_to_num(excess, nan=-torch.inf).clamp(max=50.0).exp()
    widths = [KERNEL * cells for cells in shape]
    modes = ["wrap" if periodic else "constant" for periodic in cvs.periodic]
    number, total, squares = (
        gaussian_filter(
            torch.bincount(cell, column, minlength=int(np.prod(shape))).numpy().reshape(shape), widths, mode=modes
        )
        for column in (torch.ones_like(weights), weights, weights**2)
    )
    held = number * np.prod([2.0 * np.sqrt(np.pi) * width for width in widths])  # samples that count as much
    efficiency = kish(total, squares, number)
    return torch.from_numpy(np.where(held >= LEAST_SAMPLES, efficiency, np.nan)).float()
