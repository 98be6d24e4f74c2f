"""How few good photos are enough: image AUROC against their number.

    python benchmarks/few_images.py DATA PRODUCT...

DATA is a folder of products in MVTec AD layout. Each number of photos is drawn several times, and every draw is judged
on the same test photos. Writes few_images.json, few_images.md and few_images.png beside this file.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import matplotlib
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from anomaly import dataset, detectors, evaluation, metrics  # noqa: E402

COUNTS = (4, 8, 16, 32, 64)
DRAWS = 3
JUDGED = 60  # test photos of each kind at most, evenly chosen: the curve, not its last digit, is asked for


def curve(data: Path, product: str, detector: str) -> dict:
    """{"n_good", "n_defect", "points": {number of photos: [image AUROC of each draw]}}; the last number is all."""
    good = dataset.good_images(data, product)
    samples = dataset.test_samples(data, product)
    judged = [sample for label in (0, 1) for sample in _evenly([s for s in samples if s.label == label], JUDGED)]
    points = {}
    for count in [*(c for c in COUNTS if c < len(good)), len(good)]:
        aurocs = []
        for draw in range(DRAWS if count < len(good) else 1):
            chosen = np.sort(np.random.default_rng(draw).permutation(len(good))[:count])
            model = detectors.create(detector, seed=draw).fit(dataset.LazyImages([good[i] for i in chosen]))
            found = evaluation.judge(model, judged)
            aurocs.append(round(metrics.image_auroc(found.labels, found.scores), 4))
        points[count] = aurocs
        print(product, count, aurocs, flush=True)
    labels = [sample.label for sample in judged]
    return {"n_good": labels.count(0), "n_defect": labels.count(1), "points": points}


def _evenly(samples: list, most: int) -> list:
    return [samples[i] for i in np.linspace(0, len(samples) - 1, min(most, len(samples))).round().astype(int)]


def write(found: dict[str, dict], detector: str) -> None:
    """few_images.json, few_images.md and few_images.png."""
    (HERE / "few_images.json").write_text(json.dumps({"detector": detector, "products": found}, indent=1) + "\n")
    lines = [f"# How few good photos are enough\n\nMade by `python benchmarks/few_images.py`; `{detector}`, "]
    lines.append(
        f"image AUROC, mean of {DRAWS} draws [lowest, highest].\n\n| Product | Judged | Photos: image AUROC |\n"
    )
    lines.append("| --- | --- | --- |\n")
    for product, one in found.items():
        cells = [
            f"{count}: {np.mean(values):.3f}" + (f" [{min(values):.3f}, {max(values):.3f}]" if len(values) > 1 else "")
            for count, values in one["points"].items()
        ]
        judged = f"{one['n_good']} good, {one['n_defect']} defective"
        lines.append(f"| {product} | {judged} | {' · '.join(cells)} |\n")
    (HERE / "few_images.md").write_text("".join(lines))
    _plot(found)


def _plot(found: dict[str, dict]) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    for product, one in found.items():
        counts, values = list(one["points"]), list(one["points"].values())
        (line,) = axes.plot(counts, [np.mean(v) for v in values], marker="o", label=product)
        axes.fill_between(
            counts, [min(v) for v in values], [max(v) for v in values], color=line.get_color(), alpha=0.15
        )
    axes.set(xscale="log", xlabel="Good photos", ylabel="Image AUROC", xticks=COUNTS, xticklabels=COUNTS)
    axes.minorticks_off()
    axes.grid(color="0.93")
    axes.legend(frameon=False)
    figure.savefig(HERE / "few_images.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of products in MVTec AD layout")
    parser.add_argument("product", nargs="+", help="its name")
    parser.add_argument("--detector", default=detectors.USUAL[0], choices=detectors.names())
    chosen = parser.parse_args()
    found: dict[str, dict] = {}
    for product in chosen.product:
        found[product] = curve(chosen.data, product, chosen.detector)
        write(found, chosen.detector)


if __name__ == "__main__":
    main()
