"""How networks are trained here: an optimiser, Muon on kernels and AdamW on the rest, and the loop over epochs.

Muon (Jordan et al., 2024, "Muon: an optimizer for hidden layers in neural networks") replaces the momentum of a
matrix by the nearest orthogonal one, so that faint directions of a layer learn as fast as its strong ones. On the
small budgets of a CPU that is worth several times the steps.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from timm.optim.muon import zeropower_via_newtonschulz
from torch import nn

from anomaly.errors import UsageError

MOMENTUM = 0.95
QUINTIC = [(3.4445, -4.7750, 2.0315)] * 5  # coefficients of each step towards an orthogonal matrix, as published
NATIVE = ("avx512_bf16", "amx_bf16", "bf16")  # what a CPU has that computes in bfloat16; the last is that of ARM


class Descent:
    """Muon on `kernels`, AdamW on every other parameter, one learning rate for both.

    Args:
        parameters: all that are trained, kernels included.
        kernels: weights (outputs, inputs, ...) that act as matrices (outputs, everything else).
        weight_decay: of AdamW; Muon takes a fifth of it.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], kernels: Sequence[nn.Parameter], *, weight_decay: float):
        chosen = {id(kernel) for kernel in kernels}
        self._parts = (
            Muon(kernels, weight_decay=weight_decay / 5),
            torch.optim.AdamW([p for p in parameters if id(p) not in chosen], weight_decay=weight_decay),
        )

    def step(self, rate: float) -> None:
        """One update from the gradients that `backward` left, at this learning rate."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()

    def state_dict(self) -> list[dict]:
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, states: list[dict]) -> None:
        for part, state in zip(self._parts, states):
            part.load_state_dict(state)


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal in full precision: PyTorch's and timm's do it in bfloat16, which many CPUs emulate.

    Args:
        kernels: (outputs, inputs, ...), each taken as a matrix (outputs, everything else).
        weight_decay: as in AdamW.
    """

    def __init__(self, kernels: Iterable[nn.Parameter], *, weight_decay: float):
        super().__init__(kernels, {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """One update from the gradients that `backward` left, with the root mean square that one of AdamW has."""
        for group in self.param_groups:
            for kernel in group["params"]:
                gradient = kernel.grad.flatten(1)
                state = self.state[kernel]
                if not state:
                    state["momentum"] = torch.zeros_like(gradient)
                momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
                ahead = gradient.lerp(momentum, MOMENTUM)  # as Nesterov has it
                matrix = zeropower_via_newtonschulz(ahead, len(QUINTIC), QUINTIC, dtype=torch.float32)
                size = 0.2 * math.sqrt(max(matrix.shape))
                kernel.mul_(1 - group["lr"] * group["weight_decay"])
                kernel.sub_(matrix.reshape(kernel.shape), alpha=group["lr"] * size)


def autocast(device: torch.device) -> torch.autocast:
    """Half precision where the processor computes in it. One that has to emulate it takes ten times as long."""
    able = device.type != "cpu" or any(torch.cpu.get_capabilities().get(kind, False) for kind in NATIVE)
    return torch.autocast(device.type, torch.bfloat16, enabled=able)


@dataclass(frozen=True)
class Budget:
    """When a training ends, whatever comes first.

    Attributes:
        epochs: at most; steps: of each of them.
        minutes: wall time after which no further epoch begins, None for no limit.
        patience: epochs without a better held-out loss.
    """

    epochs: int
    steps: int
    minutes: float | None
    patience: int


def descend(
    budget: Budget,
    network: nn.Module,
    step: Callable[[int, float], tuple[float, float]],
    examine: Callable[[], float],
    *,
    told: Callable[[dict[str, float], bool], None],
    progress: Callable[[str, int, int], bool | None],
) -> nn.Module:
    """Epoch after epoch until the budget is spent; the network as it was at its best held-out loss, a copy.

    Args:
        network: what is examined; `step` trains it, or whatever it follows.
        step: makes one update, given its number and the spent share of the budget, 0..1; says its loss and rate.
        examine: loss of `network` on images that it does not learn from.
        told: is given a line of the loss curve after each epoch, and whether it is the last.
        progress: as in `detectors.base`; True ends the training after this step.
    Raises:
        UsageError: not once was the held-out loss a number.
    """
    best, least, waited = None, math.inf, 0
    started, total, enough = time.monotonic(), budget.epochs * budget.steps, False
    for epoch in range(1, budget.epochs + 1):
        losses = []
        for number in range((epoch - 1) * budget.steps, epoch * budget.steps):
            passed = (time.monotonic() - started) / (60 * budget.minutes) if budget.minutes else 0.0
            spent = max(number / total, min(1.0, passed))
            loss, rate = step(number, spent)
            losses.append(loss)
            enough = bool(progress("train", number + 1, total))
            if enough:
                break
        held_out = examine()
        if held_out < least:
            best, least, waited = copy.deepcopy(network), held_out, 0
        else:
            waited += 1
        enough = enough or waited >= budget.patience or spent >= 1
        line = {"epoch": epoch, "train_loss": sum(losses) / len(losses), "held_out_loss": held_out, "rate": rate}
        told(line, enough or epoch == budget.epochs)
        if enough:
            break
    if best is None:
        raise UsageError("The training diverged: the loss on left-out images is not a number", "Use a lower rate")
    return best
