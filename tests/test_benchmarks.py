"""The accuracy benchmark: the naive systems, what is made of several seeds, and a run of the whole program."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import CATEGORY, painted, plate
from served import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import accuracy
import autoencoders
import defect_types
import fairness
import systems
import two_stage

from anomaly import synthetic
from anomaly.dataset import Sample

GOOD = [plate(i) for i in range(12)]


def row(**changes) -> dict:
    values = dict.fromkeys(accuracy.COLUMNS, 0.5) | {"n_good": 10, "n_defect": 12, "n_train": 30, "intervals": {}}
    return values | changes


def test_the_naive_systems_see_what_they_are_named_for():
    mean, brightness = (systems.create(name, seed=0).fit(GOOD) for name in ("naive_mean_image", "naive_brightness"))
    stained, mask = painted(3)
    found = mean.score(stained).map
    assert found[mask].min() > np.median(found[~mask])
    plain = brightness.score(plate(50)).score
    assert brightness.score((plate(50) * 0.8).astype(np.uint8)).score > plain
    assert brightness.score(np.clip(plate(50) * 1.2, 0, 255).astype(np.uint8)).score > plain


def test_all_of_our_detectors_are_measured_and_the_others_too():
    assert {"unet", "mahalanobis", "anomalib_patchcore", "anomalib_padim"} <= set(systems.names())
    assert {"mahalanobis", "unet", "cae", "vae", "dae", "fused"} <= systems.RANDOM <= set(systems.names())


def test_one_model_for_all_products_learns_from_each_and_has_a_limit_for_each(site, tmp_path, monkeypatch):
    for name in ("plate", "nut"):
        shutil.copytree(site.data / CATEGORY, tmp_path / name)
    shutil.rmtree(tmp_path / "nut" / "test" / "good")
    monkeypatch.setattr(accuracy, "SHARED", 5)
    chosen = accuracy._shared(tmp_path)
    assert [path.parts[-4] for path in chosen] == ["nut"] * 5 + ["plate"] * 5
    held_out = {path for name in ("plate", "nut") for path in accuracy._split(tmp_path, name).held_out}
    assert len(set(chosen)) == 10 and not held_out & set(chosen)
    naive = systems.create("naive_mean_image", seed=0)
    monkeypatch.setattr(systems, "create", lambda name, seed: naive)
    monkeypatch.setattr(accuracy, "_size", lambda detector: 1.5)
    figures = accuracy.measure(tmp_path, "plate", systems.UNIFIED, 0)
    assert (figures["n_train"], figures["disk_mb"], figures["n_good"]) == (10, 1.5, 8)
    assert accuracy.measure(tmp_path, "plate", "naive_mean_image", 0)["n_train"] == 18


PLACES = {"bolt": 0.6, CATEGORY: 1.0, "nail": 0.8}


def test_seeds_become_a_mean_with_its_interval():
    found = accuracy.summarise([row(image_auroc=0.8, aupro=None), row(image_auroc=0.9, aupro=None)])
    assert found["image_auroc"] == 0.85 and found["seeds"] == 2 and found["aupro"] is None
    low, high = found["intervals"]["image_auroc"]  # Student's t for one degree of freedom: 12.706 * 0.05
    assert low == pytest.approx(0.85 - 0.6353, abs=1e-3) and high == pytest.approx(0.85 + 0.6353, abs=1e-3)
    assert accuracy.summarise([row()])["intervals"]["f1"] is None


def test_means_are_of_photographed_and_of_drawn_products_apart():
    rows = {name: {"unet": accuracy.summarise([row(image_auroc=value)])} for name, value in PLACES.items()}
    page = accuracy._page(rows)
    photographed, drawn = page.split("## Mean over ")[1:3]
    assert photographed.startswith("2 photographed products") and "| unet | 0.700 |" in photographed
    assert drawn.startswith("1 drawn products") and "| unet | 1.000 |" in drawn


def test_the_whole_program_on_a_toy_product(site, tmp_path):
    """In a copy, since the program writes beside itself."""
    (tmp_path / "benchmarks").mkdir()
    for name in ("accuracy.py", "systems.py"):
        (tmp_path / "benchmarks" / name).write_text((ROOT / "benchmarks" / name).read_text())
    (tmp_path / "anomaly").symlink_to(ROOT / "anomaly")
    program = [sys.executable, tmp_path / "benchmarks" / "accuracy.py", site.data]
    program += ["--system", "naive_mean_image", "--system", "naive_brightness"]
    for _ in range(2):  # the second takes what the first measured
        subprocess.run(program, check=True, capture_output=True)
    results = json.loads((tmp_path / "benchmarks" / "results.json").read_text())
    assert results["default"] == "mahalanobis"
    (found,) = results["products"].values()
    assert set(found) == {"naive_mean_image", "naive_brightness"}
    for figures in found.values():
        assert set(accuracy.COLUMNS) <= set(figures)
        assert 0 <= figures["image_auroc"] <= 1 and figures["peak_mb"] > 50
    page = (tmp_path / "benchmarks" / "results.md").read_text()
    assert "| naive_brightness | 1 |" in page and "Mean over 1 drawn products" in page and "photographed" not in page
    del found["naive_brightness"]["disk_mb"]  # of a row that was measured before there was this column
    results["products"] = {"bolt": found, CATEGORY: {"unified": found["naive_mean_image"]}}
    (tmp_path / "benchmarks" / "results.json").write_text(json.dumps(results))
    subprocess.run([*program[:3], "--system", "naive_mean_image"], check=True, capture_output=True)
    results = json.loads((tmp_path / "benchmarks" / "results.json").read_text())["products"]
    assert {name: list(rows) for name, rows in results.items()} == {
        "bolt": ["naive_mean_image", "naive_brightness"],
        CATEGORY: ["unified", "naive_mean_image"],
    }
    assert (tmp_path / "benchmarks" / "results.png").stat().st_size > 5000


def test_the_autoencoders_stand_beside_what_was_published(site, tmp_path):
    """In a copy, since the program writes beside itself; what it knew of another product stays."""
    (tmp_path / "benchmarks").mkdir()
    for name in ("autoencoders.py", "systems.py"):
        (tmp_path / "benchmarks" / name).write_text((ROOT / "benchmarks" / name).read_text())
    (tmp_path / "anomaly").symlink_to(ROOT / "anomaly")
    shutil.copytree(site.data / CATEGORY, tmp_path / "more" / "nut")
    program = [sys.executable, tmp_path / "benchmarks" / "autoencoders.py", site.data, tmp_path / "more"]
    for options in (("--product", CATEGORY, "--on", "nut"), ("--product", "nut")):
        subprocess.run([*program, *options, "--minutes", "0.0001"], check=True, capture_output=True)
    found = json.loads((tmp_path / "benchmarks" / "autoencoders.json").read_text())
    assert list(found) == [CATEGORY, "nut"] and list(found["nut"]) == ["cae", "vae", "dae", *autoencoders.NAIVE]
    cae = found[CATEGORY]["cae"]
    assert 1 <= cae["best_epoch"] <= cae["epochs"] < 5  # no time is left for more
    assert (cae["n_train"], cae["on"]["nut"]["n_defect"]) == (18, 8)
    assert cae["on"]["nut"] == cae["on"][CATEGORY]  # the same photos under another name
    page = (tmp_path / "benchmarks" / "autoencoders.md").read_text()
    assert "| cae, published | `screw` | 41 / 119 | 0.979 |" in page
    assert f"| cae | `{CATEGORY}` | 8 / 8 | {cae['on'][CATEGORY]['image_auroc']:.3f} [" in page
    assert "| vae | `nut` | – |" in page  # learned on nut, not tested on the other


def test_a_measurement_that_fails_says_which_and_why(site, monkeypatch, tmp_path):
    monkeypatch.setattr(accuracy, "MEASURED", tmp_path / "measured")
    with pytest.raises(SystemExit, match="naive_brightness on nothing, seed 0, stopped: .*nothing"):
        accuracy.measure_apart(site.data, "nothing", "naive_brightness", 0)
    assert not list((tmp_path / "measured").iterdir())


def labelled(kinds: dict[str, int]) -> list[Sample]:
    return [Sample(Path(kind, f"{i}.png"), kind, Path("masks")) for kind, n in kinds.items() for i in range(n)]


def test_a_share_of_the_masks_of_each_type_is_shown():
    known = labelled({"crack": 10, "dent": 20})
    for share in two_stage.SHARES:
        shown = two_stage.unmasked(known, share)
        assert [sample.path for sample in shown] == [sample.path for sample in known]
        for kind, n in (("crack", 10), ("dent", 20)):
            assert sum(sample.kind == kind and sample.mask is not None for sample in shown) == round(share * n)


def test_where_no_defect_is_known_the_test_photos_are_parted_and_none_is_on_both_sides(toy_data, tmp_path):
    good, known, test = two_stage.parted(toy_data, CATEGORY)
    learned = {*good, *(sample.path for sample in known)}
    assert known and all(sample.label for sample in known) and not learned & {sample.path for sample in test}
    assert len(learned) + len(test) == 16 and {sample.label for sample in test} == {0, 1}
    assert all("test" in path.parts for path in good), "photos of another day than that of the defects"
    synthetic.write_dagm(tmp_path, "felt", train=14, test=7, size=64)
    good, known, test = two_stage.parted(tmp_path, "felt")
    assert (len(good), len(known), len(test)) == (14, 3, 9)


def test_the_harmonic_mean_of_seen_and_unseen():
    assert two_stage.harmonic(98.12, 95.96) == pytest.approx(97.03, abs=0.005)  # as published
    parts = [{"unknown": ("a", "b"), "seen": [True, True, True, False], "unseen": [True, False]}]
    found = two_stage.summed(parts)
    assert (found["seen"], found["unseen"], found["harmonic"]) == (75.0, 50.0, 60.0)
    assert (found["each"], found["n_seen"], found["n_unseen"]) == ({"a b": 60.0}, 4, 2)


def test_unknown_products_are_rejected_by_each_variant(tmp_path, monkeypatch):
    """Whole, on tiny pictures, with plain features in the place of the backbone's."""
    names = list(synthetic.TEXTURES)[:6]
    for name in names:
        synthetic.write_dagm(tmp_path, name, train=20, test=10, size=64)

    def describe(photo, region=None):
        gray = photo[..., 0].astype(float)
        return np.array([np.abs(gray - np.roll(gray, d, axis)).mean() for d in range(1, 9) for axis in (0, 1)])

    class Product:
        def __init__(self, photos):
            self.mean = np.mean([describe(photo) for photo in photos], axis=0)

        def distance(self, features):
            return np.linalg.norm(features - self.mean) / 8

    monkeypatch.setattr(two_stage.gate, "describe", describe)
    monkeypatch.setattr(two_stage.gate, "learn", Product)
    monkeypatch.setattr(two_stage, "HERE", tmp_path)
    monkeypatch.setattr(two_stage.embedding, "EPOCHS_DRAWING", 1)
    found = two_stage.rejected(tmp_path, seed=0)
    assert set(found) == {*two_stage.VARIANTS, two_stage.GATE}
    for one in found.values():
        assert len(one["each"]) == 3 and 0 <= one["harmonic"] <= 100
        assert one["n_seen"] == 2 * one["n_unseen"] / 5, "8:2, two pairs of known ones to each unknown pair"
    two_stage.write({"segdec": {}, "unknown": found})
    page = (tmp_path / "two_stage.md").read_text()
    assert "| Published, embeddings learned | 98.12 | 95.96 | 97.03 |" in page
    assert f"| {two_stage.GATE} | {found[two_stage.GATE]['seen']} |" in page


def test_what_was_measured_gets_its_row(toy_data, tmp_path, monkeypatch):
    monkeypatch.setattr(two_stage, "HERE", tmp_path)
    monkeypatch.setattr(two_stage.detectors, "create", lambda name, **arguments: systems.create(name, seed=0))
    one = two_stage.measured(toy_data, CATEGORY, "naive_brightness", None, 1, 1.0)
    assert (one["n_train_defect"], one["n_masks"]) == (0, 0) and 0 <= one["image_ap"] <= 1
    two_stage.write({"segdec": {CATEGORY: [{"system": "naive_brightness"} | one]}, "unknown": {}})
    low, high = one["intervals"]["image_ap"]
    cell = f"| {one['image_ap']:.3f} [{low:.3f}, {high:.3f}] |"
    assert cell in (tmp_path / "two_stage.md").read_text()


def test_what_was_measured_of_another_detector_stays(toy_data, tmp_path, monkeypatch):
    monkeypatch.setattr(two_stage, "HERE", tmp_path)
    figures = dict.fromkeys((*two_stage.COLUMNS, "n_good", "n_defect", "n_train_good", "n_train_defect", "epochs"), 1)

    def measured(data, product, system, share, epochs, minutes):
        return figures | {"n_masks": round(10 * (share or 0)), "minutes": minutes, "intervals": {}}

    monkeypatch.setattr(two_stage, "measured", measured)
    for minutes, beside in (("1", ["--beside", "unet"]), ("2", [])):
        arguments = ["two_stage.py", str(toy_data), "--product", CATEGORY, "--minutes", minutes, *beside]
        monkeypatch.setattr(sys, "argv", arguments)
        two_stage.main()
    rows = json.loads((tmp_path / "two_stage.json").read_text())["segdec"][CATEGORY]
    assert [(row["system"], row["n_masks"], row["minutes"]) for row in rows] == [
        ("unet", 0, 1.0),
        *(("segdec", masks, 2.0) for masks in (10, 3, 0)),
    ]


def test_defect_types_are_measured_on_the_half_that_was_not_labelled(tmp_path):
    synthetic.write_product(tmp_path, "wood_grain", train=1, test=24, size=96, seed=5)
    found = defect_types.measured(tmp_path, "wood_grain", tmp_path / "runs", tmp_path / "threshold.json", 0)
    assert (found["regions"], found["labelled"], found["asked"], found["passed"]) == ("mask", 12, 12, 0)
    assert 0 <= found["right"] <= found["named"] <= 12 and found["strangers"] == 12
    text = defect_types.page({"wood_grain": found})
    assert f"({found['unknown']}/12)" in text and "| `wood_grain` | mask | 6 | 12 |" in text


def test_each_camera_of_fairness_takes_another_photo():
    photo = painted(3)[0]
    taken = {name: camera(photo) for name, camera in fairness.CAMERAS.items()}
    assert all(one.shape == photo.shape and one.dtype == np.uint8 for one in taken.values())
    assert [name for name, one in taken.items() if (one == photo).all()] == ["as it was"]
    left, right = (taken["light from one side"][:, half].mean() for half in (slice(32), slice(-32, None)))
    assert right > 1.2 * left


def test_fairness_counts_alarms_warnings_and_finds():
    labels, scores = np.array([0, 0, 0, 1, 1]), np.array([1.0, 3.0, 4.0, 2.0, 5.0])
    found = fairness.judged(labels, scores, scores >= 2.5, np.array([False, True, False, False, False]))
    assert found == {"n_good": 3, "alarms": 2, "unwarned": 1, "n_defect": 2, "found": 1, "image_auroc": 0.6667}


def test_the_mean_of_fairness_is_of_products_with_enough_photos_and_every_photo_counts_as_alarm():
    def product(photos: int, auroc: float, alarms: int) -> dict:
        one = {"n_good": photos, "alarms": alarms, "unwarned": 0, "n_defect": photos, "found": 1, "image_auroc": auroc}
        return {"unet": {"target": 0.1} | dict.fromkeys(fairness.CAMERAS, one)}

    settings = {"limit": 10, "learned": 64, "minutes": 0.15}
    few = fairness.ENOUGH - 1
    products = {"a": product(10, 0.9, 1), "b": product(10, 0.8, 0), "few": product(few, 0.1, 2)}
    row = next(line for line in fairness.page(products, settings).splitlines() if line.startswith("| blur |"))
    assert row.endswith("| 0.850 | 0.800 (`b`) |") and f"(3/{20 + few})" in row


def test_accuracy_leaves_out_and_names_a_product_with_too_few_photos(tmp_path, monkeypatch, capsys):
    synthetic.write_product(tmp_path / "data", CATEGORY, train=4, test=2, size=64)
    monkeypatch.setattr(accuracy, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["accuracy.py", str(tmp_path / "data")])
    with pytest.raises(SystemExit, match="Nothing was measured"):
        accuracy.main()
    said = f"{CATEGORY} is left out: 3 good photos to learn from, at least 4 are needed"
    assert said in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()


def test_fairness_leaves_out_and_names_a_product_with_too_few_photos(toy_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fairness, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["fairness.py", str(toy_data), "--learned", "4", "--detector", "mahalanobis"])
    with pytest.raises(SystemExit, match="Nothing was measured"):
        fairness.main()
    assert f"{CATEGORY} is left out: mahalanobis was given 3 good images" in capsys.readouterr().err
    assert not (tmp_path / "fairness.json").exists()


def test_fairness_is_measured_for_every_product_and_detector(toy_data, tmp_path, monkeypatch):
    monkeypatch.setattr(fairness, "HERE", tmp_path)
    few = ["--limit", "2", "--learned", "8", "--minutes", "0.001"]
    monkeypatch.setattr(sys, "argv", ["fairness.py", str(toy_data), *few, "--detector", "unet"])
    fairness.main()
    found = json.loads((tmp_path / "fairness.json").read_text())
    assert (found["limit"], found["learned"]) == (2, 8)
    rows = found["products"][CATEGORY]["unet"]
    assert (rows["n_learned"], rows["n_limit"], rows["target"]) == (6, 2, pytest.approx(1 / 3))
    assert {(rows[camera]["n_good"], rows[camera]["n_defect"]) for camera in fairness.CAMERAS} == {(2, 2)}
    page = (tmp_path / "fairness.md").read_text()
    assert f"| JPEG 60 | {50 * rows['JPEG 60']['alarms']:.1f}% [" in page and f"| `{CATEGORY}` |" in page
    assert page.count("| – | – |") == len(fairness.CAMERAS)  # two photos of each kind rank nothing
    monkeypatch.setattr(sys, "argv", ["fairness.py", str(toy_data), "--product", "nothing"])
    with pytest.raises(SystemExit, match="Nothing was measured"):
        fairness.main()
    monkeypatch.setattr(fairness, "measure", lambda data, product, names, **settings: {names[0]: rows})
    for options, detectors in ((few, ["unet", "dae"]), (["--limit", "3", *few[2:]], ["dae"])):
        monkeypatch.setattr(sys, "argv", ["fairness.py", str(toy_data), *options, "--detector", "dae"])
        fairness.main()
        assert list(json.loads((tmp_path / "fairness.json").read_text())["products"][CATEGORY]) == detectors
