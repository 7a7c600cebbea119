"""Model of the PMF in the published recipe: an ensemble of small networks.

Each member A_n minimises the mean of ``(A_n(s) - A(s))^2`` over its own random share of the labels A(s). The members'
mean is the PMF, and their standard deviation its uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from cgbench.contracts.problem import Problem

__all__ = ["NetworkEnsemble"]

LEAST_SPREAD = 1e-5  # kT; members that all learnt the same constant differ by less, through rounding


class NetworkEnsemble:
    """Multilayer perceptrons, trained together, each on its own random share of the labels.

    Parameters
    ----------
    members
        Number of networks.
    inputs
        Number of features of `s`.
    hidden
        Widths of the hidden layers.
    generator
        Source of initial weights, shares and batches. Its device is that of the networks.
    """

    def __init__(self, members: int, inputs: int, hidden: Sequence[int], generator: torch.Generator) -> None:
        self.members = members
        self.widths = (inputs, *hidden, 1)
        self.generator = generator
        self.weights: list[torch.Tensor] = []
        self.biases: list[torch.Tensor] = []
        self.skipped = self.steps = 0
        self.device = generator.device
        self.input_mean = torch.zeros(inputs, device=self.device)
        self.input_std = torch.ones(inputs, device=self.device)
        self.label_mean = torch.zeros((), device=self.device)
        self.label_std = torch.ones((), device=self.device)
        self.initialise()

    def initialise(self) -> None:
        """Draw new weights, uniform in ``[-b, b]`` with ``b = fan_in^(-1/2)``."""
        self.weights, self.biases = [], []
        for fan_in, fan_out in zip(self.widths[:-1], self.widths[1:], strict=True):
            bound = fan_in**-0.5
            for store, shape in (
                (self.weights, (self.members, fan_in, fan_out)),
                (self.biases, (self.members, 1, fan_out)),
            ):
                uniform = torch.rand(shape, generator=self.generator, device=self.device)
                store.append(bound * (2 * uniform - 1))

    def _forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the members' outputs for standardised labels: ``[members, batch, in] -> [members, batch]``."""
        hidden = features
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            if layer < last:
                hidden = torch.nn.functional.silu(hidden)
        return hidden.squeeze(2)

    def fit(
        self,
        features: torch.Tensor,
        labels: torch.Tensor,
        *,
        share: float,
        epochs: int,
        batch: int,
        learning_rate: float,
    ) -> None:
        """Draw new weights and fit all members by least squares with Adam.

        Parameters
        ----------
        features, labels
            ``[n, inputs]`` and PMF values in kT ``[n]``.
        share
            Share of the labels that each member is fitted to, drawn without replacement.

        Notes
        -----
        Steps without a finite loss are skipped; `skipped` of `steps` were.
        """
        self.initialise()
        self.skipped = self.steps = 0
        n = len(labels)
        count = max(1, round(share * n))
        x, target = features.float(), labels.float()
        self.input_mean, self.input_std = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
        self.label_mean, self.label_std = target.mean(), target.std(correction=0).clamp(min=1e-6)
        x, target = (x - self.input_mean) / self.input_std, (target - self.label_mean) / self.label_std
        options: dict[str, Any] = {"generator": self.generator, "device": self.device}
        shares = torch.stack([torch.randperm(n, **options)[:count] for _ in range(self.members)])
        parameters = [p.requires_grad_() for p in (*self.weights, *self.biases)]
        optimiser = torch.optim.Adam(parameters, lr=learning_rate)
        for _ in range(epochs):
            keys = torch.rand(self.members, count, **options)
            order = shares.gather(1, keys.argsort(dim=1))
            for start in range(0, count, batch):
                rows = order[:, start : start + batch]
                error = self._forward(x[rows]) - target[rows]
                loss = (error**2).mean(dim=1).sum()  # the members are independent
                self.steps += 1
                if not math.isfinite(float(loss.detach())):
                    self.skipped += 1
                    continue
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
        for p in parameters:
            p.requires_grad_(False)

    @torch.no_grad()
    def mean_and_std(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation over the members in kT, each ``[batch]``."""
        x = (features.float() - self.input_mean) / self.input_std
        outputs = self._forward(x.expand(self.members, *x.shape)).double()
        outputs = outputs * self.label_std.double() + self.label_mean.double()
        return outputs.mean(0), outputs.std(0)

    def fit_with_spread(self, features: torch.Tensor, labels: torch.Tensor, problem: Problem, **options: Any) -> bool:
        """Fit, and refit from other initial weights if the ensemble has collapsed.

        Arguments are those of `fit`. Skipped steps and collapsed ensembles are counted as anomalies.

        Returns
        -------
        bool
            Whether the ensemble has spread in the end.
        """
        for _ in range(2):
            self.fit(features, labels, **options)
            spread = self.has_spread(features)
            problem.report_anomaly("skipped_step", self.skipped, self.steps)
            problem.report_anomaly("collapsed_ensemble", int(not spread), 1)
            if spread:
                return True
        return False

    def has_spread(self, features: torch.Tensor) -> bool:
        """Tell whether the members are finite everywhere and differ somewhere by more than rounding."""
        mean, std = self.mean_and_std(features)
        return bool(mean.isfinite().all() & std.isfinite().all() & (std > LEAST_SPREAD).any())

    def state_dict(self) -> dict[str, Any]:
        """Return weights and normalisation."""
        return {
            "weights": list(self.weights),
            "biases": list(self.biases),
            "normalisation": [self.input_mean, self.input_std, self.label_mean, self.label_std],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        names = ("weights", "biases", "normalisation")
        self.weights, self.biases, normalisation = ([one.to(self.device) for one in state[name]] for name in names)
        self.input_mean, self.input_std, self.label_mean, self.label_std = normalisation
