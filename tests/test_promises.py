"""The benchmark of promises: what would make it find them kept when they are not."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import CATEGORY, SMALL, plate
from served import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import promises

from anomaly import detectors
from anomaly.capture import measure


def scores(values) -> dict[Path, float]:
    return {Path(f"{i:04}.png"): float(value) for i, value in enumerate(values)}


def splits(values) -> dict:
    return promises.summarise([promises.split_once(scores(values), seed) for seed in range(60)])


def test_false_alarms_among_the_next_parts_by_hand():
    # over the highest of n scores the (n + 1)-th part lies with 1 / (n + 1); k of the next m all over it:
    # with n = m = 1 the rate is uniform, so 0 and 1 alarms are equally likely
    assert promises.next_parts(1, 1, 1) == (0, 1)
    # n = 50, k = 50, m = 50: no alarm with 50 / 100; 2.5% are left over 5 (P(6 or more) = 0.5^6 about)
    rng = np.random.default_rng(0)
    alarms = [np.sum(rng.random(50) > rng.random(50).max()) for _ in range(20_000)]
    low, high = promises.next_parts(50, 50, 50)
    assert (low, high) == (0, 5)
    assert np.mean(np.array(alarms) > high) < 0.025 < np.mean(np.array(alarms) >= high)


def test_parts_of_one_kind_keep_the_promise():
    found = splits(np.random.default_rng(1).exponential(size=300))
    assert found["inside_next"] >= 0.93
    assert found["rate_seen"] == pytest.approx(found["target"], abs=0.01)
    assert found["review_seen"] == pytest.approx(found["review_said"], abs=0.02)
    assert (found["splits"], found["n_limit"], found["n_fresh"]) == (60, 150, 150)


def test_groups_that_differ_make_a_promise_say_less_and_keep_it(monkeypatch):
    """Whole days that score higher: each lies on one side of a split."""
    days = np.repeat(np.random.default_rng(2).exponential(3, 20), 15)
    values = days + 0.1 * np.random.default_rng(3).random(300)
    found = splits(values)
    assert found["design_effect"] > 4 and found["inside_next"] > 0.85
    monkeypatch.setattr(promises.thresholds, "design_effect", lambda scores, groups: 1.0)
    broken = splits(values)
    assert broken["design_effect"] == 1 and broken["inside_next"] < 0.7, (
        "without it the promise breaks, and that is seen"
    )


def test_each_camera_does_what_it_is_named_for():
    before = measure(plate(1))
    after = {name: measure(change(plate(1))) for name, change in promises.CAMERAS.items()}
    assert after["as it was"] == before
    assert after["brightness +20%"]["brightness"] == pytest.approx(1.2 * before["brightness"], rel=0.01)
    assert after["brightness -20%"]["brightness"] == pytest.approx(0.8 * before["brightness"], rel=0.01)
    assert after["JPEG quality 60"]["blocks"] > before["blocks"] + 0.2
    noise = np.random.default_rng(0).integers(0, 255, (448, 448, 3)).astype(np.uint8)
    blurred = promises.CAMERAS["blur of 1.5 px at 448"](noise)
    assert measure(blurred)["sharpness"] < measure(noise)["sharpness"] - 4


def test_the_whole_program_on_a_toy_product(toy_data, tmp_path, monkeypatch):
    create = detectors.create
    monkeypatch.setattr(promises.detectors, "create", lambda name, **options: create(name, **SMALL | options))
    monkeypatch.setattr(promises, "HERE", tmp_path)
    monkeypatch.setattr(promises, "SPLITS", 5)
    monkeypatch.setattr(sys, "argv", ["promises.py", str(toy_data)])
    promises.main()
    results = json.loads((tmp_path / "promises.json").read_text())
    found = results["products"][CATEGORY]
    assert found["n_good"] == found["n_fitted"] + found["n_scored"] == 32
    assert list(found["cameras"]) == list(promises.CAMERAS)
    for row in found["cameras"].values():
        assert 0 <= row["alarms_unwarned"] <= row["alarms"] <= row["n"] and row["warned"] <= row["n"]
    assert (results["capture"][CATEGORY]["n_profile"], results["capture"][CATEGORY]["n_test"]) == (24, 8)
    page = (tmp_path / "promises.md").read_text()
    assert page.count(f"| {CATEGORY} |") == 1 + len(promises.CAMERAS) + 1


def test_a_product_that_is_not_asked_for_is_not_fitted(toy_data, tmp_path, monkeypatch):
    monkeypatch.setattr(promises, "HERE", tmp_path)
    monkeypatch.setattr(promises, "measure", lambda *_: pytest.fail("it was fitted"))
    monkeypatch.setattr(sys, "argv", ["promises.py", str(toy_data), "--product", "another"])
    promises.main()
    assert list(json.loads((tmp_path / "promises.json").read_text())["capture"]) == [CATEGORY]


def test_a_folder_without_test_photos_is_refused(tmp_path, monkeypatch):
    (tmp_path / "nut").mkdir()
    (tmp_path / "nut" / "0.png").write_bytes(b"x")
    monkeypatch.setattr(sys, "argv", ["promises.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="No product with good test photos"):
        promises.main()
