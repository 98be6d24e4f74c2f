"""The published autoencoders: what was published of them, and what ours do; and the models of one product on another.

    python benchmarks/autoencoders.py DATA... --product screw --product hex_nut --on magnetic_tile

DATA are folders of products in MVTec AD layout. Three quarters of the good photos of each product are learned from, and
the last quarter sets the limit, as `train` does it. Writes autoencoders.json and autoencoders.md beside this file; what
they tell of other products stays.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import systems  # noqa: E402

from anomaly import dataset, detectors, evaluation, metrics, thresholds, training  # noqa: E402
from anomaly.detectors.base import Detector  # noqa: E402

NAIVE = ("naive_mean_image", "naive_brightness")  # tested on their own product only
SOURCE = 'Hamim, "Industrial Defect Detection Using Deep Learning", bachelor\'s thesis, Zhengzhou University, 2026'
PUBLISHED = {  # of SOURCE: means over the 15 products of MVTec AD, and image AUROC on screw
    "cae": {"image_auroc": 0.580, "f1": 0.849, "pixel_auroc": 0.618, "iou": 0.011, "dice": 0.020, "screw": 0.979},
    "vae": {"image_auroc": 0.412, "f1": 0.822, "pixel_auroc": 0.524, "iou": 0.025, "dice": 0.044, "screw": 0.074},
    "dae": {"image_auroc": 0.596, "f1": 0.854, "pixel_auroc": 0.595, "iou": 0.012, "dice": 0.022, "screw": 0.986},
}
COLUMNS = {
    "image_auroc": "Image AUROC",
    "map_auroc": "Worst 1% of the map",
    "f1": "Best F1",
    "pixel_auroc": "Pixel AUROC",
    "iou": "IoU",
    "dice": "Dice",
}


def learn(data: Path, product: str, system: str, minutes: float) -> tuple[Detector, float, float, dict]:
    """A detector fitted on a product, its limit, its pixel limit, and how the fit went."""
    split = dataset.split_good(dataset.good_images(data, product), held_out=training.HELD_OUT, seed=0)
    ours = system in PUBLISHED
    detector = detectors.create(system, seed=0, minutes=minutes) if ours else systems.create(system, seed=0)
    began = time.perf_counter()
    detector.fit(dataset.LazyImages(split.train))
    minutes_taken = (time.perf_counter() - began) / 60
    held_out = evaluation.judge(detector, [dataset.Sample(path, dataset.GOOD) for path in split.held_out])
    target = training.supported_target(len(split.held_out))
    limit = thresholds.choose("false-alarms", held_out.scores, [], target=target).threshold
    losses = [line["held_out_loss"] for line in detector.history()]
    went = {
        "n_train": len(split.train),
        "minutes": round(minutes_taken, 1),
        "epochs": len(losses),
        "best_epoch": losses.index(min(losses)) + 1 if losses else 0,
    }
    return detector, limit, float(held_out.peaks.max()), went


def judge(detector: Detector, limit: float, pixel: float, data: Path, product: str) -> dict:
    """Figures of a detector, whatever it learned, on the test photos of a product."""
    judged = evaluation.judge(detector, dataset.test_samples(data, product))
    figures = evaluation.measure(judged, threshold=limit, pixel=pixel)
    figures["f1"] = metrics.best_f1(judged.labels, judged.scores)  # as published: at the threshold that suits best
    kept = {name: figures[name] for name in (*COLUMNS, "n_good", "n_defect")}
    return kept | {"interval": figures["intervals"]["image_auroc"]}


def write(found: dict[str, dict]) -> None:
    """autoencoders.json and autoencoders.md."""
    (HERE / "autoencoders.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        f"# The published autoencoders\n\nMade by `python benchmarks/autoencoders.py`, one seed. Published: {SOURCE}. ",
        "Best F1 is at the threshold that suits the test photos best, as published: a ceiling, not a promise. IoU and ",
        "Dice are at the pixel limit, the highest peak on held-out good photos. `naive_mean_image` is the squared ",
        "distance to the mean good photo, `naive_brightness` how far the mean brightness is off. n is good / ",
        "defective photos. Where the best epoch is the last one, more time would have made another model.\n",
        f"\n| System | Tested on | n | {' | '.join(COLUMNS.values())} | Epochs (best) | Minutes |\n",
        "| --- |" + " --- |" * (len(COLUMNS) + 4) + "\n",
    ]
    for system, figures in PUBLISHED.items():
        cells = [f"{figures[name]:.3f}" if name in figures else "–" for name in COLUMNS]
        lines.append(f"| {system}, published | mean of MVTec AD | 15 products | {' | '.join(cells)} | – | – |\n")
        lines.append(
            f"| {system}, published | `screw` | 41 / 119 | {figures['screw']:.3f} |"
            + " – |" * (len(COLUMNS) + 1)
            + "\n"
        )
    for product, systems_found in found.items():
        for system, one in systems_found.items():
            cells = [_cell(one["on"][product], name) for name in COLUMNS]
            went = f"{one['epochs']} ({one['best_epoch']}) | {one['minutes']:.1f}" if one["epochs"] else "– | –"
            lines.append(f"| {system} | `{product}` | {_n(one['on'][product])} | {' | '.join(cells)} | {went} |\n")
    lines.append("\n## Learned on one product, tested on another\n\n")
    lines.append("Image AUROC with 95% intervals; over each column the product tested on, and n. Published for models ")
    lines.append("of seven products of MVTec AD, tested on KolektorSDD2: 0.463 to 0.690, the best by `cae` of grid.\n")
    targets = {name: _n(one) for kinds in found.values() for name, one in kinds["cae"]["on"].items()}
    lines.append(f"\n| System | Learned on | {' | '.join(f'`{name}` ({n})' for name, n in targets.items())} |\n")
    lines.append("| --- | --- |" + " --- |" * len(targets) + "\n")
    for system in PUBLISHED:
        for product, kinds in found.items():
            cells = [_cell(kinds[system]["on"].get(t), "image_auroc") for t in targets]
            lines.append(f"| {system} | `{product}` | {' | '.join(cells)} |\n")
    (HERE / "autoencoders.md").write_text("".join(lines))


def _cell(figures: dict | None, name: str) -> str:
    if figures is None or figures[name] is None:
        return "–"
    low, high = figures["interval"]
    return f"{figures[name]:.3f}" + (f" [{low:.3f}, {high:.3f}]" if name == "image_auroc" else "")


def _n(figures: dict) -> str:
    return f"{figures['n_good']} / {figures['n_defect']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", type=Path, help="folders of products in MVTec AD layout")
    parser.add_argument("--product", action="append", required=True, help="learned from; may be repeated")
    parser.add_argument("--on", action="append", default=[], help="tested besides; may be repeated")
    parser.add_argument("--minutes", type=float, default=25.0, help="at most, for each model")
    chosen = parser.parse_args()
    places = {name: data for data in chosen.data for name in dataset.categories(data)}
    if missing := [name for name in (*chosen.product, *chosen.on) if name not in places]:
        sys.exit(f"{', '.join(missing)} is in none of the folders: give one that holds it in MVTec AD layout")
    kept = HERE / "autoencoders.json"
    found = json.loads(kept.read_text()) if kept.is_file() else {}  # of products not named now: they stay
    for product in chosen.product:
        made = {}
        for system in (*PUBLISHED, *NAIVE):
            detector, limit, pixel, went = learn(places[product], product, system, chosen.minutes)
            others = [name for name in (*chosen.product, *chosen.on) if name != product and system in PUBLISHED]
            on = {name: judge(detector, limit, pixel, places[name], name) for name in (product, *others)}
            made[system] = went | {"on": on}
            print(product, system, went, {name: round(one["image_auroc"], 3) for name, one in on.items()}, flush=True)
        found[product] = made
        write(found)


if __name__ == "__main__":
    main()
