"""Which known product does a photo show, defective or not, or none of them? Asked before any detector speaks.

Each product has a Gaussian over features of the shared backbone, pooled over its good photos: the mean, the directions
in which they vary most, and one variance for all others (probabilistic PCA, Tipping & Bishop, J. Royal Statistical
Society B 1999). The distance is that of Mahalanobis, as for foreign images in Lee et al. (NeurIPS 2018). Each photo is
seen a few times more, damaged, turned and in other light, since a defective part on a dull day is still this product.

The limit is conformal (Vovk et al., Algorithmic Learning in a Random World, 2005): photos are left out in turn, and it
is the largest distance of any of their views. So another photo of the same kind is refused with a probability of about
1 / (n + 1) at most, of n good ones, and in truth more rarely: views are harder than photos, and a margin is added for
damage and days that are worse than the simulated ones, the wider the fewer photos there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from anomaly import backbones, files
from anomaly.corrupt import corrupt, disturb
from anomaly.errors import BrokenRun, TooFewImages, UsageError, WrongProduct
from anomaly.images import Box, checked_region, crop, stretch

Progress = Callable[[str, int, int], object]
SIDE = 224  # pixels of the square in which the backbone sees a photo: a quarter of what `mahalanobis` looks at
STAGES = (2, 3)  # strides 16, 32, as far as they are pooled over the photo
LEAST = 4  # good photos
MOST = 100  # good photos, evenly chosen: enough for a promise of 1%
VIEWS = 64  # at least so many of all photos together, besides the photos themselves
DAMAGED = 0.8  # of the views
TURNED = 0.5  # of the views, by quarters or mirrored
TILT = 15.0  # degrees by which all are turned besides, at most
BLURRED, BLUR = 0.3, (0.5, 1.5)  # of the views, and deviation in pixels: a lens out of focus, more than `disturb` does
RANK, FEWER = 32, 16  # directions at most, a third of the photos; of less than 48 photos as many as photos, or 16
STEPS = 127  # of a direction's largest value: directions are kept in bytes
FOLDS = 10
MARGIN, DOUBT = 1.25, 4  # times the limit, and more, by so many parts in the number of photos: few know too little
OBJECTIONS = 2  # to how a photo was taken: one that is unlike in more ways shows something else
CLEARLY = 0.5  # of the distance to the product that was asked for: another one at less is the one that is seen
TINY = 1e-6
SEED = 0
SCHEMA = 1
KIND = "product"
REMEDY = "Train or refit the product again, or delete the file: its photos are then not checked"


@dataclass(frozen=True)
class Product:
    """How photos of one product look.

    Attributes:
        region: the part of each photo that counts; None is all of it.
        photos: good ones that it was learned from.
        limit: the largest distance of any view of a photo that was left out.
        mean: (C,); directions: (R, C), orthogonal to each other, each as long as the deviation along it.
        rest: variance in each of the other directions.
    """

    region: Box | None
    photos: int
    limit: float
    mean: np.ndarray
    directions: np.ndarray
    rest: float

    def distance(self, features: np.ndarray) -> float:
        """Of the (C,) features of a photo; from 1 on, the limit with its margin, it shows something else."""
        apart = _distances(features[None], self.mean, self.directions, self.rest)[0]
        return float(apart) / (MARGIN * (1 + DOUBT / self.photos) * self.limit)


@dataclass(frozen=True)
class Seen:
    """What the gate says of one photo.

    Attributes:
        expected: the product that was asked for; None when any known one will do.
        seen: the product that the photo shows, or the nearest one where it shows none.
        known: whether it shows a known product at all.
        distance: to the product `seen`; 1 is its limit.
    """

    expected: str | None
    seen: str
    known: bool
    distance: float

    @property
    def refused(self) -> bool:
        return not self.known or self.expected not in (None, self.seen)

    def to_json(self) -> dict:
        """The key `product` of `python -m anomaly inspect --json`."""
        return {"expected": self.expected, "seen": self.seen, "known": self.known, "distance": self.distance}

    def require(self, capture: tuple[str, ...] = (), attributes: tuple[str, ...] = ()) -> None:
        """Raise WrongProduct unless the photo shows what was asked for, or any known product where nothing was.

        Args:
            capture: how the photo was taken otherwise than the good ones of the product that was asked for. It is said
                where that product is the nearest one and little is unlike: then the light may be all that is wrong.
            attributes: words for what the photo shows, said where it shows no known product.
        """
        if self.refused:
            near = self.seen == self.expected and len(capture) <= OBJECTIONS
            raise self.refusal(capture=capture if near else (), attributes=attributes)

    def refusal(
        self,
        titles: Mapping[str, str] | None = None,
        capture: tuple[str, ...] = (),
        attributes: tuple[str, ...] = (),
    ) -> WrongProduct:
        """What is said of a refused photo; `titles` of products are said in the place of their names."""
        seen, expected = ((titles or {}).get(name, name) for name in (self.seen, self.expected))
        if self.known:
            problem = f"This looks like {seen}, not {expected}"
            remedy = f"Choose {seen}, or check what lies under the camera"
        else:
            problem = f"This shows none of the known products; the nearest is {seen}"
            remedy = "Teach the product, or check what lies under the camera"
        return WrongProduct(problem, remedy, self.to_json(), capture, () if self.known else attributes)


def learn(photos: Sequence[np.ndarray], *, region: Box | None = None, progress: Progress | None = None) -> Product:
    """How photos of a product look, from good ones alone.

    Args:
        photos: (H, W, 3) uint8 RGB each, sizes may differ; may be lazy: each is read once.
        region: (x, y, width, height) in shares of the photo: all that counts.
        progress: called with (stage, done, total); may raise.
    Raises:
        TooFewImages: fewer than four.
    """
    if len(photos) < LEAST:
        problem = f"{len(photos)} good photos were given to know the product by, it takes {LEAST}"
        raise TooFewImages(problem, "Add good photos")
    generator = torch.Generator().manual_seed(SEED)
    chosen = np.linspace(0, len(photos) - 1, min(len(photos), MOST)).round().astype(int)
    more = -(-VIEWS // len(chosen))
    seen = []
    for done, i in enumerate(chosen):
        if progress:
            progress("know", done, len(chosen))
        photo = _tensor(photos[int(i)], region)
        seen.append(_pooled(torch.cat([photo, *(_varied(photo, generator) for _ in range(more))])))
    features = np.stack(seen)  # (photos, views, C)
    left_out = []
    for part in np.array_split(np.arange(len(features)), min(FOLDS, len(features))):
        others = _gaussian(np.delete(features, part, axis=0))
        left_out.append(_distances(features[part].reshape(-1, features.shape[-1]), *others))
    mean, directions, rest = _gaussian(features)
    return Product(region, len(features), float(np.concatenate(left_out).max()), mean, directions, rest)


def look(photo: np.ndarray, products: Mapping[str, Product], *, expected: str | None = None) -> Seen:
    """Which of the products a photo shows.

    Args:
        photo: (H, W, 3) uint8 RGB.
        products: one at least; the expected one is among them.
    """
    features = {region: describe(photo, region) for region in {one.region for one in products.values()}}
    return judge({name: one.distance(features[one.region]) for name, one in products.items()}, expected=expected)


def describe(photo: np.ndarray, region: Box | None = None) -> np.ndarray:
    """(C,) features of a photo, (H, W, 3) uint8 RGB, or of a region of it."""
    return _pooled(_tensor(photo, region))[0]


def judge(apart: Mapping[str, float], *, expected: str | None = None) -> Seen:
    """What a photo shows, from its distances to the products in units of their limits.

    A photo within the limit of the expected product shows that one, unless another is at less than half the distance.
    """
    nearest = min(apart, key=apart.get)
    if expected is not None and apart[expected] <= 1 and apart[nearest] > CLEARLY * apart[expected]:
        nearest = expected
    return Seen(expected, nearest, apart[nearest] <= 1, apart[nearest])


def save(product: Product, path: Path) -> None:
    """Write a product as safetensors, with its numbers and the digest of all in the header."""
    directions, scales = _in_bytes(product.directions)
    about = {
        "schema": SCHEMA,
        "backbone_sha256": backbones.load().sha256,
        "region": product.region,
        "photos": product.photos,
        "limit": product.limit,
        "rest": product.rest,
    }
    tensors = {"mean": product.mean.astype(np.float16), "directions": directions, "scales": scales}
    files.save_sealed(path, KIND, about, tensors)


def load(path: Path) -> Product:
    """The product that `save` wrote. Raises BrokenRun when the file is damaged or belongs to another backbone."""
    about, tensors = files.load_sealed(path, KIND, REMEDY)
    try:
        if (about["schema"], about["backbone_sha256"]) != (SCHEMA, backbones.load().sha256):
            raise BrokenRun(f"{path} is of another version or was made with another backbone", REMEDY)
        return Product(
            region=about["region"] and checked_region(about["region"]),
            photos=about["photos"],
            limit=about["limit"],
            mean=tensors["mean"].astype(np.float64),
            directions=tensors["directions"] * tensors["scales"],
            rest=about["rest"],
        )
    except (ValueError, KeyError, TypeError, UsageError) as error:
        raise BrokenRun(f"{path} is damaged ({type(error).__name__})", REMEDY) from error


def _gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, directions and rest of (photos, views, C), as exact as the file keeps them."""
    flat = features.reshape(-1, features.shape[-1])
    mean = flat.mean(0).astype(np.float16).astype(np.float64)
    _, deviations, axes = np.linalg.svd(flat - mean, full_matrices=False)
    variances = np.square(deviations) / (len(flat) - 1)
    rank = min(RANK, len(features), max(FEWER, len(features) // 3))
    directions, scales = _in_bytes(axes[:rank] * np.sqrt(variances[:rank])[:, None])
    return mean, directions * scales, max(float(variances[rank:].sum()) / flat.shape[1], TINY)


def _in_bytes(directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R, C) int8 and (R, 1) float64, of which the argument is the product, about."""
    scales = np.maximum(np.abs(directions).max(1, keepdims=True) / STEPS, TINY)
    return np.rint(directions / scales).astype(np.int8), scales


def _distances(features: np.ndarray, mean: np.ndarray, directions: np.ndarray, rest: float) -> np.ndarray:
    """(N,) Mahalanobis distances for the covariance directions^T directions + rest I, by Woodbury's identity."""
    apart = features - mean
    inner = rest * np.eye(len(directions)) + directions @ directions.T
    along = apart @ directions.T
    squares = np.square(apart).sum(1) - (along * np.linalg.solve(inner, along.T).T).sum(1)
    return np.sqrt(np.maximum(squares, 0) / (rest * len(mean)))


def _tensor(photo: np.ndarray, region: Box | None) -> Tensor:
    """(1, 3, SIDE, SIDE) float in [0, 1]."""
    square = stretch(np.ascontiguousarray(crop(photo, region)), (SIDE, SIDE))
    return torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255


def _pooled(images: Tensor) -> np.ndarray:
    """(B, C) float64 of (B, 3, SIDE, SIDE)."""
    with torch.inference_mode():
        stages = backbones.load()(images)
    return torch.cat([stages[i].mean((2, 3)) for i in STAGES], 1).double().numpy()


def _varied(photo: Tensor, generator: torch.Generator) -> Tensor:
    """The photo as it might be taken of another, perhaps defective, part of the same product: (1, 3, SIDE, SIDE)."""

    def drawn(low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    view, _ = corrupt(photo, generator, share=DAMAGED)
    if drawn() < TURNED:
        view = torch.rot90(view.flip(3) if drawn() < 0.5 else view, int(drawn(0, 4)), (2, 3))
    around = TF.pad(view, [SIDE // 4] * 4, padding_mode="reflect")
    turned = TF.rotate(around, drawn(-TILT, TILT), interpolation=TF.InterpolationMode.BILINEAR)
    view = TF.center_crop(turned, [SIDE, SIDE])
    if drawn() < BLURRED:
        view = TF.gaussian_blur(view, [15, 15], [drawn(*BLUR)] * 2)
    return disturb(view, generator)
