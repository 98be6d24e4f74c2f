"""Toy textures in the manner of DAGM: what is drawn, what is written, and that it is read as it was written."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from anomaly import dataset
from anomaly.errors import DatasetError, UnknownName, UsageError
from anomaly.synthetic import TEXTURES, dagm, render_texture, write_dagm
from anomaly.synthetic.dagm import ATTRIBUTES, WORDS


def drawn(name: str, *, defective: bool, index: int = 0, seed: int = 0, size: int = 128):
    return render_texture(name, defective=defective, seed=seed, index=index, size=size)


@pytest.fixture(scope="module")
def felt(tmp_path_factory):
    """14 good and 3 defective photos in Train, 7 and 2 in Test, 64 px. Read only."""
    root = tmp_path_factory.mktemp("textures")
    write_dagm(root, "felt", train=14, test=7, size=64, seed=1)
    return root


@pytest.mark.parametrize("name", TEXTURES)
def test_the_same_arguments_give_the_same_gray_picture(name):
    picture, label = drawn(name, defective=True)
    again, label_again = drawn(name, defective=True)
    np.testing.assert_array_equal(picture, again)
    np.testing.assert_array_equal(label, label_again)
    assert picture.shape == label.shape == (128, 128) and picture.dtype == np.uint8 and label.dtype == bool
    others = [drawn(name, defective=True, **other)[0] for other in ({"index": 1}, {"seed": 1})]
    assert all((picture != other).mean() > 0.5 for other in [*others, drawn(name, defective=False)[0]])
    assert 80 < picture.mean() < 165 and 8 < picture.std() < 60
    assert np.isin(picture, (0, 255)).mean() < 0.01, "burnt out"


@pytest.mark.parametrize("name", TEXTURES)
def test_the_flaw_lies_in_its_ellipse_and_fills_it_in_part(name):
    """The same texture with the flaw taken away differs inside of the label only: the label is weak, but true."""
    item = TEXTURES[name]
    for index in range(3):
        picture, label = drawn(name, defective=True, index=index, size=256)
        assert 0.0015 < label.mean() < 0.06
        rows, columns = np.nonzero(label)
        assert rows.min() > 0 and columns.min() > 0 and max(rows.max(), columns.max()) < 255, "cut off by the border"
        key = (1 + list(TEXTURES).index(name), 1, 0, index)
        flawless = item.draw(np.random.default_rng(key), 256, None)
        flaw = dagm._flaw(item, np.random.default_rng((*key, 1)), 256)
        flawed = item.draw(np.random.default_rng(key), 256, flaw)
        change = np.abs(flawed - flawless) > 0.1
        reach = np.zeros_like(label)
        if name == "pebbles":  # where a grain is missing, its neighbours show more of themselves
            reach = np.pad(label, 12).astype(bool)
            reach = np.max([np.roll(reach, shift, axis) for axis in (0, 1) for shift in range(-12, 13)], axis=0)
            reach = reach[12:-12, 12:-12]
        assert not (change & ~(label | reach)).any()
        assert 0.02 < change[label].mean() <= 1


def test_ten_textures_are_told_apart_by_the_simplest_statistics():
    """Contrast along and across, at three distances: the nearest mean of each kind names the right one."""

    def statistics(picture):
        values = picture.astype(float) - picture.mean()
        return np.log(
            [values.std()]
            + [np.abs(values - np.roll(values, d, axis)).mean() for d in (1, 3, 7, 15) for axis in (0, 1)]
        )

    kinds = {
        name: [statistics(drawn(name, defective=False, index=i, size=256)[0]) for i in range(12)] for name in TEXTURES
    }
    spread = np.mean([np.std(many, axis=0) for many in kinds.values()], axis=0)
    means = {name: np.mean(many[:6], axis=0) for name, many in kinds.items()}
    right = [
        min(means, key=lambda other: np.abs((one - means[other]) / spread).sum()) == name
        for name, many in kinds.items()
        for one in many[6:]
    ]
    assert len(TEXTURES) == 10 and np.mean(right) > 0.9


def test_no_flaw_is_found_by_brightness_or_contrast():
    for name in TEXTURES:
        good, bad = ([drawn(name, defective=d, index=i, size=96)[0] for i in range(16)] for d in (False, True))
        for measure in (np.mean, np.std):
            won = np.mean([measure(b) > measure(g) for b in bad for g in good])
            assert 0.15 < won < 0.85, f"{name} is solved by {measure.__name__}"


def test_each_texture_is_described_by_known_words():
    assert len(WORDS) == len(set(WORDS)) == 29
    looks = {item.name: set(item.looks) for item in TEXTURES.values()}
    assert all(look <= set(WORDS) for look in looks.values()) and set().union(*looks.values()) == set(WORDS)
    assert len({frozenset(look) for look in looks.values()}) == 10


def test_the_layout_is_that_of_dagm_and_is_read_as_it_was_written(felt):
    folder = felt / "felt"
    for part, good, defective in (("Train", 14, 3), ("Test", 7, 2)):
        assert len(list((folder / part).glob("*.PNG"))) == good + defective
        lines = (folder / part / "Label" / "Labels.txt").read_text().splitlines()
        assert lines[0] == "1" and len(lines) == 1 + good + defective
        assert len(list((folder / part / "Label").glob("*_label.PNG"))) == defective
    assert Image.open(folder / "Train" / "0001.PNG").mode == "L"
    assert dataset.categories(felt) == dataset.categories(folder) == ["felt"]
    assert len(dataset.good_images(felt, "felt")) == 14
    known, test = dataset.known_defects(felt, "felt"), dataset.test_samples(felt, "felt")
    assert [sample.kind for sample in known] == ["defect"] * 3
    assert [sample.label for sample in test] == [0] * 7 + [1] * 2
    for number, (image, mask) in enumerate(dataset.LabelledImages(known)):
        picture, label = render_texture("felt", defective=True, seed=1, index=number, size=64)
        np.testing.assert_array_equal(image[..., 0], picture)
        np.testing.assert_array_equal(mask, label)
    everything = {path.read_bytes() for path in folder.glob("*/*.PNG")}
    assert len(everything) == 26, "a photo of Test is in Train"
    assert json.loads((felt / ATTRIBUTES).read_text())["products"]["felt"] == list(TEXTURES["felt"].looks)


def test_published_counts_are_the_default(monkeypatch, tmp_path):
    numbers = []
    pixel = np.zeros((1, 1), np.uint8), np.zeros((1, 1), bool)
    monkeypatch.setattr(dagm, "render_texture", lambda name, **about: numbers.append(about) or pixel)
    write_dagm(tmp_path, "raster")
    assert {about["size"] for about in numbers} == {512}
    for defective, count in ((False, 1000), (True, 150)):
        indices = [about["index"] for about in numbers if about["defective"] == defective]
        assert sorted(indices) == list(range(count))


def test_without_its_labels_a_folder_is_refused(felt, tmp_path):
    """Defective photos would be learned as good ones."""
    shutil.copytree(felt, tmp_path / "copy")
    labels = tmp_path / "copy" / "felt" / "Train" / "Label" / "Labels.txt"
    lines = labels.read_text().splitlines()
    labels.write_text("\n".join(lines[:-1]))
    with pytest.raises(DatasetError, match="Labels.txt says nothing of 0017.PNG. Restore it"):
        dataset.good_images(tmp_path / "copy", "felt")
    labels.unlink()
    with pytest.raises(DatasetError, match="Labels.txt is missing"):
        dataset.good_images(tmp_path / "copy", "felt")


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"name": "moss"}, UnknownName), ({"train": -1}, UsageError), ({"size": 32}, UsageError)],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_written(tmp_path, wrong, error):
    with pytest.raises(error):
        write_dagm(tmp_path, **{"name": "felt", "train": 1, "test": 1, "size": 64} | wrong)
    assert not list(tmp_path.iterdir())
