"""The optimiser of every network that is trained here: Muon on kernels, AdamW on the rest.

Muon (Jordan et al., 2024, "Muon: an optimizer for hidden layers in neural networks") replaces the momentum of a
matrix by the nearest orthogonal one, so that faint directions of a layer learn as fast as its strong ones. On the
small budgets of a CPU that is worth several times the steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class Descent:
    """Muon on `kernels`, AdamW on every other parameter, one learning rate for both.

    Args:
        parameters: all that are trained, kernels included.
        kernels: weights (outputs, inputs, ...) that act as matrices (outputs, everything else).
        weight_decay: of AdamW; Muon takes a fifth of it.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], kernels: Sequence[nn.Parameter], *, weight_decay: float):
        self._kernels = list(kernels)
        self._matrices = [nn.Parameter(kernel.detach().flatten(1).clone()) for kernel in self._kernels]
        chosen = {id(kernel) for kernel in self._kernels}
        self._parts = (
            torch.optim.Muon(self._matrices, weight_decay=weight_decay / 5, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW([p for p in parameters if id(p) not in chosen], weight_decay=weight_decay),
        )

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update from the gradients that `backward` left, at this learning rate."""
        for matrix, kernel in zip(self._matrices, self._kernels):
            matrix.copy_(kernel.flatten(1))
            matrix.grad = kernel.grad.flatten(1)
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
        for matrix, kernel in zip(self._matrices, self._kernels):
            kernel.copy_(matrix.view(kernel.shape))

    def state_dict(self) -> list[dict]:
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, states: list[dict]) -> None:
        for part, state in zip(self._parts, states):
            part.load_state_dict(state)
