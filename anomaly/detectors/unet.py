"""UNet autoencoder that repairs: what it changes is the anomaly.

A UNet that only reproduces its input learns to copy it through the skips, defects included. This one is trained on
good images with simulated defects painted on, and has to give the good image back (reconstruction by inpainting and
repair: Zavrtanik et al., "DRAEM", ICCV 2021; loss MSE + SSIM as in Bergmann et al., VISAPP 2019). A second output
says where it saw damage, trained on the simulated masks. The score is the mean of the top 1% of the pixel errors,
each normalised by what good images that were left out show at that place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly import backbones, nets
from anomaly.corrupt import corrupt
from anomaly.descent import Descent, autocast
from anomaly.detectors.base import Batches, Progress, topk_mean
from anomaly.detectors.reconstruction import Reconstruction
from anomaly.errors import UsageError

EPOCH = 40  # steps between two looks at the left-out images
SMOOTH = 9  # side in pixels, at 256 px, of the window over which errors are averaged


class UNet(Reconstruction):
    """Repair autoencoder.

    Args:
        base: channels of the finest level.
        epochs: at most; an epoch is 40 steps of `batch` images.
        minutes: wall time after which training ends early, whatever the epoch; None for no limit.
        rate: peak learning rate, reached by a warm-up and then lowered to 2% of it.
        patience: epochs without a better left-out loss before training ends.
        start: weights to begin from, a folder of runs/_backbones: a network that already repairs simulated defects on
            other products learns a new one in a fraction of the steps. None begins at random.
    """

    source = "the same place as the network repaired it"

    def __init__(
        self,
        *,
        image_size: int = 256,
        seed: int = 0,
        base: int = 16,
        epochs: int = 25,
        minutes: float | None = None,
        batch: int = 8,
        rate: float = 1e-3,
        patience: int = 8,
        start: str | None = "unet_repair",
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
        self.base = base
        self.start = start

    def arguments(self) -> dict:
        return super().arguments() | {"base": self.base, "start": self.start}

    def _begin(self) -> nn.Module:
        if self.start is None:
            return self._stored()
        prior = type(self).load(backbones.SHIPPED / self.start)
        if prior.base != self.base:
            problem = f"The weights '{self.start}' are of base {prior.base}, base {self.base} was asked for"
            raise UsageError(problem, f"Use base {prior.base}, or start from None")
        return prior._network.train().requires_grad_(True)

    def _stored(self) -> nn.Module:
        return nets.UNet(base=self.base)

    def _train(
        self, network: nn.Module, batches: Batches, seen: Tensor, left_out: Tensor, progress: Progress
    ) -> nn.Module:
        """Muon and Adam, warm-up, falling rate; returns the moving average of the weights at its best left-out loss."""
        device = next(network.parameters()).device
        average = torch.optim.swa_utils.AveragedModel(
            network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.98), use_buffers=True
        )
        kernels = [p for name, p in network.named_parameters() if p.ndim == 4 and not name.startswith("head")]
        descent = Descent(list(network.parameters()), kernels, weight_decay=0.0)
        generator = torch.Generator().manual_seed(self.seed)
        exam = self._pairs(batches, left_out[: 3 * self.batch], torch.Generator().manual_seed(self.seed + 1))

        def step(number: int, spent: float) -> tuple[float, float]:
            rate = self.rate * min(1, (number + 1) / 40) * (0.02 + 0.98 * (1 - spent) ** 0.9)
            picks = seen[torch.randint(len(seen), (self.batch,), generator=generator)]
            loss = _loss(network, *(t.to(device) for t in self._pairs(batches, picks, generator)))
            network.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            descent.step(rate)
            average.update_parameters(network)
            return loss.item(), rate

        def examine() -> float:
            return self._examine(average.module, exam, device)

        network.train()
        return self._descend(EPOCH, average.module, step, examine, exam[0], exam[2], progress)

    def _pairs(self, batches: Batches, picks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Damaged images, the good ones, and the masks of the damage."""
        good = _vary(batches.take(picks), generator)
        damaged, masks = corrupt(good, generator)
        return damaged, good, masks

    def _examine(self, network: nn.Module, exam: tuple[Tensor, Tensor, Tensor], device) -> float:
        network.eval()
        with torch.inference_mode():
            parts = [
                _loss(network, *(t[i : i + self.batch].to(device) for t in exam)).item()
                for i in range(0, len(exam[0]), self.batch)
            ]
        return sum(parts) / len(parts)

    def _draw(self, network: nn.Module, batch: Tensor) -> Tensor:
        return network(batch.contiguous(memory_format=torch.channels_last))[0]

    def _errors(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Smoothed errors (B, 2, h, w) at half size: of the repaired pixels, and the damage seen; and the repair."""
        repaired, logits = self._network(batch.contiguous(memory_format=torch.channels_last))
        change = (repaired - batch).abs().mean(1, keepdim=True)
        errors = torch.cat((change, logits.sigmoid()), 1)
        window = max(3, SMOOTH * self.image_size // 256) | 1
        return F.avg_pool2d(_blur(errors, window), 2), repaired

    def _learn_usual(self, errors: Tensor) -> None:
        """Typical error and its spread at each place."""
        typical, spread = errors.mean(0), errors.std(0)
        window = max(3, self.image_size // 16) | 1  # few images: neighbours help to estimate a place
        self._typical = _blur(typical[None], window)[0]
        # The floor keeps a place that happened to be quiet in few images from making every change an alarm.
        everywhere = errors.flatten(2).std((0, 2))[:, None, None]
        self._spread = (_blur(spread[None].square(), window)[0] + everywhere.square()).sqrt().clamp_min(1e-6)

    def _weighed(self, errors: Tensor) -> Tensor:
        """In deviations at their place."""
        return (errors - self._typical) / self._spread

    def _total(self, maps: Tensor) -> Tensor:
        return topk_mean(maps)

    def _shares(self, errors: Tensor, place: Tensor) -> dict[str, float]:
        changed, seen = place.mean((1, 2)).tolist()
        changed = changed / max(changed + seen, 1e-6)
        return {"what the repair changed": changed, "what looks like damage": 1 - changed}

    def _state(self) -> dict[str, Tensor]:
        return super()._state() | {"typical": self._typical, "spread": self._spread}

    def _restore(self, state: dict[str, Tensor]) -> None:
        super()._restore(state)
        self._typical, self._spread = state["typical"], state["spread"]


def ssim(a: Tensor, b: Tensor, *, window: int = 7) -> Tensor:
    """Structural similarity map (Wang et al., IEEE Trans. Image Processing 2004), (B, C, H, W) in [-1, 1].

    Args:
        a, b: (B, C, H, W) float in [0, 1]; a flat window of `window` pixels replaces the Gaussian one.
    """
    mean_a, mean_b = _blur(a, window), _blur(b, window)
    var_a = _blur(a * a, window) - mean_a**2
    var_b = _blur(b * b, window) - mean_b**2
    covariance = _blur(a * b, window) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return numerator / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def _loss(network: nn.Module, damaged: Tensor, good: Tensor, masks: Tensor) -> Tensor:
    """MSE + SSIM of the repair, and cross-entropy of the damage map; damaged pixels weigh as much as all others."""
    with autocast(damaged.device):
        repaired, logits = network(damaged.contiguous(memory_format=torch.channels_last))
    repaired, logits = repaired.float(), logits.float()
    share = masks.mean().clamp(0.002, 0.5)
    weight = 1 + masks * (0.5 / share)
    repair = ((repaired - good).square() * weight).mean() * 10
    # Luminance at half size: structure shows there as well, at a twelfth of the cost.
    structure = (1 - ssim(*(F.avg_pool2d(x.mean(1, keepdim=True).contiguous(), 2) for x in (repaired, good)))).mean()
    damage = F.binary_cross_entropy_with_logits(logits, masks, weight=1 + masks * (0.2 / share).clamp(max=20))
    return repair + structure + damage


def _vary(images: Tensor, generator: torch.Generator) -> Tensor:
    """Harmless variation, so that light and a pixel's shift do not count as damage: (B, 3, H, W) -> the same."""
    n = len(images)
    light = 1 + 0.2 * (torch.rand(n, 1, 1, 1, generator=generator) - 0.5)
    lift = 0.08 * (torch.rand(n, 1, 1, 1, generator=generator) - 0.5)
    shifts = torch.randint(-4, 5, (n, 2), generator=generator).tolist()
    padded = F.pad(images, (4, 4, 4, 4), mode="reflect")
    height, width = images.shape[2:]
    moved = torch.stack([p[:, 4 + y : 4 + y + height, 4 + x : 4 + x + width] for p, (y, x) in zip(padded, shifts)])
    return (moved * light + lift).clamp(0, 1)


def _blur(x: Tensor, window: int) -> Tensor:
    """Mean over a square window, one axis after the other; at the rim over what there is of it."""
    half = window // 2
    rows = F.avg_pool2d(x.contiguous(), (window, 1), 1, (half, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, window), 1, (0, half), count_include_pad=False)
