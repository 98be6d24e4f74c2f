"""The contract of a detector, held over every file in the folder, and what each detector promises beyond it."""

import copy
import functools
import json
import sys

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
import torch
from conftest import SMALL, painted, plate
from timm.layers.grn import GlobalResponseNorm

from anomaly import backbones, detectors, nets
from anomaly.detectors import base, mahalanobis, unet
from anomaly.errors import BrokenRun, NotFitted, TooFewImages, UnknownName, UsageError

GOOD = [plate(i) for i in range(24)]
UNSEEN = [plate(100 + i) for i in range(8)]
PAINTED = [painted(100 + i) for i in range(8)]


@pytest.fixture(scope="module", params=detectors.names())
def name(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(name):
    """One small detector of each kind, which tests leave as it is.

    It is trained long enough to see anything at all: 160 steps of a network do, on plates as plain as these.
    """
    return detectors.create(name, **SMALL | {"epochs": 4}, rate=5e-3).fit(GOOD)


@pytest.fixture
def quick(monkeypatch):
    """Epochs of two steps, for tests of what training does and not of how well."""
    monkeypatch.setattr(unet, "EPOCH", 2)


def scaled(image, factor):
    return np.clip(image * factor, 0, 255).astype(np.uint8)


def scores(detector, images=UNSEEN):
    return [result.score for result in detector.score_batch(images)]


# --- the contract


def test_the_folder_is_the_registry(name):
    assert {"mahalanobis", "unet"} <= set(detectors.names())
    assert detectors.get(name).name == name
    assert issubclass(detectors.get(name), base.Detector)


def test_each_detector_names_its_paper(name):
    text = sys.modules[detectors.get(name).__module__].__doc__
    assert any(f"{year}" in text for year in range(1980, 2030)), "the module's docstring names no paper"


def test_unknown_detector_lists_the_known_ones():
    with pytest.raises(UnknownName, match="no detector 'magic'.*mahalanobis, segdec, unet"):
        detectors.get("magic")


def test_constructor_is_keyword_only_plain_and_idle(name):
    detector = detectors.get(name)(image_size=96, seed=5)
    assert json.loads(json.dumps(detector.arguments())) == detector.arguments()
    assert (detector.arguments()["image_size"], detector.arguments()["seed"]) == (96, 5)
    with pytest.raises(TypeError):
        detectors.get(name)(96)
    with pytest.raises(TypeError):
        detectors.get(name)(image_sise=96)


@pytest.mark.parametrize("size", [0, -32, 32, 100, 1056])
def test_an_image_size_that_cannot_work_is_refused(name, size):
    with pytest.raises(UsageError, match=f"image_size is {size}, expected a multiple of 32 in 64..1024. Use 256"):
        detectors.get(name)(image_size=size)


def test_unfitted_neither_scores_nor_saves(name, tmp_path):
    fresh = detectors.create(name, **SMALL)
    with pytest.raises(NotFitted, match="Call fit, or load"):
        fresh.score(UNSEEN[0])
    with pytest.raises(NotFitted, match="Call fit before save"):
        fresh.save(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_few_images_are_refused_and_nothing_is_learned(name):
    fresh = detectors.create(name, **SMALL)
    for count in (0, 1, fresh.least - 1):
        with pytest.raises(TooFewImages, match=f"given {count} good images, it needs at least {fresh.least}"):
            fresh.fit(GOOD[:count])
    with pytest.raises(NotFitted):
        fresh.score(UNSEEN[0])


@pytest.mark.parametrize("more", [0, 1, 3])
def test_the_fewest_allowed_images_give_finite_scores(name, quick, more):
    detector = detectors.create(name, **SMALL)
    detector.fit(GOOD[: detector.least + more])
    assert np.isfinite(scores(detector)).all()


def test_identical_good_images_give_finite_scores(name, quick):
    """A camera that hangs: no variance at all must not become a division by zero."""
    detector = detectors.create(name, **SMALL).fit([GOOD[0]] * 10)
    found = detector.score_batch([GOOD[0], PAINTED[0][0]])
    assert all(np.isfinite(result.score) and np.isfinite(result.map).all() for result in found)


def test_fit_returns_self_and_starts_afresh(name, quick):
    once = detectors.create(name, **SMALL)
    assert once.fit(GOOD) is once
    twice = detectors.create(name, **SMALL).fit([255 - image for image in GOOD]).fit(GOOD)
    assert scores(twice) == scores(once)


def test_same_seed_same_scores_whatever_the_global_generators_did(name, quick):
    first = scores(detectors.create(name, **SMALL, seed=4).fit(GOOD))
    torch.manual_seed(99)
    np.random.seed(99)
    assert scores(detectors.create(name, **SMALL, seed=4).fit(GOOD)) == first


def test_fit_and_score_leave_the_global_generator_alone(name, quick):
    torch.manual_seed(1)
    before = torch.random.get_rng_state().clone()
    detectors.create(name, **SMALL).fit(GOOD).score(UNSEEN[0])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_scoring_changes_neither_the_state_nor_the_image(name, fitted):
    before = copy.deepcopy(fitted._state())
    images = [image.copy() for image in UNSEEN]
    first = scores(fitted, images)
    assert scores(fitted, images) == first
    assert all(np.array_equal(a, b) for a, b in zip(images, UNSEEN))
    after = fitted._state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_batch_equals_one_by_one(name, fitted):
    images = [UNSEEN[0], PAINTED[1][0], np.ascontiguousarray(UNSEEN[2][:40]), PAINTED[3][0]]
    for one, many in zip(map(fitted.score, images), fitted.score_batch(images), strict=True):
        assert many.score == pytest.approx(one.score, rel=1e-4, abs=1e-5)
        assert many.map == pytest.approx(one.map, rel=1e-3, abs=1e-4)
    assert fitted.score_batch([]) == []


@pytest.mark.parametrize("shape", [(64, 64), (30, 90), (200, 50), (1, 50), (50, 1), (1, 1)])
def test_map_and_reconstruction_have_the_size_of_the_image(name, fitted, shape):
    result = fitted.score(np.full((*shape, 3), 120, dtype=np.uint8))
    assert (result.map.shape, result.map.dtype) == (shape, np.float32)
    assert np.isfinite(result.map).all() and np.isfinite(result.score) and result.score >= 0
    if result.reconstruction is not None:
        assert (result.reconstruction.shape, result.reconstruction.dtype) == ((*shape, 3), np.uint8)


def test_a_view_that_is_not_contiguous_scores_the_same(name, fitted):
    assert fitted.score(UNSEEN[0][:, ::-1][:, ::-1]).score == fitted.score(UNSEEN[0]).score


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((64, 64, 3), dtype=np.float32), "float32"),
        (np.zeros((64, 64), dtype=np.uint8), r"\(64, 64\)"),
        (np.zeros((64, 64, 4), dtype=np.uint8), r"\(64, 64, 4\)"),
        ([[0, 0, 0]], "list"),
    ],
)
def test_what_is_no_rgb_image_is_refused(name, fitted, image, found):
    with pytest.raises(UsageError, match=f"{found}.*expected .H, W, 3. uint8 RGB.*read_image"):
        fitted.score(image)
    with pytest.raises(UsageError):
        detectors.create(name, **SMALL).fit([*GOOD[:10], image])


def test_painted_parts_outscore_the_same_parts_unpainted(fitted):
    bad = fitted.score_batch([image for image, _ in PAINTED])
    assert all(a.score > b for a, b in zip(bad, scores(fitted), strict=True))
    for result, (_, mask) in zip(bad, PAINTED):
        assert result.map[mask].mean() > result.map[~mask].mean(), "the map does not point at the defect"


def test_round_trip_keeps_the_values(name, fitted, tmp_path):
    fitted.save(tmp_path)
    loaded = detectors.get(name).load(tmp_path)
    assert loaded is not fitted and loaded.arguments() == fitted.arguments()
    images = [*UNSEEN, PAINTED[0][0]]
    for new, old in zip(loaded.score_batch(images), fitted.score_batch(images), strict=True):
        # Not to the bit: tensors read from a file lie elsewhere in memory, and other instructions add them up.
        assert new.score == pytest.approx(old.score, rel=1e-5)
        assert new.map == pytest.approx(old.map, rel=1e-4, abs=1e-5)
        assert (new.reconstruction is None) == (old.reconstruction is None)
        assert new.reconstruction is None or np.abs(new.reconstruction.astype(int) - old.reconstruction).max() <= 1


def test_a_loaded_detector_can_be_saved_again(name, fitted, tmp_path):
    fitted.save(tmp_path / "one")
    detectors.get(name).load(tmp_path / "one").save(tmp_path / "two")
    assert (tmp_path / "two" / base.WEIGHTS).read_bytes() == (tmp_path / "one" / base.WEIGHTS).read_bytes()


def test_progress_counts_up_to_its_total(name, quick):
    told = []
    detectors.create(name, **SMALL).fit(GOOD[:10], progress=lambda *step: told.append(step))
    assert ("read", 10, 10) in told
    for stage in {stage for stage, _, _ in told}:
        counts = [done for one, done, _ in told if one == stage]
        assert counts == sorted(counts)
        assert all(done <= total for _, done, total in told)


def test_lazy_images_are_each_read_once_and_a_few_for_their_proportion(name, quick):
    class Counting(list):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            return super().__getitem__(index)

    images = Counting(GOOD)
    detectors.create(name, **SMALL).fit(images)
    assert images.reads == len(GOOD) + base.MEASURED


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / base.WEIGHTS).unlink(), "FileNotFoundError"),
        (lambda folder: (folder / base.MANIFEST).unlink(), "FileNotFoundError"),
        (lambda folder: (folder / base.WEIGHTS).write_bytes((folder / base.WEIGHTS).read_bytes()[:-100]), "Safetensor"),
        (lambda folder: (folder / base.WEIGHTS).write_bytes(b""), "Safetensor"),
        (lambda folder: (folder / base.MANIFEST).write_text("{"), "JSONDecodeError"),
        (lambda folder: change(folder, schema=99), "schema 99"),
        (lambda folder: change(folder, detector="other"), "holds other of schema 2"),
        (lambda folder: change(folder, arguments={"image_sise": 64}), "TypeError"),
    ],
)
def test_a_damaged_folder_is_refused_with_the_remedy(name, fitted, tmp_path, damage, said):
    fitted.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(BrokenRun, match=said) as refusal:
        detectors.get(name).load(tmp_path)
    assert refusal.value.remedy == f"Train it again with `python -m anomaly train --detector {name}`"


def change(folder, **entries):
    path = folder / base.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


# --- options are used


def test_image_size_changes_the_scores(name, quick):
    small = detectors.create(name, **SMALL).fit(GOOD)
    large = detectors.create(name, **SMALL | {"image_size": 96}).fit(GOOD)
    assert scores(small) != scores(large)


@pytest.mark.parametrize("option", [{"seed": 1}, {"base": 4}, {"rate": 1e-4}, {"batch": 2}, {"epochs": 2}])
def test_unet_options_change_the_scores(quick, option):
    default = detectors.create("unet", **SMALL).fit(GOOD)
    changed = detectors.create("unet", **SMALL | option).fit(GOOD)
    assert scores(changed) != scores(default)


def test_unet_epochs_and_minutes_end_the_training(quick):
    assert len(detectors.create("unet", **SMALL | {"epochs": 3}).fit(GOOD).history()) == 3
    assert len(detectors.create("unet", **SMALL | {"epochs": 50}, minutes=1e-6).fit(GOOD).history()) == 1


def test_unet_patience_ends_the_training(quick, monkeypatch):
    monkeypatch.setattr(unet.UNet, "_examine", lambda *_: 1.0)  # never better than after the first epoch
    detector = detectors.create("unet", **SMALL | {"epochs": 50}, patience=3).fit(GOOD)
    assert len(detector.history()) == 1 + 3


def test_unet_keeps_the_epoch_with_the_best_left_out_loss(quick, monkeypatch):
    told = iter([1.0, 3.0, 4.0])
    monkeypatch.setattr(unet.UNet, "_examine", lambda *_: next(told))
    long = detectors.create("unet", **SMALL | {"epochs": 3}).fit(GOOD)
    assert [line["held_out_loss"] for line in long.history()] == [1.0, 3.0, 4.0]
    told = iter([3.0, 4.0, 1.0])
    late = detectors.create("unet", **SMALL | {"epochs": 3}).fit(GOOD)
    assert scores(late) != scores(long)


@pytest.mark.parametrize("name", ["unet"], indirect=True)
def test_unet_learns_to_repair(fitted):
    """The loss on left-out images falls, and a painted place comes back nearer to the good part than it went in."""
    losses = [line["held_out_loss"] for line in fitted.history()]
    assert losses[-1] < 0.9 * losses[0]
    for (image, mask), good in zip(PAINTED, UNSEEN, strict=True):
        made = fitted.score(image).reconstruction
        before, after = (np.abs(picture[mask] - good[mask].astype(float)).mean() for picture in (image, made))
        assert after < before


@pytest.mark.parametrize("option", [{"backbone": "convnextv2_femto_random"}, {"start": "unet_repair", "base": 16}])
def test_unet_begins_from_what_it_is_told_and_looks_through_the_backbone_it_is_told(quick, option):
    default = detectors.create("unet", **SMALL | {"base": option.get("base", 8)}).fit(GOOD)
    assert scores(detectors.create("unet", **SMALL | option).fit(GOOD)) != scores(default)


def test_start_weights_of_another_size_or_none_at_all_are_refused(monkeypatch, tmp_path):
    with pytest.raises(UsageError, match="'unet_repair' are of base 16, base 8 was asked for. Use base 16, or start"):
        detectors.create("unet", **SMALL | {"start": "unet_repair"}).fit(GOOD)
    monkeypatch.setattr(backbones, "SHIPPED", tmp_path)
    with pytest.raises(BrokenRun, match="holds no start weights .FileNotFoundError.*pretrain` --network repair"):
        detectors.create("unet", **SMALL | {"start": "unet_repair"}).fit(GOOD)


@pytest.mark.parametrize("name", ["unet"], indirect=True)
def test_either_voice_of_unet_is_heard_alone(fitted, monkeypatch):
    """A place that the repair left as it was, but that looks damaged, raises the score, and the other way round."""
    batch = fitted._tensor(UNSEEN[0])[None].float() / 255
    with torch.no_grad():
        errors, drawn = fitted._errors(batch)
        quiet = fitted._score(batch)
    for channel in (0, 1):
        loud = errors.clone()
        loud[0, channel, :8, :8] += 20
        monkeypatch.setattr(fitted, "_errors", lambda _, loud=loud: (loud, drawn))
        found = fitted._score(batch)
        assert found.scores[0] > quiet.scores[0] + 1
        assert found.maps[0, :8, :8].mean() > found.maps[0, 8:, 8:].amax() + 1


def test_the_marker_learns_what_damage_looks_like(quick, monkeypatch):
    monkeypatch.setattr(unet, "EPOCH", 40)
    detector = detectors.create("unet", **SMALL | {"epochs": 3}, rate=5e-3).fit(GOOD)
    with torch.inference_mode():
        marked = [detector._errors(detector._tensor(image)[None].float() / 255)[0][0, 1] for image, _ in PAINTED]
        clean = [detector._errors(detector._tensor(image)[None].float() / 255)[0][0, 1] for image in UNSEEN]
    assert np.median([float(m.max()) for m in marked]) > max(float(m.max()) for m in clean)


def test_ssim_of_an_image_with_itself_is_1_and_falls_with_noise():
    image = torch.from_numpy(plate(0)).permute(2, 0, 1)[None].float() / 255
    noisy = image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    assert unet.ssim(image, image).mean().item() == pytest.approx(1, abs=1e-4)
    assert unet.ssim(image, noisy).mean().item() < 0.5


def test_places_give_the_distance_of_their_covariance_written_out():
    """Low rank plus diagonal: where an eigenvalue of the correlation is over 1 it counts, the others count as 1."""
    torch.manual_seed(0)
    loud = torch.randn(5, 24) * torch.tensor([3.0, 2.0, 1.5, 1.0, 1.0])[:, None]
    cells = torch.randn(1, 800, 16, 24) + torch.randn(1, 800, 16, 5) @ loud
    x = cells.flatten(0, 2).double()
    grid = torch.randn(3, 4, 4, 24) * 4
    values, vectors = torch.linalg.eigh(torch.corrcoef(x.T))
    kept = values.argsort()[-mahalanobis.RANK :]
    directions = vectors[:, kept] * (values[kept].clamp_min(1) - 1).sqrt()
    deviation = x.std(0)
    covariance = (torch.eye(24) + directions @ directions.T) * torch.outer(deviation, deviation)
    difference = (grid - x.mean(0)).double()
    expected = torch.einsum("nhwi,ij,nhwj->nhw", difference, torch.linalg.inv(covariance), difference).sqrt()
    found = mahalanobis._places(cells).distances(grid)
    assert torch.allclose(found.double(), expected, rtol=0.02)
    assert ((difference / deviation).norm(dim=-1) / expected).mean() > 1.04  # the directions are no small matter here


def test_a_direction_in_which_good_parts_vary_counts_less_than_another():
    torch.manual_seed(0)
    cells = torch.randn(4, 60, 16, 24)
    cells[1] += 6 * torch.randn(60, 16, 1) * torch.eye(24)[0] + 6 * torch.randn(60, 16, 1) * torch.eye(24)[1]
    places = mahalanobis._places(cells)
    probe = torch.zeros(2, 8, 8, 24)
    probe[0, ..., 0], probe[1, ..., 9] = 12.0, 12.0
    along, across = places.distances(probe)
    assert along[0, 4] < 0.6 * across[0, 4]  # the second cell: rows 0-3, columns 4-7
    assert along[0, 0] > 0.65 * across[0, 0]


def test_a_coreset_leaves_no_patch_far_from_it():
    torch.manual_seed(0)
    patches = 0.01 * torch.randn(40, 24)
    patches[23] += 5
    patches[32:34] -= 5
    chosen = mahalanobis._coreset(patches, 6)
    assert len(chosen) == 6 and 23 in chosen and {32, 33} & set(chosen.tolist())
    assert torch.cdist(patches, patches[chosen]).amin(1).max() < 0.2


def test_a_coreset_of_patches_that_are_all_alike_takes_none_twice():
    assert sorted(mahalanobis._coreset(torch.ones(320, 8), 3000).tolist()) == list(range(320))


def test_a_bank_knows_the_patches_of_a_small_part(monkeypatch):
    """Two patches of a hundred in each image are of the part; drawn evenly, most images would give none of them."""
    monkeypatch.setattr(mahalanobis, "DRAWN", 40)
    monkeypatch.setattr(mahalanobis, "BANK", 16)
    generator = torch.Generator().manual_seed(0)
    grids = 0.1 * torch.randn(8, 10, 10, 4, generator=generator)
    for image in range(8):
        grids[image, 4, 4:6] = 5.0 + image
    bank, origins = mahalanobis._bank(grids, torch.ones(8, 10, 10, dtype=torch.bool), generator)
    part = bank.mean(1) > 4
    assert part.sum() >= 8 and not part.all()
    assert torch.equal(bank[part].mean(1).sub(5).round().long(), origins[part])
    assert torch.equal(bank, bank.half().float())


def bar(angle, stained=False):
    """A bright bar with a dark end at an angle in degrees, (128, 128, 3) uint8."""
    drawn = PIL.Image.new("RGB", (256, 256), (70, 74, 80))
    painter = PIL.ImageDraw.Draw(drawn)
    painter.rectangle((40, 108, 216, 148), fill=(190, 186, 180))
    painter.rectangle((40, 108, 70, 148), fill=(110, 60, 50))
    if stained:
        painter.ellipse((150, 116, 174, 140), fill=(60, 90, 160))
    turned = drawn.rotate(angle, PIL.Image.Resampling.BICUBIC, fillcolor=(70, 74, 80)).resize((128, 128))
    noise = np.random.default_rng(int(angle)).normal(0, 2, (128, 128, 3))
    return np.clip(turned + noise, 0, 255).astype(np.uint8)


def test_a_few_photos_of_a_part_that_turns_are_seen_turned(monkeypatch):
    """Between the eight angles that were seen lie good parts, and a stain at such an angle is still found."""
    photos = [bar(45 * i) for i in range(8)]
    unseen = [bar(45 * i + 22) for i in range(8)]

    def apart(views):
        monkeypatch.setattr(mahalanobis, "VIEWS", views)
        detector = detectors.create("mahalanobis", image_size=128).fit(photos)
        good, stained = scores(detector, unseen), scores(detector, [bar(45 * i + 22, stained=True) for i in range(8)])
        return (np.mean(stained) - np.mean(good)) / np.std(good)

    assert apart(views=96) > 1.5 * apart(views=8)


@pytest.mark.parametrize("turns", [True, False])
def test_parts_turn_if_their_places_are_like_turned_ones(turns):
    generator = torch.Generator().manual_seed(0)
    upright, turned = (torch.randn(n, 8, 8, 16, generator=generator) for n in (5, 20))
    inside = torch.ones(20, 8, 8, dtype=torch.bool)
    inside[:, :2] = False
    turned[:, :2] += 100  # where a photo had ended
    turned[:, 2:] += 0 if turns else 6
    of = torch.arange(5).repeat_interleave(4)
    assert mahalanobis._turns(upright, turned, inside, of, generator) == turns


def test_the_nearest_patch_is_the_nearest():
    torch.manual_seed(0)
    grid, bank = torch.randn(2, 5, 7, 64), torch.randn(90, 64)
    grid[1, 2, 3] = bank[11]
    found = mahalanobis._nearest(grid, bank)
    assert torch.allclose(found, torch.cdist(grid.flatten(0, 2), bank).amin(1).reshape(2, 5, 7), atol=1e-2)
    assert found[1, 2, 3] < 1e-2


def test_the_plain_view_has_every_channel_on_one_scale_and_leaves_the_finest_stage_out():
    torch.manual_seed(0)
    fine, coarse = torch.randn(6, 10, 8, 8), torch.randn(6, 5, 4, 4)
    channels = {0: 4, 1: 6, 2: 5}

    def distances(factor: float, finest: float) -> torch.Tensor:
        scaled = fine.clone()
        scaled[:, :4] *= finest
        scaled[:, 7] *= factor
        seen = mahalanobis._Seen(scaled, coarse)
        view = mahalanobis._whiten(mahalanobis._Moments.of(seen).plain(channels), seen.grids(slice(None)))
        return torch.cdist(view[0].flatten(0, 1), view[1].flatten(0, 1))

    assert torch.allclose(distances(1, 1), distances(20, 1), rtol=0.01)
    assert torch.allclose(distances(1, 1), distances(1, 20), rtol=1e-4)


def test_one_voice_that_hears_something_is_not_outvoted_and_the_whole_picture_counts_little():
    silent = torch.zeros(1, 4)

    def joined(voice: int, loudness: float) -> float:
        voices = silent.clone()
        voices[0, voice] = loudness
        return float(mahalanobis._joined(voices))

    places, whole = joined(0, 10.0), joined(3, 10.0)
    assert places > 10 / 4 + float(mahalanobis._joined(silent))  # a mean would give a quarter of it
    loudest = float(mahalanobis._loudness(torch.tensor([[10.0, 0, 0, 0]]))[0, 0])
    assert places**2 - whole**2 == pytest.approx(0.9 * loudest, rel=0.01)
    assert joined(1, -50.0) <= float(mahalanobis._joined(silent))


def test_colours_are_seen_beside_the_finest_features_and_light_is_none():
    torch.manual_seed(0)
    gray = torch.rand(1, 1, 64, 64).expand(-1, 3, -1, -1) * 0.4 + 0.3
    red = gray * torch.tensor([1.4, 1.0, 1.0])[:, None, None]
    seen = [
        mahalanobis._extract(backbones.DEFAULT, x)[1].fine[:, : mahalanobis.COLOURS] for x in (gray, red, 1.5 * red)
    ]
    assert seen[0].abs().max() < 1e-5
    assert (seen[1][:, 0] > 0.25).all() and seen[1][:, 1].abs().max() < 1e-5
    assert (seen[2] - seen[1]).abs().max() < 0.06  # what both have at least keeps dark pixels quiet
    channels = detectors.create("mahalanobis")._channels()
    assert mahalanobis._extract(backbones.DEFAULT, gray)[1].fine.shape[1] == channels[0] + channels[1]


def test_directions_that_damage_moves_are_kept_and_others_are_not(monkeypatch):
    """Of a whitening turned at random: the one direction that damage moves comes back, with its weight."""
    monkeypatch.setattr(mahalanobis, "TELLING", 1)
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(6, 6)).Q
    changes = 3 * torch.randn(4000, 1).sign() * torch.eye(6)[2] + 0.1 * torch.randn(4000, 6)
    (mean, directions), weights = mahalanobis._telling((torch.zeros(6), turn), changes)
    assert directions.shape == (1, 6) and abs(directions[0, 2]) > 0.99
    assert weights.item() == pytest.approx(9 / (1 + 9), abs=0.01)


def test_mahalanobis_looks_past_other_light_but_not_past_a_defect():
    detector = detectors.create("mahalanobis", image_size=128).fit(GOOD)
    lit = [scaled(image, factor) for image in UNSEEN for factor in (0.85, 1.12)]
    worst = max(scores(detector, lit))
    assert worst < np.median(scores(detector, [image for image, _ in PAINTED]))


def test_mahalanobis_takes_its_features_from_the_backbone_named(monkeypatch, tmp_path):
    default = detectors.create("mahalanobis", **SMALL).fit(GOOD)
    monkeypatch.setattr(backbones, "load", functools.lru_cache(backbones.untrained))
    other = detectors.create("mahalanobis", **SMALL, backbone="efficientnet_lite2").fit(GOOD)
    assert scores(other) != scores(default)
    other.save(tmp_path)
    written = json.loads((tmp_path / base.MANIFEST).read_text())
    assert (written["backbone"], written["backbone_sha256"]) == ("efficientnet_lite2", "untrained-0")


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_quick_response_normalisation_is_that_of_timm(channels_last):
    theirs = GlobalResponseNorm(8, channels_last=channels_last)
    theirs.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    theirs.bias.data.normal_(generator=torch.Generator().manual_seed(1))
    features = torch.randn(2, 8, 6, 8, generator=torch.Generator().manual_seed(2))
    features[0, ..., 3] = features[0, 3] = 0  # a channel that says nothing, whichever dimension channels are
    ours, given = nets.ResponseNorm.of(theirs), [features.clone().requires_grad_() for _ in range(2)]
    made = [norm(x) for norm, x in zip((ours, theirs), given)]
    torch.testing.assert_close(*made)
    slopes = [torch.autograd.grad(y.square().sum(), x)[0] for y, x in zip(made, given)]
    torch.testing.assert_close(*slopes)


def test_a_backbone_has_no_slow_normalisation_and_sees_many_photos_as_it_sees_each():
    backbone = backbones.load()
    kinds = {type(layer) for layer in backbone.modules()}
    assert nets.ResponseNorm in kinds and GlobalResponseNorm not in kinds
    images = torch.rand(5, 3, 320, 448, generator=torch.Generator().manual_seed(0))
    together, alone = backbone(images), [backbone(image[None]) for image in images]
    for stage, each in zip(together, zip(*alone)):
        torch.testing.assert_close(stage, torch.cat(each), rtol=1e-4, atol=1e-4)


def test_mahalanobis_refuses_weights_of_another_backbone(monkeypatch, tmp_path):
    """Features of other weights mean nothing to a stored covariance: refused, not scored."""
    detectors.create("mahalanobis", **SMALL).fit(GOOD).save(tmp_path)
    monkeypatch.setattr(backbones, "load", lambda name: backbones.untrained(name, seed=8))
    with pytest.raises(BrokenRun, match="another backbone_sha256: .*now untrained-8"):
        detectors.get("mahalanobis").load(tmp_path)


def test_create_leaves_out_what_a_detector_does_not_know():
    assert "epochs" not in detectors.create("mahalanobis", epochs=3).arguments()
    assert detectors.create("unet", epochs=3).arguments()["epochs"] == 3


# --- the parts, on numbers worked by hand


def test_topk_mean_takes_the_largest_hundredth():
    values = torch.arange(200.0).reshape(1, 10, 20)
    assert base.topk_mean(values).item() == 198.5  # 1% of 200 is 2: (199 + 198) / 2
    assert base.topk_mean(torch.arange(9.0).reshape(1, 3, 3)).item() == 8  # never fewer than one


def test_folds_are_consecutive_and_cover_all():
    assert [(f.start, f.stop) for f in base.fold_slices(10, 5)] == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]
    assert [(f.start, f.stop) for f in base.fold_slices(2, 5)] == [(0, 1), (1, 2)]


def test_deviations_are_positive_and_keep_the_order():
    raw = torch.tensor([-5.0, 0.0, 1.0, 20.0])
    found = base.deviations(raw, torch.tensor(0.0), torch.tensor(2.0))
    assert (found > 0).all() and (found.diff() > 0).all()
    assert found[1].item() == pytest.approx(np.log(2))  # softplus(0)
    assert found[3].item() == pytest.approx(10, abs=1e-4)  # softplus(10) = 10.00005


# --- why


def test_an_explanation_shows_the_place_beside_a_good_one(fitted):
    image, mask = PAINTED[0]
    rows, columns = np.nonzero(mask)
    box = (int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
    why = fitted.explain(image, box)
    assert why.here.shape == why.good.shape and why.here.dtype == why.good.dtype == np.uint8
    assert why.here.shape[0] >= image.shape[0] // 8 and why.source
    assert sum(why.shares.values()) == pytest.approx(1) and min(why.shares.values()) >= 0
    assert np.array_equal(fitted.explain(image, box).good, why.good)


@pytest.mark.parametrize("box", [(63, 63, 1, 1), (0, 63, 64, 1), (0, 0, 1, 1), (0, 0, 64, 64)])
def test_a_place_at_the_very_border_is_explained_in_numbers(fitted, box):
    shares = fitted.explain(PAINTED[0][0], box).shares
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 0, 5), (60, 60, 10, 10), (0, 0, 1000, 5)])
def test_a_box_outside_of_the_image_is_refused(fitted, box):
    with pytest.raises(UsageError, match="is not inside an image of 64 x 64. Use a region of that image"):
        fitted.explain(UNSEEN[0], box)


def test_nothing_is_explained_before_anything_is_learned(name):
    with pytest.raises(NotFitted, match="Call fit, or load"):
        detectors.create(name, **SMALL).explain(UNSEEN[0], (0, 0, 8, 8))


def test_mahalanobis_finds_the_good_place_that_a_patch_came_from():
    """Good parts are black left and white right: whatever lies left must be set beside black."""
    good = []
    for i in range(12):
        image = np.random.default_rng(i).integers(0, 20, (64, 64, 3), dtype=np.uint8)
        image[:, 32:] += 220
        good.append(image)
    detector = detectors.create("mahalanobis", **SMALL).fit(good)
    why = detector.explain(good[0], (4, 40, 6, 6))
    assert why.good.mean() < 60 < 200 < detector.explain(good[0], (50, 40, 6, 6)).good.mean()


# --- photos that are not square


def wide(number):
    """A plate twice as wide as high."""
    return np.concatenate((plate(number), plate(number)), axis=1)


def test_good_parts_of_another_proportion_keep_it(name, quick):
    detector = detectors.create(name, **SMALL).fit([wide(i) for i in range(8)])
    seen = detector._tensor(wide(50))
    assert seen.shape[2] > seen.shape[1] and seen.shape[1] % 32 == seen.shape[2] % 32 == 0


def test_a_photo_of_a_rare_proportion_is_mirrored_and_not_squeezed(fitted):
    """Between two photos of one part, one of them cropped, nothing may change but the crop."""
    image, mask = PAINTED[1]
    rows = np.nonzero(mask)[0]
    crop = slice(0, 40) if rows.max() < 40 else slice(24, 64)
    result = fitted.score(image[crop])
    assert result.map.shape == (40, 64)
    inside = mask[crop]
    assert result.map[inside].mean() > 1.1 * result.map[~inside].mean()
    assert torch.equal(fitted._tensor(image[:32])[:, :32], torch.from_numpy(image[:32]).permute(2, 0, 1))


@pytest.mark.parametrize("shrink", [1, 2])
def test_what_is_drawn_of_a_photo_of_a_rare_proportion_is_all_of_it_and_no_more(shrink, monkeypatch):
    """The mirrored rest is cut off, whatever size the detector drew at."""
    detector = detectors.create("mahalanobis", **SMALL)
    detector._fitted = True

    def drawn(batch):
        return base.BatchScores(torch.zeros(1), torch.zeros(1, 8, 8), batch[:, :, ::shrink, ::shrink])

    monkeypatch.setattr(detector, "_score", drawn)
    image = np.zeros((32, 64, 3), np.uint8)
    image[:16] = 200
    found = detector.score(image).reconstruction
    assert found.shape == image.shape
    assert found[:14].min() > 150 and found[18:].max() < 50, "the upper half is bright, the lower half dark"


def test_the_frame_is_kept_with_the_weights(name, quick, tmp_path):
    detector = detectors.create(name, **SMALL).fit([wide(i) for i in range(8)])
    detector.save(tmp_path)
    assert scores(type(detector).load(tmp_path), [wide(60)]) == scores(detector, [wide(60)])


@pytest.mark.parametrize(
    "shape, frame",
    [((200, 200), (448, 448)), ((480, 480), (480, 480)), ((2000, 2000), (512, 512)), ((360, 640), (352, 640))],
)
def test_no_photo_is_enlarged_beyond_its_own_pixels_but_small_ones_to_448(shape, frame):
    detector = detectors.create("mahalanobis")
    assert detector._choose_frame([shape] * 3) == frame
    assert detectors.create("mahalanobis", image_size=64)._choose_frame([shape] * 3)[0] <= 64, "never more than asked"


def test_the_skirt_of_a_strong_place_is_no_defect_and_what_stands_alone_stays():
    ordinary = float(np.log(2))  # the worst place of an ordinary good part
    maps = torch.full((1, 20, 20), 0.1)
    maps[0, 2:9, 2:9], maps[0, 5, 5] = 8.0, 20.0  # far over any limit, and around it much less
    maps[0, 15, 15], maps[0, 15, 16] = 3.0, 2.5  # a weak defect elsewhere
    found = mahalanobis._sharpened(maps)
    assert found[0, 5, 5] == 20 and (found[0] > ordinary + 1e-6).sum() == 3
    assert found[0, 4, 5] == pytest.approx(ordinary)
    assert found[0, 15, 15] == 3 and found[0, 15, 16] == 2.5
    good = maps.clamp_max(ordinary)
    assert torch.equal(mahalanobis._sharpened(good), good), "photos of good parts are left as they are"
