"""Fused: the repair of `unet` and the features of `mahalanobis`, one verdict.

Each scorer is standardised on good images that it had not learned from, so that their scores share a unit; the fused
score and map are their means (sum rule: Kittler et al., IEEE Trans. Pattern Analysis 1998). The repaired image is that
of `unet`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from anomaly import backbones
from anomaly.detectors.base import Batches, BatchScores, Detector, Explanation, Image, Preview, Progress
from anomaly.detectors.mahalanobis import Mahalanobis
from anomaly.detectors.unet import UNet


class Fused(Detector):
    """Mean of `unet` and `mahalanobis`.

    Args:
        backbone: of both.
        epochs, minutes: at most, of `unet`.
    """

    least = Mahalanobis.least

    def __init__(
        self,
        *,
        image_size: int = 448,
        seed: int = 0,
        backbone: str = backbones.DEFAULT,
        epochs: int = 8,
        minutes: float | None = None,
    ):
        super().__init__(image_size=image_size, seed=seed)
        self._features = Mahalanobis(image_size=image_size, seed=seed, backbone=backbone)
        self._repair = UNet(image_size=image_size, seed=seed, epochs=epochs, minutes=minutes, backbone=backbone)

    def arguments(self) -> dict:
        own = {"backbone": self._features.backbone, "epochs": self._repair.epochs, "minutes": self._repair.minutes}
        return super().arguments() | own

    def dependencies(self) -> dict:
        return self._features.dependencies()

    def history(self) -> list[dict[str, float]]:
        return self._repair.history()

    def preview(self) -> Preview | None:
        return self._repair.preview()

    def _fit(self, batches: Batches, progress: Progress) -> None:
        self._features._fit(batches, progress)
        self._repair._fit(batches, progress)

    def _score(self, batch: Tensor) -> BatchScores:
        features, repair = self._features._score(batch), self._repair._score(batch)
        size = repair.maps.shape[1:]
        seen = F.interpolate(features.maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
        return BatchScores(
            scores=(features.scores + repair.scores) / 2,
            maps=(seen + repair.maps) / 2,
            reconstructions=repair.reconstructions,
        )

    def _explain(self, image: Image, batch: Tensor, inside: np.ndarray, filled: tuple[float, float]) -> Explanation:
        features, repair = self._features._score(batch), self._repair._score(batch)
        total = features.scores[0] + repair.scores[0]
        return replace(
            self._features._explain(image, batch, inside, filled),
            shares={
                "features": float(features.scores[0] / total),
                "repair": float(repair.scores[0] / total),
            },
        )

    def _state(self) -> dict[str, Tensor]:
        parts = {"features": self._features._state(), "repair": self._repair._state()}
        return {f"{part}.{key}": value for part, state in parts.items() for key, value in state.items()}

    def _restore(self, state: dict[str, Tensor]) -> None:
        for part, detector in (("features", self._features), ("repair", self._repair)):
            prefix = f"{part}."
            detector._restore({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
