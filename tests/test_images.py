"""What would let a photo be misread, or stop the line with a traceback."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from anomaly import images
from anomaly.errors import (
    DatasetError,
    EmptyFile,
    ImageError,
    ImageTooLarge,
    NotAnImage,
    TruncatedImage,
    UsageError,
)
from anomaly.images import decode_image, list_images, natural_key, read_image, resize_map, shrink, stretch, write_image


def photo(height=48, width=64):
    """Smooth colours, so that lossy formats stay near; no two sides alike."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 127 // (height + width)], axis=2).astype(np.uint8)


def encoded(image, format, **options):
    stream = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(stream, format, **options)
    return stream.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour_type, rows=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows)) if rows else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


# --- formats and modes


@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})],
)
def test_lossless_formats_keep_every_pixel(format, options):
    result = decode_image(encoded(photo(), format, **options), name="part")
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, photo())


@pytest.mark.parametrize(
    ("format", "options"),
    [("JPEG", {"quality": 95}), ("JPEG", {"quality": 95, "progressive": True}), ("WEBP", {"quality": 95})],
)
def test_lossy_formats_stay_near(format, options):
    result = decode_image(encoded(photo(), format, **options), name="part")
    assert np.abs(result.astype(int) - photo()).mean() < 3


def test_a_file_is_read_by_content_and_not_by_suffix(tmp_path):
    (tmp_path / "part.jpg").write_bytes(encoded(photo(), "PNG"))
    np.testing.assert_array_equal(read_image(tmp_path / "part.jpg"), photo())


def test_the_array_may_be_written_to():
    result = decode_image(encoded(photo(), "PNG"), name="part")
    result[0, 0] = 7
    assert result[0, 0].tolist() == [7, 7, 7]


def test_gray_and_one_bit_become_three_equal_channels():
    gray = photo()[..., 0]
    result = decode_image(encoded(gray, "PNG"), name="part")
    np.testing.assert_array_equal(result, np.repeat(gray[..., None], 3, axis=2))
    bits = decode_image(encoded(Image.fromarray(gray > 100), "PNG"), name="part")
    np.testing.assert_array_equal(bits[..., 2], (gray > 100) * 255)


def test_palette_colours_are_looked_up():
    picture = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "L").convert("P")
    picture.putpalette([10, 20, 30, 200, 100, 50])
    assert decode_image(encoded(picture, "PNG"), name="part").tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_transparency_lies_over_white():
    pixels = np.array([[[100, 0, 0, 0], [100, 0, 0, 255], [100, 0, 0, 51]]], dtype=np.uint8)
    # 51 / 255 = 0.2 of the colour and 0.8 of white: 0.2 * 100 + 0.8 * 255 = 224, 0.8 * 255 = 204
    expected = [[[255, 255, 255], [100, 0, 0], [224, 204, 204]]]
    assert decode_image(encoded(pixels, "PNG"), name="part").tolist() == expected


def test_a_transparent_palette_entry_or_key_colour_is_white():
    picture = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "L").convert("P")
    picture.putpalette([10, 20, 30, 200, 100, 50])
    expected = [[[255, 255, 255], [200, 100, 50]]]
    assert decode_image(encoded(picture, "PNG", transparency=0), name="part").tolist() == expected
    keyed = np.array([[[10, 20, 30], [200, 100, 50]]], dtype=np.uint8)
    assert decode_image(encoded(keyed, "PNG", transparency=(10, 20, 30)), name="part").tolist() == expected
    gray = np.array([[10, 200]], dtype=np.uint8)
    assert decode_image(encoded(gray, "PNG", transparency=10), name="part")[0, :, 0].tolist() == [255, 200]


def test_cmyk_is_converted():
    inks = np.array([[[0, 255, 255, 0], [0, 0, 0, 255], [0, 0, 0, 0]]], dtype=np.uint8)
    tiff = encoded(Image.fromarray(inks, "CMYK"), "TIFF")
    assert decode_image(tiff, name="part").tolist() == [[[255, 0, 0], [0, 0, 0], [255, 255, 255]]]
    block = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red = decode_image(encoded(block, "JPEG", quality=95), name="part")[8, 8].astype(int)
    assert np.abs(red - (255, 0, 0)).max() <= 4


def test_16_bit_gray_uses_the_whole_range():
    values = np.array([[0, 256, 4096, 65535]], dtype=np.uint16)
    # 256 >> 8 = 1, 4096 >> 8 = 16, 65535 >> 8 = 255
    for format in ("PNG", "TIFF"):
        assert decode_image(encoded(values, format), name="part")[0, :, 0].tolist() == [0, 1, 16, 255]


def test_12_bits_in_a_16_bit_container_are_not_nearly_black():
    values = np.array([[0, 16, 2048, 4095]], dtype=np.uint16)
    # 16 >> 4 = 1, 2048 >> 4 = 128, 4095 >> 4 = 255
    assert decode_image(encoded(values, "PNG"), name="part")[0, :, 1].tolist() == [0, 1, 128, 255]


def test_big_endian_16_bit_tiff():
    strip = struct.pack(">2H", 512, 65535)
    tags = [(256, 3, 2), (257, 3, 1), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (279, 4, 4)]
    fields = b"".join(
        struct.pack(">HHI", tag, kind, 1) + (struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value))
        for tag, kind, value in tags
    )
    data = b"MM\0*" + struct.pack(">I", 12) + strip + struct.pack(">H", len(tags)) + fields + b"\0\0\0\0"
    assert decode_image(data, name="part")[0, :, 0].tolist() == [2, 255]


def test_16_bit_colour_png_keeps_the_high_byte():
    rows = b"\0" + struct.pack(">6H", 0x1234, 0xFFFF, 0x0100, 0, 0x8000, 0x00FF)
    assert decode_image(png(2, 1, 16, 2, rows), name="part").tolist() == [[[0x12, 0xFF, 1], [0, 0x80, 0]]]


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_a_photo_of_a_turned_camera_stands_upright(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    result = decode_image(encoded(photo(), format, exif=exif, **options), name="part")
    np.testing.assert_array_equal(result, UPRIGHT[orientation](photo()))


def test_a_turned_jpeg_stands_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    result = decode_image(encoded(photo(), "JPEG", quality=95, exif=exif), name="part")
    assert result.shape == (64, 48, 3)
    assert np.abs(result.astype(int) - np.rot90(photo(), -1)).mean() < 3


def test_of_several_frames_the_first_is_read():
    second = Image.fromarray(255 - photo())
    for format, options in (("TIFF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        data = encoded(photo(), format, save_all=True, append_images=[second], **options)
        np.testing.assert_array_equal(decode_image(data, name="part"), photo())


def test_a_jpeg_of_a_stereo_camera_is_read():
    data = encoded(photo(), "MPO", save_all=True, append_images=[Image.fromarray(255 - photo())], quality=95)
    assert np.abs(decode_image(data, name="part").astype(int) - photo()).mean() < 3


# --- refusals


def float_tiff():
    return encoded(Image.fromarray(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)), "TIFF")


def wide_tiff():
    return encoded(Image.fromarray(np.array([[0, 70_000]], dtype=np.int32)), "TIFF")


REFUSED = {
    "empty": (b"", EmptyFile),
    "text": (b"hello, this is no photo at all", NotAnImage),
    "gif under another name": (encoded(photo(), "GIF"), NotAnImage),
    "float": (float_tiff(), NotAnImage),
    "over 16 bits": (wide_tiff(), NotAnImage),
    "signature only": (b"\x89PNG\r\n\x1a\n", TruncatedImage),
    "signature and noise": (b"\xff\xd8\xff" + bytes(range(200)), TruncatedImage),
    "over the limit": (png(8000, 7000, 8, 2), ImageTooLarge),
    "pillow warns of a bomb": (png(10_000, 10_000, 8, 2), ImageTooLarge),
    "pillow refuses a bomb": (png(100_000, 100_000, 8, 2), ImageTooLarge),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_names_the_file_and_a_remedy_and_prints_nothing(case, tmp_path, capfd):
    content, expected = REFUSED[case]
    path = tmp_path / "part_7.png"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(expected) as caught:
            read_image(path)
        with pytest.raises(expected):
            decode_image(content, name="part_7.png")
    assert "part_7.png" in caught.value.problem
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_path_that_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent.png", tmp_path / ("x" * 300 + ".png"), "a\0b.png"):
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert str(path) in caught.value.problem


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(format, kept):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(noise, format)
    with pytest.raises(TruncatedImage):
        decode_image(data[: int(kept * len(data))], name="part")


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [1, 2, 3, 40])
def test_a_jpeg_that_lacks_its_last_bytes_is_refused(progressive, missing):
    with pytest.raises(TruncatedImage):
        decode_image(encoded(photo(), "JPEG", progressive=progressive)[:-missing], name="part")


def test_pillow_is_never_told_to_forgive_truncation():
    decode_image(encoded(photo(), "PNG"), name="part")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_no_other_parser_of_pillow_ever_sees_the_bytes(monkeypatch):
    seen = []
    open_image = Image.open
    monkeypatch.setattr(
        Image, "open", lambda stream, formats: seen.append(formats) or open_image(stream, formats=formats)
    )
    decode_image(encoded(photo(), "PNG"), name="part")
    assert [sorted(formats) for formats in seen] == [["BMP", "JPEG", "PNG", "TIFF", "WEBP"]]


def test_the_limit_itself_is_allowed(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 48 * 64)
    assert decode_image(encoded(photo(), "PNG"), name="part").shape == (48, 64, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(ImageTooLarge):
        decode_image(encoded(photo(), "PNG"), name="part")


WHOLE = {format: encoded(photo(12, 16), format) for format in ("JPEG", "PNG", "BMP", "TIFF", "WEBP")}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    format=st.sampled_from(sorted(WHOLE)),
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    end=st.integers(0, 2000),
)
def test_damaged_bytes_give_an_image_or_our_error_and_nothing_else(format, edits, end):
    data = bytearray(WHOLE[format][:end])
    for position, value in edits:
        if position < len(data):
            data[position] = value
    try:
        result = decode_image(bytes(data), name="part")
    except ImageError:
        return
    assert result.ndim == 3
    assert result.shape[2] == 3
    assert result.dtype == np.uint8


# --- resizing


def test_stretch_is_antialiased_and_keeps_flat_colour():
    board = np.indices((64, 96)).sum(axis=0) % 2 * np.uint8(255)
    result = stretch(np.repeat(board[..., None], 3, axis=2).astype(np.uint8), (16, 16))
    assert result.shape == (16, 16, 3)
    assert np.abs(result.astype(int) - 127).max() <= 4  # a camera that skips pixels would give 0 or 255
    flat = stretch(np.full((50, 31, 3), (9, 120, 250), dtype=np.uint8), (20, 20))
    assert (flat == (9, 120, 250)).all()


def test_what_has_its_size_already_is_not_copied():
    image = photo(32, 32)
    assert stretch(image, (32, 32)) is image
    assert shrink(image, 32) is image


def test_shrink_keeps_the_aspect_ratio_and_at_least_one_pixel():
    assert shrink(photo(300, 600), 100).shape == (50, 100, 3)
    assert shrink(photo(600, 2), 100).shape == (100, 1, 3)
    assert shrink(photo(10, 20), 100).shape == (10, 20, 3)


def test_resize_map_is_bilinear_between_pixel_centres():
    # centres of four pixels over two: (0.5, 1.5, 2.5, 3.5) / 2 - 0.5 = -0.25, 0.25, 0.75, 1.25
    result = resize_map(np.array([[0.0, 1.0]]), (1, 4))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, [[0, 0.25, 0.75, 1]])
    wide = resize_map(np.array([[-3.0], [5.0]]), (2, 7))
    np.testing.assert_allclose(wide, np.repeat([[-3.0], [5.0]], 7, axis=1))


# --- folders and files


def test_images_are_listed_in_natural_order_without_the_rest(tmp_path):
    for name in ("10.png", "2.png", "1.PNG", "b1.jpg", "a.tiff", ".hidden.png", "notes.txt", "2.webp"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "deep.png").write_bytes(b"x")
    names = [path.name for path in list_images(tmp_path)]
    assert names == ["1.PNG", "2.png", "2.webp", "10.png", "a.tiff", "b1.jpg"]


def test_a_missing_folder_is_an_error_and_not_an_empty_list(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        list_images(tmp_path / "absent")


@given(st.lists(st.text("ab1290_-", min_size=1, max_size=6), unique=True))
def test_natural_order_is_total(names):
    once = sorted(names, key=natural_key)
    backwards = once[::-1]
    assert sorted(backwards, key=natural_key) == once


def test_what_is_written_is_what_is_read(tmp_path):
    write_image(tmp_path / "a.png", photo())
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), photo())
    mask = photo()[..., 0] > 90
    write_image(tmp_path / "m.png", mask)
    with Image.open(tmp_path / "m.png") as stored:
        assert stored.mode == "L"
        np.testing.assert_array_equal(np.asarray(stored), mask * 255)
    write_image(tmp_path / "b.JPG", photo())
    assert np.abs(read_image(tmp_path / "b.JPG").astype(int) - photo()).mean() < 2


def test_writing_to_nowhere_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"part\.gif"):
        write_image(tmp_path / "part.gif", photo())
    with pytest.raises(ImageError, match=r"absent.*cannot be written"):
        write_image(tmp_path / "absent" / "part.png", photo())
