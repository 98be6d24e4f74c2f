"""ConvNeXt Mahalanobis: how far are the features of an image from those of good parts?

Four voices from the same forward pass, since each finds what the others miss:

- the whole part: features pooled over the image, one Gaussian, Mahalanobis distance (Lee et al., NeurIPS 2018; Rippel
  et al., ICPR 2020), covariance shrunk after Ledoit and Wolf (J. Multivariate Analysis 2004);
- each place: features of the finer stages joined on one grid, with a Gaussian for each place as in PaDiM (Defard et
  al., ICPR 2021). A full covariance for each would need more images than channels and megabytes to keep. So all places
  share one (shrunk by OAS, Chen et al., IEEE Trans. Signal Processing 2010), and in its axes each place has a mean, and
  each cell of 4 x 4 places a covariance of its own, of low rank plus diagonal: deviations, and the few directions in
  which good parts vary most there. All of these as far as the images bear them out: aligned parts differ from place
  to place, textures do not;
- a good place from anywhere: the distance to the nearest of three thousand good patches, a coreset as in PatchCore
  (Roth et al., CVPR 2022), for parts that turn or move and have no normal of their own for each place. A few photos
  show a part that turns in a few directions, so they are turned further, if good parts do lie turned every way;
- the same, nearly as PatchCore has it: features of strides 8 and 16 that are not whitened, only brought to one scale.
  What is plainly another thing is far away there, what is a little out of line is not.

Whitening makes all directions equal, and most of them say nothing of defects. So good images are damaged (`corrupt`),
and only the directions count in which that moves features most, measured in deviations of good parts: the axes that
diagonalise both covariances at once (Fukunaga, Introduction to Statistical Pattern Recognition, 1990, ch. 2.3).

The backbone's features hardly tell colours, so the logarithms of red and blue over green stand beside the finest ones:
ratios of the channels, in which light that grows or falls cancels out.

A few good photos are seen a second time in other light, with a shadow over a corner, blurred or noisy, so that lamp
and camera do not count as defects. Each voice is standardised on good images that were left out in turn (5 folds), and
the score is the root mean square of what they hear, in which the whole part counts little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from anomaly import backbones
from anomaly.corrupt import corrupt, disturb, shade, turn
from anomaly.detectors.base import (
    Batches,
    BatchScores,
    Detector,
    Explanation,
    Image,
    Progress,
    deviations,
    fold_slices,
)
from anomaly.images import cut, decode_image, encode_jpeg, positions, stretch, surroundings

ENLARGED = 448  # pixels a side to which small images are enlarged: their places are then small enough, too
PATCH_STAGES = (0, 1, 2)  # strides 4, 8, 16, joined on the grid of the second: the third alone misses small defects
COLOURS, DARK = 2, 0.05  # ratios of red and of blue to green, at each place; the light that both at least have
POOLED_STAGES = (2, 3)  # strides 16, 32: pooled over the image, finer ones say little but the light
AROUND = 3  # places a side over which features, and distances, are averaged: a patch sees its neighbours
TELLING = 64  # directions that are kept
DAMAGED = 32  # images with simulated damage that show which ones
STRUCK = 0.3  # of a place that damage covers, at least, to count as damaged
CELL = 4  # places a side that share deviations and directions
RANK = 16  # directions of a cell
SWEEPS = 3  # of the subspace iteration that finds them
BANK = 3000  # good patches that are kept
DRAWN = 32000  # good patches among which they are chosen, as many of each image
PARTS = 4  # in which they are chosen, each for itself: faster, and all patches are as near to them
TOGETHER = 196  # patches that are compared at once: what they need stays in the processor's cache
PLAIN_STAGES = (1, 2)  # whose features are also compared as they are, in PLAIN directions of most variance
PLAIN = 64
SHOWN = 8  # good photos that are kept, as JPEG, to show beside what is not good
FOLDS = 5
DISTURBED = 16  # images that are seen again, disturbed: enough for the few directions in which light moves features
VIEWS = 96  # of good parts that turn, at least: fewer photos are seen turned, again and again
RIM = 5  # places a side around a place that must all lie in the photo, for it to count where the photo is turned
TURNS = 0.1  # of good places, at least, are more like a turned photo than an upright one: then parts lie every way
ASKED, ANSWERS = 60, 600  # places of a photo that are asked for it, and of each photo that they are compared with
JURY = 24  # photos at most that are asked
KEPT = 150  # at most so many images keep their patch features while fitting: 2 MB each at 512 px
CHUNK = 8  # images of which patch features are worked out at once
PRIOR = 8  # images' worth of trust in the average variance of all cells, against that of the cell itself
QUIET = 0.1  # least deviation of a whitened channel: one that good images never woke must not outvote all others
REACH = 7  # places a side on which a defect still lights up places that see it from afar
SKIRT = 0.6  # of the highest place within reach: what has less is its skirt and no defect of its own
STEADY = 0.02  # least deviation of a voice, in its mean: good images that are all one and the same do not vary
WHOLE = 0.1  # of the weight of another voice: the whole picture moves with the light, and hears gross faults
TINY = 1e-6  # nothing may be divided by less
OVERLAP = 16  # neighbouring patches see the same pixels: so many of them count as one sample for the shrinkage


class Mahalanobis(Detector):
    """Mahalanobis distances of backbone features, of the whole image and of its places.

    Args:
        image_size: side of the square whose area images are scaled to, if they have so many pixels; smaller ones are
            not enlarged beyond their own, but to ENLARGED.
        backbone: a name of `backbones.RECIPES`.
    """

    least = 4

    def __init__(self, *, image_size: int = 512, seed: int = 0, backbone: str = backbones.DEFAULT):
        super().__init__(image_size=image_size, seed=seed)
        self.backbone = backbone

    def arguments(self) -> dict:
        return super().arguments() | {"backbone": self.backbone}

    def _square(self, shapes: Sequence[tuple[int, int]]) -> float:
        own = float(np.median([np.sqrt(height * width) for height, width in shapes]))
        return min(self.image_size, max(ENLARGED, own))

    def dependencies(self) -> dict:
        return {"backbone": self.backbone, "backbone_sha256": backbones.load(self.backbone).sha256}

    def _fit(self, batches: Batches, progress: Progress) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        kept, again = _evenly(len(batches), KEPT), _evenly(len(batches), DISTURBED)
        struck = torch.linspace(0, len(kept) - 1, DAMAGED).round().long()  # again and again, where there are few
        vectors, seen = _features(self.backbone, batches, kept, progress)
        with torch.inference_mode():
            other, lit = _extract(self.backbone, disturb(shade(batches.take(again), generator), generator))
            hurt = [_damaged(self.backbone, batches.take(kept[part]), generator) for part in struck.split(CHUNK)]
        blows = torch.cat([blow for blow, _, _ in hurt]) - vectors[kept[struck]]
        vectors = torch.cat((vectors, other))
        seen = _Seen(torch.cat((seen.fine, lit.fine.half())), torch.cat((seen.coarse, lit.coarse.half())))
        origin, kept_origin = torch.cat((torch.arange(len(batches)), again)), torch.cat((kept, again))
        moments = _Moments.of(seen)
        changes = [
            (damaged.grids(slice(None)) - seen.grids(part))[mask]
            for (_, damaged, mask), part in zip(hurt, struck.split(CHUNK))
        ]
        self._patches, _ = _telling(moments.whitened(), torch.cat(changes))
        self._plain = moments.plain(self._channels())
        views = [self._views(seen.grids(part)) for part in _chunks(len(kept_origin))]
        views = [torch.cat(view) for view in zip(*views)]
        shown = batches.pixels[_evenly(len(batches), SHOWN)].permute(0, 2, 3, 1).contiguous().numpy()
        self._photos = [encode_jpeg(photo) for photo in shown]
        stock, inside, stock_origin = views, torch.ones(views[0].shape[:3], dtype=torch.bool), kept_origin
        if turned := self._turned(batches, kept, views[0], generator, progress):
            vectors, origin = torch.cat((vectors, turned.vectors)), torch.cat((origin, turned.origin))
            stock = [torch.cat(both) for both in zip(views, turned.views)]
            inside, stock_origin = torch.cat((inside, turned.inside)), torch.cat((kept_origin, turned.origin))
        self._banks, places_of = zip(*(_bank(view, inside, generator) for view in stock))
        origins = [stock_origin[image] for image in places_of]
        cells = _cells(views[0])
        held_out = []
        folds = fold_slices(len(kept), FOLDS)
        for done, fold in enumerate(folds):
            progress("leave out", done, len(folds))
            out = kept[fold]
            whole = _pooled_gaussian(vectors[~torch.isin(origin, out)], blows)
            places = _places(cells[:, ~torch.isin(kept_origin, out)])
            banks = [bank[~torch.isin(origin, out)] for bank, origin in zip(self._banks, origins)]
            held_out.append(_voices(whole, vectors[out], _maps(places, banks, [view[fold] for view in views])))
        self._whole = _pooled_gaussian(vectors, blows)
        self._places = _places(cells)
        raw = torch.cat(held_out)
        self._centre = raw.mean(0)
        self._spread = torch.maximum(raw.std(0), STEADY * self._centre).clamp_min(TINY)
        joined = _joined(self._standardised(raw))
        self._joint = torch.stack((joined.mean(), joined.std().clamp_min(0.1)))

    def _turned(
        self, batches: Batches, kept: Tensor, upright: Tensor, generator: torch.Generator, progress: Progress
    ) -> _Turned | None:
        """Turned copies of the `kept` images where these are few and show a part that turns.

        Args:
            upright: (N, h, w, K), whitened; the first are those of `kept`.
        """
        if VIEWS - len(kept) < JURY:
            return None
        again = torch.linspace(0, len(kept) - 1, VIEWS - len(kept)).round().long()
        vectors, views, inside = [], [], []
        parts = again.split(CHUNK)
        for done, part in enumerate(parts):
            progress("turn", done, len(parts))
            images, whole = turn(batches.take(kept[part]), generator)
            with torch.inference_mode():
                pooled, seen = _extract(self.backbone, images)
            grid = seen.grids(slice(None))
            cut = F.adaptive_max_pool2d((~whole).float()[:, None], grid.shape[1:3])
            vectors.append(pooled)
            views.append(self._views(grid))
            inside.append(F.max_pool2d(cut, RIM, 1, RIM // 2)[:, 0] == 0)
        views, inside = [torch.cat(view) for view in zip(*views)], torch.cat(inside)
        if not _turns(upright, views[0], inside, again, generator):
            return None
        return _Turned(torch.cat(vectors), views, inside, kept[again])

    def _score(self, batch: Tensor) -> BatchScores:
        vectors, seen = _extract(self.backbone, batch)
        maps = _maps(self._places, self._banks, self._views(seen.grids(slice(None))))
        scores = _joined(self._standardised(_voices(self._whole, vectors, maps)))
        return BatchScores(scores=deviations(scores, *self._joint), maps=_sharpened(F.softplus(self._relative(maps))))

    def _explain(self, image: Image, batch: Tensor, inside: np.ndarray, filled: tuple[float, float]) -> Explanation:
        """The place beside the one most like it on the good photos that were kept."""
        photos = [decode_image(photo, name="a good photo of the run") for photo in self._photos]
        seen = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float() / 255
        good = torch.cat([_extract(self.backbone, photo[None])[1].grids(slice(None)) for photo in seen])
        vectors, places = _extract(self.backbone, batch)
        grid = places.grids(slice(None))
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
        views = self._views(grid)
        maps = _maps(self._places, self._banks, views)
        voices = _loudness(self._standardised(_voices(self._whole, vectors, maps)))[0]
        local = float(voices[:-1].sum() / voices.sum())
        rows, columns = positions(inside, grid.shape[1:3])
        worst = views[0][0, rows, columns].flatten(0, 1)[self._relative(maps)[0, rows, columns].argmax()]
        change = worst - self._banks[0][torch.linalg.vector_norm(self._banks[0] - worst, dim=1).argmin()]
        # Terms of the squared distance |W d|^2 = d' W' W d, by channel, less what a good patch has of each.
        back, there = torch.linalg.pinv(self._patches[1]), self._patches[1]
        terms = (back @ change) * (there.T @ change) - (back * there.T).sum(1)
        stages = terms.split(list(self._channels().values()))
        *texture, part = (max(TINY, float(stage.sum())) for stage in stages)
        texture = sum(texture) / (sum(texture) + part)
        return {"texture": local * texture, "parts": local * (1 - texture), "the whole": 1 - local}

    def _channels(self) -> dict[int, int]:
        """Channels of each of PATCH_STAGES, in the order in which a patch has them; those of colour with the first."""
        channels = backbones.load(self.backbone).channels
        return {stage: channels[stage] + COLOURS * (stage == PATCH_STAGES[0]) for stage in PATCH_STAGES}

    def _views(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Patch features (B, h, w, C): whitened, in the directions that damage moves, and as they are."""
        return _whiten(self._patches, grid), _whiten(self._plain, grid)

    def _standardised(self, voices: Tensor) -> Tensor:
        """(B, V) -> (B, V), in deviations above good images that were left out."""
        return (voices - self._centre) / self._spread

    def _relative(self, maps: Tensor) -> Tensor:
        """Maps (B, M, h, w) -> (B, h, w): their mean in deviations above the worst place of a good image."""
        return ((maps - self._centre[:-1, None, None]) / self._spread[:-1, None, None]).mean(1)

    def _state(self) -> dict[str, Tensor]:
        state = {"voices": torch.stack((self._centre, self._spread)), "joint": self._joint}
        state |= {"whole.mean": self._whole[0], "whole.whitening": self._whole[1]}
        state |= {f"place.{name}": value.half() for name, value in vars(self._places).items()}
        state |= {"patch.mean": self._patches[0], "patch.whitening": self._patches[1]}
        state |= {"plain.mean": self._plain[0], "plain.directions": self._plain[1]}
        state |= {f"photo{i:02}": torch.frombuffer(bytearray(p), dtype=torch.uint8) for i, p in enumerate(self._photos)}
        return state | {f"bank{i}": bank.half() for i, bank in enumerate(self._banks)}

    def _restore(self, state: dict[str, Tensor]) -> None:
        (self._centre, self._spread), self._joint = state["voices"], state["joint"]
        self._whole = (state["whole.mean"], state["whole.whitening"])
        self._patches = (state["patch.mean"], state["patch.whitening"])
        self._plain = (state["plain.mean"], state["plain.directions"])
        self._banks = (state["bank0"].float(), state["bank1"].float())
        self._photos = [state[key].numpy().tobytes() for key in sorted(state) if key.startswith("photo")]
        self._places = _Places(*(state[f"place.{field.name}"].float() for field in fields(_Places)))


Gaussian = tuple[Tensor, Tensor]  # mean (C,) and whitening (K, C): |W (x - mean)| is the distance along K directions


@dataclass(frozen=True)
class _Seen:
    """Patch features of N images as the backbone gives them; many are kept in half precision.

    Attributes:
        fine: (N, C, h, w), of all stages but the last of PATCH_STAGES; coarse: (N, C', h', w'), of the last.
    """

    fine: Tensor
    coarse: Tensor

    def grids(self, images: slice | Tensor) -> Tensor:
        """(n, h, w, C + C') float32 of some of the images, on the finer grid."""
        fine, coarse = (
            F.avg_pool2d(x[images].float(), AROUND, 1, AROUND // 2, count_include_pad=False)
            for x in (self.fine, self.coarse)
        )
        coarse = F.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat((fine, coarse), 1).permute(0, 2, 3, 1).contiguous()


@dataclass(frozen=True)
class _Turned:
    """M turned copies of images.

    Attributes:
        vectors: (M, C), pooled; views: (M, h, w, K) each, see `_views`.
        inside: (M, h, w), which places see nothing but the image; origin: (M,), of which image each one is a copy.
    """

    vectors: Tensor
    views: Sequence[Tensor]
    inside: Tensor
    origin: Tensor


def _extract(backbone: str, batch: Tensor) -> tuple[Tensor, _Seen]:
    """One forward pass: vectors (B, C) pooled over the images, and patch features, colour before all others."""
    stages = backbones.load(backbone)(batch)
    first, second, last = (stages[i] for i in PATCH_STAGES)
    red, green, blue = (batch + DARK).log().unbind(1)
    colour = torch.stack((red - green, blue - green), 1)
    fine = torch.cat([F.adaptive_avg_pool2d(x, second.shape[2:]) for x in (colour, first)] + [second], 1)
    return torch.cat([stages[i].mean((2, 3)) for i in POOLED_STAGES], 1), _Seen(fine, last)


def _evenly(total: int, most: int) -> Tensor:
    """Indices of at most `most` of `total` images, evenly chosen, in order."""
    return torch.linspace(0, total - 1, min(most, total)).round().long()


def _chunks(total: int) -> tuple[Tensor, ...]:
    return torch.arange(total).split(CHUNK)


def _features(backbone: str, batches: Batches, kept: Tensor, progress: Progress) -> tuple[Tensor, _Seen]:
    """Vectors of all images, and the patch features of those `kept` (sorted indices)."""
    vectors, fine, coarse, done = [], [], [], 0
    with torch.inference_mode():
        for batch in batches:
            pooled, seen = _extract(backbone, batch)
            here = kept[(kept >= done) & (kept < done + len(batch))] - done
            vectors.append(pooled)
            fine.append(seen.fine[here].half())
            coarse.append(seen.coarse[here].half())
            done += len(batch)
            progress("features", done, len(batches))
    return torch.cat(vectors), _Seen(torch.cat(fine), torch.cat(coarse))


def _damaged(backbone: str, images: Tensor, generator: torch.Generator) -> tuple[Tensor, _Seen, Tensor]:
    """Vectors and patch features of images with simulated damage, and (B, h, w) where it struck."""
    hurt, masks = corrupt(images, generator, share=1.0)
    vectors, seen = _extract(backbone, hurt)
    return vectors, seen, F.adaptive_avg_pool2d(masks, seen.fine.shape[2:])[:, 0] >= STRUCK


def _telling(gaussian: Gaussian, changes: Tensor) -> tuple[Gaussian, Tensor]:
    """The whitening turned to the directions in which damage moves features most, and how much each one tells.

    Args:
        changes: (N, C) of features, by damage.
    Returns:
        The Gaussian with TELLING directions at most, and weights (K,) in (0, 1): l / (1 + l) for a mean square of l
        deviations, as in the ratio of the likelihoods of damaged and good.
    """
    mean, whitening = gaussian
    moved = changes @ whitening.T
    if len(moved):
        length = torch.linalg.vector_norm(moved, dim=1, keepdim=True).clamp_min(TINY)
        moved = moved * (length.median() / length).clamp_max(1)  # gross damage must not speak for all
    values, axes = torch.linalg.eigh(moved.T @ moved / max(1, len(moved)))
    values, axes = values[-TELLING:].clamp_min(TINY), axes[:, -TELLING:]
    return (mean, (axes.T @ whitening).contiguous()), values / (1 + values)


def _pooled_gaussian(vectors: Tensor, blows: Tensor) -> Gaussian:
    """Of vectors (N, C) of good images; `blows` (M, C) are their changes by damage, and directions count by these."""
    (mean, whitening), weights = _telling(_whitened(vectors), blows)
    return mean, whitening * weights.sqrt()[:, None]


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


def _bank(grids: Tensor, inside: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """BANK patches (n, K) of N images (N, h, w, K), and the image (n,) that each is of; see `_draw`."""
    drawn, images = _draw(grids, inside, -(-DRAWN // len(grids)), generator)
    every = torch.arange(len(drawn))
    chosen = torch.cat([part[_coreset(drawn[part], BANK // PARTS)] for part in (every[i::PARTS] for i in range(PARTS))])
    # Half precision is what is stored: a loaded model gives the very same scores.
    return drawn[chosen].half().float(), images[chosen]


def _draw(grids: Tensor, inside: Tensor, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """At most so many patches (n, K) of each of N images (N, h, w, K), and the image (n,) that each is of.

    Only places `inside` (N, h, w) count. A patch is drawn the likelier the farther it is from the mean, as k-means++
    draws its seeds (Arthur & Vassilvitskii, SODA 2007): drawn evenly, nearly all patches of a small part would be of
    the ground it lies on.
    """
    patches = grids.flatten(1, 2)
    # The largest of log(u) / weight are weighted draws without replacement (Efraimidis & Spirakis, IPL 2006).
    keys = torch.rand(patches.shape[:2], generator=generator).log() / patches.square().sum(2).clamp_min(TINY)
    keys = keys.masked_fill(~inside.flatten(1), -torch.inf)
    best = keys.topk(min(patches.shape[1], most), dim=1)
    images, ranks = best.values.isfinite().nonzero(as_tuple=True)
    return patches[images, best.indices[images, ranks]], images


def _turns(upright: Tensor, turned: Tensor, inside: Tensor, of: Tensor, generator: torch.Generator) -> bool:
    """Whether good parts lie turned every way: a place of one is then as like others that were turned as others.

    Args:
        upright: (N, h, w, K).
        turned: (M, h, w, K), of which the places `inside` (M, h, w) count, each of the upright image `of` (M,), sorted.
    """
    first = (of.diff(prepend=torch.tensor([-1])) > 0).nonzero()[:, 0]
    jury = first[_evenly(len(first), JURY)]
    upright, turned, inside = upright[of[jury]], turned[jury], inside[jury]
    asked, asked_of = _draw(upright, inside, ASKED, generator)
    answers = [_draw(views, inside, ANSWERS, generator) for views in (upright, turned)]
    alike = []
    for image in range(len(jury)):
        places = asked[asked_of == image]
        plain, other = (torch.cdist(places, found[found_of != image]).amin(1) for found, found_of in answers)
        alike.append(other < plain)
    return float(torch.cat(alike).float().mean()) >= TURNS


def _coreset(patches: Tensor, most: int) -> Tensor:
    """Indices of `most` patches of (N, K) that leave no other far from them: each the farthest from those before it."""
    chosen = [0]
    lengths = patches.square().sum(1)
    nearest = torch.full((len(patches),), torch.inf)
    while len(chosen) < min(most, len(patches)):
        latest = chosen[-1]
        squared = torch.addmv(lengths + lengths[latest], patches, patches[latest], alpha=-2)
        nearest = torch.minimum(nearest, squared)
        nearest[latest] = -torch.inf  # not twice, even where all patches are alike
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)


def _maps(places: _Places, banks: Sequence[Tensor], views: Sequence[Tensor]) -> Tensor:
    """Distances (B, 3, h, w) of patches, each view (B, h, w, K): from the normal of their place, and to both banks."""
    distances = (places.distances(views[0]), *(_nearest(view, bank) for view, bank in zip(views, banks)))
    return F.avg_pool2d(torch.stack(distances, 1), AROUND, 1, AROUND // 2, count_include_pad=False)


def _nearest(grid: Tensor, bank: Tensor) -> Tensor:
    """Distance of each patch (B, h, w, K) to the nearest of (N, K): (B, h, w)."""
    lengths, patches = bank.square().sum(1), grid.flatten(0, 2)
    found = [torch.addmm(lengths, some, bank.T, alpha=-2).amin(1) for some in patches.split(TOGETHER)]
    squared = torch.cat(found) + patches.square().sum(1)
    return squared.clamp_min(0).sqrt().reshape(grid.shape[:3])


def _sharpened(maps: Tensor) -> Tensor:
    """Maps (B, h, w) in which the skirts of strong places count no more than the worst place of an ordinary good part.

    A place sees more than its own pixels, so a defect far over the limit lifts all places around it over the limit.
    """
    highest = F.max_pool2d(maps[:, None], REACH, 1, REACH // 2)[:, 0]
    return torch.where(maps < SKIRT * highest, maps.clamp_max(float(F.softplus(torch.zeros(())))), maps)


def _windows(grid: Tensor, height: int, width: int) -> Tensor:
    """Means over every window of height x width places: (B, h, w, C) -> (B, h - height + 1, w - width + 1, C)."""
    return F.avg_pool2d(grid.permute(0, 3, 1, 2), (height, width), stride=1).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class _Moments:
    """Of patch features of good images.

    Attributes:
        mean: (C,); whole: their covariance (C, C) float64; within: what the mean of each position leaves of it.
        count: patches.
    """

    mean: Tensor
    whole: Tensor
    within: Tensor
    count: int

    @classmethod
    def of(cls, seen: _Seen) -> _Moments:
        images = len(seen.fine)
        total, second = 0.0, 0.0
        for part in _chunks(images):
            flat = seen.grids(part).flatten(1, 2)
            total = total + flat.sum(0, dtype=torch.float64)
            flat = flat.flatten(0, 1)
            second = second + (flat.T @ flat).double()
        means, count = total / images, images * len(total)
        mean, second = means.mean(0), second / count
        return cls(mean, second - torch.outer(mean, mean), second - means.T @ means / len(means), count)

    def whitened(self) -> Gaussian:
        # A trace of the whole covariance: where good images hardly differ, numbers must stay within half precision.
        covariance = self.within + 1e-4 * self.whole
        return self.mean.float(), _whitening(covariance, max(2.0, self.count / OVERLAP))

    def plain(self, channels: dict[int, int]) -> Gaussian:
        """Channels of PLAIN_STAGES in their deviations, turned to the directions in which these vary most.

        Args:
            channels: of each stage, in order.
        """
        variance = self.whole.diagonal().clamp_min(0)
        used = torch.cat([torch.full((n,), stage in PLAIN_STAGES) for stage, n in channels.items()])
        scale = used / (variance + 1e-4 * variance[used].mean() + TINY).sqrt()
        _, axes = torch.linalg.eigh(self.whole * torch.outer(scale, scale))
        return self.mean.float(), (axes[:, -PLAIN:].T * scale).float().contiguous()


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


def _voices(whole: Gaussian, vectors: Tensor, maps: Tensor) -> Tensor:
    """(B, V): the worst place of each of the maps (B, V - 1, h, w), and the distance of the whole (B,)."""
    distance = torch.linalg.vector_norm(_whiten(whole, vectors), dim=-1)
    return torch.cat((maps.amax((2, 3)), distance[:, None]), 1)


def _loudness(voices: Tensor) -> Tensor:
    """Standardised voices (B, V), the whole picture last -> what each adds to the square of the score, (B, V)."""
    weights = torch.ones(voices.shape[1])
    weights[-1] = WHOLE
    return F.softplus(voices).square() * weights / weights.sum()


def _joined(voices: Tensor) -> Tensor:
    """(B, V) -> (B,): a root mean square, so that voices that hear nothing do not outvote one that does."""
    return _loudness(voices).sum(1).sqrt()
