"""What scripts and a PLC rely on: verbs, JSON keys, exit statuses, and one line on standard error."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import CATEGORY, JSON_KEYS, SMALL, plate
from PIL import Image

from anomaly import backbones, dataset, detectors, runs, synthetic, teaching, training
from anomaly.cli import app, main
from anomaly.images import read_image, write_image
from anomaly.inspection import Inspector
from anomaly.thresholds import Thresholds

ROOT = Path(__file__).parent.parent
NAME = "mahalanobis"
VERBS = (
    *("synth", "train", "calibrate", "tune", "thresholds", "evaluate", "inspect", "list", "bench", "pretrain"),
    *("record", "review", "serve", "check", "refit", "versions", "passwd", "classify", "types", "compare"),
)
LINE = set(JSON_KEYS)
FIGURES = {
    "image_auroc",
    "image_ap",
    "map_auroc",
    "f1",
    "precision",
    "recall",
    "accuracy",
    "confusion",
    "pixel_auroc",
    "aupro",
    "iou",
    "dice",
    "n_good",
    "n_defect",
    "threshold",
    "seconds",
}


def run(*arguments):
    return main([str(argument) for argument in arguments])


def move_limit(site, name, factor):
    book = json.loads(site.book.read_text())
    point = book["categories"][CATEGORY]["detectors"][name]
    for key in ("fail", "review", "pixel"):
        point[key] *= factor
    site.book.write_text(json.dumps(book))


def refused(capsys, *arguments):
    """Run what must be refused; gives the one line on standard error."""
    capsys.readouterr()
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n") and err.count("\n") == 1, f"one line was expected: {err!r}"
    return err


# --- the whole way


def test_from_toy_to_verdict(tmp_path, capsys):
    """The way of the README: synth, train, evaluate, calibrate, inspect, list."""
    data, site = tmp_path / "data", ("--runs", tmp_path / "runs", "--thresholds", tmp_path / "t.json")
    assert run("synth", data, "--category", "woven_fabric", "--train", 14, "--test", 4, "--size", 64, "--seed", 2) == 0
    assert capsys.readouterr() == ("", ""), "no progress bar in a pipe"
    assert len(dataset.good_images(data, "woven_fabric")) == 14
    assert len(dataset.test_samples(data, "woven_fabric")) == 8
    assert len(list((data / "woven_fabric" / "ground_truth").rglob("*_mask.png"))) == 4

    assert (
        run("train", "--data", data, "--category", "woven_fabric", "--detector", NAME, "--image-size", 64, *site) == 0
    )
    out, err = capsys.readouterr()
    assert out.startswith(f"woven_fabric / {NAME}: threshold ") and "false alarms" in out
    assert "4 good and 4 defective test images" in out
    assert [line.startswith("Warning: ") for line in err.splitlines()] == [True, True]
    assert runs.names(tmp_path / "runs") == {"woven_fabric": (NAME,)}

    assert run("evaluate", "--data", data, "--json", tmp_path / "new" / "figures.json", *site) == 0
    figures = json.loads((tmp_path / "new" / "figures.json").read_text())
    assert FIGURES <= figures["woven_fabric"][NAME].keys()

    assert run("calibrate", "--category", "woven_fabric", "--rule", "percentile", "--target", 60, *site) == 0
    assert "threshold" in capsys.readouterr().out
    status = run("inspect", data / "woven_fabric" / "test" / "good", "--category", "woven_fabric", "--json", *site)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 4
    assert status == int(any(line["verdict"] == "ANOMALY" for line in lines))
    assert run("list", *site) == 0
    assert "woven_fabric" in capsys.readouterr().out


def test_as_a_process_of_its_own(trained):
    """What a script sees: status, one JSON object a line, nothing on standard error."""
    command = [sys.executable, "-m", "anomaly", "inspect", trained.good_photo, "--category", CATEGORY, "--json"]
    done = subprocess.run(
        [str(part) for part in (*command, "--detector", NAME, *trained.options)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    line = json.loads(done.stdout)
    assert done.stderr == ""
    assert done.returncode == {"ANOMALY": 1, "REVIEW": 0, "OK": 0}[line["verdict"]]
    seen = Inspector(runs=trained.runs, thresholds=trained.book).inspect(
        trained.good_photo, category=CATEGORY, detector=NAME
    )
    assert line["score"] == pytest.approx(seen.score, rel=1e-4)  # another number of threads sums in another order


def test_the_verbs_are_those_of_the_design():
    found = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert found == set(VERBS)


def test_help_names_every_verb_and_ends_well(capsys):
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)


# --- train


def test_train_takes_the_usual_detectors_where_none_is_named(toy_data, tmp_path, monkeypatch, capsys):
    from anomaly.detectors import unet

    monkeypatch.setattr(unet, "EPOCH", 2)
    options = ("--runs", tmp_path / "runs", "--thresholds", tmp_path / "t.json")
    size = ("--epochs", 1, "--image-size", 64, "--seed", 7)
    assert run("train", "--data", toy_data, "--category", CATEGORY, *size, *options) == 0
    assert runs.names(tmp_path / "runs") == {CATEGORY: detectors.USUAL}
    arguments = runs.open_run(tmp_path / "runs", CATEGORY, "unet").manifest["arguments"]
    assert (arguments["epochs"], arguments["image_size"], arguments["seed"]) == (1, 64, 7)
    assert capsys.readouterr().out.count(": threshold ") == len(detectors.USUAL)


def test_train_waits_for_no_other_training_and_spoils_none(toy_data, tmp_path, capsys):
    with teaching.one_at_a_time(tmp_path / "runs"):
        status = main(["train", "--data", str(toy_data), "--category", CATEGORY, "--runs", str(tmp_path / "runs")])
    assert status == 2 and "Another training is running" in capsys.readouterr().err
    assert not list((tmp_path / "runs").iterdir())


def test_train_passes_options_on_to_the_detectors_that_know_them(toy_data, monkeypatch):
    """A backbone is an option of one detector and minutes of the other; both come from one command."""
    seen = {}

    def noted(data, category, model, **_):
        seen[model.name] = model
        run = SimpleNamespace(category=CATEGORY, detector=NAME)
        return SimpleNamespace(run=run, warnings=(), point=SimpleNamespace(fail=1.0, promise=""), figures=None)

    monkeypatch.setattr(training, "train", noted)
    options = ("--minutes", 0.5, "--backbone", "efficientnet_lite2")
    assert run("train", "--data", toy_data, "--category", CATEGORY, *options) == 0
    assert seen["unet"].minutes == 0.5 and seen[NAME].backbone == "efficientnet_lite2"
    assert run("train", "--data", toy_data, "--category", CATEGORY, "--detector", "vae", "--pool", "topk") == 0
    assert seen["vae"].pool == "topk"


# --- calibrate


def test_calibrate_takes_the_active_detector_and_keeps_the_reason(site, capsys):
    options = ("--category", CATEGORY, "--rule", "false-alarms", "--target", 0.5, "--why", "agreed with line 3")
    assert run("calibrate", *options, *site.options) == 0
    book = Thresholds.load(site.book)
    name = book.active(CATEGORY)
    point = book.get(CATEGORY, name, weights_sha256=runs.open_run(site.runs, CATEGORY, name).weights_sha256)
    assert (point.rule, point.target, point.why) == ("false-alarms", 0.5, "agreed with line 3")
    assert capsys.readouterr().out.startswith(f"{CATEGORY} / {name}: threshold {point.fail:.4g}, {point.promise}")


def test_calibrate_passes_the_costs_on(site, capsys):
    def limit(alarm, escape):
        costs = ("--false-alarm-cost", alarm, "--escape-cost", escape, "--data", site.data)
        assert (
            run("calibrate", "--category", CATEGORY, "--detector", NAME, "--rule", "cost", *costs, *site.options) == 0
        )
        return json.loads(site.book.read_text())["categories"][CATEGORY]["detectors"][NAME]["fail"]

    assert limit(1, 1000) < limit(1000, 1)


# --- evaluate


def test_evaluate_writes_all_figures_of_all_detectors(trained, tmp_path, capsys):
    assert run("evaluate", "--data", trained.data, "--json", tmp_path / "f.json", *trained.options) == 0
    report = json.loads((tmp_path / "f.json").read_text())
    assert {name: tuple(inner) for name, inner in report.items()} == {CATEGORY: detectors.names()}
    for name in detectors.names():
        assert FIGURES <= report[CATEGORY][name].keys()
        assert set(report[CATEGORY][name]["confusion"]) == {"tp", "fp", "tn", "fn"}
        assert (report[CATEGORY][name]["n_good"], report[CATEGORY][name]["n_defect"]) == (8, 8)
    out = capsys.readouterr().out
    assert out.count("on 8 good and 8 defective test images") == len(detectors.names())


def test_evaluate_can_be_narrowed(trained, tmp_path):
    options = ("--category", CATEGORY, "--detector", NAME, "--json", tmp_path / "f.json")
    assert run("evaluate", "--data", trained.data, *options, *trained.options) == 0
    assert list(json.loads((tmp_path / "f.json").read_text())[CATEGORY]) == [NAME]


def test_the_model_of_one_product_judges_the_photos_of_another(trained, tmp_path, capsys):
    other = tmp_path / "data" / "nut"
    shutil.copytree(trained.data / CATEGORY, other)
    options = ("--data", other.parent, "--trained-on", CATEGORY, "--detector", NAME, "--json", tmp_path / "f.json")
    assert run("evaluate", *options, "--figures", tmp_path / "roc", *trained.options) == 0
    (found,) = json.loads((tmp_path / "f.json").read_text())["nut"].items()
    assert found[0] == f"{CATEGORY}/{NAME}" and FIGURES <= found[1].keys()
    assert f"nut / {CATEGORY}/{NAME}: image AUROC" in capsys.readouterr().out
    drawn = {path.stem for path in (tmp_path / "roc").iterdir()}
    whole = {"counts", "sizes", "grays", "examples", "bars", "radar"}
    assert drawn == whole | {"nut_roc", "nut_heatmaps"}  # no loss curves and no reconstructions of this one
    assert all(read_image(path).std() > 5 for path in (tmp_path / "roc").iterdir())  # something is drawn
    own = ("--data", trained.data, "--detector", NAME, "--json", tmp_path / "own.json")
    assert run("evaluate", *own, *trained.options) == 0
    report = json.loads((tmp_path / "own.json").read_text())[CATEGORY][NAME]  # the same photos under another name
    assert (found[1]["image_auroc"], found[1]["threshold"]) == (report["image_auroc"], report["threshold"])


def test_without_a_second_kind_of_photo_there_is_no_roc(trained, tmp_path, capsys):
    shutil.copytree(trained.data / CATEGORY / "train", tmp_path / "data" / CATEGORY / "train")
    shutil.copytree(trained.data / CATEGORY / "test" / "good", tmp_path / "data" / CATEGORY / "test" / "good")
    options = ("--data", tmp_path / "data", "--detector", NAME, "--figures", tmp_path / "roc")
    assert run("evaluate", *options, *trained.options) == 0
    assert "one kind only, so there is no ROC" in capsys.readouterr().err
    assert (tmp_path / "roc" / f"{CATEGORY}_heatmaps.png").exists()
    assert not (tmp_path / "roc" / f"{CATEGORY}_roc.png").exists()


# --- inspect


def test_inspect_refuses_a_photo_of_another_product_with_2(site, tmp_path, capsys):
    write_image(tmp_path / "leather.png", synthetic.render_good("leather", seed=3, index=0, size=64))
    command = ("inspect", tmp_path / "leather.png", site.good_photo, "--category", CATEGORY, *site.options)
    assert run(*command, "--json", "--csv", tmp_path / "sum.csv") == 2
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[0]["verdict"] == "REFUSED" != lines[1]["verdict"] and set(lines[0]) == LINE
    assert lines[0]["score"] is lines[0]["level"] is None and lines[0]["regions"] == []
    assert lines[0]["product"]["known"] is False and "none of the known products" in lines[0]["error"]
    assert lines[1]["product"]["seen"] == CATEGORY and lines[1]["product"]["distance"] < 1
    assert "1 of 2 photos were refused" in err
    assert ",REFUSED," in (tmp_path / "sum.csv").read_text()
    assert run("inspect", site.good_photo, "--category", "auto", *site.options, "--json") == 0
    assert json.loads(capsys.readouterr().out)["category"] == CATEGORY


def test_inspect_says_when_products_cannot_be_told_apart(site, capsys):
    (site.runs / CATEGORY / runs.PRODUCT).unlink()
    assert run("inspect", site.good_photo, "--category", CATEGORY, "--json", *site.options) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["product"] is None
    assert err.startswith(f"Note: {CATEGORY} was trained before products were recognised") and err.count("\n") == 1


def test_inspect_says_ok_with_0_and_anomaly_with_1(site, capsys):
    command = ("inspect", site.good_photo, "--category", CATEGORY, "--detector", NAME, *site.options)
    move_limit(site, NAME, 1e6)
    assert run(*command) == 0
    assert capsys.readouterr().out.startswith("OK")
    move_limit(site, NAME, 1e-12)
    assert run(*command) == 1
    assert capsys.readouterr().out.startswith("ANOMALY")


def test_inspect_json_has_the_fixed_keys_and_the_numbers_of_the_page(trained, capsys):
    run("inspect", trained.good_photo, "--category", CATEGORY, "--detector", NAME, "--json", *trained.options)
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    seen = Inspector(runs=trained.runs, thresholds=trained.book).inspect(
        trained.good_photo, category=CATEGORY, detector=NAME
    )
    assert set(line) == LINE
    assert line["score"] == pytest.approx(seen.score, rel=1e-6, abs=1e-6)
    assert line["level"] == pytest.approx(line["score"] / line["threshold"])
    assert (line["verdict"], line["error"]) == (seen.verdict, None)


def test_a_batch_goes_on_past_bad_files(site, tmp_path, capsys):
    folder = tmp_path / "photos"
    shutil.copytree(site.data / CATEGORY / "test" / "good", folder)
    (folder / "000.png").write_bytes(b"")
    (folder / "003.png").write_bytes((folder / "003.png").read_bytes()[:100])
    (folder / "004.png").write_text("no image")
    move_limit(site, NAME, 1e6)
    command = ("inspect", folder, tmp_path / "gone.png", "--category", CATEGORY, "--detector", NAME, *site.options)
    assert run(*command, "--json", "--csv", tmp_path / "s" / "sum.csv") == 2
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(set(line) == LINE for line in lines)
    bad = {Path(line["path"]).name for line in lines if line["error"]}
    assert bad == {"000.png", "003.png", "004.png", "gone.png"}
    assert len(lines) == 9 and sum(line["verdict"] in ("OK", "REVIEW") for line in lines) == 5
    for line in lines:
        assert (line["verdict"] is None) == (line["score"] is None) == (line["error"] is not None)
    rows = list(csv.DictReader((tmp_path / "s" / "sum.csv").open()))
    assert [row["prediction"] for row in rows].count("ERROR") == 4
    move_limit(site, NAME, 1e-12)
    assert run(*command) == 1, "an anomaly outranks an unreadable file"


def test_summary_and_pictures(site, tmp_path, capsys):
    out = tmp_path / "out"
    photos = (site.good_photo, site.good_photo.with_name("001.png"))
    for name in ("unet", NAME):
        run("inspect", *photos, "--category", CATEGORY, "--detector", name, "--out", out, "--json", *site.options)
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        with (out / "predict_summary.csv").open(newline="") as stream:
            header, *rows = csv.reader(stream)
        assert header == [
            "category",
            "score",
            "threshold",
            "prediction",
            "visualization path",
            "file",
            "capture",
            "defect type",
            "alarm",
        ]
        assert len(rows) == 2
        for row, line in zip(rows, lines):
            assert (row[0], row[3], row[5]) == (CATEGORY, line["verdict"], line["path"])
            assert (float(row[1]), float(row[2]), row[8]) == (line["score"], line["threshold"], line["alarm"])
            assert read_image(row[4]).shape[0] >= 64
            assert Path(row[4]).parent == out and name in Path(row[4]).name
    # photo and heatmap, and between them what the autoencoder made of the photo
    widths = {name: read_image(out / f"{CATEGORY}_{name}_000.png").shape[1] for name in ("unet", NAME)}
    assert widths["unet"] - widths[NAME] == 64 + 8


def test_a_photo_of_another_camera_is_told_everywhere_and_is_no_anomaly(site, tmp_path, capsys):
    write_image(tmp_path / "dark.png", (read_image(site.good_photo) * 0.3).astype(np.uint8))
    move_limit(site, NAME, 1e-6)
    command = ("inspect", tmp_path / "dark.png", "--category", CATEGORY, "--detector", NAME, *site.options)
    assert run(*command, "--json", "--csv", tmp_path / "sum.csv") == 0, "only ANOMALY is told by the exit status"
    line = json.loads(capsys.readouterr().out)
    dark = "Darker than any training photo: check the light"
    assert line["verdict"] == "REVIEW" and dark in line["capture"]
    (row,) = csv.DictReader((tmp_path / "sum.csv").open())
    assert row["prediction"] == "REVIEW" and row["capture"] == "; ".join(line["capture"])
    run(*command)
    out = capsys.readouterr().out
    assert out.startswith("REVIEW") and dark in out


def test_pictures_of_one_name_do_not_overwrite_each_other(site, tmp_path, capsys):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(site.good_photo, tmp_path / folder / "part.png")
    photos = (tmp_path / "a" / "part.png", tmp_path / "b" / "part.png")
    run("inspect", *photos, "--category", CATEGORY, "--detector", NAME, "--out", tmp_path / "out", *site.options)
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_photos_of_another_depth_and_shape_are_judged(site, tmp_path, capsys):
    Image.fromarray(plate(0)).convert("L").resize((200, 31)).save(tmp_path / "gray.png")
    Image.fromarray(plate(0)[..., 0].astype(np.uint16) << 8).save(tmp_path / "deep.png")
    Image.fromarray(plate(0)).convert("RGBA").save(tmp_path / "clear.webp")
    (site.runs / CATEGORY / runs.PRODUCT).unlink()  # a plate is no hex nut
    options = ("--category", CATEGORY, "--detector", NAME, "--json", *site.options)
    assert run("inspect", *(tmp_path / n for n in ("gray.png", "deep.png", "clear.webp")), *options) in (0, 1)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["error"] for line in lines] == [None] * 3


# --- list, bench, pretrain, serve


def test_list_tells_digests_thresholds_and_figures(trained, capsys):
    assert run("list", "--json", *trained.options) == 0
    entries = json.loads(capsys.readouterr().out)[CATEGORY]
    assert tuple(entries) == detectors.names()
    for name, entry in entries.items():
        stored = runs.open_run(trained.runs, CATEGORY, name)
        assert entry["weights_sha256"] == stored.weights_sha256
        assert entry["metrics"] == json.loads(json.dumps(stored.metrics))
        assert entry["threshold"] > 0 and entry["error"] is None
    assert sum(entry["active"] for entry in entries.values()) == 1
    assert run("list", *trained.options) == 0
    assert capsys.readouterr().out.count("image AUROC") == len(entries)


def test_list_goes_on_past_a_broken_run(site, capsys):
    (site.runs / CATEGORY / NAME / "manifest.json").unlink()
    assert run("list", "--json", *site.options) == 0
    entries = json.loads(capsys.readouterr().out)[CATEGORY]
    assert "manifest.json is missing" in entries[NAME]["error"] and entries["unet"]["error"] is None
    assert run("list", *site.options) == 0


def test_list_of_nothing_is_empty(tmp_path, capsys):
    options = ("--runs", tmp_path / "none", "--thresholds", tmp_path / "none.json")
    assert run("list", "--json", *options) == 0
    assert json.loads(capsys.readouterr().out) == {}


def test_bench_reports_what_was_measured(site, tmp_path, capsys, monkeypatch):
    from anomaly import bench

    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "FIT_IMAGES", 16)
    assert "examples/good.jpg" in refused(capsys, "bench", *site.options)
    (site.runs / CATEGORY / "examples").mkdir()
    shutil.copy(site.good_photo, site.runs / CATEGORY / "examples" / "good.png")
    assert run("bench", "--json", tmp_path / "b.json", *site.options) == 0
    figures = json.loads((tmp_path / "b.json").read_text())
    assert json.loads(capsys.readouterr().out) == figures
    assert {"latency_ratio", "fit_ratio", "peak_mb", "images_per_second", "threads"} <= figures.keys()
    assert figures["latency_ratio"] == pytest.approx(figures["inspect_ms"] / figures["forward_ms"], rel=0.01)
    assert figures["products_loaded"] == 1


def test_pretrain_passes_its_options_on(tmp_path, monkeypatch):
    from anomaly import pretraining

    seen = []
    monkeypatch.setattr(pretraining, "pretrain", lambda *a, **k: seen.append((a, k)))
    options = ("--out", tmp_path / "o", "--steps", 3, "--minutes", 0.5, "--seed", 9)
    assert run("pretrain", tmp_path / "a", tmp_path / "b", *options) == 0
    ((folders, out), options) = seen[0]
    assert ([*folders], out) == ([tmp_path / "a", tmp_path / "b"], tmp_path / "o")
    assert (options["settings"].steps, options["settings"].minutes, options["settings"].seed) == (3, 0.5, 9)


def test_serve_passes_its_options_on(tmp_path, monkeypatch):
    import anomaly.ui

    seen = []
    monkeypatch.setattr(anomaly.ui, "serve", lambda *arguments: seen.append(arguments))
    options = ("--host", "0.0.0.0", "--port", 7001, "--share", "--auth", "eva:secret")
    places = ("--runs", tmp_path, "--thresholds", tmp_path / "t.json", "--record", tmp_path / "r")
    assert run("serve", *options, *places) == 0
    assert seen == [("0.0.0.0", 7001, True, ["eva:secret"], tmp_path, tmp_path / "t.json", tmp_path / "r", None, False)]


# --- refused: status 2, one line with the remedy, nothing written or lost


REFUSED = {
    "unknown category": (("inspect", "PHOTO", "--category", "bolt"), f"no category 'bolt'.*{CATEGORY}"),
    "unknown detector": (("inspect", "PHOTO", "--category", CATEGORY, "--detector", "magic"), "no detector 'magic'"),
    "empty folder": (("inspect", "EMPTY", "--category", CATEGORY), "holds no images. Name a folder"),
    "train: no folder": (("train", "--data", "NOWHERE", "--category", "x"), "does not exist"),
    "train: empty folder": (("train", "--data", "EMPTY", "--category", "empty"), "no good images.*Put photos"),
    "train: one image": (("train", "--data", "ONE", "--category", "one"), "1 good images.*Add good images"),
    "train: no such detector": (
        ("train", "--data", "DATA", "--category", CATEGORY, "--detector", "magic"),
        "mahalanobis",
    ),
    "train: no such backbone": (
        ("train", "--data", "DATA", "--category", CATEGORY, "--detector", NAME, "--backbone", "magic"),
        "no backbone 'magic'. Choose one of: convnextv2_femto",
    ),
    "train: no such pool": (
        ("train", "--data", "DATA", "--category", CATEGORY, "--detector", "cae", "--pool", "median"),
        "pool is median, expected one of: mean, topk. Use mean",
    ),
    "train: odd size": (("train", "--data", "DATA", "--category", CATEGORY, "--image-size", "100"), "multiple of 32"),
    "calibrate: unknown rule": (("calibrate", "--category", CATEGORY, "--rule", "magic"), "no rule 'magic'.*f1"),
    "calibrate: no defects": (("calibrate", "--category", CATEGORY, "--rule", "f1"), "--data DIR"),
    "calibrate: promise": (
        ("calibrate", "--category", CATEGORY, "--rule", "false-alarms", "--target", "0.01"),
        "need 99 held-out good images",
    ),
    "calibrate: unknown category": (("calibrate", "--category", "bolt", "--rule", "f1"), "no category 'bolt'"),
    "evaluate: no folder": (("evaluate", "--data", "NOWHERE"), "does not exist"),
    "evaluate: by a model of nothing": (("evaluate", "--data", "DATA", "--trained-on", "grid"), "no category 'grid'"),
    "evaluate: not trained": (("evaluate", "--data", "ONE"), "No category of .*one is trained.*anomaly train"),
    "evaluate: unknown category": (("evaluate", "--data", "DATA", "--category", "bolt"), "no category 'bolt'"),
    "synth: unknown product": (("synth", "EMPTY", "--category", "magic"), "hex_nut"),
    "synth: too small": (("synth", "EMPTY", "--category", CATEGORY, "--size", "8"), "size"),
    "no such verb": (("inspekt",), "inspekt.*--help"),
    "no such option": (("list", "--jason"), "--jason.*--help"),
    "no category named": (("inspect", "PHOTO"), "category.*--help"),
    "no photo named": (("inspect", "--category", CATEGORY), "(?i)path.*--help"),
    "no number": (("synth", "EMPTY", "--train", "many"), "--train.*integer.*--help"),
    "out of range": (("train", "--data", "DATA", "--category", CATEGORY, "--epochs", "0"), "epochs.*--help"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(site, tmp_path, capsys, case):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    shutil.copy(site.good_photo, tmp_path / "one")
    places = {
        "PHOTO": site.good_photo,
        "EMPTY": tmp_path / "empty",
        "ONE": tmp_path / "one",
        "DATA": site.data,
        "NOWHERE": tmp_path / "nowhere",
    }
    arguments, said = REFUSED[case]
    options = () if arguments[0] in ("synth", "inspekt") else site.options
    before = site.content()
    err = refused(capsys, *(places.get(a, a) for a in arguments), *options)
    assert re.search(said, err), err
    assert site.content() == before
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize("verb", ["inspect", "evaluate"])
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda site: site.book.unlink(), "no threshold is stored.*python -m anomaly calibrate"),
        (lambda site: site.book.write_text("{"), "cannot be read as JSON"),
        (lambda site: site.book.write_text('{"schema": 7}'), "schema 7"),
        (
            lambda site: site.book.write_text(
                site.book.read_text().replace('"weights_sha256": "', '"weights_sha256": "0')
            ),
            "other weights.*python -m anomaly calibrate",
        ),
        (
            lambda site: os.truncate(site.runs / CATEGORY / NAME / "weights.safetensors", 1000),
            "weights.safetensors was changed.*Restore it, or run `python -m anomaly train",
        ),
        (
            lambda site: (site.runs / CATEGORY / NAME / "manifest.json").unlink(),
            "manifest.json is missing, so the run is incomplete.*python -m anomaly train",
        ),
    ],
    ids=["no threshold", "broken book", "book of the future", "stale", "truncated weights", "half-written"],
)
def test_files_that_do_not_fit_are_refused(site, capsys, verb, harm, said):
    harm(site)
    before = site.content()
    what = (site.good_photo,) if verb == "inspect" else ("--data", site.data)
    err = refused(capsys, verb, *what, "--category", CATEGORY, "--detector", NAME, *site.options)
    assert re.search(said, err), err
    assert site.content() == before


def test_a_backbone_that_is_missing_is_refused(site, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(backbones, "SHIPPED", tmp_path)
    monkeypatch.setattr(backbones, "load", backbones.load.__wrapped__)
    err = refused(capsys, "inspect", site.good_photo, "--category", CATEGORY, "--detector", NAME, *site.options)
    assert "anomaly pretrain" in err


@pytest.mark.parametrize("option", ["--csv", "--out"])
def test_a_place_that_cannot_be_written_is_refused_not_an_anomaly(site, tmp_path, capsys, option):
    """Status 1 means a bad part: it must never come from a full disk or a wrong path."""
    (tmp_path / "file").write_text("")
    target = tmp_path if option == "--csv" else tmp_path / "file"
    command = ("inspect", site.good_photo, "--category", CATEGORY, "--detector", NAME, option, target, *site.options)
    assert run(*command) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_figures_that_cannot_be_written_are_refused(trained, tmp_path, capsys):
    assert run("evaluate", "--data", trained.data, "--detector", NAME, "--json", tmp_path, *trained.options) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_bench_without_a_run_is_refused(tmp_path, capsys):
    options = ("--runs", tmp_path / "none", "--thresholds", tmp_path / "t.json")
    assert "Train one" in refused(capsys, "bench", *options)


def test_a_damaged_photo_among_the_good_ones_is_named(site, tmp_path, capsys):
    folder = tmp_path / "d" / "plate"
    folder.mkdir(parents=True)
    for i in range(12):
        write_image(folder / f"{i}.png", plate(i))
    (folder / "7.png").write_bytes((folder / "7.png").read_bytes()[:300])
    before = site.content()
    command = ("train", "--data", tmp_path / "d", "--category", "plate", "--detector", NAME, "--image-size", 64)
    assert "7.png" in refused(capsys, *command, *site.options)
    assert site.content() == before


def test_interrupting_a_training_keeps_the_old_run(site, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(detectors.get(NAME), "_fit", interrupt)
    before = site.content()
    command = ("train", "--data", site.data, "--category", CATEGORY, "--detector", NAME)
    assert "Stopped" in refused(capsys, *command, "--image-size", SMALL["image_size"], *site.options)
    assert site.content() == before
