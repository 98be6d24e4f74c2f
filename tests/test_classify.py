"""Classifiers of labelled photos: they learn, keep what they learned, and refuse what has no class."""

import json

import numpy as np
import pytest
import torch

from anomaly import classify, cli, dataset, synthetic
from anomaly.classify import Classifier
from anomaly.dataset import Sample
from anomaly.errors import BrokenRun, DatasetError, UnknownName
from anomaly.images import read_image, write_image
from anomaly.nets import FineTuned, SurfaceNet

KINDS = ("blank", "dots", "stripes")
COUNT = 10  # photos of a class


def surface(kind: str, number: int) -> np.ndarray:
    """(40, 40, 3) uint8: gray noise, with stripes in any direction, or with dots."""
    rng = np.random.default_rng([number, *map(ord, kind)])
    y, x = np.mgrid[:40, :40]
    gray = 120 + rng.normal(0, 6, (40, 40))
    if kind == "stripes":
        turn = rng.uniform(0, np.pi)
        gray += 60 * np.sin((np.cos(turn) * x + np.sin(turn) * y) * 1.2)
    elif kind == "dots":
        for row, column in rng.integers(4, 36, (8, 2)):
            gray[np.hypot(y - row, x - column) < 3] -= 80
    return np.repeat(np.clip(gray, 0, 255).astype(np.uint8)[:, :, None], 3, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten photos of each of three classes. Read only."""
    root = tmp_path_factory.mktemp("surfaces")
    for kind in KINDS:
        (root / kind).mkdir()
        for number in range(COUNT):
            write_image(root / kind / f"{number}.png", surface(kind, number))
    return root


@pytest.fixture(scope="module")
def trained(folder) -> Classifier:
    samples = dataset.labelled(folder)
    return classify.train(samples * 4, "cnn", seed=1, epochs=12)


def test_folders_are_classes_and_each_part_has_photos_of_each(folder):
    samples = dataset.labelled(folder)
    assert sorted({one.kind for one in samples}) == list(KINDS) and len(samples) == 30
    parts = classify.split(samples, seed=0)
    assert {name: len(part) for name, part in parts.items()} == {"train": 24, "validation": 3, "test": 3}
    for part in parts.values():
        assert {one.kind for one in part} == set(KINDS)
    assert len({one.path for part in parts.values() for one in part}) == 30
    assert parts != classify.split(samples, seed=1)


def test_products_are_classes_of_their_types(tmp_path):
    synthetic.write_product(tmp_path, "hex_nut", train=2, test=7, size=64)
    kinds = {one.kind for one in dataset.labelled(tmp_path)}
    assert kinds == {f"hex_nut/{kind}" for kind in ("good", *synthetic.PRODUCTS["hex_nut"].defects)}
    assert {one.kind for one in dataset.labelled(tmp_path / "hex_nut")} == kinds
    good = [one for one in dataset.labelled(tmp_path) if one.kind == "hex_nut/good"]
    assert len(good) == 9 and len({classify._name(one) for one in good}) == 9  # of train and test, told apart


def test_it_learns_the_classes_and_keeps_the_best_epoch(trained):
    fresh = [surface(kind, 500 + i) for kind in KINDS for i in range(8)]
    said = trained.probabilities(fresh).argmax(1)
    assert (said == np.repeat(range(3), 8)).mean() >= 0.85
    assert np.allclose(trained.probabilities(fresh).sum(1), 1)
    assert trained.history[-1]["train_loss"] < 0.7 * trained.history[0]["train_loss"]
    assert {"epoch", "train_loss", "held_out_loss", "rate"} == set(trained.history[0])


def test_the_same_seed_gives_the_same_classifier_and_nobody_elses_draws_change(folder):
    samples = dataset.labelled(folder)
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    one, two = (classify.train(samples, "cnn", seed=5, epochs=1) for _ in range(2))
    assert torch.equal(torch.rand(1), wanted)
    images = [surface("dots", 1)]
    assert np.array_equal(one.probabilities(images), two.probabilities(images))
    other = classify.train(samples, "cnn", seed=6, epochs=1)
    assert not np.array_equal(one.probabilities(images), other.probabilities(images))


def test_figures_count_each_class_by_what_was_said(trained, tmp_path):
    samples = []
    for number, (shown, called) in enumerate([("dots", "dots"), ("dots", "dots"), ("stripes", "dots")]):
        path = tmp_path / f"{number}.png"
        write_image(path, surface(shown, 700 + number))
        samples.append(Sample(path, called))
    figures = trained.evaluate(samples)
    said = trained.probabilities([read_image(one.path) for one in samples]).argmax(1)
    assert figures.confusion[1].tolist() == np.bincount(said, minlength=3).tolist()
    assert figures.confusion.sum() == figures.n == 3
    assert figures.accuracy == (said == 1).mean()


def test_evidence_lies_where_the_dots_are(trained):
    image = surface("blank", 3)
    image[8:14, 26:32] = 20
    heat = trained.explain(image, "dots")
    assert heat.shape == (40, 40) and heat.min() >= 0 and heat.max() == pytest.approx(1, abs=1e-6)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert row < 24 and column > 16
    with pytest.raises(UnknownName, match="knows no class 'rust'. Choose one of: blank, dots, stripes"):
        trained.explain(image, "rust")


def test_a_stored_classifier_says_the_same_and_a_damaged_one_is_refused(trained, folder, tmp_path):
    path = tmp_path / "deep" / "surfaces.safetensors"
    classify.save(trained, path)
    again = classify.load(path)
    images = [surface(kind, 800) for kind in KINDS]
    assert np.array_equal(again.probabilities(images), trained.probabilities(images))
    assert (again.classes, again.split, again.history) == (trained.classes, trained.split, trained.history)
    kept = classify.tested(again, dataset.labelled(folder))
    assert sorted(classify._name(one) for one in kept) == sorted(set(trained.split["test"]))
    content = path.read_bytes()
    path.write_bytes(content[:-4] + b"    ")
    with pytest.raises(BrokenRun, match="was changed since it was saved. Train it again"):
        classify.load(path)
    path.write_bytes(content[:200])
    with pytest.raises(BrokenRun, match="is damaged"):
        classify.load(path)
    path.unlink()
    with pytest.raises(BrokenRun, match="surfaces.safetensors is missing. Train it again"):
        classify.load(path)


def test_what_has_no_class_or_too_few_photos_is_refused_with_a_remedy(folder, trained, tmp_path):
    write_image(tmp_path / "loose.png", surface("dots", 0))
    with pytest.raises(DatasetError, match="1 photos lie directly in .* nobody knows their class. Put each into a"):
        dataset.labelled(tmp_path)
    (tmp_path / "loose.png").unlink()
    with pytest.raises(DatasetError, match="holds no labelled photos"):
        dataset.labelled(tmp_path)
    (tmp_path / "rust").mkdir()
    with pytest.raises(DatasetError, match="rust holds no photos of its class"):
        dataset.labelled(tmp_path)
    write_image(tmp_path / "rust" / "0.png", surface("dots", 0))
    with pytest.raises(DatasetError, match="at least 3 photos.*'rust' has 1. Add photos of it"):
        classify.train([*dataset.labelled(folder), *dataset.labelled(tmp_path)], "cnn", epochs=1)
    with pytest.raises(DatasetError, match="1 class was found"):
        classify.split([one for one in dataset.labelled(folder) if one.kind == "dots"])
    with pytest.raises(DatasetError, match="trained for blank, dots, stripes; the photos show rust, too"):
        trained.evaluate(dataset.labelled(tmp_path))
    with pytest.raises(UnknownName, match="no classifier 'vgg'. Choose one of: cnn, convnext"):
        classify.train(dataset.labelled(folder), "vgg")


def test_the_fine_tuned_backbone_starts_from_the_shipped_one_and_learns_all_of_it(folder):
    from anomaly import backbones

    before = backbones.load().trunk.state_dict()["stem_0.weight"].clone()
    found = classify.train(dataset.labelled(folder), "convnext", epochs=1)
    after = found.network.trunk.trunk.state_dict()["stem_0.weight"]
    assert not torch.equal(before, after) and torch.allclose(before, after, atol=0.02)
    assert torch.equal(before, backbones.load().trunk.state_dict()["stem_0.weight"])  # the detectors' own stays
    assert not backbones.load().training


def test_both_networks_give_a_number_for_each_class():
    images = torch.rand(2, 3, 64, 64)
    small = SurfaceNet(classes=5).eval()
    assert small.features(images).shape == (2, 256, 4, 4) and small(images).shape == (2, 5)
    fine = FineTuned(trunk=_Pyramid(), channels=8, classes=4).eval()
    assert fine(images).shape == (2, 4)
    assert torch.allclose(fine.classify(fine.features(images)), fine(images))


class _Pyramid(torch.nn.Module):
    def forward(self, images):
        return (images, torch.nn.functional.avg_pool2d(images[:, :1].repeat(1, 8, 1, 1), 32))


def test_the_command_learns_judges_and_explains(folder, tmp_path, capsys):
    model, figures = tmp_path / "surfaces.safetensors", tmp_path / "figures.json"
    asked = ["classify", str(folder), "--model", str(model)]
    assert cli.main([*asked, "--train", "cnn", "--epochs", "2", "--json", str(figures)]) == 0
    assert "on 3 photos" in capsys.readouterr().out
    told = json.loads(figures.read_text())
    assert (told["n"], told["classes"], len(told["history"])) == (3, list(KINDS), 2)
    assert cli.main(asked) == 0
    assert "on 3 photos" in capsys.readouterr().out  # not those that it learned from
    photo = folder / "dots" / "0.png"
    assert cli.main(["classify", str(photo), "--model", str(model), "--out", str(tmp_path / "why")]) == 0
    assert capsys.readouterr().out.split()[0] in KINDS
    (picture,) = (tmp_path / "why").iterdir()
    assert read_image(picture).shape == (40, 40, 3)
    assert cli.main(["classify", str(photo), "--model", str(model), "--train", "cnn"]) == 2
    assert "learns from one folder" in capsys.readouterr().err
