"""ConvNeXt Mahalanobis: how far are the features of an image from those of good parts?

Two views of the same forward pass, since each finds what the other misses:

- the whole part: features pooled over the image, one Gaussian a stage, Mahalanobis distance (Lee et al., NeurIPS
  2018; Rippel et al., ICPR 2020), covariance shrunk after Ledoit and Wolf (J. Multivariate Analysis 2004);
- each place: features of the finer stages joined on one grid and whitened by a Gaussian, as PaDiM does for every
  position (Defard et al., ICPR 2021), here with one covariance for all positions, so that 8 images suffice. The mean
  is per position where good parts are aligned, shared where they are not: whichever explains unseen good parts better.
  The covariance is shrunk by OAS (Chen et al., IEEE Trans. Signal Processing 2010).

Both are standardised on good images that were left out in turn (5 folds), then added.
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
KEPT = 400  # at most so many images keep their patch features while fitting: 0.7 MB each at 256 px
ALIGNED_FROM = 16  # good images; a mean for each position needs more of them than a shared one
TINY = 1e-6  # where all good images are one and the same, nothing varies, and nothing may be divided by that
OVERLAP = 16  # neighbouring patches see the same pixels: so many of them count as one sample for the shrinkage


class Mahalanobis(Detector):
    """Pooled and patch Mahalanobis distance of backbone features.

    Args:
        backbone: a name of `backbones.RECIPES`.
    """

    least = 8

    def __init__(self, *, image_size: int = 256, seed: int = 0, backbone: str = backbones.DEFAULT):
        super().__init__(image_size=image_size, seed=seed)
        self.backbone = backbone

    def arguments(self) -> dict:
        return super().arguments() | {"backbone": self.backbone}

    def dependencies(self) -> dict:
        return {"backbone": self.backbone, "backbone_sha256": backbones.load(self.backbone).sha256}

    def _fit(self, batches: Batches, progress: Progress) -> None:
        vectors, grids, kept = _features(self.backbone, batches, progress)
        folds = fold_slices(len(grids), FOLDS)
        moments = [_Moments.of(grids[fold]) for fold in folds]
        total = sum(moments[1:], moments[0])
        aligned = len(grids) >= ALIGNED_FROM and _is_aligned(total - moments[0], grids[folds[0]])
        held_out = []
        for fold, part in zip(folds, moments):
            out = torch.zeros(len(vectors[0]), dtype=torch.bool)
            out[kept[fold]] = True
            whole = [_whitened(stage[~out]) for stage in vectors]
            distances = _distances((total - part).gaussian(aligned), grids[fold])
            held_out.append(_raw(whole, [stage[out] for stage in vectors], distances))
        self._whole = [_whitened(stage) for stage in vectors]
        self._places = total.gaussian(aligned)
        raw = torch.cat(held_out)  # (M, S + 1): a distance for each pooled stage, the last for the patches
        self._centre, self._spread = raw.mean(0), raw.std(0).clamp_min(0.02 * raw.mean(0) + TINY)
        joined = self._joined(raw)
        self._joint = torch.stack((joined.mean(), joined.std().clamp_min(0.1)))

    def _score(self, batch: Tensor) -> BatchScores:
        vectors, grid = _extract(self.backbone, batch)
        distances = _distances(self._places, grid)
        scores = deviations(self._joined(_raw(self._whole, vectors, distances)), *self._joint)
        return BatchScores(scores=scores, maps=deviations(distances, self._centre[-1], self._spread[-1]))

    def _joined(self, raw: Tensor) -> Tensor:
        """Distances (B, S + 1) -> (B,): mean z-score of the pooled stages plus the z-score of the patches."""
        z = (raw - self._centre) / self._spread
        return z[:, :-1].mean(1) + z[:, -1]

    def _state(self) -> dict[str, Tensor]:
        state = {"centre": self._centre, "spread": self._spread, "joint": self._joint}
        for i, (mean, whitening) in enumerate(self._whole):
            state |= {f"pooled{i}.mean": mean, f"pooled{i}.whitening": whitening}
        return state | {"patch.mean": self._places[0].half(), "patch.whitening": self._places[1]}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._centre, self._spread, self._joint = state["centre"], state["spread"], state["joint"]
        stages = range(len(self._centre) - 1)
        self._whole = [(state[f"pooled{i}.mean"], state[f"pooled{i}.whitening"]) for i in stages]
        self._places = (state["patch.mean"].float(), state["patch.whitening"])


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
class _Moments:
    """Sums over images of patch features: enough for any Gaussian over a union of folds."""

    images: int
    first: Tensor  # (h, w, C) float64, for each position
    second: Tensor  # (C, C) float64, over all positions

    @classmethod
    def of(cls, grids: Tensor) -> _Moments:
        """From (M, h, w, C) features."""
        second = sum((flat.T @ flat).double() for flat in (g.flatten(0, 1) for g in grids))
        return cls(len(grids), grids.double().sum(0), second)

    def __add__(self, other: _Moments) -> _Moments:
        return _Moments(self.images + other.images, self.first + other.first, self.second + other.second)

    def __sub__(self, other: _Moments) -> _Moments:
        return _Moments(self.images - other.images, self.first - other.first, self.second - other.second)

    def gaussian(self, aligned: bool) -> Gaussian:
        """Means for each position, or a shared one, and the covariance of what they leave, shrunk by OAS."""
        positions = self.first.shape[0] * self.first.shape[1]
        mean = self.first / self.images
        if not aligned:
            mean = mean.mean((0, 1), keepdim=True)
        flat = mean.flatten(0, 1)
        explained = flat.T @ flat / len(flat)
        covariance = self.second / (self.images * positions) - explained
        # Half precision is what is stored: a loaded model gives the very same scores.
        return mean.half().float(), _whitening(covariance, max(2.0, self.images * positions / OVERLAP))


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


def _distances(gaussian: Gaussian, x: Tensor) -> Tensor:
    """Mahalanobis distance of features (..., C) -> (...)."""
    mean, whitening = gaussian
    return torch.linalg.vector_norm((x - mean) @ whitening.T, dim=-1)


def _raw(whole: list[Gaussian], vectors: list[Tensor], distances: Tensor) -> Tensor:
    """(B, S + 1): the pooled distance of each stage, and the mean of the top 1% of the patch distances."""
    pooled = [_distances(gaussian, stage) for gaussian, stage in zip(whole, vectors)]
    return torch.stack((*pooled, topk_mean(distances)), 1)


def _is_aligned(rest: _Moments, unseen: Tensor) -> bool:
    """Does a mean for each position make unseen good parts (M, h, w, C) more likely than a shared mean does?"""

    def log_likelihood(gaussian: Gaussian) -> float:
        return float(torch.linalg.slogdet(gaussian[1].double())[1] - 0.5 * _distances(gaussian, unseen).square().mean())

    return log_likelihood(rest.gaussian(True)) > log_likelihood(rest.gaussian(False))
