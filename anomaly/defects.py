"""Which type of defect does a region show? Named after the nearest labelled region of the product, or "unknown".

Nothing is trained: the backbone looks at the region with its surroundings, and the largest value of each feature inside
is the description. Distances are those of Mahalanobis for the covariance that the types leave, as in linear
discriminant analysis (Fisher, Annals of Eugenics 1936), shrunk, since there are more features than regions.

How sure a name is, is learned from the labelled regions themselves. Each is left out twice: alone, when it ought to be
given its type by the others, and with all of its type, when any name is wrong. A logistic regression on the distance to
the nearest region, and on how much farther the nearest one of another type is, gives the probability that the name is
right (Platt, 1999). Under one half the type is unknown.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import solve_triangular
from scipy.optimize import minimize
from scipy.special import expit

from anomaly import backbones, files
from anomaly.errors import BrokenRun
from anomaly.images import cut, positions, stretch, surroundings

UNKNOWN = "unknown"
SAID = "record/"  # begins the name of an example that a person labelled
SIDE = 96  # pixels of the square in which the backbone sees a region with its surroundings
STAGES = (1, 2)  # strides 8, 16
SHRINKAGE = 0.3  # of the covariance towards that of independent features
LEAST = 2  # types with so many regions each, before anything is named
MOST = 40  # regions of a type, the newest: more would slow the start and say little
FOLDS = 40
NEW = 0.5  # weight of a region whose type was left out: of three defects one is of a type that nobody has shown yet
PENALTY = 0.5  # on the squared weights of the regression
TINY = 1e-9
SCHEMA = 1
KIND = "defects"
REMEDY = "Make it again with `python -m anomaly types`, or delete the file: types are then not named"


@dataclass(frozen=True)
class Named:
    """The type of a region, UNKNOWN where it is like none that is labelled, and the probability that this is right."""

    kind: str
    confidence: float

    def __str__(self) -> str:
        """One plain sentence."""
        percent = round(100 * self.confidence)
        if self.kind == UNKNOWN:
            return f"Defect of an unknown type, {percent}% sure"
        return f"Looks like {spoken(self.kind)}, {percent}% sure"


def spoken(kind: str) -> str:
    """A type as people read it: folders are named broken_thread."""
    return kind.replace("_", " ")


@dataclass(frozen=True)
class Example:
    """A labelled region: a name that no other has, its type, and its (C,) features."""

    name: str
    kind: str
    features: np.ndarray


@dataclass(frozen=True)
class Types:
    """The labelled regions of a product, oldest first. What follows from them is worked out when it is first needed."""

    examples: tuple[Example, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Regions of each type, the types in alphabetical order."""
        return dict(sorted(Counter(one.kind for one in self.examples).items()))

    @property
    def taught(self) -> tuple[str, ...]:
        """Types of the regions that no person labelled at review, in alphabetical order."""
        return tuple(sorted({one.kind for one in self.examples if not one.name.startswith(SAID)}))

    @property
    def ready(self) -> bool:
        """Whether there is anything to tell apart: two types of which two regions are known."""
        return sum(count >= LEAST for count in self.counts.values()) >= LEAST

    def with_examples(self, more: Sequence[Example]) -> Types:
        """These and more; of one name the later one stands. MOST of each type are kept."""
        by_name = {one.name: one for one in self.examples}
        for one in more:
            by_name.pop(one.name, None)  # so that it counts as the newest
            by_name[one.name] = one
        left: Counter[str] = Counter()
        kept = []
        for one in reversed(by_name.values()):
            left[one.kind] += 1
            if left[one.kind] <= MOST:
                kept.append(one)
        return Types(tuple(reversed(kept)))

    def without(self, *names: str) -> Types:
        return Types(tuple(one for one in self.examples if one.name not in names))

    def name(self, features: np.ndarray) -> Named | None:
        """The type of a region of (C,) features; None where too little is labelled to tell types apart."""
        if not self.ready:
            return None
        kind, *evidence = self._space.nearest(features[None])[0]
        right = float(expit(self._weights @ _inputs([evidence])[0]))
        return Named(kind, right) if right >= 0.5 else Named(UNKNOWN, 1 - right)

    @cached_property
    def told_apart(self) -> tuple[int, int]:
        """How many of the regions whose type has others were given it when they were left out, and how many that is."""
        alone, _ = self._left_out
        return sum(right for _, right in alone), len(alone)

    @cached_property
    def _features(self) -> np.ndarray:
        return np.stack([one.features for one in self.examples]).astype(np.float64)

    @cached_property
    def _kinds(self) -> np.ndarray:
        return np.array([one.kind for one in self.examples])

    @cached_property
    def _space(self) -> _Space:
        return _Space(self._features, self._kinds)

    @cached_property
    def _left_out(self) -> tuple[list[tuple], list[tuple]]:
        """((distance, distance to another type), right) of each region left out alone, and of each with its type."""
        found: tuple[list[tuple], list[tuple]] = ([], [])
        folds = min(FOLDS, len(self._kinds))
        alone = [np.arange(len(self._kinds)) % folds == fold for fold in range(folds)]
        for place, parts in enumerate((alone, [self._kinds == kind for kind in np.unique(self._kinds)])):
            for part in parts:
                space = _Space(self._features[~part], self._kinds[~part])
                for wanted, (kind, *evidence) in zip(self._kinds[part], space.nearest(self._features[part])):
                    if place or wanted in space.kinds:
                        found[place].append((evidence, kind == wanted))
        return found

    @cached_property
    def _weights(self) -> np.ndarray:
        """(3,) of the inputs: farther never makes surer, and a farther rival never less sure."""
        alone, with_type = self._left_out
        x = _inputs([evidence for evidence, _ in alone + with_type])
        y = np.array([right for _, right in alone + with_type], float)
        x[:, 2] = np.nan_to_num(x[:, 2], nan=np.nanmean(x[:, 2]))  # of a stranger to a single type: not known
        counts = np.repeat([1.0, NEW], [len(alone), len(with_type)])
        centre, spread = x[:, 1:].mean(0), x[:, 1:].std(0) + TINY
        z = np.column_stack([x[:, 0], (x[:, 1:] - centre) / spread])

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            raw = z @ weights
            steep = PENALTY * 2 * weights * [0, 1, 1]
            value = counts @ (np.logaddexp(0, raw) - y * raw) + PENALTY * (weights[1:] ** 2).sum()
            return float(value), z.T @ (counts * (expit(raw) - y)) + steep

        found = minimize(loss, np.zeros(3), jac=True, bounds=[(None, None), (None, 0), (0, None)]).x
        scaled = found[1:] / spread
        return np.array([found[0] - scaled @ centre, *scaled])


class _Space:
    """Labelled regions where distances are in deviations of regions of one type: (n, C) features and (n,) types."""

    def __init__(self, features: np.ndarray, kinds: np.ndarray):
        self.kinds = kinds
        spread = features.std(0)
        self._spread = spread + 0.01 * spread.mean() + TINY
        x = features / self._spread
        rest = np.concatenate([x[kinds == kind] - x[kinds == kind].mean(0) for kind in np.unique(kinds)])
        covariance = rest.T @ rest / max(1, len(x) - len(np.unique(kinds)))
        level = np.trace(covariance) / len(covariance) or 1.0
        covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * level * np.eye(len(covariance))
        self._root = np.linalg.cholesky(covariance)
        self._known = self._white(features)

    def _white(self, features: np.ndarray) -> np.ndarray:
        return solve_triangular(self._root, (features / self._spread).T, lower=True).T

    def nearest(self, features: np.ndarray) -> list[tuple[str, float, float]]:
        """Of each of (m, C): type of the nearest region, its distance, and that of the nearest one of another type.

        Where there is no other type, the second distance is not a number.
        """
        apart = np.linalg.norm(self._white(features)[:, None] - self._known[None], axis=2)
        found = []
        for row in apart:
            kind = self.kinds[row.argmin()]
            others = row[self.kinds != kind]
            found.append((str(kind), float(row.min()), float(others.min()) if len(others) else math.nan))
        return found


def _inputs(evidence: Sequence[Sequence[float]]) -> np.ndarray:
    """(n, 3): 1, log distance, log of how many times farther the nearest region of another type is."""
    near, other = np.maximum(np.array(evidence, float).T, TINY)
    return np.column_stack([np.ones_like(near), np.log(near), np.log(other / near)])


def describe(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """(C,) float32 features of the place `box` (x, y, width, height) in pixels of an image (H, W, 3) uint8 RGB."""
    height, width = image.shape[:2]
    x, y, w, h = box
    centre, extent = surroundings(np.array([y / height, (y + h) / height, x / width, (x + w) / width]))
    window = cut(image, centre, extent)
    seen = torch.from_numpy(stretch(np.ascontiguousarray(window), (SIDE, SIDE))).permute(2, 0, 1)[None].float() / 255
    # Where the box lies in its window, which was moved inwards where it would have stuck out of the image.
    inside = np.array(
        [*_within(y, h, height, centre[0], window.shape[0]), *_within(x, w, width, centre[1], window.shape[1])]
    )
    with torch.inference_mode():
        stages = backbones.load()(seen)
    found = []
    for stage in (stages[i][0] for i in STAGES):
        rows, columns = positions(inside, stage.shape[1:])
        found.append(stage[:, rows, columns].amax((1, 2)))
    return torch.cat(found).numpy()


def _within(start: int, length: int, side: int, middle: float, seen: int) -> tuple[float, float]:
    """Where a span of pixels begins and ends in the window of `seen` pixels around it, in shares of the window."""
    first = min(max(0, round(middle * side - seen / 2)), side - seen)
    return max(0.0, (start - first) / seen), min(1.0, (start + length - first) / seen)


def save(types: Types, path: Path) -> None:
    """Write labelled regions as safetensors, sealed by a digest."""
    about = {
        "schema": SCHEMA,
        "backbone_sha256": backbones.load().sha256,
        "examples": [[one.name, one.kind] for one in types.examples],
    }
    features = [one.features.astype(np.float16) for one in types.examples]
    files.save_sealed(path, KIND, about, {"features": np.stack(features) if features else np.zeros((0, 0), np.float16)})


def load(path: Path) -> Types:
    """The regions that `save` wrote. Raises BrokenRun when the file is damaged or belongs to another backbone."""
    about, tensors = files.load_sealed(path, KIND, REMEDY)
    try:
        if (about["schema"], about["backbone_sha256"]) != (SCHEMA, backbones.load().sha256):
            raise BrokenRun(f"{path} is of another version or was made with another backbone", REMEDY)
        pairs = zip(about["examples"], tensors["features"], strict=True)
        return Types(tuple(Example(name, kind, features) for (name, kind), features in pairs))
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenRun(f"{path} is damaged ({type(error).__name__})", REMEDY) from error
