"""The pictures show the numbers they are given."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import CATEGORY

from anomaly import metrics
from anomaly.dataset import Sample
from anomaly.images import read_image, write_image
from anomaly.report import figures, photos

MEASURED = {
    "image_auroc": 0.9,
    "pixel_auroc": None,
    "f1": 0.8,
    "precision": 0.7,
    "recall": 0.6,
    "aupro": None,
    "intervals": {"image_auroc": [0.8, 0.95]},
}


def test_bars_stand_at_the_figures_with_their_intervals():
    report = {"nut": {"one": MEASURED, "two": MEASURED | {"image_auroc": 0.4, "intervals": {}}}, "tile": {}}
    axes, places = figures.bars(report).axes
    assert [bar.get_height() for bar in axes.patches] == [0.9, 0.4]
    (reach,) = axes.collections[0].get_segments()
    assert reach[:, 1].tolist() == pytest.approx([0.8, 0.95])
    assert not places.patches  # no photo has a mask
    assert [label.get_text() for label in axes.get_xticklabels()] == ["nut", "tile"]


def test_a_radar_closes_and_leaves_a_gap_where_nothing_is_known():
    (axes,) = figures.radar({"nut": {"one": MEASURED}}).axes
    values = axes.lines[0].get_ydata()
    assert values[0] == values[-1] == 0.9
    assert sorted(values[~np.isnan(values)]) == [0.6, 0.7, 0.8, 0.9, 0.9]


def test_a_roc_names_the_area():
    curves = metrics.curves([0, 0, 1, 1], [0.1, 0.6, 0.5, 0.9])  # three of four pairs are in order
    (axes,) = figures.roc({"one": curves}, title="nut").axes
    assert axes.get_legend().get_texts()[0].get_text() == "one: AUROC 0.750"


def test_loss_curves_are_those_of_the_file(tmp_path):
    run = SimpleNamespace(folder=tmp_path, category="nut", detector="unet")
    assert figures.losses([run]) is None
    (tmp_path / "history.csv").write_text("epoch,train_loss,held_out_loss,rate\n1,0.5,0.6,1e-3\n2,0.3,0.4,1e-3\n")
    (axes,) = figures.losses([run]).axes
    assert {line.get_label(): [*line.get_ydata()] for line in axes.lines} == {
        "train loss": [0.5, 0.3],
        "held out loss": [0.6, 0.4],
    }


def test_one_photo_of_each_kind_is_shown():
    samples = [Sample(Path(f"{i}.png"), kind) for i, kind in enumerate(("good", "good", "cut", "hole", "cut"))]
    assert [one.path.name for one in figures.one_of_each(samples)] == ["0.png", "2.png", "3.png"]


def test_reconstructions_are_of_those_that_make_one():
    grey = np.full((4, 4, 3), 90, np.uint8)
    sample = Sample(Path("a.png"), "good_part")
    plain, made = (figures.View(sample, grey, grey, again, 0.5) for again in (None, grey))
    assert figures.reconstructions({"one": [plain]}, title="nut") is None
    sheet = figures.reconstructions({"one": [plain], "two": [made]}, title="nut")
    assert [axes.get_title() for axes in sheet.axes] == ["photo", "two"]
    sheet = figures.heatmaps({"one": [plain], "two": [made]}, title="nut")
    assert [axes.get_xlabel() for axes in sheet.axes] == ["good part", "0.50 × limit", "0.50 × limit"]


def test_counts_and_grays_are_those_of_the_folder(toy_data, tmp_path):
    (axes,) = photos.counts(toy_data, [CATEGORY]).axes
    assert [bar.get_width() for bar in axes.patches] == [24, 8, 8]
    for kind, gray in (("train/good", 50), ("test/good", 50), ("test/hole", 200)):
        (tmp_path / "nut" / kind).mkdir(parents=True)
        write_image(tmp_path / "nut" / kind / "000.png", np.full((6, 9, 3), gray, np.uint8))
    (axes,) = photos.grays(tmp_path, ["nut"]).axes
    good, defective = (line.get_ydata() for line in axes.lines)
    assert (good[50], good.sum(), defective[200], defective.sum()) == (100, 100, 100, 100)
    (axes,) = photos.sizes(tmp_path, ["nut"]).axes
    assert np.unique(axes.collections[0].get_offsets(), axis=0).tolist() == [[9, 6]]


def test_the_mask_of_an_example_is_outlined(toy_data):
    shown = photos.examples(toy_data, [CATEGORY]).axes
    assert shown[0].get_title() == f"{CATEGORY}: good"
    sample = next(one for one in photos.tested(toy_data, CATEGORY) if one.label)
    drawn, plain = shown[1].images[0].get_array(), read_image(sample.path)
    assert (drawn != plain).any() and (drawn == plain).mean() > 0.5
