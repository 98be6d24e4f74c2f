"""The accuracy benchmark: the naive systems, what is made of several seeds, and a run of the whole program."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import CATEGORY, painted, plate
from served import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import accuracy
import autoencoders
import fairness
import systems

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
    assert {"unet", "cae", "vae", "dae", "fused"} <= systems.RANDOM <= set(systems.names())


def test_seeds_become_a_mean_with_its_interval():
    found = accuracy.summarise([row(image_auroc=0.8, aupro=None), row(image_auroc=0.9, aupro=None)])
    assert found["image_auroc"] == 0.85 and found["seeds"] == 2 and found["aupro"] is None
    low, high = found["intervals"]["image_auroc"]  # Student's t for one degree of freedom: 12.706 * 0.05
    assert low == pytest.approx(0.85 - 0.6353, abs=1e-3) and high == pytest.approx(0.85 + 0.6353, abs=1e-3)
    assert accuracy.summarise([row()])["intervals"]["f1"] is None


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
    assert "| naive_brightness | 1 |" in page and "Mean over 1 products" in page
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
    monkeypatch.setattr(sys, "argv", ["fairness.py", str(toy_data), "--product", "nothing"])
    with pytest.raises(SystemExit, match="No product"):
        fairness.main()
