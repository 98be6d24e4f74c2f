"""Photos of a batch, wherever they come from: files, folders, ZIPs; one after the other, each with its product."""

from __future__ import annotations

import shutil
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from anomaly import archives, report
from anomaly.errors import AnomalyError, ArchiveError, DatasetError, ImageError, WrongProduct
from anomaly.images import SUFFIXES, list_images, natural_key
from anomaly.inspection import AUTO, Inspection, Inspector

BY_FOLDER = "by-folder"  # the product of each photo is the name of a folder around it


@dataclass(frozen=True)
class Photo:
    """One photo of a batch.

    Attributes:
        given: the file, folder or ZIP that was named; name: where it lies in the folder of `given`, "/" between parts.
        path: where its content lies now; None when there is none, and then `error` says why.
    """

    given: Path
    name: str
    path: Path | None
    error: AnomalyError | None = None


def gather(paths: list[Path], scratch: Path, *, deep: bool = False) -> tuple[int, Iterator[Photo]]:
    """The photos of files, folders and ZIPs: how many there are at most, and one after the other.

    A photo of a ZIP is unpacked into `scratch` when its turn comes, and deleted when the next one's does.

    Args:
        deep: look into the folders of folders, too.

    Raises:
        ArchiveError: a ZIP that is not one, or too much; DatasetError: a folder without images.
    """
    sources = []
    for path in paths:
        packed = archives.is_archive(path)
        sources.append((path, packed, archives.contents(path) if packed else files(path, deep=deep)))
    total = sum(len(inside) for _, _, inside in sources)

    def photos() -> Iterator[Photo]:
        for number, (path, packed, inside) in enumerate(sources):
            if packed:
                yield from _unpacked(path, scratch / str(number))
            else:
                yield from (Photo(path, file.relative_to(path.parent).as_posix(), file) for file in inside)

    return total, photos()


def files(path: Path, *, deep: bool = False) -> list[Path]:
    """A file itself, or the photos of a folder, with those of its folders if `deep`.

    Raises:
        DatasetError: a folder without images.
    """
    if not path.is_dir():
        return [path]  # a file that is not there is told by its reader
    inside = [one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file()] if deep else []
    found = sorted(inside, key=natural_key) if deep else list_images(path)
    if not found:
        raise DatasetError(f"{path} holds no images", "Name a folder that has photos directly in it")
    return found


def _unpacked(archive: Path, scratch: Path) -> Iterator[Photo]:
    try:
        for one in archives.unpack(archive, scratch):
            yield Photo(archive, f"{archive.name}/{one.name}", one.path, one.error)
            if one.path:
                shutil.rmtree(one.path.parent, ignore_errors=True)
    except ArchiveError as error:
        yield Photo(archive, archive.name, None, error)


def judge(
    inspector: Inspector, photo: Photo, category: str, detector: str | None, *, known: Container[str], name: str
) -> tuple[dict, Inspection | None]:
    """The row of `inspect --json` for one photo, and its inspection.

    Args:
        category: AUTO takes the product that the photo shows, BY_FOLDER the innermost folder of `name` that is one of
            the `known` categories.
        name: what the row calls the photo.

    Raises:
        AnomalyError: the photo cannot be judged.
    """
    if photo.path is None:
        raise photo.error
    if category == BY_FOLDER:
        folders = PurePosixPath(name).parts[-2::-1]
        found = next((folder for folder in folders if folder in known), None)
        if found is None:
            raise ImageError(f"{name} lies in no folder named as a product", "Name its folder as the product")
        category = found
    inspection = inspector.inspect(photo.path, category=category, detector=detector)
    return inspection.to_json() | {"path": name}, inspection


def refused(error: AnomalyError, photo: Photo, category: str, detector: str | None, *, name: str) -> dict:
    """The row of a photo that was not judged; it says `name` and not where this machine keeps the photo."""
    if isinstance(error, WrongProduct):
        return report.refused(name, detector, error)
    said = str(error).replace(str(photo.path), name) if photo.path else str(error)
    return report.unjudged(name, None if category in (AUTO, BY_FOLDER) else category, detector, said)
