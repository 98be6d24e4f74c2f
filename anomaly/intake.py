"""Photos that are to teach a product, looked through before anything is learned from them.

Nothing is thrown away here: each photo that a person should look at carries the reasons, and the person decides. A
photo is held against the others of its set. How it was taken: the measures of `capture`, outside of Tukey's outer
fences (Exploratory Data Analysis, 1977). What it shows: the mean distance to its three nearest neighbours in features
of the backbone, far over the usual one. The fences come from quartiles, which a few bad photos do not move.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from anomaly import archives, backbones
from anomaly.capture import MEASURES, measure
from anomaly.errors import AnomalyError, ImageError
from anomaly.images import Box, crop, encode_jpeg, read_image, shrink, stretch

FEWEST, MOST = 10, 500  # good photos that a product is taught with
THUMBNAIL = 132  # longest side in pixels
COARSE = 64  # side in pixels at which photos are compared with each other
NEAR = 2.0  # grey levels between two photos of one part; of different castings, screws or tiles it was 3.3 and more
NEARLY = 0.2  # of the usual difference: where plain parts hardly differ, two grey levels say nothing
REACH = 3.0  # interquartile ranges, Tukey's outer fences: a false word costs a click
STRANGE = 4.0  # interquartile ranges; good photos of ten products reached 3.1, other products 6.7 and more
SEEN = 224  # side in pixels at which the backbone looks at a photo
NEIGHBOURS = 3
WORDS = {  # of a measure under and over the fences
    "brightness": ("Darker than the others", "Brighter than the others"),
    "clipped": ("Fewer burnt-out places than the others", "More burnt-out places than the others"),
    "sharpness": ("Blurred beside the others", "Harsher or noisier than the others"),
    "blocks": ("Less compressed than the others", "More compressed than the others"),
    "red_green": ("Greener than the others", "Redder than the others"),
    "yellow_blue": ("Bluer than the others", "Yellower than the others"),
    "aspect": ("Narrower than the others", "Wider than the others"),
    "size": ("Fewer pixels than the others", "More pixels than the others"),
}
UNLIKE = "Shows something else than the others: another part, a defect, or a thing in the way"


@dataclass(frozen=True)
class Photo:
    """One file that was looked at.

    Attributes:
        name: as the person knows it.
        path: None of a file that could not be unpacked.
        thumbnail: JPEG, empty of a file that is no readable photo.
        reasons: why a person should look at it, a sentence each; none of an ordinary one.
        readable: an unreadable file cannot be kept.
        digest: sha256 of the file.
        measures, coarse, features: what it is compared by: values of `capture`, (64, 64) grey, (C,) of the backbone.
    """

    name: str
    path: Path | None
    thumbnail: bytes = b""
    reasons: tuple[str, ...] = ()
    readable: bool = True
    digest: str = ""
    measures: dict[str, float] = field(default_factory=dict)
    coarse: np.ndarray | None = None
    features: np.ndarray | None = None


def gather(paths: Iterable[Path], folder: Path) -> Iterator[tuple[str, Path | None, AnomalyError | None]]:
    """(name, file, what is wrong with it) of each file given, those inside of ZIPs unpacked into `folder`.

    Raises:
        ArchiveError: a ZIP that is refused as a whole.
    """
    for number, path in enumerate(paths):
        if archives.is_archive(path):
            for found in archives.unpack(path, folder / f"{number:03d}"):
                yield found.name, found.path, found.error
        else:
            yield path.name, path, None


def look(name: str, path: Path | None, error: AnomalyError | None = None, *, region: Box | None = None) -> Photo:
    """Measure one file inside of the region of interest; an unreadable one says why."""
    try:
        if error:
            raise error
        image = read_image(path)
    except AnomalyError as error:
        said = str(error).replace(str(path), name)
        return Photo(name, path if isinstance(error, ImageError) else None, reasons=(said,), readable=False)
    part = crop(image, region)
    seen = torch.from_numpy(np.ascontiguousarray(stretch(part, (SEEN, SEEN)))).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        features = torch.cat([stage.mean((2, 3)) for stage in backbones.load()(seen)[-2:]], 1)[0].numpy()
    grey = stretch(part, (COARSE, COARSE)).mean(2, dtype=np.float32)
    return Photo(
        name=name,
        path=path,
        thumbnail=encode_jpeg(shrink(image, THUMBNAIL)),
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        measures=measure(part),
        coarse=grey - grey.mean(),  # another exposure of the same part is the same part
        features=features,
    )


def judge(photos: Sequence[Photo], known: Sequence[Photo] = ()) -> list[Photo]:
    """The photos with the reasons why a person should look at them.

    Args:
        known: photos that the product was taught with earlier, which they are held against as well.
    """
    readable = [photo for photo in [*known, *photos] if photo.readable]
    if not readable:
        return list(photos)
    said = {id(photo): (*twin, *odd) for photo, twin, odd in zip(readable, _twins(readable), _oddities(readable))}
    return [replace(photo, reasons=said[id(photo)]) if photo.readable else photo for photo in photos]


def _twins(photos: Sequence[Photo]) -> list[tuple[str, ...]]:
    """Of each photo, which earlier one it repeats."""
    first: dict[str, str] = {}
    flat = np.stack([photo.coarse.ravel() for photo in photos])
    squares = np.square(flat).mean(1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * flat @ flat.T / flat.shape[1], 0))
    usual = np.median(apart[np.triu_indices(len(photos), 1)]) if len(photos) > 1 else 0.0
    said = []
    for i, photo in enumerate(photos):
        if photo.digest in first:
            said.append((f"The same file as {first[photo.digest]}",))
            continue
        first[photo.digest] = photo.name
        nearest = int(apart[i, :i].argmin()) if i else 0
        near = i and apart[i, nearest] < min(NEAR, NEARLY * usual)
        said.append((f"Nearly the same photo as {photos[nearest].name}",) if near else ())
    return said


def _oddities(photos: Sequence[Photo]) -> list[tuple[str, ...]]:
    """Of each photo, how it differs from most of them in the way it was taken and in what it shows."""
    said: list[list[str]] = [[] for _ in photos]
    for name, (under, over) in WORDS.items():
        values = np.array([photo.measures[name] for photo in photos])
        first, third = np.percentile(values, (25, 75))
        reach = max(REACH * (third - first), MEASURES[name].least)
        for reasons, value in zip(said, values):
            reasons += [under] if value < first - reach else [over] if value > third + reach else []
    if len(photos) > 2 * NEIGHBOURS:
        features = np.stack([photo.features for photo in photos])
        deviation = features.std(0)
        scaled = (features - features.mean(0)) / (deviation + 1e-2 * deviation.mean() + 1e-9)
        apart = np.stack([np.square(scaled - one).mean(1) for one in scaled])
        np.fill_diagonal(apart, np.inf)
        nearest = np.sqrt(np.sort(apart, 1)[:, :NEIGHBOURS]).mean(1)
        first, third = np.percentile(nearest, (25, 75))
        for reasons, distance in zip(said, nearest):
            reasons += [UNLIKE] if distance > third + STRANGE * (third - first) + 1e-6 else []
    return [tuple(reasons) for reasons in said]
