"""The contract of a detector. Preprocessing and mapping back live here; a subclass sees tensors only."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from anomaly.errors import BrokenRun, NotFitted, TooFewImages, UsageError
from anomaly.images import Box, checked_region, crop, resize_map, stretch, within

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing only from Python 3.11 on

Image = np.ndarray  # (H, W, 3) uint8 RGB
# Told what is done, how far, of how many. It may answer True: a training by descent then ends early and keeps what it
# has. It may raise: then nothing is kept.
Progress = Callable[[str, int, int], "bool | None"]

MEASURED = 15  # good images whose proportion is looked at before the first is scaled
ALIKE = 1.1  # proportions that differ by less are stretched to each other
MARKED = 48  # of 255: so much of a pixel is covered by a mask that is scaled down, for it to count as marked
WEIGHTS, MANIFEST = "weights.safetensors", "manifest.json"
SCHEMA = 2


@dataclass(frozen=True)
class Result:
    """What a detector says of one image.

    Attributes:
        score: raw, >= 0, higher = more anomalous; in about deviations above a typical good part.
        map: (H, W) float32 of the original image's size, same unit as the score.
        reconstruction: (H, W, 3) uint8 of the original image's size, or None for detectors that make none.
    """

    score: float
    map: np.ndarray
    reconstruction: np.ndarray | None


@dataclass(frozen=True)
class Explanation:
    """Why a photo scores as it does.

    Attributes:
        here: (h, w, 3) uint8, the place in question, cut from the photo with some of its surroundings.
        good: (h, w, 3) uint8, what a good part looks like there.
        source: where `good` comes from, in a few words.
        shares: what the score is made of, names to shares of 1.
    """

    here: np.ndarray
    good: np.ndarray
    source: str
    shares: dict[str, float]


@dataclass(frozen=True)
class Preview:
    """How a training that repairs gets on; all images (h, w, 3) uint8 of one size.

    Attributes:
        damaged: a good image that was left out, with simulated damage.
        repairs: {epoch: what the network makes of it after so many}.
    """

    damaged: Image
    repairs: dict[int, Image]


@dataclass(frozen=True)
class BatchScores:
    """What a subclass returns for a batch: scores (B,), maps (B, h, w) of any size, reconstructions (B, 3, h, w)."""

    scores: Tensor
    maps: Tensor
    reconstructions: Tensor | None = None


@dataclass(frozen=True)
class Defects:
    """Known defective images at model size, for detectors that are taught by them.

    Attributes:
        pixels: (M, 3, h, w) uint8.
        masks: (M, 1, h, w) bool, True = defect; all False where only the image is known to be defective.
    """

    pixels: Tensor
    masks: Tensor

    @property
    def masked(self) -> Tensor:
        """(M,) bool: of which images it is known where the defect is."""
        return self.masks.flatten(1).any(1)

    def __len__(self) -> int:
        return len(self.pixels)


class Batches:
    """Good images at model size, kept as bytes, handed out as float tensors.

    Attributes:
        pixels: (N, 3, h, w) uint8.
        defects: known defective images, None where there are none.
    """

    def __init__(self, pixels: Tensor, defects: Defects | None = None):
        self.pixels = pixels
        self.defects = defects

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, indices: Sequence[int] | Tensor) -> Tensor:
        """(len(indices), 3, h, w) float in [0, 1]."""
        return self.pixels[torch.as_tensor(indices)].float() / 255

    def __iter__(self, size: int = 16) -> Iterator[Tensor]:
        for start in range(0, len(self), size):
            yield self.take(range(start, min(start + size, len(self))))


class Detector(ABC):
    """Learns from good images, and where it is `supervised` from known defects as well, if there are any.

    A subclass writes only the five abstract methods.

    Args:
        image_size: side in pixels of the square that images are scaled to, or of one of the same area where good
            parts are photographed in another proportion; a multiple of 32 in 64..1024.
        seed: source of all randomness; the same seed and images give the same model.
    """

    name: str  # of the file, by which the registry knows it
    least: int = 2  # fewer good images are refused
    supervised: bool = False  # whether `fit` takes known defects
    region: Box | None = None  # the part of each image that `fit` was told to look at; None is all of it

    def __init__(self, *, image_size: int = 256, seed: int = 0):
        if image_size % 32 or not 64 <= image_size <= 1024:
            raise UsageError(f"image_size is {image_size}, expected a multiple of 32 in 64..1024", "Use 256")
        self.image_size = image_size
        self.seed = seed
        self._frame = (image_size, image_size)  # height and width of what the model sees
        self._fitted = False

    def __init_subclass__(cls) -> None:
        if "name" not in vars(cls):
            cls.name = cls.__module__.rpartition(".")[2]

    def arguments(self) -> dict:
        """The constructor's keyword arguments, as plain JSON values."""
        return {"image_size": self.image_size, "seed": self.seed}

    def dependencies(self) -> dict:
        """What else the weights need, as plain JSON values for the manifest; by default nothing."""
        return {}

    def fit(
        self,
        normal: Sequence[Image],
        *,
        defects: Sequence[tuple[Image, np.ndarray | None]] = (),
        region: Box | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Learn what good parts look like, from scratch.

        Args:
            normal: good images, (H, W, 3) uint8 RGB, sizes may differ; may be lazy: a few are read twice.
            defects: known defective images, for detectors that are `supervised`, each with its (H, W) bool mask, True =
                defect, or None where nobody marked it; may be lazy: each is read once.
            region: (x, y, width, height) in shares of the image: all that this detector will ever look at.
            progress: called with (stage, done, total).
        Raises:
            TooFewImages: fewer than the detector's minimum; UsageError: a region outside of the image, a mask of
                another size than its image, or known defects for a detector that learns from good images alone.
        """
        if len(defects) and not self.supervised:
            problem = f"{self.name} was given {len(defects)} known defects, it learns from good images alone"
            raise UsageError(problem, "Leave them out, or use segdec")
        if len(normal) < self.least:
            raise TooFewImages(
                f"{self.name} was given {len(normal)} good images, it needs at least {self.least}", "Add good images"
            )
        self.region = region and checked_region(region)
        looked_at = np.linspace(0, len(normal) - 1, min(len(normal), MEASURED)).round().astype(int)
        self._frame = self._choose_frame([crop(_checked(normal[int(i)]), self.region).shape[:2] for i in looked_at])
        pixels = torch.empty(len(normal), 3, *self._frame, dtype=torch.uint8)
        for i in range(len(normal)):
            pixels[i] = self._tensor(crop(normal[i], self.region))
            if progress:
                progress("read", i + 1, len(normal))
        self._fit(Batches(pixels, self._scaled(defects)), progress or _silent)
        self._fitted = True
        return self

    def score(self, image: Image) -> Result:
        """Score one image; changes nothing. Raises NotFitted."""
        return self.score_batch([image])[0]

    def score_batch(self, images: Sequence[Image]) -> list[Result]:
        """Score images of any sizes; the same values as one by one, within float rounding. Raises NotFitted."""
        self._require_fitted("Call fit, or load a trained run")
        if not len(images):
            return []
        parts = [crop(_checked(image), self.region) for image in images]
        batch = torch.stack([self._tensor(part) for part in parts]).float() / 255
        with torch.inference_mode():
            found = self._score(batch)
        scores, maps = found.scores.double().tolist(), found.maps.float().numpy()
        made = [None] * len(images)
        if found.reconstructions is not None:
            made = list(
                (found.reconstructions.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
            )
        results = []
        for score, map, picture, image, part in zip(scores, maps, made, images, parts):
            shape, (height, width) = part.shape[:2], self._filled(part)
            if (height, width) != self._frame:
                map = resize_map(map, self._frame)[:height, :width]
            if picture is not None:  # which may be drawn at another size than the frame
                scale = picture.shape[0] / self._frame[0]
                down, across = (max(1, round(scale * side)) for side in (height, width))
                picture = stretch(picture[:down, :across], shape)
            results.append(self._placed(image, Result(score, resize_map(map, shape), picture)))
        return results

    def _placed(self, image: Image, result: Result) -> Result:
        """A result of the region in the frame of the whole image: 0 around it, and the image itself."""
        if self.region is None:
            return result
        place = within(self.region, image.shape[:2])
        map = np.zeros(image.shape[:2], np.float32)
        map[place] = result.map
        picture = result.reconstruction
        if picture is not None:
            picture = image.copy()
            picture[place] = result.reconstruction
        return Result(result.score, map, picture)

    def explain(self, image: Image, box: tuple[int, int, int, int]) -> Explanation:
        """Why the place inside `box` (x, y, width, height in pixels of the image) differs; changes nothing.

        Raises:
            NotFitted: nothing is learned yet; UsageError: the box is not inside the image.
        """
        self._require_fitted("Call fit, or load a trained run")
        height, width = image.shape[:2]
        x, y, w, h = box
        if not (0 <= x < x + w <= width and 0 <= y < y + h <= height):
            problem = f"The box {box} is not inside an image of {width} x {height}"
            raise UsageError(problem, "Use a region of that image")
        if self.region is not None:
            rows, columns = within(self.region, (height, width))
            image = image[rows, columns]
            left, top = max(x, columns.start), max(y, rows.start)
            w, h = min(x + w, columns.stop) - left, min(y + h, rows.stop) - top
            x, y, (height, width) = left - columns.start, top - rows.start, image.shape[:2]
            if w <= 0 or h <= 0:
                problem = f"The box {box} is outside of the region that {self.name} looks at"
                raise UsageError(problem, "Use a place in that region")
        with torch.inference_mode():
            inside = np.array([y / height, (y + h) / height, x / width, (x + w) / width])
            filled = tuple(np.divide(self._filled(image), self._frame).tolist())
            return self._explain(image, self._tensor(image)[None].float() / 255, inside, filled)

    def save(self, path: Path) -> None:
        """Write weights (safetensors) and a manifest (JSON) into the folder `path`, which is made. Raises NotFitted."""
        self._require_fitted("Call fit before save")
        path.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self._state().items()}, path / WEIGHTS)
        (path / WEIGHTS).chmod(0o644)  # safetensors lets only its writer read, but who serves is often somebody else
        about = {"schema": SCHEMA, "detector": self.name, "arguments": self.arguments(), "frame": self._frame}
        about |= self.dependencies() | ({"region": self.region} if self.region else {})
        (path / MANIFEST).write_text(json.dumps(about, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """The detector that `save` wrote. Raises BrokenRun when files are missing, damaged or of another detector."""
        remedy = f"Train it again with `python -m anomaly train --detector {cls.name}`"
        try:
            written = json.loads((path / MANIFEST).read_text())
            if (written["schema"], written["detector"]) != (SCHEMA, cls.name):
                found = f"{written['detector']} of schema {written['schema']}"
                raise BrokenRun(f"{path} holds {found}, {cls.name} of schema {SCHEMA} was expected", remedy)
            detector = cls(**written["arguments"])
            for key, value in detector.dependencies().items():
                if written[key] != value:
                    raise BrokenRun(f"{path} was trained with another {key}: {written[key]}, now {value}", remedy)
            detector._frame = tuple(written["frame"])
            detector.region = checked_region(written["region"]) if "region" in written else None
            # Copies begin where memory is aligned, as what was just learned does: sums of matrices depend on it.
            state = {key: value.clone() for key, value in load_file(path / WEIGHTS).items()}
            detector._restore(state)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, UsageError) as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            raise BrokenRun(f"{path} holds no complete {cls.name} run ({reason})", remedy) from error
        detector._fitted = True
        return detector

    @abstractmethod
    def _fit(self, batches: Batches, progress: Progress) -> None:
        """Learn from good images."""

    @abstractmethod
    def _score(self, batch: Tensor) -> BatchScores:
        """Score a (B, 3, h, w) float batch in [0, 1]."""

    @abstractmethod
    def _explain(self, image: Image, batch: Tensor, inside: np.ndarray, filled: tuple[float, float]) -> Explanation:
        """Why a place differs.

        Args:
            batch: the image as (1, 3, h, w).
            inside: top, bottom, left and right of the place, in shares of the image.
            filled: (down, across), the share of the batch that the image fills; the rest mirrors it.
        """

    @abstractmethod
    def _state(self) -> dict[str, Tensor]:
        """Everything learned, as named tensors."""

    @abstractmethod
    def _restore(self, state: dict[str, Tensor]) -> None:
        """Take over what `_state` gave. A missing key raises KeyError."""

    def history(self) -> list[dict[str, float]]:
        """Loss curves of the last fit, a dict an epoch; empty for detectors that are not trained by descent."""
        return []

    def preview(self) -> Preview | None:
        """How the fit gets on, for whoever looks on from another thread; None of detectors that repair nothing."""
        return None

    def _require_fitted(self, remedy: str) -> None:
        if not self._fitted:
            raise NotFitted(f"This {self.name} detector has learned nothing yet", remedy)

    def _scaled(self, defects: Sequence[tuple[Image, np.ndarray | None]]) -> Defects | None:
        """Known defects at model size; without those whose mask lies outside of the region that is looked at."""
        pixels, masks = [], []
        for image, mask in defects:
            if mask is None:
                drawn = torch.zeros(1, *self._frame, dtype=torch.bool)
            elif mask.shape != _checked(image).shape[:2]:
                problem = f"A mask has {mask.shape[1]} x {mask.shape[0]} pixels, its image {image.shape[1]} x "
                raise UsageError(f"{problem}{image.shape[0]}", "Scale the mask to its image")
            else:
                painted = np.repeat(crop(mask, self.region)[..., None].astype(np.uint8) * 255, 3, axis=2)
                drawn = self._tensor(painted)[:1] >= MARKED
                if not drawn.any():
                    continue
            pixels.append(self._tensor(crop(image, self.region)))
            masks.append(drawn)
        return Defects(torch.stack(pixels), torch.stack(masks)) if pixels else None

    def _tensor(self, image: Image) -> Tensor:
        """(3, h, w) uint8 of the frame's size."""
        height, width = self._filled(_checked(image))
        scaled = stretch(image, (height, width))
        rest = ((0, self._frame[0] - height), (0, self._frame[1] - width), (0, 0))
        return torch.from_numpy(np.ascontiguousarray(np.pad(scaled, rest, mode="symmetric"))).permute(2, 0, 1)

    def _choose_frame(self, shapes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Height and width, multiples of 32, of about the area of the square, in the median proportion of images."""
        wide = float(np.sqrt(np.median([width / height for height, width in shapes])))
        square = self._square(shapes)
        return tuple(max(64, 32 * round(side / 32)) for side in (square / wide, square * wide))

    def _square(self, shapes: Sequence[tuple[int, int]]) -> float:
        """Side of the square whose area images of these heights and widths are scaled to."""
        return self.image_size

    def _filled(self, image: Image) -> tuple[int, int]:
        """Height and width that an image takes of the frame: all of it, or less to keep another proportion."""
        (height, width), (down, across) = image.shape[:2], self._frame
        proportion = (width / height) / (across / down)
        if 1 / ALIKE <= proportion <= ALIKE:
            return self._frame
        if proportion > 1:
            return max(1, round(down / proportion)), across
        return down, max(1, round(across * proportion))


def topk_mean(map: Tensor, share: float = 0.01) -> Tensor:
    """Mean of the largest `share` of a map's values: (B, h, w) -> (B,).

    One hot pixel is noise and the mean over all pixels hides a small defect; this stands between.
    """
    flat = map.flatten(1)
    return flat.topk(max(1, int(round(share * flat.shape[1]))), dim=1).values.mean(1)


def fold_slices(n: int, folds: int) -> list[slice]:
    """Consecutive runs of about equal length: neighbours, often bursts of the same part, stay in one fold."""
    edges = np.linspace(0, n, min(folds, n) + 1).round().astype(int)
    return [slice(a, b) for a, b in zip(edges, edges[1:])]


def deviations(raw: Tensor, centre: Tensor, spread: Tensor) -> Tensor:
    """Raw values in deviations above a typical good part, smoothly kept over 0: softplus of the z-score.

    Strictly increasing, so it changes no ranking; close to the z-score itself from 3 on.
    """
    return torch.nn.functional.softplus((raw - centre) / spread)


def _checked(image: object) -> Image:
    if not (isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8):
        found = f"{getattr(image, 'shape', type(image).__name__)} {getattr(image, 'dtype', '')}".strip()
        raise UsageError(f"An image is {found}, expected (H, W, 3) uint8 RGB", "Read it with images.read_image")
    return image


def _silent(stage: str, done: int, total: int) -> None:
    return None
