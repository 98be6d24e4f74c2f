"""What our detectors are measured against, under the same contract: the same images, splits and metrics for all.

anomalib's models are taken as they come, with the weights of EfficientNet-Lite2 that our own backbone learned from.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from anomaly import backbones, detectors
from anomaly.detectors.base import Batches, BatchScores, Detector, Explanation, Image, Progress

LITE2 = "tf_efficientnet_lite2"
CORESET = 0.01  # of PatchCore: five times as much needs over 20 GB


class Measured(Detector):
    """A detector that is measured and thrown away; it sees squares of 256 pixels, the default of anomalib."""

    def _choose_frame(self, shapes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        return self.image_size, self.image_size

    def _filled(self, image: Image) -> tuple[int, int]:
        return self._frame

    def _explain(self, image: Image, batch: Tensor, inside, filled) -> Explanation:
        raise NotImplementedError(f"{type(self).__name__} is for comparison only and explains nothing")

    def _state(self) -> dict[str, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} is for comparison only and cannot be saved")

    def _restore(self, state: dict[str, Tensor]) -> None:
        raise NotImplementedError(f"{type(self).__name__} is for comparison only and cannot be loaded")


class MeanImage(Measured):
    """Distance to the mean good image: what needs no learning at all."""

    name = "naive_mean_image"

    def _fit(self, batches: Batches, progress: Progress) -> None:
        self._mean = sum(batch.sum(0) for batch in batches) / len(batches)

    def _score(self, batch: Tensor) -> BatchScores:
        maps = (batch - self._mean).square().mean(1)
        return BatchScores(scores=maps.mean((1, 2)), maps=maps)


class Brightness(Measured):
    """How far the mean brightness of a photo is from that of good parts, either way."""

    name = "naive_brightness"

    def _fit(self, batches: Batches, progress: Progress) -> None:
        self._mean = torch.cat([batch.mean((1, 2, 3)) for batch in batches]).mean()

    def _score(self, batch: Tensor) -> BatchScores:
        scores = (batch.mean((1, 2, 3)) - self._mean).abs()
        return BatchScores(scores=scores, maps=scores[:, None, None].expand(-1, 8, 8))


class _Anomalib(Measured):
    """A model of anomalib: it looks at good batches in training mode, concludes, then answers in evaluation mode."""

    def _fit(self, batches: Batches, progress: Progress) -> None:
        torch.manual_seed(self.seed)
        self._model = self._build().train()
        self._lite2 = backbones.load("efficientnet_lite2")
        extractor, weights = self._model.feature_extractor.feature_extractor, self._lite2.trunk.state_dict()
        extractor.load_state_dict({key: weights[key] for key in extractor.state_dict()})  # it keeps fewer stages
        with torch.no_grad():
            for batch in batches:
                self._model(self._normalised(batch))
        self._conclude()
        self._model.eval()

    def _score(self, batch: Tensor) -> BatchScores:
        found = self._model(self._normalised(batch))
        return BatchScores(scores=found.pred_score.flatten(), maps=found.anomaly_map.squeeze(1))

    def _normalised(self, batch: Tensor) -> Tensor:
        return (batch - self._lite2.mean) / self._lite2.std

    @abstractmethod
    def _build(self) -> torch.nn.Module:
        """The untrained model."""

    @abstractmethod
    def _conclude(self) -> None:
        """Make of the features seen what the model compares with."""


class Padim(_Anomalib):
    """PaDiM (Defard et al., ICPR 2021) of anomalib: a Gaussian of 100 random features at each place."""

    name = "anomalib_padim"

    def _build(self) -> torch.nn.Module:
        from anomalib.models.image.padim.torch_model import PadimModel

        layers = ["blocks.1", "blocks.2", "blocks.4"]
        return PadimModel(backbone=LITE2, layers=layers, pre_trained=False, n_features=100)

    def _conclude(self) -> None:
        self._model.fit()


class Patchcore(_Anomalib):
    """PatchCore (Roth et al., CVPR 2022) of anomalib: distance to the nearest of a coreset of good patches."""

    name = "anomalib_patchcore"

    def _build(self) -> torch.nn.Module:
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        return PatchcoreModel(backbone=LITE2, layers=["blocks.2", "blocks.4"], pre_trained=False)

    def _conclude(self) -> None:
        self._model.subsample_embedding(CORESET)


ON_LITE2 = "mahalanobis_lite2"  # our scorer on the weights that anomalib's have: what is the scorer, what the backbone
UNIFIED = "unified"  # our scorer, one model for all products of a folder, with a limit for each
OTHERS = {system.name: system for system in (Patchcore, Padim, MeanImage, Brightness)}
# Another seed, another model.
RANDOM = {*detectors.names(), UNIFIED, ON_LITE2, Patchcore.name, Padim.name}


def names() -> tuple[str, ...]:
    """Ours first, then the others."""
    return (*detectors.names(), UNIFIED, ON_LITE2, *OTHERS)


def create(name: str, *, seed: int) -> Detector:
    """A fresh detector of ours or of others. Raises UnknownName."""
    if name == UNIFIED:
        return detectors.create("mahalanobis", seed=seed)
    if name == ON_LITE2:
        return detectors.create("mahalanobis", seed=seed, backbone="efficientnet_lite2")
    return OTHERS[name](seed=seed) if name in OTHERS else detectors.create(name, seed=seed)
