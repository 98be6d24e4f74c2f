"""The detector that is taught by known defects: what teaches it, by masks or without, and what must not."""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import CATEGORY, SMALL, painted, plate
from torch.nn.functional import softplus

from anomaly import cli, dataset, detectors, nets, runs, teaching, training
from anomaly.detectors import segdec
from anomaly.detectors.base import Batches, Defects
from anomaly.errors import DatasetError, UsageError
from anomaly.images import write_image
from anomaly.synthetic import write_dagm

QUICK = SMALL | {"epochs": 4, "rate": 5e-3}


def blotched(number: int) -> np.ndarray:
    """A good part: its red square is harmless."""
    return painted(number)[0]


def spoilt(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A defective part, with a greenish square that is much fainter than the red one, and its mask."""
    image, mask = painted(number)
    image[mask] = (100, 165, 110)
    return image, mask


GOOD = [blotched(i) if i % 2 else plate(i) for i in range(24)]
DEFECTS = [spoilt(200 + i) for i in range(12)]


def told_apart(detector) -> float:
    """Share of pairs in which an unseen green square scores more than an unseen red one."""
    green, red = (
        np.array([result.score for result in detector.score_batch(images)])
        for images in ([spoilt(300 + i)[0] for i in range(10)], [blotched(320 + i) for i in range(10)])
    )
    return (green[:, None] > red).mean()


@pytest.fixture(scope="module")
def taught():
    """By masks, by photos alone, and by a third of masks."""
    shares = {"masks": 12, "none": 0, "mixture": 4}
    return {
        name: detectors.create("segdec", **QUICK).fit(
            GOOD, defects=[(image, mask if i % 12 < count else None) for i, (image, mask) in enumerate(DEFECTS)]
        )
        for name, count in shares.items()
    }


@pytest.mark.parametrize("labels", ["masks", "none", "mixture"])
def test_it_knows_a_defect_from_a_harmless_mark_by_any_kind_of_label(taught, labels):
    assert told_apart(taught[labels]) > 0.97


def known_of(marked: int) -> Defects:
    """Three known defects, told apart by their gray value; so many of them have masks."""
    masks = torch.zeros(3, 1, 64, 64, dtype=torch.bool)
    masks[:marked, 0, 8:24, 8:24] = True
    return Defects(torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 3, 64, 64), masks)


def test_what_teaches_is_the_known_defects_and_simulated_damage_where_they_lack_masks():
    good = Batches(torch.randint(100, 256, (8, 3, 64, 64), dtype=torch.uint8))
    detector = detectors.create("segdec", **SMALL)
    seen, generator = torch.arange(8), torch.Generator().manual_seed(0)

    def shown(known):
        """{number of a known defect, or None of simulated damage: a lesson each}."""
        for lesson in itertools.islice(detector._defective(Batches(good.pixels, known), seen, generator), 4):
            assert lesson.defective.all()
            assert (lesson.weights.flatten(1).amax(1) > 0).tolist() == lesson.masked.tolist()
            gray = (lesson.images[:, 0].amax((1, 2)) * 255).round().int().tolist()
            yield from zip(
                (value if value < 3 else None for value in gray), lesson.masked.tolist(), lesson.decides.tolist()
            )

    assert set(shown(known_of(3))) == {(number, True, True) for number in range(3)}
    for marked in (0, 1):
        found = list(shown(known_of(marked)))
        assert {one for one in found if one[0] is not None} == {(i, i < marked, True) for i in range(3)}
        painted = [one for one in found if one[0] is None]
        assert set(painted) == {(None, True, False)} and len(painted) == 4 * 2, "two beside each of four lessons"
    assert set(shown(None)) == {(None, True, True)}
    lesson = next(detector._defective(good, seen, generator))
    unchanged = [min((image - one).abs().max() for one in good.take(seen)) for image in lesson.images]
    assert min(unchanged) > 0.02, "a good photo was called defective"


def test_simulated_damage_does_not_say_what_a_defect_is():
    defective, decides = torch.tensor([False, True, True]), torch.tensor([True, True, False])
    weights, images = torch.ones(3, 1, 2, 2), torch.zeros(3, 3, 16, 16)

    def slopes(spent):
        """Of the loss by decisions and marks, of a good image, a real defect without a mask and a simulated one."""
        logits, marks = torch.zeros(3, requires_grad=True), torch.zeros(3, 1, 2, 2, requires_grad=True)
        lesson = segdec.Lesson(images, weights, defective, torch.tensor([True, False, True]), decides)
        segdec._loss(lambda images, stopped: (logits, marks), lesson, spent=spent).backward()
        return logits.grad.tolist(), (marks.grad.sum((1, 2, 3)) != 0).tolist()

    assert slopes(1.0) == ([0.25, -0.25, 0.0], [False] * 3)  # half a slope of 1 / 2 each
    assert slopes(0.0) == ([0.0] * 3, [True, False, True])


def test_as_many_good_images_as_defects_without_masks_teach_with_these():
    masked = torch.tensor([True, False, False])
    yes = torch.ones(3, dtype=torch.bool)
    bad = segdec.Lesson(torch.zeros(3, 3, 16, 16), torch.zeros(3, 1, 2, 2), yes, masked, yes)
    lesson = segdec._good(torch.zeros(4, 3, 16, 16)) + bad
    assert lesson.stopped.tolist() == [False, False, True, True, True, False, False]
    assert lesson.defective.tolist() == [False] * 4 + [True] * 3 and (lesson.weights[:4] == -1).all()


@pytest.mark.parametrize("labels", ["masks", "none", "mixture"])
def test_the_map_is_highest_at_the_defect(taught, labels):
    hits = []
    for number in range(300, 310):
        image, mask = spoilt(number)
        map = taught[labels].score(image).map
        hits.append(map[mask].mean() > np.quantile(map[~mask], 0.95))
    assert np.mean(hits) >= 0.9


def test_the_decision_teaches_the_segmentation_only_where_no_mask_is_known():
    torch.manual_seed(0)
    network = nets.SegDec(base=8)
    images = torch.rand(4, 3, 64, 64)
    features = []

    def kept(module, given, made):
        made.retain_grad()
        features.append(made)

    network.features.register_forward_hook(kept)
    decisions, _ = network(images, torch.tensor([True, True, False, True]))
    decisions.sum().backward()
    reached = features[0].grad.flatten(1).abs().sum(1) > 0
    assert reached.tolist() == [False, False, True, False]
    decisions, marks = network(images, torch.ones(4, dtype=torch.bool))
    assert marks.shape == (4, 1, 8, 8) and decisions.shape == (4,)
    network.zero_grad()
    decisions.sum().backward()
    assert network.verdict.weight.grad.abs().sum() > 0
    assert all(p.grad is None or not p.grad.any() for p in [*network.features.parameters(), *network.mark.parameters()])


def test_gradients_come_from_the_photos_and_not_from_what_lay_in_memory():
    """In bfloat16, as it is trained, with the memory that it will be given full of what is no number."""
    torch.manual_seed(0)
    far = next(layer for layer in nets.SegDec(base=16).features if isinstance(layer, nets._Far))
    far.to(memory_format=torch.channels_last)
    features = torch.randn(8, 32, 32, 32).contiguous(memory_format=torch.channels_last)
    slope = torch.randn(8, 32, 32, 32).contiguous(memory_format=torch.channels_last)
    found = []
    for _ in range(20):
        far.zero_grad(set_to_none=True)
        left = [torch.full((far.weight.numel() * factor,), torch.nan) for factor in (1, 2, 4, 8, 16) for _ in range(40)]
        del left
        with torch.autocast("cpu", torch.bfloat16):
            made = far(features)
        made.float().backward(slope)
        found.append(far.weight.grad.clone())
    assert all(torch.equal(one, found[0]) for one in found) and found[0].isfinite().all()


def test_the_middle_of_a_mask_weighs_most_and_each_region_counts_by_itself():
    masks = torch.zeros(2, 1, 64, 64, dtype=torch.bool)
    masks[0, 0, 0:40, 8:48] = True  # a square of 5 x 5 cells at the border, 20 pixels deep
    masks[0, 0, 56:60, 56:60] = True  # a speck of 4 pixels, 2 deep: in its middle it weighs as much
    weights = segdec._weights(masks)
    assert weights.shape == (2, 1, 8, 8)
    one = weights[0, 0]
    assert (one >= 0).sum() == 26 and (one[:5, 1:6] >= 0).all() and one[7, 7] == segdec.MIDDLE
    assert one[2, 3] == segdec.MIDDLE  # 20 of 20 pixels from the rim
    assert one[2, 1] == pytest.approx(segdec.MIDDLE * 8 / 20)  # the deepest of its pixels is the eighth
    assert one[0, 3] == pytest.approx(segdec.MIDDLE * 8 / 20), "the border of the image is a rim"
    assert (weights[1] == -1).all()


def test_the_weight_moves_from_the_segmentation_to_the_decision():
    class Fixed(torch.nn.Module):
        def forward(self, images, stopped):
            return torch.tensor([-1.0, 2.0]), torch.zeros(2, 1, 2, 2)

    weights = torch.tensor([-1.0, 4.0])[:, None, None, None].expand(2, 1, 2, 2)  # good everywhere, defect everywhere
    images, defective = torch.zeros(2, 3, 16, 16), torch.tensor([False, True])

    def loss(spent, masked):
        lesson = segdec.Lesson(
            images, weights, defective, torch.tensor([True, masked]), torch.ones(2, dtype=torch.bool)
        )
        return float(segdec._loss(Fixed(), lesson, spent=spent))

    decision = float((softplus(torch.tensor(-1.0)) + softplus(torch.tensor(-2.0))) / 2)
    assert loss(0.0, True) == pytest.approx(np.log(2) * (1 + 4) / 2, rel=1e-4)  # of a logit of 0, weights 1 and 4
    assert loss(1.0, True) == pytest.approx(decision, rel=1e-4)
    assert loss(0.5, True) == pytest.approx((loss(0.0, True) + loss(1.0, True)) / 2, rel=1e-4)
    assert loss(0.0, False) == pytest.approx(decision, rel=1e-4), "without masks there is only the decision"


def test_good_photos_that_were_seldom_used_come_sooner():
    draws = segdec._seldom_used(torch.arange(100, 200), 4, torch.Generator().manual_seed(0))
    used = np.bincount(torch.cat([next(draws) for _ in range(1000)]).numpy() - 100, minlength=100)
    assert used.sum() == 4000
    assert used.std() < 0.8 * np.sqrt(40), "no more even than by chance, where the deviation is the root of the mean"


def test_a_fifth_of_the_defects_chooses_the_best_epoch_and_of_a_few_all_do():
    def parted(count):
        known = Defects(torch.zeros(count, 3, 8, 8, dtype=torch.uint8), torch.zeros(count, 1, 8, 8, dtype=torch.bool))
        return tuple(part.tolist() for part in segdec._parted(known))

    assert parted(12) == ([0, 1, 2, 3, 5, 6, 7, 8, 10, 11], [4, 9])
    assert parted(3) == ([0, 1, 2], [0, 1, 2])


def test_known_defects_are_scaled_like_photos_and_those_outside_of_the_region_are_left_out():
    detector = detectors.create("segdec", **SMALL)
    seen = {}
    detector._fit = lambda batches, progress: seen.update(found=batches)
    image, mask = painted(1)
    wide = np.repeat(image, 2, axis=1)
    detector.fit(GOOD, defects=[(image, mask), (wide, np.repeat(mask, 2, axis=1)), (image, None)])
    found: Batches = seen["found"]
    assert found.defects.masked.tolist() == [True, True, False] and len(found.defects) == 3
    np.testing.assert_array_equal(found.defects.masks[0, 0].numpy(), mask)
    red = found.defects.pixels[1, 0].float() - found.defects.pixels[1, 2].float() > 60
    assert (red == found.defects.masks[1, 0]).float().mean() > 0.97, "the mask lies elsewhere than the defect"
    left = [(image, np.roll(np.eye(64, dtype=bool), 0) & (np.arange(64) < 20)), (image, np.tri(64, dtype=bool).T)]
    detector.fit(GOOD, defects=left, region=(0.5, 0, 0.5, 0.5))
    assert len(seen["found"].defects) == 1


def test_what_cannot_teach_is_refused():
    image, mask = painted(1)
    with pytest.raises(UsageError, match="mahalanobis was given 1 known defects.*Leave them out, or use segdec"):
        detectors.create("mahalanobis", **SMALL).fit(GOOD, defects=[(image, mask)])
    with pytest.raises(UsageError, match="mask has 32 x 64 pixels, its image 64 x 64. Scale"):
        detectors.create("segdec", **SMALL).fit(GOOD, defects=[(image, mask[:, :32])])


# --- the folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """24 good plates, four known defects of two types (masks of one type only), two defective test photos."""
    top = tmp_path_factory.mktemp("photos")
    root = top / "plate"

    def written(image, *parts):
        root.joinpath(*parts).parent.mkdir(parents=True, exist_ok=True)
        write_image(root.joinpath(*parts), image)

    for i in range(24):
        written(plate(i), "train", "good", f"{i:03d}.png")
    for i, (image, mask) in enumerate(DEFECTS[:8]):
        written(image, "train", "red", f"{i}.png")
        written(mask.astype(np.uint8)[..., None].repeat(3, 2) * 255, "ground_truth", "train", "red", f"{i}_mask.png")
    for i in range(4):
        written(painted(400 + i)[0], "validation", "spot", f"{i}.png")
    for i in range(4):
        written(painted(500 + i)[0], "test", "red", f"{i}.png")
        written(plate(600 + i), "test", "good", f"{i}.png")
    return top


@pytest.fixture
def folder(photos, tmp_path):
    """A copy to damage."""
    return shutil.copytree(photos, tmp_path / "photos")


def test_known_defects_of_the_folder_teach_and_test_photos_never_do(photos, tmp_path, monkeypatch):
    read = []

    def noted(self, index, real=dataset.LabelledImages.__getitem__):
        read.append(self.samples[index].path)
        return real(self, index)

    monkeypatch.setattr(dataset.LabelledImages, "__getitem__", noted)
    plant = {"root": tmp_path / "runs", "book": tmp_path / "threshold.json"}
    outcome = training.train(photos, "plate", detectors.create("segdec", **SMALL), **plant)
    manifest = outcome.run.manifest
    learned, kept = manifest["defects"]["train"], [entry["file"] for entry in outcome.run.calibration["defect"]]
    assert sorted(str(path.relative_to(photos / "plate")) for path in read) == sorted(learned)
    assert len(learned) == 9 and len(kept) == 3 and not set(learned) & set(kept)
    assert manifest["defects"]["masks"] == 6 and not any(name.startswith("test/") for name in learned + kept)
    assert {name.split("/")[1] for name in learned} == {"red", "spot"} == {name.split("/")[1] for name in kept}
    assert outcome.point.rule == "false-alarms" and outcome.figures["n_defect"] == 4
    assert any("learned from only 9 known defects, 10 or more are advised" in one for one in outcome.warnings)
    more = [("a.png", photos / "plate" / "test" / "good" / "0.png")]
    with pytest.raises(UsageError, match="taught by known defects, which are not kept.*--detector segdec"):
        teaching.refit(more, "plate", teaching.successor(outcome.run, minutes=None), **plant, progress=lambda *at: None)


def test_without_known_defects_it_is_said_that_damage_was_simulated(site):
    """The plant of all tests holds a segdec that was taught by none."""
    assert runs.open_run(site.runs, CATEGORY, "segdec").manifest["defects"] == {"train": [], "masks": 0}
    (said,) = training._taught_by([])
    assert said == "No known defects were found, so it learned from simulated damage alone"


def test_a_mask_of_another_proportion_is_refused_and_nothing_is_stored(folder, tmp_path):
    mask = folder / "plate" / "ground_truth" / "train" / "red" / "2_mask.png"
    write_image(mask, np.full((32, 64, 3), 255, np.uint8))
    with pytest.raises(DatasetError, match="2_mask.png has 64 x 32 pixels, its image 64 x 64. Put the mask of this"):
        list(dataset.LabelledImages(dataset.known_defects(folder, "plate")))
    write_image(mask, np.full((32, 32, 3), 255, np.uint8))  # half as large: the same picture
    found = dict(zip(range(12), dataset.LabelledImages(dataset.known_defects(folder, "plate"))))
    assert found[2][1].shape == (64, 64) and found[2][1].all()
    assert [found[i][1] is None for i in (0, 8, 11)] == [False, True, True]
    write_image(mask, np.zeros((64, 64, 3), np.uint8))
    assert dataset.LabelledImages(dataset.known_defects(folder, "plate"))[2][1] is None, "an empty mask marks nothing"


def test_a_mask_without_its_photo_is_refused(folder, tmp_path, capsys):
    (folder / "plate" / "train" / "red" / "3.png").unlink()
    options = ["--data", str(folder), "--category", "plate", "--detector", "segdec", "--runs", str(tmp_path / "runs")]
    assert cli.main(["train", *options, "--thresholds", str(tmp_path / "t.json")]) == 2
    assert "3_mask.png belongs to no image of" in capsys.readouterr().err
    assert runs.names(tmp_path / "runs") == {}


def test_from_textures_to_a_verdict_on_the_command_line(tmp_path, capsys):
    """The way of the README: synth --dagm, train, calibrate on defects of the test, evaluate, inspect."""
    site = ["--runs", str(tmp_path / "runs"), "--thresholds", str(tmp_path / "t.json")]
    numbers = ["--train", "40", "--test", "20", "--size", "64"]
    assert cli.main(["synth", str(tmp_path / "d"), "--dagm", "--category", "raster", *numbers]) == 0
    product = ["--category", "raster"]
    learned = ["train", "--data", str(tmp_path / "d"), *product, "--detector", "segdec", "--image-size", "64"]
    assert cli.main([*learned, "--epochs", "1", *site]) == 0
    assert cli.main(["calibrate", *product, "--rule", "f1", "--data", str(tmp_path / "d"), *site]) == 0
    assert cli.main(["calibrate", *product, "--rule", "f1", "--data", str(tmp_path / "d"), *site]) == 0
    entries = runs.open_run(tmp_path / "runs", "raster", "segdec").calibration["defect"]
    files = [entry["file"] for entry in entries]
    assert len(files) == len(set(files)), "counted twice"
    capsys.readouterr()
    photo = next((tmp_path / "d" / "raster" / "Test").glob("*.PNG"))
    assert cli.main(["inspect", str(photo), *product, "--json", *site]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["detector"] == "segdec"


def test_dagm_photos_of_the_test_are_not_known(tmp_path):
    write_dagm(tmp_path, "felt", train=14, test=14, size=64)
    known = {sample.path for sample in dataset.known_defects(tmp_path, "felt")}
    assert len(known) == 3 and not known & {sample.path for sample in dataset.test_samples(tmp_path, "felt")}
