"""UNet autoencoder that repairs: what it changes is the anomaly, and so is what looks like damage.

A UNet that only reproduces its input learns to copy it through the skips, defects included. This one is trained on
good images with simulated defects painted on, and has to give the good image back (reconstruction by inpainting and
repair: Zavrtanik et al., "DRAEM", ICCV 2021; loss MSE + SSIM as in Bergmann et al., VISAPP 2019). A second output
learns where the damage was, since who knows that repairs better.

Beside it a few convolutions on the features of a frozen backbone learn the same from the same damage (Liu et al.,
"SimpleNet", CVPR 2023): pixels show what a repair changed, features what a good part never looks like.

Two voices make the score, each in deviations above good images that were left out: the mean of the top 1% of what the
repair changed, normalised by what is usual at each place, and the highest mark. The score is their mean (sum rule:
Kittler et al., IEEE Trans. Pattern Analysis 1998).
"""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from anomaly import backbones, nets
from anomaly.corrupt import corrupt, disturb, shade
from anomaly.descent import Descent, autocast
from anomaly.detectors.base import MANIFEST, WEIGHTS, Batches, Progress, topk_mean
from anomaly.detectors.reconstruction import Reconstruction
from anomaly.errors import BrokenRun, UsageError

EPOCH = 40  # steps between two looks at the left-out images
REPAIR = 256  # pixels a side at which images are repaired, at most; the backbone sees them at `image_size`
SMOOTH = 9  # side in pixels, at 256 px, of the window over which changes are averaged
STAGES = (0, 1, 2)  # of the backbone, strides 4, 8, 16, joined on the grid of the second
STOCK = 12  # times a batch: damaged images whose features are kept, of which each step renews one
STRUCK = 0.1  # of a place that damage covers, at least, to count as damaged: a scratch is thin
AROUND = 3  # places a side over which marks are averaged
STORED = {"network.repair.": "network.", "network.marker.": "marker."}  # names of weights, and those in their file


class UNet(Reconstruction):
    """Repair autoencoder.

    Args:
        base: channels of the finest level.
        epochs: at most; an epoch is 40 steps of `batch` images.
        minutes: wall time after which training ends early, whatever the epoch; None for no limit.
        rate: peak learning rate, reached by a warm-up and then lowered to 2% of it.
        patience: epochs without a better left-out loss before training ends.
        start: weights that the repair begins from, a folder of runs/_backbones: a network that already repairs
            simulated defects on other products learns a new one in a fraction of the steps. None begins at random.
        backbone: whose features are looked at, a name of `backbones.RECIPES`.
    """

    source = "the same place as the network repaired it"
    narrowest = 0.1

    def __init__(
        self,
        *,
        image_size: int = 448,
        seed: int = 0,
        base: int = 16,
        epochs: int = 8,
        minutes: float | None = None,
        batch: int = 8,
        rate: float = 1e-3,
        patience: int = 8,
        start: str | None = "unet_repair",
        backbone: str = backbones.DEFAULT,
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
        self.backbone = backbone

    def arguments(self) -> dict:
        return super().arguments() | {"base": self.base, "start": self.start, "backbone": self.backbone}

    def dependencies(self) -> dict:
        return {"backbone": self.backbone, "backbone_sha256": backbones.load(self.backbone).sha256}

    def _begin(self) -> nn.Module:
        network = self._stored()
        if self.start is not None:
            network["repair"].load_state_dict(self._prior())
        return network

    def _prior(self) -> dict[str, Tensor]:
        """Weights of the repair in the folder `start`."""
        folder = backbones.SHIPPED / self.start
        try:
            base = json.loads((folder / MANIFEST).read_text())["arguments"]["base"]
            weights = load_file(folder / WEIGHTS)
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            problem = f"{folder} holds no start weights ({type(error).__name__})"
            remedy = "Restore that folder from the repository, or make it with `python -m anomaly pretrain`"
            raise BrokenRun(problem, f"{remedy} --network repair") from error
        if base != self.base:
            problem = f"The weights '{self.start}' are of base {base}, base {self.base} was asked for"
            raise UsageError(problem, f"Use base {base}, or start from None")
        return {key.removeprefix("network."): v for key, v in weights.items() if key.startswith("network.")}

    def _stored(self) -> nn.Module:
        channels = backbones.load(self.backbone).channels
        marker = nets.Marker(sum(channels[stage] for stage in STAGES))
        return nn.ModuleDict({"repair": nets.UNet(base=self.base), "marker": marker})

    def _train(
        self, network: nn.Module, batches: Batches, seen: Tensor, left_out: Tensor, progress: Progress
    ) -> nn.Module:
        """Muon and Adam, warm-up, falling rate; returns the moving average of the weights at its best left-out loss."""
        device = next(network.parameters()).device
        average = torch.optim.swa_utils.AveragedModel(
            network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.98), use_buffers=True
        )
        kernels = [p for name, p in network.named_parameters() if p.ndim == 4 and ".head." not in name]
        descent = Descent(list(network.parameters()), kernels, weight_decay=0.0)
        generator = torch.Generator().manual_seed(self.seed)
        small = Batches(torch.cat([(255 * self._shrunk(batch)).round().byte() for batch in batches]))
        other = torch.Generator().manual_seed(self.seed + 1)
        pairs = self._pairs(small, left_out[: 3 * self.batch], other)
        exam = (pairs, self._damaged(batches, left_out[: 3 * self.batch], other))
        picks = seen[torch.randint(len(seen), (STOCK * self.batch,), generator=generator)]
        stock, struck = (torch.cat(x) for x in zip(*(self._damaged(batches, p, generator) for p in picks.split(4))))

        def step(number: int, spent: float) -> tuple[float, float]:
            rate = self.rate * min(1, (number + 1) / 40) * (0.02 + 0.98 * (1 - spent) ** 0.9)
            picks = seen[torch.randint(len(seen), (self.batch,), generator=generator)]
            oldest = number % len(stock)
            stock[[oldest]], struck[[oldest]] = self._damaged(batches, picks[:1], generator)
            drawn = torch.randint(len(stock), (max(1, self.batch // 2),), generator=generator)
            loss = _repair_loss(network["repair"], *(t.to(device) for t in self._pairs(small, picks, generator)))
            loss = loss + _mark_loss(network["marker"], stock[drawn].to(device), struck[drawn].to(device))
            network.zero_grad(set_to_none=True)
            loss.backward()
            for part in network.values():
                nn.utils.clip_grad_norm_(part.parameters(), 1.0)
            descent.step(rate)
            average.update_parameters(network)
            return loss.item(), rate

        def examine() -> float:
            return self._examine(average.module, exam, device)

        network.train()
        return self._descend(EPOCH, average.module, step, examine, pairs[0], pairs[2], progress)

    def _pairs(self, small: Batches, picks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Damaged images, the good ones, and the masks of the damage, at the size of the repair."""
        good = _vary(small.take(picks), generator)
        damaged, masks = corrupt(good, generator)
        return damaged, good, masks

    def _damaged(self, batches: Batches, picks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Features (B, C, h, w), half precision, of damaged images, half of them in other light; and what it struck."""
        good = batches.take(picks)
        dull = torch.rand(len(good), generator=generator) < 0.5
        good[dull] = disturb(shade(good[dull], generator), generator)
        damaged, masks = corrupt(good, generator)
        with torch.no_grad():
            features = self._features(damaged)
        return features.half(), (F.adaptive_avg_pool2d(masks, features.shape[2:]) >= STRUCK).float()

    def _features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H / 8, W / 8)."""
        stages = backbones.load(self.backbone)(images)
        first, second, third = (stages[stage] for stage in STAGES)
        third = F.interpolate(third, size=second.shape[2:], mode="bilinear", align_corners=False)
        joined = torch.cat((F.adaptive_avg_pool2d(first, second.shape[2:]), second, third), 1)
        return joined.contiguous(memory_format=torch.channels_last)

    def _examine(self, network: nn.Module, exam: tuple[tuple[Tensor, ...], tuple[Tensor, ...]], device) -> float:
        network.eval()
        losses = []
        with torch.inference_mode():
            for part, loss, tensors in zip(network.values(), (_repair_loss, _mark_loss), exam):
                batches = zip(*(t.split(self.batch) for t in tensors))
                found = [loss(part, *(t.to(device) for t in batch)).item() for batch in batches]
                losses.append(sum(found) / len(found))
        return sum(losses)

    @property
    def _repaired(self) -> int:
        """Pixels a side at which images are repaired."""
        return min(self.image_size, REPAIR)

    def _shrunk(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> the same at the size of the repair, sides in multiples of 32."""
        scale = self._repaired / self.image_size
        size = [max(64, 32 * round(side * scale / 32)) for side in images.shape[2:]]
        return F.interpolate(images, size=size, mode="bilinear", antialias=True)

    def _draw(self, network: nn.Module, batch: Tensor) -> Tensor:
        return network["repair"](batch.contiguous(memory_format=torch.channels_last))[0]

    def _errors(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 2, h, w) at half the size of the repair: pixels that it changed, and logits of damage; and the repair."""
        small = self._shrunk(batch)
        repaired = self._draw(self._network, small)
        window = max(3, SMOOTH * self._repaired // 256) | 1
        changed = F.avg_pool2d(_blur((repaired - small).abs().mean(1, keepdim=True), window), 2)
        marks = F.avg_pool2d(
            self._network["marker"](self._features(batch)), AROUND, 1, AROUND // 2, count_include_pad=False
        )
        marks = F.interpolate(marks, size=changed.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat((changed, marks), 1), repaired

    def _learn_usual(self, errors: Tensor) -> None:
        """Typical change and its spread at each place, and how loud good images are."""
        changed = errors[:, :1]
        window = max(3, self._repaired // 16) | 1  # few images: neighbours help to estimate a place
        self._typical = _blur(changed.mean(0)[None], window)[0]
        # The floor keeps a place that happened to be quiet in few images from making every change an alarm.
        spread = _blur(changed.std(0)[None].square(), window)[0]
        self._spread = (spread + changed.std().square()).sqrt().clamp_min(1e-6)
        raw = _voices(self._beside_usual(errors))
        self._usual = torch.stack((raw.mean(0), torch.maximum(raw.std(0), 0.05 * raw.mean(0).abs() + 1e-6)))

    def _beside_usual(self, errors: Tensor) -> Tensor:
        """With the changes in deviations at their place."""
        return torch.cat(((errors[:, :1] - self._typical) / self._spread, errors[:, 1:]), 1)

    def _weighed(self, errors: Tensor) -> Tensor:
        """In deviations above the voice of a good image."""
        centre, spread = self._usual[:, :, None, None]
        return (self._beside_usual(errors) - centre) / spread

    def _total(self, errors: Tensor) -> Tensor:
        return _voices(errors).mean(1)

    def _shares(self, errors: Tensor, place: Tensor) -> dict[str, float]:
        changed, marked = F.softplus(place.amax((1, 2))).tolist()
        changed = changed / (changed + marked)
        return {"what the repair changed": changed, "what looks like damage": 1 - changed}

    def _state(self) -> dict[str, Tensor]:
        state = {_renamed(key, STORED): value for key, value in super()._state().items()}
        return state | {"typical": self._typical, "spread": self._spread, "usual": self._usual}

    def _restore(self, state: dict[str, Tensor]) -> None:
        back = {stored: name for name, stored in STORED.items()}
        super()._restore({_renamed(key, back): value for key, value in state.items()})
        self._typical, self._spread, self._usual = state["typical"], state["spread"], state["usual"]


def _renamed(key: str, names: dict[str, str]) -> str:
    """With another beginning, if it has one of these."""
    for old, new in names.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def _voices(errors: Tensor) -> Tensor:
    """(B, 2, h, w) -> (B, 2): the top 1% of the changes, and the highest mark."""
    return torch.stack((topk_mean(errors[:, 0]), errors[:, 1].amax((1, 2))), 1)


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


def _repair_loss(network: nn.Module, damaged: Tensor, good: Tensor, masks: Tensor) -> Tensor:
    """MSE + SSIM of the repair, and cross-entropy of where damage was; damaged pixels weigh as much as all others."""
    with autocast(damaged.device):
        repaired, logits = network(damaged.contiguous(memory_format=torch.channels_last))
    repaired, logits = repaired.float(), logits.float()
    share = masks.mean().clamp(0.002, 0.5)
    weight = 1 + masks * (0.5 / share)
    repair = ((repaired - good).square() * weight).mean() * 10
    # Luminance at half size: structure shows there as well, at a twelfth of the cost.
    structure = (1 - ssim(*(F.avg_pool2d(x.mean(1, keepdim=True).contiguous(), 2) for x in (repaired, good)))).mean()
    return repair + structure + _entropy(logits, masks)


def _mark_loss(network: nn.Module, features: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of where the damage was."""
    return _entropy(network(features.float()), masks)


def _entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean cross-entropy; damaged places weigh about as much as all others."""
    share = masks.mean().clamp(0.002, 0.5)
    return F.binary_cross_entropy_with_logits(logits, masks, weight=1 + masks * (0.2 / share).clamp(max=20))


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
