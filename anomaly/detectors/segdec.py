"""Segmentation and decision network: it is taught what defects look like, by masks, by photos alone, or by both.

After Božič, Tabernik & Skočaj, "Mixed supervision for surface-defect detection: from weakly to fully supervised
learning" (Computers in Industry 2021). A segmentation network marks defects, a decision network on its features says
whether there is one. Where masks are known, the decision teaches the segmentation nothing; where they are not, it is
all that teaches it. Pixels in the middle of a mask weigh more than those at its uncertain rim, the weight moves from
segmentation to decision in the course of a training, and good photos are drawn the more rarely the more often they have
been used. The network is much smaller than the published one (`nets.SegDec`) and the optimiser is that of `unet`.

The known defects are those of the folder. As long as some of them have no mask, damage that is simulated on good
photos, as for `unet`, stands beside them: it teaches the segmentation what a mark is, and the known ones alone say
which marks are defects. Where none is known, simulated damage is all there is: then it knows no real defect, and
`train` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt, label
from torch import Tensor, nn

from anomaly import nets
from anomaly.corrupt import corrupt
from anomaly.descent import Budget, Descent, autocast, descend
from anomaly.detectors.base import (
    Batches,
    BatchScores,
    Defects,
    Detector,
    Explanation,
    Image,
    Progress,
    deviations,
)
from anomaly.images import cut, positions, stretch, surroundings

EPOCH = 40  # steps between two looks at the left-out images
STRIDE = 8  # pixels of the model's frame to one of the map
MIDDLE = 10.0  # weight of the pixel in the middle of a mask, as published for DAGM; it falls to 0 towards the rim
EXAM = 64  # good images that are looked at after each epoch, at most


@dataclass(frozen=True)
class Lesson:
    """Images to learn from, and what each of them teaches.

    Attributes:
        images: (B, 3, h, w) float in [0, 1].
        weights: (B, 1, h / 8, w / 8), of places: of a defect where >= 0, and -1 for none.
        defective: (B,) bool.
        masked: (B,) bool, of which images the places are known; of good ones they are.
        decides: (B,) bool, which images teach the decision; simulated damage beside known defects does not.
    """

    images: Tensor
    weights: Tensor
    defective: Tensor
    masked: Tensor
    decides: Tensor

    @property
    def stopped(self) -> Tensor:
        """(B,) bool, of which images the decision teaches the segmentation nothing.

        It does of defects without a mask, and of as many good images.
        """
        return torch.where(self.defective, self.masked, (~self.defective).cumsum(0) > (~self.masked).sum())

    def __add__(self, other: Lesson) -> Lesson:
        names = (field.name for field in fields(self))
        return Lesson(*(torch.cat((getattr(self, name), getattr(other, name))) for name in names))

    def to(self, device: torch.device) -> Lesson:
        return Lesson(*(getattr(self, field.name).to(device) for field in fields(self)))


class SegDec(Detector):
    """Segmentation and decision network.

    Args:
        base: channels of the finest level.
        epochs: at most; an epoch is 40 steps of `batch` images, one half of them defective.
        minutes: wall time after which training ends early, whatever the epoch; None for no limit.
        rate: peak learning rate, reached by a warm-up and then lowered to 2% of it.
        patience: epochs without a better left-out loss before training ends.
    """

    least = 4
    supervised = True

    def __init__(
        self,
        *,
        image_size: int = 256,
        seed: int = 0,
        base: int = 16,
        epochs: int = 30,
        minutes: float | None = None,
        batch: int = 8,
        rate: float = 2e-3,
        patience: int = 12,
    ):
        super().__init__(image_size=image_size, seed=seed)
        self.base = base
        self.epochs = epochs
        self.minutes = minutes
        self.batch = batch
        self.rate = rate
        self.patience = patience
        self._history: list[dict[str, float]] = []

    def arguments(self) -> dict:
        own = ("base", "epochs", "minutes", "batch", "rate", "patience")
        return super().arguments() | {name: getattr(self, name) for name in own}

    def history(self) -> list[dict[str, float]]:
        return self._history

    def _fit(self, batches: Batches, progress: Progress) -> None:
        start = len(batches) - max(2, len(batches) // 5)  # one image alone has no spread
        seen, left_out = torch.arange(len(batches)).tensor_split([start])
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = nets.SegDec(base=self.base)
        network.to(device, memory_format=torch.channels_last)
        self._network = self._train(network, batches, seen, left_out, progress).cpu().eval()
        for value in self._network.state_dict().values():
            value.copy_(value.half())  # as they will be stored: a loaded model gives the very same scores
        with torch.inference_mode():
            found = [self._look(batches.take([i])) for i in left_out.tolist()]
        decisions, peaks = torch.cat([d for d, _ in found]), torch.stack([marks.max() for _, marks in found])
        self._image, self._place = _usual(decisions), _usual(peaks)
        self._good = batches.pixels[left_out[decisions.argsort()[len(decisions) // 2]]].clone()

    def _train(
        self, network: nn.Module, batches: Batches, seen: Tensor, left_out: Tensor, progress: Progress
    ) -> nn.Module:
        """Muon and Adam, warm-up, falling rate; half of each batch is good, the other defective."""
        device = next(network.parameters()).device
        kernels = [p for p in network.parameters() if p.ndim == 4 and min(p.shape[:2]) > 1]
        descent = Descent(list(network.parameters()), kernels, weight_decay=0.01)
        generator = torch.Generator().manual_seed(self.seed)
        good, bad = _seldom_used(seen, self.batch // 2, generator), self._defective(batches, seen, generator)
        exam = left_out[torch.linspace(0, len(left_out) - 1, min(EXAM, len(left_out))).round().long()]
        examined = self._examined(batches, exam)

        def step(number: int, spent: float) -> tuple[float, float]:
            rate = self.rate * min(1, (number + 1) / 40) * (0.02 + 0.98 * (1 - spent) ** 0.9)
            lesson = _varied(_good(batches.take(next(good))) + next(bad), generator)
            loss = _loss(network, lesson.to(device), spent=spent)
            network.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            descent.step(rate)
            return loss.item(), rate

        def examine() -> float:
            network.eval()
            with torch.inference_mode():
                sides = [self._decided(network, images, device) for images in examined]
            network.train()
            return sum(F.softplus(s).mean().item() for s in (sides[0], -sides[1])) / 2

        self._history = []
        network.train()
        budget = Budget(self.epochs, EPOCH, self.minutes, self.patience)
        return descend(
            budget, network, step, examine, told=lambda line, last: self._history.append(line), progress=progress
        )

    def _defective(self, batches: Batches, seen: Tensor, generator: torch.Generator) -> Iterator[Lesson]:
        """Half batches without end."""
        known, half = batches.defects, self.batch // 2

        def painted(count: int, *, decides: bool) -> Lesson:
            picks = seen[torch.randint(len(seen), (count,), generator=generator)]
            images, masks = _simulated(batches, picks, generator)
            yes = torch.ones(len(images), dtype=torch.bool)
            return Lesson(images, _weights(masks.bool()), yes, yes, yes if decides else ~yes)

        if known is None:
            while True:
                yield painted(half, decides=True)
        weights, masked, (learned, _) = _weights(known.masks), known.masked, _parted(known)
        beside = 0 if masked[learned].all() else half // 2
        while True:  # each once, then each once again in another order
            order = learned[torch.randperm(len(learned), generator=generator)].repeat(-(-half // len(learned)))
            for picks in order.split(half):
                yes = torch.ones(len(picks), dtype=torch.bool)
                lesson = Lesson(known.pixels[picks].float() / 255, weights[picks], yes, masked[picks], yes)
                yield lesson + painted(beside, decides=False) if beside else lesson

    def _examined(self, batches: Batches, exam: Tensor) -> tuple[Tensor, Tensor]:
        """Good and defective images (B, 3, h, w) that are not learned from."""
        known = batches.defects
        if known is None:
            damaged, _ = _simulated(batches, exam, torch.Generator().manual_seed(self.seed + 1))
        else:
            damaged = known.pixels[_parted(known)[1]].float() / 255
        return batches.take(exam), damaged

    def _decided(self, network: nn.Module, images: Tensor, device: torch.device) -> Tensor:
        parts = images.split(self.batch)
        return torch.cat([network(p.to(device, memory_format=torch.channels_last))[0] for p in parts]).cpu()

    def _look(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B,) of a defect and (B, h / 8, w / 8) of its place."""
        decisions, marks = self._network(batch.contiguous(memory_format=torch.channels_last))
        return decisions, marks[:, 0]

    def _score(self, batch: Tensor) -> BatchScores:
        decisions, marks = self._look(batch)
        return BatchScores(deviations(decisions, *self._image), deviations(marks, *self._place))

    def _explain(self, image: Image, batch: Tensor, inside: np.ndarray, filled: tuple[float, float]) -> Explanation:
        marks = self._look(batch)[1][0].sigmoid()
        height, width = (max(1, round(share * side)) for share, side in zip(filled, marks.shape))
        marks = marks[:height, :width]
        here = float(marks[positions(inside, marks.shape)].sum() / marks.sum().clamp_min(1e-12))
        around = surroundings(inside)
        place = cut(image, *around)
        good = cut(self._good.permute(1, 2, 0).numpy(), *around)
        shares = {"marked at this place": here, "marked elsewhere": 1 - here}
        return Explanation(place, stretch(good, place.shape[:2]), "the same place of a good photo", shares)

    def _state(self) -> dict[str, Tensor]:
        network = {
            f"network.{k}": v.half() if v.is_floating_point() else v for k, v in self._network.state_dict().items()
        }
        return network | {"image": torch.stack(self._image), "place": torch.stack(self._place), "good": self._good}

    def _restore(self, state: dict[str, Tensor]) -> None:
        with torch.random.fork_rng(devices=[]):  # the random weights are overwritten: nobody else's draws may change
            self._network = nets.SegDec(base=self.base).eval()
        weights = {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
        self._network.load_state_dict(weights)
        self._image, self._place, self._good = tuple(state["image"]), tuple(state["place"]), state["good"]


def _loss(network: nn.Module, lesson: Lesson, *, spent: float) -> Tensor:
    """Segmentation where it is known, and decision; the weight moves from the first to the second.

    Args:
        spent: share of the training that is behind, 0..1.
    """
    images, masked = lesson.images, lesson.masked
    with autocast(images.device):
        decisions, marks = network(images.contiguous(memory_format=torch.channels_last), lesson.stopped)
    places = F.binary_cross_entropy_with_logits(
        marks.float(), (lesson.weights >= 0).float(), weight=lesson.weights.abs(), reduction="none"
    )
    segmentation = (places.mean((1, 2, 3)) * masked).sum() / masked.sum().clamp_min(1)
    told = lesson.decides
    decision = F.binary_cross_entropy_with_logits(decisions.float()[told], lesson.defective[told].float())
    return (1 - spent) * segmentation + spent * decision if (masked & lesson.defective).any() else decision


def _good(images: Tensor) -> Lesson:
    """Good images (B, 3, h, w): nowhere is a defect."""
    yes = torch.ones(len(images), dtype=torch.bool)
    grid = (side // STRIDE for side in images.shape[2:])
    return Lesson(images, torch.full((len(images), 1, *grid), -1.0), ~yes, yes, yes)


def _seldom_used(seen: Tensor, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Numbers of good images without end, `count` at a time, the more likely the more rarely they were drawn."""
    used = torch.zeros(len(seen))
    while True:
        picks = torch.multinomial(1 / (1 + used), min(count, len(seen)), generator=generator)
        used[picks] += 1
        yield seen[picks]


def _weights(masks: Tensor) -> Tensor:
    """Weights of places (M, 1, h / 8, w / 8) from masks (M, 1, h, w) bool.

    Within each connected region MIDDLE times the distance to its rim, in shares of the largest one; -1 elsewhere.
    """
    found = torch.full((len(masks), 1, *(side // STRIDE for side in masks.shape[2:])), -1.0)
    for weights, mask in zip(found, masks[:, 0].numpy()):
        if mask.any():
            depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].astype(np.float32)
            regions, count = label(mask)
            deepest = np.zeros(count + 1, np.float32)
            np.maximum.at(deepest, regions, depth)
            deepest[0] = 1
            depth = torch.from_numpy(np.where(mask, MIDDLE * depth / deepest[regions], -1))
            weights.copy_(F.max_pool2d(depth[None], STRIDE))
    return found


def _simulated(batches: Batches, picks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Good images with damage painted on and the masks of it, without those on which nothing of it can be seen."""
    images, masks = corrupt(batches.take(picks), generator, share=1.0)
    visible = masks.flatten(1).any(1)
    return (images[visible], masks[visible]) if visible.any() else _simulated(batches, picks, generator)


def _varied(lesson: Lesson, generator: torch.Generator) -> Lesson:
    """Images mirrored and in other light, which makes neither good nor bad; the weights of their maps mirrored, too."""
    images, weights = lesson.images, lesson.weights
    n = len(images)
    for axis in (2, 3):
        chosen = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
        images, weights = (torch.where(chosen, t.flip(axis), t) for t in (images, weights))
    light, lift = (torch.rand(n, 1, 1, 1, generator=generator) - 0.5 for _ in range(2))
    return replace(lesson, images=(images * (1 + 0.2 * light) + 0.08 * lift).clamp(0, 1), weights=weights)


def _parted(known: Defects) -> tuple[Tensor, Tensor]:
    """Numbers of the known defects to learn from, and of every fifth, which chooses the best epoch; all of a few."""
    every = torch.arange(len(known))
    fifth = every % 5 == 4
    return (every[~fifth], every[fifth]) if fifth.any() else (every, every)


def _usual(values: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and spread of what good images give."""
    centre = values.mean()
    return centre, values.std().clamp_min(0.05 * centre.abs() + 1e-6)
