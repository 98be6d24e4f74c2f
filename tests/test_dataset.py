"""What would let a photo be learned and judged at once, or a folder be misread."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly import dataset
from anomaly.dataset import (
    LazyImages,
    Sample,
    Split,
    categories,
    category_folder,
    fingerprint,
    good_images,
    group_by_number,
    group_labels,
    read_mask,
    split_good,
    split_labelled,
)
from anomaly.errors import DatasetError, TooFewImages, TruncatedImage, UsageError
from anomaly.images import natural_key, write_image


def make(path, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.full((4, 6, 3), value, dtype=np.uint8))
    return path


@pytest.fixture
def root(tmp_path):
    """One category in the layout of MVTec AD, one bare folder, and folders that are neither."""
    for i in range(3):
        make(tmp_path / "nut" / "train" / "good" / f"{i:03}.png")
    make(tmp_path / "nut" / "test" / "good" / "000.png")
    for name in ("000.png", "001.png", "002.png", "010.png"):
        make(tmp_path / "nut" / "test" / "crack" / name)
    make(tmp_path / "nut" / "test" / "bent" / "000.png")
    make(tmp_path / "nut" / "ground_truth" / "crack" / "000_mask.png")
    make(tmp_path / "nut" / "ground_truth" / "crack" / "001.png")
    make(tmp_path / "nut" / "ground_truth" / "crack" / "010_mask.jpg")
    make(tmp_path / "bolt" / "b2.png")
    make(tmp_path / "bolt" / "b10.png")
    (tmp_path / "notes").mkdir()
    make(tmp_path / ".cache" / "x.png")
    return tmp_path


# --- folders


def test_categories_are_the_folders_with_good_images(root):
    assert categories(root) == ["bolt", "nut"]


def test_a_category_may_be_named_directly(root):
    assert categories(root / "nut") == ["nut"]
    assert category_folder(root / "nut", "nut") == root / "nut"
    assert len(good_images(root / "nut", "nut")) == 3
    assert good_images(root / "bolt", "bolt") == [root / "bolt" / "b2.png", root / "bolt" / "b10.png"]


def test_the_folder_under_the_root_comes_before_the_root_itself(root):
    make(root / "nut" / "nut" / "0.png")
    assert category_folder(root / "nut", "nut") == root / "nut" / "nut"


def test_good_images_are_those_to_learn_from_and_no_others(root):
    assert [p.name for p in good_images(root, "nut")] == ["000.png", "001.png", "002.png"]
    assert all(p.parent == root / "nut" / "train" / "good" for p in good_images(root, "nut"))


@pytest.mark.parametrize("name", ["..", ".", "", "../bolt", "nut/test", "/tmp"])
def test_a_category_never_leads_out_of_the_data_folder(root, name):
    with pytest.raises(DatasetError, match="not the name of a category"):
        category_folder(root / "nut", name)


def test_what_is_missing_is_named(root):
    with pytest.raises(DatasetError, match="does not exist"):
        categories(root / "absent")
    with pytest.raises(DatasetError, match="no category 'gear'; it holds bolt, notes, nut"):
        good_images(root, "gear")
    with pytest.raises(DatasetError, match="no good images for 'notes'") as caught:
        good_images(root, "notes")
    assert str(Path("notes", "train", "good")) in caught.value.problem
    with pytest.raises(DatasetError, match="no category was found") as caught:
        categories(root / "notes")
    assert caught.value.remedy


def test_test_samples_carry_their_kind_and_mask(root):
    truth = root / "nut" / "ground_truth" / "crack"
    found = [(s.path.parent.name, s.path.name, s.kind, s.label, s.mask) for s in dataset.test_samples(root, "nut")]
    assert found == [
        ("good", "000.png", "good", 0, None),
        ("bent", "000.png", "bent", 1, None),
        ("crack", "000.png", "crack", 1, truth / "000_mask.png"),
        ("crack", "001.png", "crack", 1, truth / "001.png"),
        ("crack", "002.png", "crack", 1, None),
        ("crack", "010.png", "crack", 1, truth / "010_mask.jpg"),
    ]
    assert dataset.test_samples(root, "bolt") == []


@pytest.mark.parametrize("part", ["test", "train", "validation"])
def test_photos_without_a_label_beside_labelled_ones_are_refused(root, part):
    make(root / "nut" / part / "000.png")
    with pytest.raises(DatasetError, match=f"1 photos lie directly in .*{part}, so that nobody knows their class. Put"):
        (dataset.test_samples if part == "test" else dataset.known_defects)(root, "nut")


def test_a_mask_without_its_photo_is_refused_in_the_test_too(root):
    (root / "nut" / "test" / "crack" / "010.png").unlink()
    with pytest.raises(DatasetError, match="010_mask.jpg belongs to no image of .*crack. Name it as its image"):
        dataset.test_samples(root, "nut")


def test_masks_of_another_size_are_scaled_and_of_another_proportion_refused(root):
    samples = dataset.test_samples(root, "nut")
    write_image(samples[2].mask, np.full((8, 12, 3), 255, dtype=np.uint8))
    dataset.check_masks(samples)
    write_image(samples[3].mask, np.full((6, 4, 3), 255, dtype=np.uint8))
    with pytest.raises(DatasetError, match="001.png has 4 x 6 pixels, its image 6 x 4. Put the mask of this image"):
        dataset.check_masks(samples)


# --- splits


def numbers(paths):
    return [int("".join(filter(str.isdigit, p.stem))) for p in paths]


def test_group_labels_are_the_number_of_each_group_in_any_order():
    parts = [Path(f"{i:03}.png") for i in range(200)]
    labels = group_labels(parts)
    assert labels == np.repeat(range(20), 10).tolist()
    assert group_labels(parts[::-1]) == labels[::-1]
    assert group_labels([]) == []


def test_neighbouring_numbers_stay_together():
    # 200 consecutive photos: a block of 10 leaves 20 groups, a block of 20 only 10
    groups = group_by_number([Path(f"part_{i:03}.png") for i in range(200)])
    assert [numbers(group) for group in groups] == [list(range(i, i + 10)) for i in range(0, 200, 10)]


def test_one_part_under_several_cameras_stays_together():
    paths = [Path(f"exp{e}_num_{1000 * part + 15 * e}.jpg") for part in range(30) for e in range(1, 7)]
    for group in group_by_number(paths):
        assert len(group) % 6 == 0
    split = split_good(paths)
    parts = [{int(p.stem.split("_")[-1]) // 1000 for p in side} for side in (split.train, split.held_out)]
    assert not parts[0] & parts[1]


def burst(first: int) -> list[Path]:
    """One part under three exposures, as a counting camera names them."""
    return [Path(f"exp{e}_num_{first + 15 * e}.jpg") for e in (1, 2, 3)]


def test_a_border_between_groups_never_cuts_a_burst_of_one_part():
    # blocks of 1000; every fifth part lies across a multiple of it: 4960 + 15, 30, 45
    firsts = [1000 * i + (960 if i % 5 == 4 else 300) for i in range(30)]
    groups = group_by_number([path for first in firsts for path in burst(first)])
    assert len(groups) >= 20
    for first in firsts:
        assert any(set(burst(first)) <= set(group) for group in groups), f"the part at {first} is on both sides"


def test_a_border_stays_where_numbers_come_as_they_come():
    """Only a burst moves it: other splits, and the figures made on them, stay what they were."""
    rng = np.random.default_rng(0)
    drawn = sorted(rng.choice(np.arange(0, 10_000, 5), 400, replace=False).tolist())
    block = 500
    groups = group_by_number([Path(f"{number}.png") for number in drawn])
    moved = [group for group in groups if len({number // block for number in numbers(group)}) > 1]
    assert len(groups) == 20 and len(moved) <= 2


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["cast_ok_0_8738.jpg", "cast_ok_1_8738.jpg", "cast_ok_0_9.jpg"], 2),  # the last number counts
        (["normal-21.png", "021.png", "22.png"], 2),  # leading zeros do not
        (["a.png", "b.png", "c.png"], 3),  # no numbers: one by one
        (["left.png", "7.png"], 2),
        (["a_1.png", "b_1.png"], 2),  # one number for all says nothing
        ([f"part{i}_cam{c}.png" for i in range(8) for c in (1, 2)], 16),  # 8 files a number: cameras, not parts
    ],
)
def test_what_counts_as_a_group(names, groups):
    assert len(group_by_number([Path(name) for name in names])) == groups


def test_without_numbers_neighbours_in_name_stay_together():
    names = [f"{a}{b}.png" for a in "abcdefghij" for b in "abcdefghij"]
    groups = group_by_number([Path(name) for name in names])
    assert [[p.name for p in group] for group in groups] == [names[i : i + 5] for i in range(0, 100, 5)]


def test_a_fifth_is_held_out_and_nothing_is_lost():
    paths = [Path(f"{i}.png") for i in range(500)]
    split = split_good(paths)
    assert len(split.held_out) == 100
    assert sorted(split.train + split.held_out, key=natural_key) == paths
    assert list(split.train) == sorted(split.train, key=natural_key)


def test_the_split_depends_on_the_seed_and_on_nothing_else():
    paths = [Path(f"{i}.png") for i in range(300)]
    assert split_good(paths, seed=4) == split_good(paths[::-1], seed=4)
    assert split_good(paths, seed=4) != split_good(paths, seed=5)
    assert len(split_good(paths, held_out=0.5).held_out) == 150


def test_two_images_are_enough_and_one_is_not():
    assert split_good([Path("7.png"), Path("8.png")]) in (
        Split(train=(Path("7.png"),), held_out=(Path("8.png"),)),
        Split(train=(Path("8.png"),), held_out=(Path("7.png"),)),
    )
    for paths in ([], [Path("7.png")]):
        with pytest.raises(TooFewImages, match=f"^{len(paths)} good images"):
            split_good(paths)
    with pytest.raises(UsageError, match="fraction"):
        split_good([Path("7.png"), Path("8.png")], held_out=1.0)


file_names = st.lists(
    st.one_of(
        st.builds("exp{}_num_{}".format, st.integers(1, 6), st.integers(0, 400)),
        st.builds("{:03}".format, st.integers(0, 60)),
        st.text("abc_-", min_size=1, max_size=5),
        st.integers(0, 10**20).map(str),
    ),
    min_size=2,
    max_size=80,
    unique=True,
)


@settings(max_examples=200, deadline=None)
@given(names=file_names, seed=st.integers(0, 3), held_out=st.sampled_from([0.01, 0.2, 0.5, 0.99]))
def test_a_group_never_straddles_the_split(names, seed, held_out):
    paths = [Path(f"{name}.png") for name in names]
    split = split_good(paths, held_out=held_out, seed=seed)
    train, held = set(split.train), set(split.held_out)
    assert train
    assert held
    assert not train & held
    assert train | held == set(paths)
    groups = group_by_number(paths)
    assert sorted(p for group in groups for p in group) == sorted(paths)
    for group in groups:
        assert set(group) <= train or set(group) <= held


@settings(max_examples=60, deadline=None)
@given(start=st.integers(0, 10**6), parts=st.integers(20, 60), photos=st.integers(2, 5), seed=st.integers(0, 5))
def test_photos_of_one_part_with_one_number_never_straddle(start, parts, photos, seed):
    paths = [Path(f"cam{c}_{start + 7 * i}.png") for i in range(parts) for c in range(photos)]
    split = split_good(paths, seed=seed)
    assert not set(numbers_at_the_end(split.train)) & set(numbers_at_the_end(split.held_out))


def numbers_at_the_end(paths):
    return [p.stem.split("_")[-1] for p in paths]


def labelled(**kinds):
    return [Sample(path=Path("test", kind, f"{i:03}.png"), kind=kind) for kind, n in kinds.items() for i in range(n)]


def test_labelled_images_are_halved_within_each_kind():
    samples = labelled(good=40, crack=20, bent=7, hole=2)
    calibration, report = split_labelled(samples)
    assert not {s.path for s in calibration} & {s.path for s in report}
    assert len(calibration) + len(report) == len(samples)
    for kind, n in (("good", 40), ("crack", 20), ("bent", 7), ("hole", 2)):
        assert abs(sum(s.kind == kind for s in calibration) - n / 2) <= 1
    assert split_labelled(samples[::-1]) == (calibration, report)
    assert split_labelled(samples, seed=1) != (calibration, report)


def test_kinds_of_a_single_image_do_not_all_go_to_one_half():
    calibration, report = split_labelled(labelled(a=1, b=1, c=1, d=1))
    assert len(calibration) == len(report) == 2


@settings(max_examples=60, deadline=None)
@given(good=st.lists(st.integers(0, 500), min_size=2, max_size=50, unique=True), seed=st.integers(0, 3))
def test_a_group_never_straddles_calibration_and_report(good, seed):
    samples = [Sample(path=Path(f"exp{i % 3}_{n}.png"), kind="good") for i, n in enumerate(good)]
    calibration, report = split_labelled(samples, seed=seed)
    sides = {s.path for s in calibration}, {s.path for s in report}
    assert sides[0]
    assert sides[1]
    for group in group_by_number([s.path for s in samples]):
        assert set(group) <= sides[0] or set(group) <= sides[1]


# --- files


def test_a_mask_is_read_in_the_frame_of_its_image(tmp_path):
    write_image(tmp_path / "m.png", np.array([[True, False], [False, True]]))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", (2, 2)), [[True, False], [False, True]])
    # twice as high, three times as wide: each pixel becomes a block of 2 x 3
    expected = np.kron([[1, 0], [0, 1]], np.ones((2, 3))).astype(bool)
    result = read_mask(tmp_path / "m.png", (4, 6))
    assert result.dtype == bool
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", (1, 1)), [[True]])


def test_masks_of_class_numbers_and_with_traces_of_compression(tmp_path):
    write_image(tmp_path / "classes.png", np.uint8([[0, 1, 2, 3]]))
    assert read_mask(tmp_path / "classes.png", (1, 4)).tolist() == [[False, True, True, True]]
    write_image(tmp_path / "traces.png", np.uint8([[0, 3, 250, 255]]))
    assert read_mask(tmp_path / "traces.png", (1, 4)).tolist() == [[False, False, True, True]]
    write_image(tmp_path / "none.png", np.uint8([[0, 0]]))
    assert not read_mask(tmp_path / "none.png", (1, 2)).any()


def test_a_fingerprint_changes_with_a_byte_or_a_name_and_not_with_order_or_place(tmp_path):
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path, content in zip(paths, (b"one", b"two"), strict=True):
        path.write_bytes(content)
    first = fingerprint(paths)
    assert len(first) == 64
    assert fingerprint(paths[::-1]) == first
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert fingerprint([Path(shutil.copy(p, other)) for p in paths]) == first
    assert fingerprint(paths[:1]) != first
    paths[0].write_bytes(b"onE")
    assert fingerprint(paths) != first
    paths[0].write_bytes(b"two")
    paths[1].write_bytes(b"one")
    assert fingerprint(paths) != first


def test_lazy_images_decode_on_demand(tmp_path):
    paths = [make(tmp_path / f"{i}.png", value=i) for i in range(3)]
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    lazy = LazyImages([*paths, tmp_path / "broken.png"])
    assert len(lazy) == 4
    assert [int(lazy[i][0, 0, 0]) for i in (0, 1, 2)] == [0, 1, 2]
    tail = lazy[1:3]
    assert isinstance(tail, LazyImages)
    assert [int(image.mean()) for image in tail] == [1, 2]
    with pytest.raises(TruncatedImage, match=r"broken\.png"):
        lazy[-1]
    with pytest.raises(IndexError):
        lazy[4]
