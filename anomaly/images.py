"""Image files to arrays and back: safe decoding, resizing, listing.

An image is (H, W, 3) uint8 RGB, range 0..255, in the frame of the upright photo (EXIF rotation already applied).
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from anomaly.errors import DatasetError, EmptyFile, ImageError, ImageTooLarge, NotAnImage, TruncatedImage, UsageError

SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MAX_PIXELS = 50_000_000
Box = tuple[float, float, float, float]  # x, y, width, height of a place, in shares of the image
SMALLEST_REGION = 0.05  # of a side: less is a slip of the mouse

_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
_SIGNATURES = re.compile(rb"\xff\xd8\xff|\x89PNG|BM|II[*+]\0|MM\0[*+]|RIFF....WEBP", re.DOTALL)
_ORIENTATION_TAG = 0x0112
# EXIF 2.3, table 6: what brings a photo stored with this orientation upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Decode an image file.

    JPEG, PNG, BMP, TIFF and WebP are read by content, whatever the suffix says, as follows:

    - EXIF rotation is applied; of several frames or pages the first is read.
    - Transparency is laid over white, the usual ground of cut-out product photos.
    - 16-bit gray becomes 8-bit by a shift of 8 bits; of 4 bits when no pixel is over 4095, since most "16-bit" cameras
      store 12 bits. 16-bit colour is shifted by 8.
    - CMYK is converted without a colour profile.
    - Floating-point images are refused: they have no fixed range, and a range taken from each image would give
      one and the same part another brightness each time.

    Returns:
        (H, W, 3) uint8 RGB, 0..255, writable, upright.

    Raises:
        ImageError: the path is missing, not a regular file, or may not be read.
        EmptyFile, NotAnImage, TruncatedImage: nothing in it, no image in it, or only a part of one.
        ImageTooLarge: more than `MAX_PIXELS`; known from the header, before any pixel is decoded.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise ImageError(f"{path} is a folder, an image file was expected", "Name one of the image files in it")
    if not os.path.isfile(path):  # unlike Path.is_file, it answers to a name that is too long, too
        raise ImageError(f"{path} does not exist or is not a regular file", "Check the path")
    try:
        with path.open("rb") as stream:
            return _decode(stream, str(path))
    except PermissionError as error:
        raise ImageError(f"{path} may not be read by this user", "Give this user read permission") from error


def decode_image(data: bytes, *, name: str) -> np.ndarray:
    """Decode an image from memory; see `read_image`.

    Args:
        data: the content of an image file.
        name: what to call it in an error.

    Returns:
        (H, W, 3) uint8 RGB, 0..255, writable, upright.
    """
    return _decode(io.BytesIO(data), name)


def _decode(stream: BinaryIO, name: str) -> np.ndarray:
    head = stream.read(12)
    stream.seek(0)
    if not head:
        raise EmptyFile(f"{name} is empty, an image was expected", "Take or export the photo again")
    if not _SIGNATURES.match(head):
        raise NotAnImage(f"{name} is not a JPEG, PNG, BMP, TIFF or WebP image", "Convert it to PNG or JPEG")
    try:
        with warnings.catch_warnings():
            # Our own size check is stricter than pillow's warning, and oddities of metadata do not touch the pixels.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            image = Image.open(stream, formats=_FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(name, f"{image.width} x {image.height} pixels")
            image.load()
            return np.array(_to_rgb(_upright(image), name))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, "far too many pixels") from error
    except MemoryError as error:
        raise ImageTooLarge(f"{name} does not fit into memory", "Reduce its size") from error
    except Exception as error:  # the parsers meet hostile bytes with a dozen types of exception
        problem = f"{name} is truncated, damaged or of an unusual kind, a complete 8-bit or 16-bit image was expected"
        raise TruncatedImage(problem, "Copy the file again, or export it as PNG") from error


def _too_large(name: str, found: str) -> ImageTooLarge:
    return ImageTooLarge(
        f"{name} has {found}, at most {MAX_PIXELS // 1_000_000} million are read", "Crop the photo or reduce its size"
    )


def _upright(image: Image.Image) -> Image.Image:
    operation = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG))
    return image if operation is None else image.transpose(operation)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode == "LAB":
        kind = "floating-point" if image.mode == "F" else "Lab colour"
        raise NotAnImage(f"{name} is a {kind} image, 8 or 16 bits of gray or RGB were expected", "Export it as PNG")
    if image.mode.startswith("I"):
        image = _gray_from_16_bit(np.asarray(image), name)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _gray_from_16_bit(gray: np.ndarray, name: str) -> Image.Image:
    low, high = int(gray.min()), int(gray.max())
    if low < 0 or high > 65535:
        problem = f"{name} has gray values from {low} to {high}, 0 to 65535 were expected"
        raise NotAnImage(problem, "Export it as 8-bit or 16-bit PNG")
    return Image.fromarray((gray >> (4 if high <= 4095 else 8)).astype(np.uint8))


def shrink(image: np.ndarray, longest: int) -> np.ndarray:
    """Scale an image down until no side is over `longest` pixels; the aspect ratio is kept.

    Args:
        image: (H, W, 3) uint8 RGB.
        longest: pixels.

    Returns:
        (h, w, 3) uint8 RGB with max(h, w) <= longest; the argument itself if it is small enough.
    """
    height, width = image.shape[:2]
    ratio = min(1.0, longest / max(height, width))
    return stretch(image, (max(1, round(height * ratio)), max(1, round(width * ratio))))


def stretch(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Scale an image to (height, width) = `shape` in pixels, antialiased; the argument itself if it fits already."""
    height, width = shape
    if image.shape[:2] == (height, width):
        return image
    # reducing_gap: a cheap box filter first, down to twice the target, then the exact filter; a third faster.
    scaled = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.array(scaled)


def checked_region(region: Sequence[float]) -> Box | None:
    """A region of interest as a tuple, None when it is all of the image.

    Raises:
        UsageError: it does not lie inside of the image, or is tiny.
    """
    remedy = f"Give x, y, width and height in shares of the image, each side {SMALLEST_REGION:g} or more"
    try:
        x, y, width, height = (round(float(share), 4) for share in region)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{region!r} is no region of interest", remedy) from error
    ends = (x + width, y + height)
    if not (min(x, y) >= 0 and max(ends) <= 1.0001 and min(width, height) >= SMALLEST_REGION):
        raise UsageError(f"The region of interest {x:g}, {y:g}, {width:g}, {height:g} cannot be used", remedy)
    return None if (x, y) == (0, 0) and min(width, height) >= 1 else (x, y, width, height)


def within(region: Box, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a region in an image of (height, width) pixels, one of each at least."""
    spans = []
    for start, share, side in zip(region[1::-1], region[:1:-1], shape):
        first = min(round(start * side), side - 1)
        spans.append(slice(first, max(first + 1, min(side, round((start + share) * side)))))
    return spans[0], spans[1]


def crop(image: np.ndarray, region: Box | None) -> np.ndarray:
    """The region of an image, as a view; all of it for None."""
    return image if region is None else image[within(region, image.shape[:2])]


def resize_map(map: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Scale an anomaly map to another frame, bilinear (and antialiased when it shrinks).

    Args:
        map: (h, w) float, any unit.
        shape: (H, W) in pixels, as in `image.shape[:2]`.

    Returns:
        (H, W) float32 in the unit of `map`; pixel centres correspond as (x + 0.5) * w / W - 0.5.
    """
    map = np.ascontiguousarray(map, dtype=np.float32)
    if map.shape == tuple(shape):
        return map
    return np.array(Image.fromarray(map).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def list_images(folder: str | os.PathLike) -> list[Path]:
    """The image files directly in a folder, in natural order ("2.png" before "10.png"), hidden files left out.

    Raises:
        DatasetError: the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"the folder {folder} does not exist", "Check the path")
    found = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return sorted((path for path in found if path.is_file()), key=natural_key)


def natural_key(path: str | os.PathLike) -> tuple:
    """Sort key of a path that compares the digits of its name as numbers; equal names are told apart by the path."""
    parts = re.split(r"(\d+)", Path(path).name.lower())
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), str(path)


def write_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write an image as PNG (lossless) or JPEG (quality 95, full colour resolution), by the suffix.

    Args:
        path: ends in .png, .jpg or .jpeg; the folder must exist.
        image: (H, W, 3) uint8 RGB, (H, W) uint8 gray, or (H, W) bool mask, written as 0 and 255.

    Raises:
        UsageError: another suffix.
        ImageError: the file cannot be written.
    """
    path = Path(path)
    # Level 1 of deflate: photos gain a tenth in size from level 6, at twice the time.
    options = {".png": {"compress_level": 1}, ".jpg": {"quality": 95, "subsampling": 0}}
    suffix = {".jpeg": ".jpg"}.get(path.suffix.lower(), path.suffix.lower())
    if suffix not in options:
        raise UsageError(f"{path} ends in {path.suffix or 'nothing'}, .png or .jpg was expected", "Rename the output")
    pixels = image.astype(np.uint8) * 255 if image.dtype == bool else image
    try:
        Image.fromarray(pixels).save(path, **options[suffix])
    except OSError as error:
        raise ImageError(f"{path} cannot be written ({error.strerror})", "Check that its folder is there") from error


def encode_jpeg(image: np.ndarray, *, quality: int = 75) -> bytes:
    """(H, W, 3) uint8 RGB as a JPEG file of that quality, 1..95, in memory."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def cut(image: np.ndarray, centre: tuple[float, float], extent: tuple[float, float]) -> np.ndarray:
    """The part of an image around a centre, moved inwards where it would stick out.

    Args:
        centre, extent: (down, across) in shares of the image, 0..1.
    """
    spans = []
    for side, middle, share in zip(image.shape, centre, extent):
        length = max(1, min(side, round(share * side)))
        start = min(max(0, round(middle * side - length / 2)), side - length)
        spans.append(slice(start, start + length))
    return image[spans[0], spans[1]]


def positions(inside: np.ndarray, shape: Sequence[int]) -> tuple[slice, slice]:
    """Rows and columns of a (h, w) grid in a place given in shares of it, one of each at least."""
    top, bottom, left, right = (inside * np.repeat(shape, 2)).astype(int).tolist()
    return slice(top, max(bottom, top + 1)), slice(left, max(right, left + 1))


def surroundings(inside: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """Centre and extent to cut a place with its surroundings: half as much again, an eighth of the image at least."""
    top, bottom, left, right = inside
    extent = tuple(min(1.0, max(1.5 * length, 1 / 8)) for length in (bottom - top, right - left))
    return ((top + bottom) / 2, (left + right) / 2), extent
