"""Does a defect get its right name from labelled regions, and is one of a type that nobody labelled called unknown?

    python -m anomaly synth toys --test 60 --train 1
    python benchmarks/defect_types.py toys DATA

The defective test photos of each product are halved, each type by itself and by groups of file numbers: one half is
labelled, the other one is asked. Then each type in turn is taken out of the labelled half, so that its photos ought to
be unknown. Where the product is trained in --runs, the region is the strongest one of the detector that judges, and
photos that it passes do not count; elsewhere it is the largest piece of the mask. Writes defect_types.json and
defect_types.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from anomaly import dataset, defects, inspection, runs  # noqa: E402
from anomaly.errors import WrongProduct  # noqa: E402
from anomaly.images import read_image  # noqa: E402
from anomaly.regions import find_regions  # noqa: E402
from anomaly.thresholds import interval  # noqa: E402

SURE = (0.5, 0.7, 0.9, 1.01)  # borders of the confidences that are told apart


def place(sample: dataset.Sample, image: np.ndarray, inspector: inspection.Inspector | None, product: str):
    """The box of the defect, None where the detector passes the part or there is no mask."""
    if inspector:
        try:
            found = inspector.inspect(sample.path, category=product)
        except WrongProduct:
            return None
        return found.regions[0].box if found.regions and found.verdict != "OK" else None
    if not sample.mask:
        return None
    pieces = find_regions(dataset.read_mask(sample.mask, image.shape[:2]).astype(float), 0.5)
    return max(pieces, key=lambda piece: piece.area).box if pieces else None


def seen(samples: list[dataset.Sample], inspector: inspection.Inspector | None, product: str) -> list[defects.Example]:
    """An example of each sample that shows a region."""
    found = []
    for sample in samples:
        image = read_image(sample.path)
        box = place(sample, image, inspector, product)
        if box:
            found.append(defects.Example(str(sample.path), sample.kind, defects.describe(image, box)))
    return found


def measured(data: Path, product: str, root: Path, book: Path, seed: int) -> dict | None:
    """Figures of a product, None of one without two types."""
    samples = [sample for sample in dataset.test_samples(data, product) if sample.label]
    trained = product in runs.names(root)
    inspector = inspection.Inspector(runs=root, thresholds=book) if trained else None
    halves = dataset.split_labelled(samples, seed=seed)
    labelled, asked = (seen(half, inspector, product) for half in halves)
    known = defects.Types(tuple(labelled))
    if not known.ready:
        return None
    answers = [(one.kind, known.name(one.features)) for one in asked]
    named = [(kind, said) for kind, said in answers if said.kind != defects.UNKNOWN]
    strangers = []
    for kind in known.counts:
        others = defects.Types(tuple(one for one in labelled if one.kind != kind))
        said = [others.name(one.features) for one in asked if one.kind == kind]
        strangers += [one.kind == defects.UNKNOWN for one in said if one]
    return {
        "regions": "detector" if trained else "mask",
        "types": len(known.counts),
        "labelled": len(labelled),
        "asked": len(asked),
        "passed": sum(map(len, halves)) - len(labelled) - len(asked),
        "named": len(named),
        "right": sum(kind == said.kind for kind, said in named),
        "commonest": Counter(kind for kind, _ in answers).most_common(1)[0][1],
        "strangers": len(strangers),
        "unknown": int(sum(strangers)),
        "sure": [[said.confidence, kind == said.kind] for kind, said in named],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs")
    parser.add_argument("--thresholds", type=Path, default=HERE.parent / "threshold.json")
    parser.add_argument("--product", action="append", help="may be repeated; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    found = {}
    for data in asked.data:
        for product in dataset.categories(data):
            if asked.product and product not in asked.product:
                continue
            figures = measured(data, product, asked.runs, asked.thresholds, asked.seed)
            if figures:
                found[product] = figures
                print(product, {name: value for name, value in figures.items() if name != "sure"}, flush=True)
                (asked.out / "defect_types.json").write_text(json.dumps(found, indent=1) + "\n")
                (asked.out / "defect_types.md").write_text(page(found))


def share(right: int, of: int) -> str:
    if not of:
        return "–"
    low, high = interval(right, of)
    return f"{right / of:.2f} [{low:.2f}, {high:.2f}] ({right}/{of})"


def page(found: dict[str, dict]) -> str:
    lines = [
        "# Types of defects",
        "",
        "Half of the defective test photos is labelled, the other half is asked. Chance is the share of the commonest",
        "type among those asked. Strangers are asked while no photo of their type is labelled.",
        "",
        "| Product | Region by | Types | Labelled | Passed | Named | Right of these | Chance | Strangers unknown |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for product, one in found.items():
        lines.append(
            f"| `{product}` | {one['regions']} | {one['types']} | {one['labelled']} | {one['passed']} | "
            f"{share(one['named'], one['asked'])} | {share(one['right'], one['named'])} | "
            f"{one['commonest'] / one['asked']:.2f} | {share(one['unknown'], one['strangers'])} |"
        )
    lines += [
        "",
        "Names by how sure they were said to be, all products:",
        "",
        "| Sure | Said | Right |",
        "| --- | --- | --- |",
    ]
    sure = np.array([pair for one in found.values() for pair in one["sure"]], float).reshape(-1, 2)
    for low, high in zip(SURE, SURE[1:]):
        inside = sure[(sure[:, 0] >= low) & (sure[:, 0] < high)]
        if len(inside):
            right = share(int(inside[:, 1].sum()), len(inside))
            lines.append(f"| {low:.1f} to {min(high, 1):.1f} | {inside[:, 0].mean():.2f} | {right} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
