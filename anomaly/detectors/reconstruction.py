"""What the detectors share that draw the photo anew: training by descent, its curves and previews, and the why.

A network learns to draw good photos; where its drawing differs from a photo, something is there that it does not know.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from anomaly.descent import Budget, descend
from anomaly.detectors.base import (
    Batches,
    BatchScores,
    Detector,
    Explanation,
    Image,
    Preview,
    Progress,
    deviations,
)
from anomaly.images import cut, positions, stretch, surroundings


class Reconstruction(Detector):
    """A network that draws the photo anew. A subclass writes the abstract methods.

    Args:
        epochs: at most.
        minutes: wall time after which training ends early, whatever the epoch; None for no limit.
        batch: images a step.
        rate: learning rate, the highest of a training.
        patience: epochs without a better left-out loss before training ends.
    """

    least = 4
    source: str  # of the good place beside a doubtful one, in a few words
    narrowest = 1e-6  # least deviation of the numbers of good images, whatever those left out say

    def __init__(
        self, *, image_size: int, seed: int, epochs: int, minutes: float | None, batch: int, rate: float, patience: int
    ):
        super().__init__(image_size=image_size, seed=seed)
        self.epochs = epochs
        self.minutes = minutes
        self.batch = batch
        self.rate = rate
        self.patience = patience
        self._history: list[dict[str, float]] = []
        self._preview: Preview | None = None

    def arguments(self) -> dict:
        own = ("epochs", "minutes", "batch", "rate", "patience")
        return super().arguments() | {name: getattr(self, name) for name in own}

    def history(self) -> list[dict[str, float]]:
        return self._history

    def preview(self) -> Preview | None:
        return self._preview

    def _fit(self, batches: Batches, progress: Progress) -> None:
        start = len(batches) - max(2, len(batches) // 5)  # one image alone has no spread
        seen, left_out = torch.arange(len(batches)).tensor_split([start])
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = self._begin()
        network.to(device, memory_format=torch.channels_last)
        self._network = self._train(network, batches, seen, left_out, progress).cpu().eval()
        for value in self._network.state_dict().values():
            value.copy_(value.half())  # as they will be stored: a loaded model gives the very same scores
        with torch.inference_mode():
            errors = torch.cat([self._errors(batches.take([i]))[0] for i in left_out.tolist()])
            self._learn_usual(errors)
            totals = self._total(self._weighed(errors))
        self._centre, self._width = totals.mean(), totals.std().clamp_min(0.05 * totals.mean().abs() + self.narrowest)

    def _score(self, batch: Tensor) -> BatchScores:
        errors, drawn = self._errors(batch)
        weighed = self._weighed(errors)
        return BatchScores(
            scores=deviations(self._total(weighed), self._centre, self._width),
            maps=deviations(weighed.mean(1), self._centre, self._width),
            reconstructions=drawn,
        )

    @abstractmethod
    def _begin(self) -> nn.Module:
        """The network that training starts from; its random numbers are those of the seed."""

    @abstractmethod
    def _stored(self) -> nn.Module:
        """A network of the kind whose weights are kept, whatever its weights."""

    @abstractmethod
    def _train(
        self, network: nn.Module, batches: Batches, seen: Tensor, left_out: Tensor, progress: Progress
    ) -> nn.Module:
        """Learn from the images numbered `seen` and choose by those left out, by way of `_descend`."""

    @abstractmethod
    def _draw(self, network: nn.Module, batch: Tensor) -> Tensor:
        """What a network makes of images: (B, 3, h, w) in [0, 1] -> the same, not clamped."""

    @abstractmethod
    def _errors(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Errors (B, c, h', w') of images (B, 3, h, w), and the drawing of them."""

    def _learn_usual(self, errors: Tensor) -> None:
        """Learn from the errors of images left out what is usual at each place; by default nothing."""

    def _weighed(self, errors: Tensor) -> Tensor:
        """Errors (B, c, h', w') as they count; the map is their mean over c. By default as they are."""
        return errors

    @abstractmethod
    def _total(self, errors: Tensor) -> Tensor:
        """Errors as they count (B, c, h', w') -> (B,): one number an image."""

    @abstractmethod
    def _shares(self, errors: Tensor, place: Tensor) -> dict[str, float]:
        """What a score is made of: weighed errors of one image (c, h', w'), and those in the place."""

    def _descend(
        self,
        steps: int,
        network: nn.Module,
        step: Callable[[int, float], tuple[float, float]],
        examine: Callable[[], float],
        damaged: Tensor,
        masks: Tensor,
        progress: Progress,
    ) -> nn.Module:
        """`descent.descend` with this budget, its curve kept, and drawings of the most damaged image (B, 3, h, w)."""
        shown = damaged[int(masks.flatten(1).mean(1).argmax())][None]
        self._history, self._preview = [], Preview(_picture(shown), {})

        def told(line: dict[str, float], last: bool) -> None:
            self._history.append(line)
            epoch = line["epoch"]
            if last or epoch & (epoch - 1) == 0:  # after 1, 2, 4, 8 … epochs, and the last one
                with torch.inference_mode():
                    drawn = self._draw(network, shown.to(next(network.parameters()).device))
                self._preview.repairs[epoch] = _picture(drawn)

        budget = Budget(self.epochs, steps, self.minutes, self.patience)
        return descend(budget, network, step, examine, told=told, progress=progress)

    def _explain(self, image: Image, batch: Tensor, inside: np.ndarray, filled: tuple[float, float]) -> Explanation:
        errors, drawn = self._errors(batch)
        height, width = (round(share * side) for share, side in zip(filled, errors.shape[2:]))
        rows, columns = positions(inside, (height, width))
        weighed = self._weighed(errors)[0]
        shares = self._shares(weighed[:, :height, :width], weighed[:, rows, columns])
        height, width = (round(share * side) for share, side in zip(filled, drawn.shape[2:]))
        around = surroundings(inside)
        here = cut(image, *around)
        good = cut(_picture(drawn[:, :, :height, :width]), *around)
        return Explanation(here, stretch(good, here.shape[:2]), self.source, shares)

    def _state(self) -> dict[str, Tensor]:
        network = {
            f"network.{k}": v.half() if v.is_floating_point() else v for k, v in self._network.state_dict().items()
        }
        return network | {"image": torch.stack((self._centre, self._width))}

    def _restore(self, state: dict[str, Tensor]) -> None:
        with torch.random.fork_rng(devices=[]):  # the random weights are overwritten: nobody else's draws may change
            self._network = self._stored().eval()
        weights = {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
        self._network.load_state_dict(weights)
        self._centre, self._width = state["image"]


def _picture(batch: Tensor) -> Image:
    """The one image of a (1, 3, h, w) float batch."""
    return (255 * batch[0].clamp(0, 1)).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
