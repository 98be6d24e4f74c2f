"""ConvNeXt Mahalanobis: how far are the features of an image from those of good parts?

Two views of the same forward pass, since each finds what the other misses:

- the whole part: features pooled over the image, one Gaussian a stage, Mahalanobis distance (Lee et al., NeurIPS
  2018; Rippel et al., ICPR 2020), covariance shrunk after Ledoit and Wolf (J. Multivariate Analysis 2004);
- each place: features of the finer stages joined on one grid, with a Gaussian for each place as in PaDiM (Defard et
  al., ICPR 2021). A full covariance for each would need more images than channels and megabytes to keep. So all places
  share one (shrunk by OAS, Chen et al., IEEE Trans. Signal Processing 2010), and in its axes each place has a mean, and
  each cell of 2 x 2 places a covariance of its own, of low rank plus diagonal: deviations, and the few directions in
  which good parts vary most there. All of these as far as the images bear them out: aligned parts differ from place
  to place, textures do not. A part that turns or moves has no normal of its own for each place: the distance to the
  nearest of a thousand good patches from anywhere, a coreset as in PatchCore (Roth et al., CVPR 2022), counts as much.

A few good photos are seen a second time in other light, blurred or noisy, so that lamp and camera do not count as
defects. Both views are standardised on good images that were left out in turn (5 folds); the one that objects more
decides, since most defects show in one of them alone.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from anomaly import backbones
from anomaly.corrupt import disturb
from anomaly.detectors.base import (
    Batches,
    BatchScores,
    Detector,
    Explanation,
    Image,
    Progress,
    cut,
    deviations,
    fold_slices,
    positions,
    surroundings,
    topk_mean,
)
from anomaly.images import decode_image, encode_jpeg, stretch

PATCH_STAGES = (0, 1, 2)  # strides 4, 8, 16, averaged on the grid of the last: the coarsest would blur small defects
POOLED_STAGES = (2, 3)  # strides 16, 32: pooled over the image, finer ones say little but the light
CELL = 2  # places a side that share deviations and directions
RANK = 16  # directions of a cell
SWEEPS = 3  # of the subspace iteration that finds them
BANK = 1000  # good patches that are kept
DRAWN = 12000  # good patches among which they are chosen
PROJECTED = 64  # dimensions in which they are chosen
SHOWN = 8  # good photos that are kept, as JPEG, to show beside what is not good
FOLDS = 5
DISTURBED = 16  # images that are seen again, disturbed: enough for the few directions in which light moves features
KEPT = 200  # at most so many images keep their patch features while fitting: 1 MB each at 448 px
PRIOR = 8  # images' worth of trust in the average variance of all cells, against that of the cell itself
QUIET = 0.1  # least deviation of a whitened channel: one that good images never woke must not outvote all others
TINY = 1e-6  # where all good images are one and the same, nothing varies, and nothing may be divided by that
OVERLAP = 4  # neighbouring patches see the same pixels: so many of them count as one sample for the shrinkage


class Mahalanobis(Detector):
    """Pooled and patch Mahalanobis distance of backbone features.

    Args:
        backbone: a name of `backbones.RECIPES`.
    """

    least = 4

    def __init__(self, *, image_size: int = 448, seed: int = 0, backbone: str = backbones.DEFAULT):
        super().__init__(image_size=image_size, seed=seed)
        self.backbone = backbone

    def arguments(self) -> dict:
        return super().arguments() | {"backbone": self.backbone}

    def dependencies(self) -> dict:
        return {"backbone": self.backbone, "backbone_sha256": backbones.load(self.backbone).sha256}

    def _fit(self, batches: Batches, progress: Progress) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        kept, again = _evenly(len(batches), KEPT), _evenly(len(batches), DISTURBED)
        vectors, grids = _features(self.backbone, batches, kept, disturb(batches.take(again), generator), progress)
        origin, kept_origin = torch.cat((torch.arange(len(batches)), again)), torch.cat((kept, again))
        self._patches = _patch_gaussian(grids)
        for grid in grids:
            grid.copy_(_whiten(self._patches, grid))
        shown = batches.pixels[_evenly(len(batches), SHOWN)].permute(0, 2, 3, 1).contiguous().numpy()
        self._photos = [encode_jpeg(photo) for photo in shown]
        self._bank, bank_origin = _coreset(grids, kept_origin, generator)
        cells = _cells(grids)
        held_out = []
        folds = fold_slices(len(kept), FOLDS)
        for done, fold in enumerate(folds):
            progress("leave out", done, len(folds))
            out = kept[fold]
            whole = [_whitened(stage[~torch.isin(origin, out)]) for stage in vectors]
            places = _places(cells[:, ~torch.isin(kept_origin, out)])
            maps = _maps(places, self._bank[~torch.isin(bank_origin, out)], grids[fold])
            held_out.append(_raw(whole, [stage[out] for stage in vectors], maps))
        self._whole = [_whitened(stage) for stage in vectors]
        self._places = _places(cells)
        raw = torch.cat(held_out)
        self._typical = raw.mean(0).clamp_min(TINY)
        views = self._views(raw)
        self._centre, self._spread = views.mean(0), views.std(0).clamp_min(0.02)
        joined = self._joined(views)
        self._joint = torch.stack((joined.mean(), joined.std().clamp_min(0.1)))

    def _score(self, batch: Tensor) -> BatchScores:
        vectors, grid = _extract(self.backbone, batch)
        maps = _maps(self._places, self._bank, _whiten(self._patches, grid))
        scores = self._joined(self._views(_raw(self._whole, vectors, maps)))
        relative = (maps / self._typical[-2:, None, None]).mean(1)
        return BatchScores(
            scores=deviations(scores, *self._joint), maps=deviations(relative, self._centre[1], self._spread[1])
        )

    def _explain(self, image: Image, batch: Tensor, inside: np.ndarray, filled: tuple[float, float]) -> Explanation:
        """The place beside the one most like it on the good photos that were kept."""
        photos = [decode_image(photo, name="a good photo of the run") for photo in self._photos]
        seen = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float() / 255
        good = torch.cat([_extract(self.backbone, photo[None])[1] for photo in seen])
        vectors, grid = _extract(self.backbone, batch)
        around = surroundings(inside)
        sides = grid.shape[1:3]
        centre, extent = np.array(around) * filled  # in shares of the frame
        height, width = (max(1, round(share * side)) for share, side in zip(extent, sides))
        # Whitened, what is far from all good places is nearest to the most ordinary one; unwhitened, like finds like.
        spread = good.std((0, 1, 2)) + TINY
        here, there = (_windows(features / spread, height, width) for features in (grid, good))
        row, column = (
            min(max(0, round(middle * side - length / 2)), side - length)
            for middle, side, length in zip(centre, sides, (height, width))
        )
        distances = (there - here[0, row, column]).norm(dim=-1)
        photo, top, left = np.unravel_index(int(distances.argmin()), distances.shape)
        found = ((top + height / 2) / sides[0], (left + width / 2) / sides[1])
        picture = cut(image, *around)
        return Explanation(
            here=picture,
            good=stretch(cut(photos[photo], found, extent), picture.shape[:2]),
            source="the place most like it on a good part",
            shares=self._shares(vectors, grid, inside * np.repeat(filled, 2)),
        )

    def _shares(self, vectors: list[Tensor], grid: Tensor, inside: np.ndarray) -> dict[str, float]:
        """Of texture and parts at the worst patch `inside` (shares of the frame), and of the whole image."""
        whitened = _whiten(self._patches, grid)
        maps = _maps(self._places, self._bank, whitened)
        views = ((self._views(_raw(self._whole, vectors, maps)) - self._centre) / self._spread)[0].clamp_min(0)
        local = float(views[1] / views.sum().clamp_min(TINY))
        rows, columns = positions(inside, grid.shape[1:3])
        relative = (maps / self._typical[-2:, None, None]).mean(1)[0, rows, columns]
        worst = whitened[0, rows, columns].flatten(0, 1)[relative.argmax()]
        change = worst - self._bank[torch.linalg.vector_norm(self._bank - worst, dim=1).argmin()]
        # Terms of the squared distance |W d|^2 = d' W' W d, by channel; a good patch has about 1 for each.
        terms = torch.linalg.solve(self._patches[1], change) * (self._patches[1].T @ change) - 1
        stages = terms.split([backbones.load(self.backbone).channels[stage] for stage in PATCH_STAGES])
        *texture, part = (max(TINY, float(stage.sum())) for stage in stages)
        texture = sum(texture) / (sum(texture) + part)
        return {"texture": local * texture, "parts": local * (1 - texture), "the whole": 1 - local}

    def _views(self, raw: Tensor) -> Tensor:
        """Distances (B, S + 2) -> (B, 2): of the whole part and of its worst places, 1 for a typical good part."""
        relative = raw / self._typical
        return torch.stack((relative[:, :-2].mean(1), relative[:, -2:].mean(1)), 1)

    def _joined(self, views: Tensor) -> Tensor:
        """(B, 2) -> (B,): z-score of the view that objects more."""
        return ((views - self._centre) / self._spread).amax(1)

    def _state(self) -> dict[str, Tensor]:
        state = {"typical": self._typical, "views": torch.stack((self._centre, self._spread)), "joint": self._joint}
        for i, (mean, whitening) in enumerate(self._whole):
            state |= {f"pooled{i}.mean": mean, f"pooled{i}.whitening": whitening}
        state |= {f"place.{name}": value.half() for name, value in vars(self._places).items()}
        state |= {"patch.mean": self._patches[0], "patch.whitening": self._patches[1]}
        state |= {f"photo{i:02}": torch.frombuffer(bytearray(p), dtype=torch.uint8) for i, p in enumerate(self._photos)}
        return state | {"bank": self._bank.half()}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._typical, (self._centre, self._spread), self._joint = state["typical"], state["views"], state["joint"]
        stages = range(len(self._typical) - 2)
        self._whole = [(state[f"pooled{i}.mean"], state[f"pooled{i}.whitening"]) for i in stages]
        self._patches = (state["patch.mean"], state["patch.whitening"])
        self._bank = state["bank"].float()
        self._photos = [state[key].numpy().tobytes() for key in sorted(state) if key.startswith("photo")]
        self._places = _Places(*(state[f"place.{field.name}"].float() for field in fields(_Places)))


Gaussian = tuple[Tensor, Tensor]  # mean (..., C) and whitening matrix (C, C): |W (x - mean)| is the distance


def _extract(backbone: str, batch: Tensor) -> tuple[list[Tensor], Tensor]:
    """One forward pass: pooled vectors (B, C_s) of each pooled stage, and patch features (B, h, w, C) of the joined."""
    stages = backbones.load(backbone)(batch)
    size = stages[PATCH_STAGES[-1]].shape[2:]
    grid = torch.cat([F.adaptive_avg_pool2d(stages[i], size) for i in PATCH_STAGES], 1).permute(0, 2, 3, 1)
    return [stages[i].mean((2, 3)) for i in POOLED_STAGES], grid.contiguous()


def _evenly(total: int, most: int) -> Tensor:
    """Indices of at most `most` of `total` images, evenly chosen, in order."""
    return torch.linspace(0, total - 1, min(most, total)).round().long()


def _features(
    backbone: str, batches: Batches, kept: Tensor, more: Tensor, progress: Progress
) -> tuple[list[Tensor], Tensor]:
    """Pooled vectors of all images, and patch features of those `kept` (sorted indices); `more` images follow both."""
    vectors, grids, done = [], [], 0
    with torch.inference_mode():
        for batch in batches:
            pooled, grid = _extract(backbone, batch)
            vectors.append(pooled)
            grids.append(grid[kept[(kept >= done) & (kept < done + len(batch))] - done])
            done += len(batch)
            progress("features", done, len(batches))
        pooled, grid = _extract(backbone, more)
    return [torch.cat(stage) for stage in zip(*vectors, pooled)], torch.cat((*grids, grid))


@dataclass(frozen=True)
class _Places:
    """What is normal where, in whitened features; K cells of p places each.

    Attributes:
        mean: (K, p, C) of each place.
        deviation: (K, 1, C) of each channel.
        directions: (K, C, R), in units of the deviations: where good parts vary by v times the deviation, v > 1, a unit
            vector times sqrt(1 - 1 / v^2), so that what lies along it counts v times less.
    """

    mean: Tensor
    deviation: Tensor
    directions: Tensor

    def distances(self, grid: Tensor) -> Tensor:
        """Mahalanobis distances: whitened features (B, h, w, C) -> (B, h, w)."""
        images, height, width, _ = grid.shape
        x = ((_cells(grid) - self.mean[:, None]) / self.deviation[:, None]).flatten(1, 2)
        along = x @ self.directions
        squared = (x.square().sum(-1) - along.square().sum(-1)).clamp_min(0)
        squared = squared.reshape(height // CELL, width // CELL, images, CELL, CELL)
        return squared.permute(2, 0, 3, 1, 4).reshape(images, height, width).sqrt()


def _cells(grid: Tensor) -> Tensor:
    """(N, h, w, C) -> (K, N, p, C): places side by side in cells of CELL x CELL."""
    images, height, width, channels = grid.shape
    split = grid.reshape(images, height // CELL, CELL, width // CELL, CELL, channels)
    return split.permute(1, 3, 0, 2, 4, 5).reshape(-1, images, CELL * CELL, channels)


def _places(cells: Tensor) -> _Places:
    """The normal of each place from whitened features (K, N, p, C), which are overwritten.

    Everything is drawn to what all places share, as far as the images do not bear out a difference.
    """
    n = cells.shape[1]
    mean = cells.mean(1)
    within = cells.var(1, correction=0).mean((0, 1))
    overall = mean.mean((0, 1))
    # Empirical Bayes (James and Stein): what means differ by beyond chance is the part of them to be believed.
    chance = within / max(1, n - 1)
    between = ((mean - overall).square().mean((0, 1)) - chance).clamp_min(0)
    drawn = (overall + between / (between + chance + TINY) * (mean - overall)).half().float()
    x = cells.sub_(drawn[:, None]).flatten(1, 2)
    variance = torch.linalg.vector_norm(x, dim=1, keepdim=True).square() / x.shape[1]
    variance = (n * variance + PRIOR * variance.mean(0)) / (n + PRIOR)
    # Half precision is what is stored: a loaded model gives the very same scores.
    deviation = variance.sqrt().clamp_min(QUIET).half().float()
    x.div_(deviation)
    basis = torch.randn(x.shape[2], RANK, generator=torch.Generator().manual_seed(0)).expand(len(x), -1, -1)
    for _ in range(SWEEPS):
        basis = torch.linalg.qr(x.mT @ (x @ basis)).Q
    along = x @ basis
    values, vectors = torch.linalg.eigh(along.mT @ along / x.shape[1])
    values = (n * values + PRIOR) / (n + PRIOR)
    directions = basis @ vectors * (1 - 1 / values).clamp_min(0).sqrt()[:, None]
    return _Places(drawn, deviation, directions.half().float())


def _coreset(grids: Tensor, origin: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """BANK patches of (N, h, w, C) that leave no other far from them, and the `origin` (N,) of each one's image.

    Greedy choice of the one farthest from those chosen, among DRAWN patches in a random projection.
    """
    images, places = len(grids), grids.shape[1] * grids.shape[2]
    drawn = torch.randperm(images * places, generator=generator)[:DRAWN]
    patches = grids.flatten(0, 2)[drawn]
    points = patches @ torch.randn(patches.shape[1], PROJECTED, generator=generator)
    chosen = [0]
    nearest = torch.full((len(points),), torch.inf)
    while len(chosen) < min(BANK, len(points)):
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(1))
        nearest[chosen[-1]] = -1  # not twice, even where all patches are alike
        chosen.append(int(nearest.argmax()))
    return patches[chosen].half().float(), origin[drawn[chosen] // places]


def _maps(places: _Places, bank: Tensor, grid: Tensor) -> Tensor:
    """Whitened features (B, h, w, C) -> (B, 2, h, w): distance from the normal of the place, and to the bank."""
    nearest = [torch.cdist(image.flatten(0, 1), bank).amin(1).reshape(image.shape[:2]) for image in grid]
    return torch.stack((places.distances(grid), torch.stack(nearest)), 1)


def _windows(grid: Tensor, height: int, width: int) -> Tensor:
    """Means over every window of height x width places: (B, h, w, C) -> (B, h - height + 1, w - width + 1, C)."""
    return F.avg_pool2d(grid.permute(0, 3, 1, 2), (height, width), stride=1).permute(0, 2, 3, 1)


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


def _raw(whole: list[Gaussian], vectors: list[Tensor], maps: Tensor) -> Tensor:
    """(B, S + 2): the pooled distance of each stage, and the mean of the top 1% of both maps (B, 2, h, w)."""
    pooled = [torch.linalg.vector_norm(_whiten(gaussian, stage), dim=-1) for gaussian, stage in zip(whole, vectors)]
    return torch.stack((*pooled, topk_mean(maps[:, 0]), topk_mean(maps[:, 1])), 1)
