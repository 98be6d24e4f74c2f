"""Folders of images: which categories, which images are good, which go into which part of a split.

Layout (MVTec AD, Bergmann et al., CVPR 2019): `<root>/<category>/train/good`, `test/<type>`, and
`ground_truth/<type>/<stem>_mask.png`; where there are any, `train/<type>` and `validation/<type>`, defects that may be
known before the test, with masks in `ground_truth/train/<type>` and `ground_truth/validation/<type>`. Or that of DAGM
2007 (Wieler & Hahn): `<category>/Train` and `Test`, in each of them `Label/Labels.txt` and `Label/<stem>_label.PNG`;
the defective images of `Train` are known. Or a bare folder of good images `<root>/<category>`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from anomaly.errors import DatasetError, TooFewImages, UsageError
from anomaly.images import SUFFIXES, list_images, natural_key, read_image

GOOD = "good"
KNOWN = ("train", "validation")  # folders whose defects may be known before the test
LABELS = "Label"  # in Train and Test of DAGM
ALIKE = 1.02  # proportions of an image and its mask: more apart, one of them is not of the other
WANTED_GROUPS = 20  # enough that a fifth of the groups is more than an accident of two or three of them
BURST = 10  # photos of one part follow each other at least this many times as closely as one part the other


@dataclass(frozen=True)
class Sample:
    """A test image. `kind` is "good" or the defect type; `mask` is the file of the defect mask, if there is one."""

    path: Path
    kind: str
    mask: Path | None = None

    @property
    def label(self) -> int:
        """0 = good, 1 = defective."""
        return int(self.kind != GOOD)


@dataclass(frozen=True)
class Split:
    """Good images to learn from, and good images held out to set the threshold; both in natural order."""

    train: tuple[Path, ...]
    held_out: tuple[Path, ...]


class LazyImages(Sequence):
    """Images decoded when they are indexed: a thousand photos never lie in memory together.

    `LazyImages(paths)[i]` is (H, W, 3) uint8 RGB; a slice is again a LazyImages. Raises as `images.read_image`.
    """

    def __init__(self, paths: Iterable[Path]):
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return LazyImages(self.paths[index])
        return read_image(self.paths[index])


class LabelledImages(Sequence):
    """Defective images decoded when they are indexed: `LabelledImages(samples)[i]` is (image, mask).

    The image is (H, W, 3) uint8 RGB. The mask is (H, W) bool, True = defect, or None where there is none, or where it
    marks nothing: then it is known only that there is a defect.

    Raises:
        DatasetError: a mask of another proportion than its image; and as `images.read_image`.
    """

    def __init__(self, samples: Iterable[Sample]):
        self.samples = tuple(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        sample = self.samples[index]
        image = read_image(sample.path)
        if sample.mask is None:
            return image, None
        _check_mask(sample.mask, image)
        mask = read_mask(sample.mask, image.shape[:2])
        return image, mask if mask.any() else None


def categories(root: str | os.PathLike) -> list[str]:
    """The categories under a folder, in natural order; or the folder's own name if it is itself one category.

    Raises:
        DatasetError: the folder is missing, or neither it nor a folder in it holds good images.
    """
    root = _existing(root)
    if _is_dagm(root):
        return [root.resolve().name]
    names = [folder.name for folder in _folders(root) if _is_dagm(folder) or _good_folder(folder)]
    if names:
        return names
    if _good_folder(root):
        return [root.resolve().name]
    raise DatasetError(
        f"no category was found in {root}: neither <category>/train/good nor a folder of images",
        "Put the photos of good parts into a folder named as the product",
    )


def category_folder(root: str | os.PathLike, category: str) -> Path:
    """The folder of a category: `root/category`, or `root` itself when that is its name.

    Raises:
        DatasetError: there is no such folder, or the name is not that of a folder in `root`.
    """
    root = _existing(root)
    if category in ("", ".", "..") or Path(category).name != category:
        raise DatasetError(f"{category!r} is not the name of a category", "Name a folder inside of the data folder")
    if (root / category).is_dir():
        return root / category
    if root.resolve().name == category:
        return root
    known = ", ".join(folder.name for folder in _folders(root)[:12]) or "no folders"
    raise DatasetError(f"{root} has no category {category!r}; it holds {known}", "Name one of these")


def good_images(root: str | os.PathLike, category: str) -> list[Path]:
    """The photos of good parts to learn from, in natural order.

    Raises:
        DatasetError: there are none.
    """
    folder = category_folder(root, category)
    if _is_dagm(folder):
        return [sample.path for sample in _dagm(folder / "Train") if not sample.label]
    good = _good_folder(folder)
    if good is None:
        raise DatasetError(
            f"no good images for {category!r}: neither {folder / 'train' / GOOD} nor {folder} holds image files",
            f"Put photos of good parts into one of them ({', '.join(SUFFIXES)})",
        )
    return list_images(good)


def test_samples(root: str | os.PathLike, category: str) -> list[Sample]:
    """The test images of a category, good ones first, then each defect type; empty without a `test` folder.

    Raises:
        DatasetError: an image without a label, or a mask that belongs to no image.
    """
    folder = category_folder(root, category)
    if _is_dagm(folder):
        return sorted(_dagm(folder / "Test"), key=lambda sample: sample.label) if (folder / "Test").is_dir() else []
    if not (folder / "test").is_dir():
        return []
    kinds = sorted(_folders(_labels_only(folder / "test")), key=lambda kind: (kind.name != GOOD, natural_key(kind)))
    return [sample for kind in kinds for sample in _samples(kind, folder / "ground_truth" / kind.name)]


def known_defects(root: str | os.PathLike, category: str) -> list[Sample]:
    """Defective parts that may be known before the test, of `train/<type>` and `validation/<type>`; often none.

    Raises:
        DatasetError: an image without a label, or a mask that belongs to no image.
    """
    folder = category_folder(root, category)
    if _is_dagm(folder):
        return [sample for sample in _dagm(folder / "Train") if sample.label]
    samples = []
    for part in KNOWN:
        kinds = _folders(_labels_only(folder / part)) if (folder / part).is_dir() else []
        for kind in (kind for kind in kinds if kind.name != GOOD):
            samples += _samples(kind, folder / "ground_truth" / part / kind.name)
    return samples


def check_masks(samples: Iterable[Sample]) -> None:
    """Raises DatasetError where a mask has another proportion than its image: before an hour of training, not after."""
    for sample in samples:
        if sample.mask:
            _check_mask(sample.mask, read_image(sample.path))


def _check_mask(mask: Path, image: np.ndarray) -> None:
    (height, width), (down, across) = image.shape[:2], read_image(mask).shape[:2]
    if not 1 / ALIKE <= (width / height) / (across / down) <= ALIKE:
        problem = f"The mask {mask} has {across} x {down} pixels, its image {width} x {height}"
        raise DatasetError(problem, "Put the mask of this image there, or delete it: masks may be missing")


def labelled(root: str | os.PathLike) -> list[Sample]:
    """Photos of known classes, to be told apart: a folder of photos for each class, named as it.

    Of products in MVTec AD layout the classes are `<product>/good` and `<product>/<defect type>`.

    Raises:
        DatasetError: there are none, a folder of a class is empty, or photos lie where they have no class.
    """
    root = _existing(root)
    found = []
    for folder in [root] if (root / "test").is_dir() else _folders(_labels_only(root)):
        sides = [folder / side for side in ("train", "validation", "test") if (folder / side).is_dir()]
        name = folder.resolve().name
        kinds = [(f"{name}/{kind.name}", kind) for side in sides for kind in _folders(_labels_only(side))]
        for kind, place in kinds or [(name, folder)]:
            photos = list_images(place)
            if not photos:
                raise DatasetError(f"{place} holds no photos of its class", "Add some, or take the folder away")
            found += [Sample(path, kind) for path in photos]
    if not found:
        raise DatasetError(f"{root} holds no labelled photos", "Put the photos of each class into a folder of its name")
    return found


def _labels_only(folder: Path) -> Path:
    """The folder, unless photos lie in it beside those of the classes."""
    if loose := list_images(folder):
        problem = f"{len(loose)} photos lie directly in {folder}, so that nobody knows their class"
        raise DatasetError(problem, "Put each into a folder named as its class, or move them away")
    return folder


def split_good(paths: Iterable[Path], *, held_out: float = 0.2, seed: int = 0) -> Split:
    """Hold out a part of the good images by group, so that photos of one part never lie on both sides.

    A held-out score of a part whose other photos were learned is too low, and the threshold set on it too tight.

    Args:
        paths: good images; their order does not matter.
        held_out: fraction to hold out, in (0, 1); met as closely as whole groups allow.
        seed: chooses the groups.

    Raises:
        TooFewImages: fewer than 2 images.
        UsageError: `held_out` outside (0, 1).
    """
    paths = sorted(paths, key=natural_key)
    if len(paths) < 2:
        problem = f"{len(paths)} good images were found, at least 2 are needed to hold one out"
        raise TooFewImages(problem, "Add photos of good parts")
    if not 0 < held_out < 1:
        raise UsageError(f"the held-out fraction is {held_out}, a number between 0 and 1 was expected", "Use 0.2")
    chosen = _draw(group_by_number(paths), held_out, np.random.default_rng(seed))
    return Split(
        train=tuple(path for path in paths if path not in chosen),
        held_out=tuple(path for path in paths if path in chosen),
    )


def split_labelled(
    samples: Iterable[Sample], *, share: float = 0.5, seed: int = 0
) -> tuple[list[Sample], list[Sample]]:
    """Part labelled images in two: each kind by itself, by the groups of `split_good`.

    So a threshold is chosen on one half of the test images and judged on the other, or a detector learns from most of
    the known defects and keeps the rest. The first part holds about `share` of them; a kind with a single image goes
    to the part that has too little so far.
    """
    samples = sorted(samples, key=lambda sample: natural_key(sample.path))
    kinds = defaultdict(list)
    for sample in samples:
        kinds[sample.kind].append(sample.path)
    rng = np.random.default_rng(seed)
    calibration: set[Path] = set()
    seen = 0
    for kind in sorted(kinds):
        paths = kinds[kind]
        if len(paths) > 1:
            calibration |= _draw(group_by_number(paths), share, rng)
        elif len(calibration) <= share * seen:
            calibration |= set(paths)
        seen += len(paths)
    return (
        [sample for sample in samples if sample.path in calibration],
        [sample for sample in samples if sample.path not in calibration],
    )


def group_by_number(paths: Iterable[Path]) -> list[tuple[Path, ...]]:
    """Groups of files that may show one and the same part: runs of neighbouring file numbers.

    The number is the last one in the stem (`exp1_num_108719`, `cast_ok_0_8738`, `normal-21`, `020`), whatever stands
    before it: one magnet tile under three exposures is `exp1_num_314979`, `exp2_num_315006`, `exp3_num_315037`. Files
    belong together when number // block is equal, with the largest block of 1, 2, 5, 10, 20, 50 … that leaves 20
    groups, else 1. A border that would cut such a burst moves to the widest gap within half a block.
    Files without a number are counted by their natural order among themselves; so are all files when the same number
    stands on more than six of them on average, since it then counts cameras or seconds and not parts.
    """
    paths = sorted(paths, key=natural_key)
    matches = [re.search(r"(\d+)\D*$", path.stem) for path in paths]
    numbers = [int(match[1]) if match else None for match in matches]
    if len(set(numbers)) < 2 or 6 * len(set(numbers)) < len(paths):
        numbers = [None] * len(paths)
    unnumbered = iter(range(len(paths)))
    keys = [(0, next(unnumbered)) if number is None else (1, number) for number in numbers]
    distinct = sorted(set(keys))
    ends = _ends(distinct, _block(keys))
    group_of = dict(zip(distinct, accumulate((i in ends for i in range(len(distinct))), initial=0)))
    groups = defaultdict(list)
    for path, key in zip(paths, keys, strict=True):
        groups[group_of[key]].append(path)
    return [tuple(groups[place]) for place in sorted(groups)]


def group_labels(paths: Sequence[Path]) -> list[int]:
    """The number, from 0 on, of the group of `group_by_number` that each file is in."""
    label_of = {path: label for label, group in enumerate(group_by_number(paths)) for path in group}
    return [label_of[path] for path in paths]


def _ends(keys: list[tuple[int, int]], block: int) -> set[int]:
    """Places in ascending distinct keys after which a group ends."""
    pairs = list(zip(keys, keys[1:]))

    def gap(place: int) -> int:
        return pairs[place][1][1] - pairs[place][0][1]

    ends = set()
    for place, ((numbered, low), (also, high)) in enumerate(pairs):
        if numbered != also:
            ends.add(place)
        elif low // block != high // block:
            border = high // block * block
            widest = max((place, *_near(pairs, place, border, block)), key=gap)
            ends.add(widest if gap(widest) >= BURST * gap(place) else place)
    return ends


def _near(pairs: list[tuple], place: int, border: int, block: int) -> Iterator[int]:
    """Places whose gap begins within half a block of the border, on either side of `place`."""
    for step in (-1, 1):
        other = place + step
        while 0 <= other < len(pairs) and pairs[other][0][0] == pairs[other][1][0] == pairs[place][0][0]:
            nearest = pairs[other][0 if step > 0 else 1][1]
            if 2 * abs(nearest - border) > block:
                break
            yield other
            other += step


def _block(keys: list[tuple[int, int]]) -> int:
    best, step = 1, 1
    while step <= max((number for _, number in keys), default=0):
        for block in (step, 2 * step, 5 * step):
            if len({(numbered, number // block) for numbered, number in keys}) >= WANTED_GROUPS:
                best = block
        step *= 10
    return best


def _draw(groups: list[tuple[Path, ...]], fraction: float, rng: np.random.Generator) -> set[Path]:
    """Whole groups in random order while they bring the total nearer to the fraction; never none, never all."""
    wanted = fraction * sum(map(len, groups))
    chosen: list[int] = []
    count = 0
    for i in rng.permutation(len(groups)):
        nearer = abs(count + len(groups[i]) - wanted) < abs(count - wanted)
        if nearer and len(chosen) < len(groups) - 1:
            chosen.append(int(i))
            count += len(groups[i])
    if not chosen:
        chosen = [min(range(len(groups)), key=lambda i: len(groups[i]))]
    return {path for i in chosen for path in groups[i]}


def read_mask(path: str | os.PathLike, shape: tuple[int, int]) -> np.ndarray:
    """A defect mask in the frame of its image.

    Args:
        path: a gray or colour image: 0 and 255, or small class numbers (0 = good).
        shape: (H, W) of the image in pixels; a mask of another size is scaled by nearest neighbour.

    Returns:
        (H, W) bool, True = defect.
    """
    mask = read_image(path).max(axis=2)
    # Class numbers start at 1; in a 0/255 mask the low values are traces of JPEG or of a scaled edge.
    mask = mask > (127 if mask.max() > 127 else 0)
    rows, columns = (
        np.minimum(((np.arange(wanted) + 0.5) * found / wanted).astype(int), found - 1)
        for wanted, found in zip(shape, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]


def fingerprint(paths: Iterable[Path]) -> str:
    """sha256 over the sorted (name, size, sha256 of the content) of files: the identity of a data set.

    The same files give the same value in any order and in any folder.
    """
    entries = []
    for path in map(Path, paths):
        content = path.read_bytes()
        entries.append(f"{path.name}\0{len(content)}\0{hashlib.sha256(content).hexdigest()}\n")
    return hashlib.sha256("".join(sorted(entries)).encode()).hexdigest()


def _existing(root: str | os.PathLike) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"the data folder {root} does not exist", "Check the path")
    return root


def _folders(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")), key=natural_key)


def _good_folder(folder: Path) -> Path | None:
    for candidate in (folder / "train" / GOOD, folder):
        if candidate.is_dir() and list_images(candidate):
            return candidate
    return None


def _is_dagm(folder: Path) -> bool:
    return (folder / "Train" / LABELS).is_dir()


def _dagm(folder: Path) -> list[Sample]:
    """The images of `Train` or `Test`, in natural order. Labels.txt has a line for each: number, label, file, 0, mask.

    Raises:
        DatasetError: an image that is not in Labels.txt, or none at all: it is not known whether it is good.
    """
    remedy = "Restore it from the data set: it says which images are good"
    labels = folder / LABELS / "Labels.txt"
    if not labels.is_file():
        raise DatasetError(f"{labels} is missing", remedy)
    told = {}
    for line in labels.read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if len(fields) == 5 and fields[1] in ("0", "1"):
            told[fields[2].lower()] = fields
    samples = []
    for path in list_images(folder):
        if path.name.lower() not in told:
            raise DatasetError(f"{labels} says nothing of {path.name}", remedy)
        _, label, _, _, name = told[path.name.lower()]
        mask = folder / LABELS / name
        samples.append(Sample(path, "defect" if label == "1" else GOOD, mask if mask.is_file() else None))
    return samples


def _samples(kind: Path, truth: Path) -> list[Sample]:
    """The images of a folder that is named as their type, with their masks in the folder `truth`, if there are any."""
    masks = {path.stem: path for path in list_images(truth)} if kind.name != GOOD and truth.is_dir() else {}
    samples = []
    for path in list_images(kind):
        mask = masks.pop(f"{path.stem}_mask", None) or masks.pop(path.stem, None)
        samples.append(Sample(path, kind.name, mask))
    if masks:
        problem = f"The mask {next(iter(masks.values()))} belongs to no image of {kind}"
        raise DatasetError(problem, "Name it as its image, with _mask.png at the end, or delete it")
    return samples
