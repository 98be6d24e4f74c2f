"""Make the runs that the repository ships, from nothing: `python -m anomaly.demo [--products | --types] [PRODUCT ...]`.

Each toy product is drawn, both detectors are trained on it, and examples are drawn from another seed. With `--products`
only `product.safetensors` is made, by which its photos are recognised, with `--types` only `defects.safetensors`, by
which its defects are named; the detectors stay as they are.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from anomaly import dataset, detectors, gate, runs, synthetic, thresholds, training

SHIPPED = ("brushed_metal", "glazed_tile", "leather", "perforated_sheet", "wood_grain", "woven_fabric")
TRAIN, TEST = 200, 60  # 50 of the good images are held out: just enough to promise 2% false alarms
KNOWN = 30  # defects that are known before the test, to show what a limit does to them
RUNS, BOOK = Path("runs"), Path("threshold.json")


def make(name: str, *, data: Path) -> None:
    """Train and describe one drawn toy product into runs/ and threshold.json."""
    product = synthetic.PRODUCTS[name]
    about = {"title": product.title, "kind": product.kind, "licence": "MIT, drawn by this project"}
    runs.write_description(RUNS, name, about)
    synthetic.write_examples(RUNS / name / runs.EXAMPLES, name)
    for one in detectors.USUAL:  # the first one trained becomes the one that judges
        done = training.train(data, name, detectors.create(one), root=RUNS, book=BOOK)
        figures = {k: done.figures[k] for k in ("image_auroc", "pixel_auroc", "accuracy")}
        print(name, one, figures, done.point.promise, flush=True)


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data, only = Path(folder), {"--products", "--types"} & {*names}
        for name in [name for name in names if name not in only] or SHIPPED:
            if "--types" in only:
                synthetic.write_product(data, name, train=0, test=0, known=KNOWN)
                judge = runs.meant(RUNS, thresholds.Thresholds.load(BOOK), name)
                known = training.learn_types(data, name, judge, root=RUNS, book=BOOK)
                print(name, known.counts, flush=True)
            elif only:
                synthetic.write_product(data, name, train=TRAIN, test=0)
                runs.save_product(RUNS, name, gate.learn(dataset.LazyImages(dataset.good_images(data, name))))
            else:
                synthetic.write_product(data, name, train=TRAIN, test=TEST, known=KNOWN)
                make(name, data=data)


if __name__ == "__main__":
    main(sys.argv[1:])
