"""Convolutional autoencoder: the photo goes through a code and back; what comes back otherwise is the anomaly.

Four convolutions of stride 2 and four transposed ones (Masci et al., ICANN 2011), trained to give good photos back;
the score is the mean squared error (Bergmann et al., VISAPP 2019). This and its kin `vae` and `dae` are baselines, as
Hamim published them ("Industrial Defect Detection Using Deep Learning", bachelor's thesis, Zhengzhou University, 2026).
Their weakness: the code of 16 x 16 x 256 numbers holds more than a small defect needs, so that this network copies it
and the error there stays small; what it does not give back well, edges and texture, is as high on good photos. And
the error grows with contrast, so that light alone can decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly import nets
from anomaly.backbones import IMAGENET_MEAN, IMAGENET_STD
from anomaly.corrupt import corrupt
from anomaly.descent import autocast
from anomaly.detectors.base import Batches, Progress, topk_mean
from anomaly.detectors.reconstruction import Reconstruction
from anomaly.errors import UsageError

POOLS = {"mean": lambda maps: maps.mean((1, 2)), "topk": topk_mean}


class Cae(Reconstruction):
    """Plain autoencoder.

    Args:
        epochs: at most; an epoch sees each image once.
        minutes: wall time after which training ends early, whatever the epoch; None for no limit.
        rate: of Adam.
        patience: epochs without a better left-out loss before training ends.
        pool: what of the map is the score, its "mean" or "topk", the mean of its worst hundredth.
    """

    source = "the same place as the network gave it back"

    def __init__(
        self,
        *,
        image_size: int = 256,
        seed: int = 0,
        epochs: int = 100,
        minutes: float | None = None,
        batch: int = 16,
        rate: float = 1e-4,
        patience: int = 10,
        pool: str = "mean",
    ):
        super().__init__(
            image_size=image_size,
            seed=seed,
            epochs=epochs,
            minutes=minutes,
            batch=batch,
            rate=rate,
            patience=patience,
        )
        if pool not in POOLS:
            raise UsageError(f"pool is {pool}, expected one of: {', '.join(POOLS)}", "Use mean")
        self.pool = pool

    def arguments(self) -> dict:
        return super().arguments() | {"pool": self.pool}

    def _begin(self) -> nn.Module:
        return nets.Autoencoder()

    def _stored(self) -> nn.Module:
        return nets.Autoencoder()

    def _train(
        self, network: nn.Module, batches: Batches, seen: Tensor, left_out: Tensor, progress: Progress
    ) -> nn.Module:
        """Adam at one rate, each epoch in another order."""
        device = next(network.parameters()).device
        optimiser = torch.optim.Adam(network.parameters(), self.rate, fused=True)
        generator = torch.Generator().manual_seed(self.seed)
        orders = _orders(seen, self.batch, generator)
        steps = math.ceil(len(seen) / self.batch)

        def images(picks: Tensor) -> Tensor:
            return _normalised(batches.take(picks)).to(device, memory_format=torch.channels_last)

        def step(number: int, spent: float) -> tuple[float, float]:
            network.train()
            with autocast(device):
                loss = self._loss(network, images(next(orders)), number // steps, generator)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            return loss.item(), self.rate

        def examine() -> float:
            network.eval()
            with torch.inference_mode(), autocast(device):
                parts = [self._held_out_loss(network, images(p)).item() * len(p) for p in left_out.split(self.batch)]
            return sum(parts) / len(left_out)

        exam = corrupt(batches.take(left_out[: self.batch]), torch.Generator().manual_seed(self.seed + 1))
        return self._descend(steps, network, step, examine, *exam, progress)

    def _loss(self, network: nn.Module, images: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
        """Of normalised images (B, 3, h, w) to learn from, in an epoch counted from 0."""
        return self._held_out_loss(network, images)

    def _held_out_loss(self, network: nn.Module, images: Tensor) -> Tensor:
        """Of normalised images (B, 3, h, w), with nothing drawn at random."""
        return squared_error(network(images), images)

    def _draw(self, network: nn.Module, batch: Tensor) -> Tensor:
        mean, deviation = _statistics(batch)
        made = network(_normalised(batch).contiguous(memory_format=torch.channels_last))
        return made * deviation + mean

    def _errors(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Squared errors (B, 1, h, w) of normalised images, the mean of their channels; and the drawing."""
        drawn = self._draw(self._network, batch)
        _, deviation = _statistics(batch)
        return ((drawn - batch) / deviation).square().mean(1, keepdim=True), drawn

    def _total(self, errors: Tensor) -> Tensor:
        return POOLS[self.pool](errors[:, 0])

    def _shares(self, errors: Tensor, place: Tensor) -> dict[str, float]:
        inside = float(place.sum() / errors.sum().clamp_min(1e-12))
        return {"error at this place": inside, "error elsewhere": 1 - inside}


def squared_error(made: Tensor, images: Tensor) -> Tensor:
    """Mean over all values, in full precision."""
    return F.mse_loss(made.float(), images)


def _orders(seen: Tensor, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of numbers without end: each image once, then each once again in another order."""
    while True:
        yield from seen[torch.randperm(len(seen), generator=generator)].split(batch)


def _statistics(batch: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of ImageNet's channels, (3, 1, 1) each."""
    return tuple(batch.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))


def _normalised(batch: Tensor) -> Tensor:
    mean, deviation = _statistics(batch)
    return (batch - mean) / deviation
