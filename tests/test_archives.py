"""A ZIP from a stranger: nothing in it is believed, and what is fine in it is still unpacked."""

import errno
import io
import random
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from anomaly import archives
from anomaly.errors import ArchiveError


def pack(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as book:
        for name, content in files.items():
            book.writestr(name, content)
    return path


def unpacked(archive: Path, folder: Path) -> dict[str, bytes | str]:
    """{name: content, or why it was refused}."""
    found = archives.unpack(archive, folder)
    return {one.name: one.path.read_bytes() if one.path else one.error.problem for one in found}


def on_disk(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_files_come_out_as_they_went_in(tmp_path):
    files = {"nut/2.png": b"two", "nut/10.png": b"ten", "bolt/2.png": b"other", "零件.jpg": b"part"}
    archive = pack(tmp_path / "a.zip", files)
    assert archives.contents(archive) == list(files)
    assert unpacked(archive, tmp_path / "out") == files
    assert [one.path.name for one in archives.unpack(archive, tmp_path / "again")] == [
        "2.png",
        "10.png",
        "2.png",
        "零件.jpg",
    ]


def test_files_are_written_when_asked_for_and_not_before(tmp_path):
    archive = pack(tmp_path / "a.zip", {"1.png": b"1", "2.png": b"2"})
    found = archives.unpack(archive, tmp_path / "out")
    next(found)
    assert on_disk(tmp_path / "out") == [b"1"]


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/etc/evil.png", "C:\\evil.png", "..\\evil.png"])
def test_a_name_never_leads_out_of_the_folder(tmp_path, name):
    archive = pack(tmp_path / "a.zip", {name: b"evil", "fine.png": b"fine"})
    found = unpacked(archive, tmp_path / "deep" / "out")
    assert found.pop("fine.png") == b"fine"
    (reason,) = found.values()
    assert "outside of the ZIP" in reason
    assert on_disk(tmp_path / "deep") == [b"fine"]
    assert not list(tmp_path.rglob("evil*"))


def test_strange_names_become_harmless_ones(tmp_path):
    names = ["a/-rf\u202egnp.exe", "a/" + "x" * 400 + ".png", "a/con<>|?*.png", "a/\x1b[31m.png"]
    found = list(archives.unpack(pack(tmp_path / "a.zip", dict.fromkeys(names, b"1")), tmp_path / "out"))
    assert [one.path.name for one in found] == ["rf_gnp.exe", "x" * 56 + ".png", "con_____.png", "__31m.png"]
    assert all(one.name.isprintable() for one in found)


def test_links_inner_archives_and_locked_files_are_refused_by_name(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as book:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        book.writestr(link, "/etc/passwd")
        book.writestr("inner.zip", b"PK")
        book.writestr(zipfile.ZipInfo("odd.png"), b"odd", compress_type=zipfile.ZIP_LZMA)
        book.writestr("fine.png", b"fine")
    found = unpacked(archive, tmp_path / "out")
    assert found.pop("fine.png") == b"fine"
    assert [reason.split(" ", 1)[1] for reason in found.values()] == [
        "is a link or a device, not a file",
        "is an archive inside of an archive",
        "is packed by another method than an ordinary ZIP's",
    ]
    locked = bytearray(pack(tmp_path / "b.zip", {"1.png": b"1"}).read_bytes())
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(locked)
    assert "password" in unpacked(tmp_path / "b.zip", tmp_path / "b")["1.png"]


def test_folders_and_droppings_of_file_managers_are_left_out(tmp_path):
    files = {"a/": b"", "a/1.png": b"1", "__MACOSX/a/._1.png": b"x", "a/.DS_Store": b"x", "Thumbs.db": b"x"}
    assert unpacked(pack(tmp_path / "a.zip", files), tmp_path / "out") == {"a/1.png": b"1"}


def test_ten_gigabytes_in_ten_megabytes_are_refused_before_anything_is_written(tmp_path):
    """By its own words: the table of contents says 1 GB for each of ten files."""
    archive = pack(tmp_path / "bomb.zip", {f"{i}.png": bytes(2**20) for i in range(10)})
    data, at = bytearray(archive.read_bytes()), -1
    while (at := data.find(b"PK\x01\x02", at + 1)) >= 0:
        data[at + 24 : at + 28] = struct.pack("<I", 2**30)  # 1 GB each
    archive.write_bytes(data)
    with pytest.raises(ArchiveError, match="unpacks to over"):
        list(archives.unpack(archive, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_comes_out_is_counted_whatever_the_table_says(tmp_path, monkeypatch):
    monkeypatch.setattr(archives._Book, "_check", lambda _: None)  # as if the table had been believed
    monkeypatch.setattr(archives, "FREE", 3 * 2**20)
    monkeypatch.setattr(archives, "RATIO", 0)
    found = archives.unpack(pack(tmp_path / "a.zip", {f"{i}.png": bytes(2**20) for i in range(5)}), tmp_path / "out")
    assert [next(found).name for _ in range(3)] == ["0.png", "1.png", "2.png"]
    with pytest.raises(ArchiveError, match="unpacks to over 3 MB"):
        next(found)
    assert len(on_disk(tmp_path / "out")) == 3


def test_a_file_that_is_no_photo_by_its_size_is_refused_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILE", 1000)
    archive = pack(tmp_path / "a.zip", {"big.png": random.Random(0).randbytes(2000), "small.png": b"1"})
    found = unpacked(archive, tmp_path / "out")
    assert "larger than" in found["big.png"] and found["small.png"] == b"1"
    assert on_disk(tmp_path / "out") == [b"1"]


def test_five_thousand_files_are_refused(tmp_path):
    archive = pack(tmp_path / "a.zip", {f"{i}.png": b"" for i in range(5000)}, zipfile.ZIP_STORED)
    with pytest.raises(ArchiveError, match="holds 5,000 files, at most 2,000"):
        archives.contents(archive)


def test_an_endless_table_of_contents_is_not_even_read(tmp_path, monkeypatch):
    archive = pack(tmp_path / "a.zip", {f"{i}{'x' * 200}.png": b"" for i in range(20)}, zipfile.ZIP_STORED)
    monkeypatch.setattr(archives, "TABLE", 2000)
    monkeypatch.setattr(zipfile.ZipInfo, "__init__", lambda *_, **__: pytest.fail("an entry was read"))
    with pytest.raises(ArchiveError, match="far more than"):
        archives.contents(archive)


def test_what_is_no_zip_or_empty_says_so(tmp_path):
    (tmp_path / "text.zip").write_text("no zip")
    for archive, reason in (
        (tmp_path / "text.zip", "no ZIP file"),
        (pack(tmp_path / "none.zip", {}), "holds no files"),
        (tmp_path / "gone.zip", "cannot be read"),
    ):
        with pytest.raises(ArchiveError, match=reason):
            archives.contents(archive)


def test_damage_is_told_by_file_and_the_rest_is_kept(tmp_path):
    content = random.Random(1).randbytes(1000)
    archive = pack(tmp_path / "a.zip", {"bad.png": content, "fine.png": b"fine"}, zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    data[data.index(content) + 500] ^= 0xFF
    archive.write_bytes(data)
    found = unpacked(archive, tmp_path / "out")
    assert "is damaged inside of a.zip" in found["bad.png"] and found["fine.png"] == b"fine"
    assert on_disk(tmp_path / "out") == [b"fine"]


def test_no_damage_raises_anything_but_a_refusal(tmp_path):
    whole = pack(tmp_path / "a.zip", {f"{i}.png": bytes(range(256)) * i for i in range(6)}).read_bytes()
    dice = random.Random(7)
    for round in range(400):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        damaged = tmp_path / "d.zip"
        damaged.write_bytes(data[: dice.randrange(1, len(data))] if round % 3 == 0 else data)
        try:
            for one in archives.unpack(damaged, tmp_path / "out" / str(round)):
                assert one.path is None or one.path.is_relative_to(tmp_path / "out" / str(round))
        except ArchiveError as error:
            assert str(error).startswith("d.zip")


def test_a_full_disk_says_so_and_leaves_no_half_file(tmp_path, monkeypatch):
    archive = pack(tmp_path / "a.zip", {"1.png": b"1" * 100})

    class Full(io.FileIO):
        def write(self, data):
            super().write(data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode="r", *a: Full(path, "x") if "x" in mode else real(path, mode, *a)
    )
    with pytest.raises(ArchiveError, match="No space left on device"):
        list(archives.unpack(archive, tmp_path / "out"))
    assert on_disk(tmp_path / "out") == []


def test_a_zip_is_known_by_its_name_or_its_first_bytes(tmp_path):
    whole = pack(tmp_path / "a.zip", {"1.png": b"1"})
    (tmp_path / "b.bin").write_bytes(whole.read_bytes())
    (tmp_path / "c.png").write_bytes(b"\x89PNG" + whole.read_bytes())  # a picture that drags a ZIP behind it
    assert [archives.is_archive(tmp_path / name) for name in ("a.zip", "b.bin", "c.png", "gone")] == [
        True,
        True,
        False,
        False,
    ]
