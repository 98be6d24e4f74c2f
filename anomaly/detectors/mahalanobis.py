"""ConvNeXt Mahalanobis: how far are the features of an image from those of good parts?

Two views of the same forward pass, since each finds what the other misses:

- the whole part: features pooled over the image, one Gaussian a stage, Mahalanobis distance (Lee et al., NeurIPS
  2018; Rippel et al., ICPR 2020), covariance shrunk after Ledoit and Wolf (J. Multivariate Analysis 2004);
- each place: features of the finer stages joined on one grid and whitened, with a Gaussian for each position as in
  PaDiM (Defard et al., ICPR 2021). A full covariance for each would need more images than channels, so one is shared
  (shrunk by OAS, Chen et al., IEEE Trans. Signal Processing 2010), and in its axes each position has a mean and
  deviations of its own, as far as the images bear them out: aligned parts differ from place to place, textures do not.

Both are standardised on good images that were left out in turn (5 folds); the one that objects more decides, since most
defects show in one of them alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from anomaly import backbones
from anomaly.detectors.base import Batches, BatchScores, Detector, Progress, deviations, fold_slices, topk_mean

PATCH_STAGES = (0, 1, 2)  # strides 4, 8, 16, joined at stride 8: the coarsest stage would blur small defects
POOLED_STAGES = (2, 3)  # strides 16, 32: pooled over the image, finer ones say little but the light
GRID = 1  # the stage whose grid the others are brought to
FOLDS = 5
KEPT = 200  # at most so many images keep their patch features while fitting: 2.2 MB each at 320 px
PRIOR = 8  # images' worth of trust in the average variance of all positions, against that of the position itself
QUIET = 0.1  # least deviation of a whitened channel: one that good images never woke must not outvote all others
TINY = 1e-6  # where all good images are one and the same, nothing varies, and nothing may be divided by that
OVERLAP = 16  # neighbouring patches see the same pixels: so many of them count as one sample for the shrinkage


class Mahalanobis(Detector):
    """Pooled and patch Mahalanobis distance of backbone features.

    Args:
        backbone: a name of `backbones.RECIPES`.
    """

    least = 8

    def __init__(self, *, image_size: int = 320, seed: int = 0, backbone: str = backbones.DEFAULT):
        super().__init__(image_size=image_size, seed=seed)
        self.backbone = backbone

    def arguments(self) -> dict:
        return super().arguments() | {"backbone": self.backbone}

    def dependencies(self) -> dict:
        return {"backbone": self.backbone, "backbone_sha256": backbones.load(self.backbone).sha256}

    def _fit(self, batches: Batches, progress: Progress) -> None:
        vectors, grids, kept = _features(self.backbone, batches, progress)
        folds = fold_slices(len(grids), FOLDS)
        self._patches = _patch_gaussian(grids)
        for grid in grids:
            grid.copy_(_whiten(self._patches, grid))
        sums = [_Sums.of(grids[fold]) for fold in folds]
        total = sum(sums[1:], sums[0])
        held_out = []
        for fold, part in zip(folds, sums):
            out = torch.zeros(len(vectors[0]), dtype=torch.bool)
            out[kept[fold]] = True
            whole = [_whitened(stage[~out]) for stage in vectors]
            distances = (total - part).normal().distances(grids[fold])
            held_out.append(_raw(whole, [stage[out] for stage in vectors], distances))
        self._whole = [_whitened(stage) for stage in vectors]
        self._places = total.normal()
        raw = torch.cat(held_out)  # (M, S + 1): a distance for each pooled stage, the last for the patches
        self._centre, self._spread = raw.mean(0), raw.std(0).clamp_min(0.02 * raw.mean(0) + TINY)
        joined = self._joined(raw)
        self._joint = torch.stack((joined.mean(), joined.std().clamp_min(0.1)))

    def _score(self, batch: Tensor) -> BatchScores:
        vectors, grid = _extract(self.backbone, batch)
        distances = self._places.distances(_whiten(self._patches, grid))
        scores = deviations(self._joined(_raw(self._whole, vectors, distances)), *self._joint)
        return BatchScores(scores=scores, maps=deviations(distances, self._centre[-1], self._spread[-1]))

    def _joined(self, raw: Tensor) -> Tensor:
        """Distances (B, S + 1) -> (B,): z-score of the view that objects more, the whole part or its places."""
        z = (raw - self._centre) / self._spread
        return torch.maximum(z[:, :-1].mean(1), z[:, -1])

    def _state(self) -> dict[str, Tensor]:
        state = {"centre": self._centre, "spread": self._spread, "joint": self._joint}
        for i, (mean, whitening) in enumerate(self._whole):
            state |= {f"pooled{i}.mean": mean, f"pooled{i}.whitening": whitening}
        state |= {"place.mean": self._places.mean.half(), "place.deviation": self._places.deviation.half()}
        return state | {"patch.mean": self._patches[0], "patch.whitening": self._patches[1]}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._centre, self._spread, self._joint = state["centre"], state["spread"], state["joint"]
        stages = range(len(self._centre) - 1)
        self._whole = [(state[f"pooled{i}.mean"], state[f"pooled{i}.whitening"]) for i in stages]
        self._patches = (state["patch.mean"], state["patch.whitening"])
        self._places = _Places(state["place.mean"].float(), state["place.deviation"].float())


Gaussian = tuple[Tensor, Tensor]  # mean (..., C) and whitening matrix (C, C): |W (x - mean)| is the distance


def _extract(backbone: str, batch: Tensor) -> tuple[list[Tensor], Tensor]:
    """One forward pass: pooled vectors (B, C_s) of each pooled stage, and patch features (B, h, w, C) of the joined."""
    stages = backbones.load(backbone)(batch)
    size = stages[GRID].shape[2:]
    fine = [F.adaptive_avg_pool2d(stages[i], size) for i in PATCH_STAGES if i < GRID]
    coarse = [F.interpolate(stages[i], size=size, mode="bilinear") for i in PATCH_STAGES if i > GRID]
    grid = torch.cat([*fine, stages[GRID], *coarse], 1).permute(0, 2, 3, 1)
    return [stages[i].mean((2, 3)) for i in POOLED_STAGES], grid.contiguous()


def _features(backbone: str, batches: Batches, progress: Progress) -> tuple[list[Tensor], Tensor, Tensor]:
    """Pooled vectors of all N images, patch features of M <= KEPT of them, evenly chosen, and the indices of those."""
    kept = torch.linspace(0, len(batches) - 1, min(KEPT, len(batches))).round().long()
    vectors, grids, done = [], [], 0
    with torch.inference_mode():
        for batch in batches:
            pooled, grid = _extract(backbone, batch)
            vectors.append(pooled)
            grids.append(grid[kept[(kept >= done) & (kept < done + len(batch))] - done])
            done += len(batch)
            progress("features", done, len(batches))
    return [torch.cat(stage) for stage in zip(*vectors)], torch.cat(grids), kept


@dataclass(frozen=True)
class _Places:
    """What is normal where: mean and deviation of each whitened channel, both (h, w, C)."""

    mean: Tensor
    deviation: Tensor

    def distances(self, whitened: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w)."""
        return torch.linalg.vector_norm((whitened - self.mean) / self.deviation, dim=-1)


@dataclass(frozen=True)
class _Sums:
    """Sums over images of whitened patch features, (h, w, C) float64: enough for the normal of any union of folds."""

    images: int
    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, grids: Tensor) -> _Sums:
        """From (M, h, w, C) whitened features."""
        return cls(len(grids), grids.sum(0, dtype=torch.float64), sum(grid.double().square() for grid in grids))

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(self.images + other.images, self.first + other.first, self.second + other.second)

    def __sub__(self, other: _Sums) -> _Sums:
        return _Sums(self.images - other.images, self.first - other.first, self.second - other.second)

    def normal(self) -> _Places:
        """Of each position, drawn to what all positions share as far as the images do not bear out a difference."""
        mean, n = self.first / self.images, self.images
        within = (self.second / n - mean.square()).clamp_min(0)
        typical, overall = within.mean((0, 1)), mean.mean((0, 1))
        # Empirical Bayes (James and Stein): what means differ by beyond chance is the part of them to be believed.
        chance = typical / max(1, n - 1)
        between = ((mean - overall).square().mean((0, 1)) - chance).clamp_min(0)
        drawn = overall + between / (between + chance + TINY) * (mean - overall)
        variance = within + (mean - drawn).square()
        variance = (n * variance + PRIOR * variance.mean((0, 1))) / (n + PRIOR)
        # Half precision is what is stored: a loaded model gives the very same scores.
        return _Places(drawn.half().float(), variance.sqrt().clamp_min(QUIET).half().float())


def _patch_gaussian(grids: Tensor) -> Gaussian:
    """The overall mean of patch features (M, h, w, C), and the covariance that the mean of each position leaves."""
    images, height, width, _ = grids.shape
    flat = [grid.flatten(0, 1) for grid in grids]
    means = grids.mean(0, dtype=torch.float64).flatten(0, 1)
    mean = means.mean(0)
    second = sum((x.T @ x).double() for x in flat) / (images * height * width)
    left = second - means.T @ means / len(means)
    # A trace of the whole covariance: where good images hardly differ, numbers must stay within half precision.
    covariance = left + 1e-4 * (second - torch.outer(mean, mean))
    return mean.float(), _whitening(covariance, max(2.0, images * height * width / OVERLAP))


def _whitening(covariance: Tensor, samples: float) -> Tensor:
    """Whitening (C, C) float32 of a covariance whose correlations are shrunk by OAS."""
    variance = covariance.diagonal().clamp_min(0)
    # A dead channel has no variance but rounding noise: a floor keeps it from being divided by next to nothing.
    floor = 1e-4 * variance.mean() + TINY
    scale = (variance + floor).sqrt()
    correlation = (covariance + floor * torch.eye(len(variance))) / torch.outer(scale, scale)
    size = len(scale)
    # Chen et al. 2010, eq. 23, for a matrix of unit mean variance
    power = correlation.square().mean()
    shrinkage = min(1.0, float((power + 1) / ((samples + 1) * (power - 1 / size))))
    return _inverse_root((1 - shrinkage) * correlation + shrinkage * torch.eye(size), scale)


def _whitened(vectors: Tensor) -> Gaussian:
    """Gaussian of pooled vectors (N, C), correlations shrunk after Ledoit and Wolf."""
    x = vectors.double()
    mean, scale = x.mean(0), x.std(0)
    scale = scale + 1e-2 * scale.mean() + TINY
    correlation, _ = ledoit_wolf(((x - mean) / scale).numpy(), assume_centered=True)
    return mean.float(), _inverse_root(torch.from_numpy(correlation), scale)


def _inverse_root(correlation: Tensor, scale: Tensor) -> Tensor:
    """W with W' W the inverse of the covariance; directions of next to no variance count as if they had a little."""
    values, vectors = torch.linalg.eigh(correlation.double())
    return (vectors / values.clamp_min(1e-4).sqrt()).T.div(scale).float().contiguous()


def _whiten(gaussian: Gaussian, x: Tensor) -> Tensor:
    """Features (..., C) in deviations along uncorrelated directions; their length is the Mahalanobis distance."""
    mean, whitening = gaussian
    return (x - mean) @ whitening.T


def _raw(whole: list[Gaussian], vectors: list[Tensor], distances: Tensor) -> Tensor:
    """(B, S + 1): the pooled distance of each stage, and the mean of the top 1% of the patch distances."""
    pooled = [torch.linalg.vector_norm(_whiten(gaussian, stage), dim=-1) for gaussian, stage in zip(whole, vectors)]
    return torch.stack((*pooled, topk_mean(distances)), 1)
