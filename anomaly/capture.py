"""Does a photo look as if taken like the good photos of its product: light, focus, colour, compression, crop?

A limit holds for photos like those that set it. Each measure of a new photo is held against the fences of the n good
ones (Tukey, Exploratory Data Analysis, 1977), widened to hold every one of them: one more photo of the same camera then
lies outside with a probability of at most 2 / (n + 1) a measure, whatever the distribution.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from anomaly.errors import UsageError
from anomaly.images import stretch

WORKING = 448  # side in pixels at which sharpness is measured: the detail that a detector gets to see
CLIPPED = 254  # of 255: JPEG moves a burnt-out pixel by one
BLOCK = 8  # pixels: JPEG codes squares of this side
WINDOW = 512  # pixels of the middle in which blocks are looked for: bounds time and memory
REACH = 1.5  # interquartile ranges, Tukey's inner fences; his outer ones, 3, let every blurred casting pass


@dataclass(frozen=True)
class Measure:
    """What is said of a photo under or over the fences, and the least difference that is worth a word."""

    least: float
    under: str
    over: str


MEASURES = {
    # mean grey, 0 to 255
    "brightness": Measure(
        5.0, "Darker than any training photo: check the light", "Brighter than any training photo: check the light"
    ),
    # percent of the channel values that are as bright as can be
    "clipped": Measure(
        1.0,
        "Fewer burnt-out places than in any training photo: check the light",
        "More burnt-out places than in any training photo: check the light",
    ),
    # log2 of the variance of the Laplacian; 0.5 is a fifth more or less detail
    "sharpness": Measure(
        0.5,
        "Blurred beside the training photos: check focus and motion",
        "Harsher or noisier than any training photo: check gain and sharpening",
    ),
    # log2 of the steps between 8 x 8 blocks beside those within; 0.2 is 15%
    "blocks": Measure(
        0.2,
        "Less compressed than any training photo: check camera and file format",
        "More compressed than any training photo: check the JPEG quality, and take the file as the camera made it",
    ),
    # opponent colours in percent of the light; 1 is 3% more or less of one channel
    "red_green": Measure(
        1.0,
        "Greener than any training photo: check white balance and lamp",
        "Redder than any training photo: check white balance and lamp",
    ),
    "yellow_blue": Measure(
        1.0,
        "Bluer than any training photo: check white balance and lamp",
        "Yellower than any training photo: check white balance and lamp",
    ),
    # log2 of width by height; 0.1 is 7%
    "aspect": Measure(
        0.1,
        "Narrower than any training photo: check camera and crop",
        "Wider than any training photo: check camera and crop",
    ),
    # log2 of the longest side in pixels; 0.5 is a factor of 1.4
    "size": Measure(
        0.5,
        "Fewer pixels than any training photo: check camera and crop",
        "More pixels than any training photo: check camera and crop",
    ),
}


def measure(image: np.ndarray) -> dict[str, float]:
    """The `MEASURES` of a photo, in their units.

    Sharpness is the variance of the Laplacian (Pech-Pacheco et al., ICPR 2000) of the green channel, which carries most
    of the light, scaled to a square of 448 pixels, so that it does not depend on the photo's size. Colours are ratios,
    so that they do not depend on the light.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    height, width = image.shape[:2]
    # by rows first: 30 times as fast as over both axes at once
    red, green, blue = (float(total) / (height * width) for total in image.sum(0, dtype=np.uint32).sum(0))
    light = red + green + blue + 1  # of a black photo, too
    seen = stretch(image[:, :, 1], (WORKING, WORKING)).astype(np.float32)
    laplacian = seen[:-2, 1:-1] + seen[2:, 1:-1] + seen[1:-1, :-2] + seen[1:-1, 2:] - 4 * seen[1:-1, 1:-1]
    return {
        "brightness": (red + green + blue) / 3,
        "clipped": 100 * np.count_nonzero(image >= CLIPPED) / image.size,
        "sharpness": math.log2(float(laplacian.var()) + 0.01),  # 0.01: far under the noise of any camera
        "blocks": _blocks(image),
        "red_green": 100 * (red - green) / light,
        "yellow_blue": 100 * ((red + green) / 2 - blue) / light,
        "aspect": math.log2(width / height),
        "size": math.log2(max(width, height)),
    }


def _blocks(image: np.ndarray) -> float:
    """How much more neighbouring pixels differ across the borders of JPEG's blocks (after Wang et al., ICIP 2000)."""
    top, left = (max(0, (side - WINDOW) // 2) // BLOCK * BLOCK for side in image.shape[:2])
    green = image[top : top + WINDOW, left : left + WINDOW, 1].astype(np.int16)
    steps = [np.abs(np.diff(turned, axis=1)).mean(0) for turned in (green, green.T)]
    across = np.concatenate([step[BLOCK - 1 :: BLOCK] for step in steps])
    within = np.concatenate([np.delete(step, np.s_[BLOCK - 1 :: BLOCK]) for step in steps])
    # 0.1 of a grey level: where next to nothing differs, a ratio says nothing
    return math.log2((across.mean() + 0.1) / (within.mean() + 0.1)) if across.size else 0.0


@dataclass(frozen=True)
class Profile:
    """How the good photos of a product were taken.

    Attributes:
        photos: how many there were.
        summaries: for each measure lowest, first quartile, median, third quartile, highest.
    """

    photos: int
    summaries: dict[str, tuple[float, ...]]

    @classmethod
    def of(cls, images: Iterable[np.ndarray]) -> Profile:
        """Measure good photos, (H, W, 3) uint8 RGB each. Raises UsageError when there are none."""
        found = [measure(image) for image in images]
        if not found:
            raise UsageError("No photos were given to learn from how they were taken", "Add good photos")
        summaries = {
            name: tuple(np.percentile([one[name] for one in found], (0, 25, 50, 75, 100)).tolist()) for name in MEASURES
        }
        return cls(len(found), summaries)

    @classmethod
    def from_json(cls, content: dict) -> Profile:
        """The profile that `to_json` wrote; measures that it does not hold are not checked."""
        return cls(content["photos"], {name: tuple(content[name]) for name in MEASURES if name in content})

    def to_json(self) -> dict:
        return {"photos": self.photos, **{name: list(values) for name, values in self.summaries.items()}}

    def fences(self, name: str) -> tuple[float, float]:
        """Lowest and highest value of a measure that passes.

        They lie 1.5 interquartile ranges under the first and over the third quartile, and at least the difference that
        is worth a word, so that photos of a studio, all alike, do not make the check shrill.
        """
        lowest, first, _, third, highest = self.summaries[name]
        reach = max(REACH * (third - first), MEASURES[name].least)
        return min(first - reach, lowest), max(third + reach, highest)

    def objections(self, image: np.ndarray) -> tuple[str, ...]:
        """One plain sentence for each measure that lies outside of its fences; none when the photo is like the others.

        Args:
            image: (H, W, 3) uint8 RGB.
        """
        said = []
        for name, value in measure(image).items():
            if name in self.summaries:
                low, high = self.fences(name)
                said += [MEASURES[name].under] if value < low else [MEASURES[name].over] if value > high else []
        return tuple(said)
