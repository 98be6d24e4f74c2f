"""What known defects bring, with masks and without; and the published form of the product check, beside ours.

    python -m anomaly synth textures --dagm --size 256
    python benchmarks/two_stage.py textures --product felt --product labyrinth
    python benchmarks/two_stage.py DATA --product magnetic_tile --beside mahalanobis
    python benchmarks/two_stage.py textures --unknown

The folders hold products in the layout of DAGM or of MVTec AD. Where a product has no known defects, its labelled test
photos are parted by whole groups of file numbers: half of each kind is learned from, the other half tested, and
train/good is left alone, since good photos of another day would make the day the mark of a defect. Each of the shares
of the known defects keeps its masks; of the others it is only known that there is a defect. With --unknown the folder
holds attributes.json as well, {"words": […], "products": {name: […]}}. Writes two_stage.json and two_stage.md beside
this file; what they tell of other products and detectors stays.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from anomaly import dataset, detectors, embedding, evaluation, gate  # noqa: E402
from anomaly.dataset import Sample  # noqa: E402
from anomaly.images import read_image  # noqa: E402
from anomaly.synthetic.dagm import ATTRIBUTES  # noqa: E402

SHARES = (1.0, 0.3, 0.0)  # of the known defects, whose masks are shown
BALANCED, LEARNED = 300, 0.8  # good and defective photos of a product, as published, and how many of them teach
VARIANTS = {  # what stands in two_stage.md of them
    "Embeddings learned, squared error": {},
    "Embeddings learned, absolute error": {"loss": "absolute"},
    "Hand-written attributes, squared error": {"learned": False},
}
GATE = "`gate`, learned from good photos alone"
PUBLISHED = {  # "TF-VAEGAN with squared error" on ten surfaces of DAGM, one pair unknown
    "Published, embeddings learned": (98.12, 95.96, 97.03),
    "Published, hand-written attributes": (None, None, 81.53),
    "Published, absolute error (TF-VAEGAN)": (None, None, 95.03),
}
COLUMNS = {"image_auroc": "Image AUROC", "image_ap": "AP", "pixel_auroc": "Pixel AUROC", "aupro": "AUPRO"}


def parted(data: Path, product: str) -> tuple[list[Path], list[Sample], list[Sample]]:
    """Good photos and known defects to learn from, and labelled photos to test on."""
    good, known = dataset.good_images(data, product), dataset.known_defects(data, product)
    test = dataset.test_samples(data, product)
    if not known:
        shown, test = dataset.split_labelled(test)
        known = [sample for sample in shown if sample.label]
        good = [sample.path for sample in shown if not sample.label]
    return good, known, test


def unmasked(known: list[Sample], share: float) -> list[Sample]:
    """The same defects, a share of those of each type with their masks."""
    kept: set[Path] = set()
    generator = np.random.default_rng(0)
    for kind in sorted({sample.kind for sample in known}):
        paths = [sample.path for sample in known if sample.kind == kind]
        kept |= {paths[i] for i in generator.permutation(len(paths))[: round(share * len(paths))]}
    return [sample if sample.path in kept else replace(sample, mask=None) for sample in known]


def measured(data: Path, product: str, system: str, share: float | None, epochs: int, minutes: float) -> dict:
    """Figures of a detector that learned the known defects, a share of them with masks; of None, good photos alone."""
    good, known, test = parted(data, product)
    known = [] if share is None else unmasked(known, share)
    model = detectors.create(system, seed=0, epochs=epochs, minutes=minutes)
    began = time.perf_counter()
    labelled = dataset.LabelledImages(known)
    model.fit(dataset.LazyImages(good), **({"defects": labelled} if known else {}))
    taken = time.perf_counter() - began
    figures = evaluation.measure(evaluation.judge(model, test), threshold=1.0, pixel=1.0)
    return {
        "n_train_good": len(good),
        "n_train_defect": len(known),
        "n_masks": sum(sample.mask is not None for sample in known),
        "epochs": len(model.history()),
        "minutes": round(taken / 60, 1),
        **{name: figures[name] for name in (*COLUMNS, "n_good", "n_defect")},
        "intervals": {name: figures["intervals"][name] for name in ("image_auroc", "image_ap")},
    }


def drawn(data: Path, product: str) -> tuple[list[Sample], list[Sample]]:
    """Up to 300 good and 300 defective photos of all that the product has, to learn from and to test on, 8:2."""
    everything = [Sample(path, dataset.GOOD) for path in dataset.good_images(data, product)]
    everything += dataset.known_defects(data, product) + dataset.test_samples(data, product)
    generator, parts = np.random.default_rng(0), ([], [])
    for label in (0, 1):
        kind = [sample for sample in everything if sample.label == label]
        kind = [kind[i] for i in generator.permutation(len(kind))[:BALANCED]]
        border = round(LEARNED * len(kind))
        parts[0].extend(kind[:border])
        parts[1].extend(kind[border:])
    return parts


def described(samples: list[Sample], share: float) -> np.ndarray:
    """Features (N, C) of photos, a share of 300 of each label; where there are fewer, mirrored ones fill them up."""
    found = []
    for label in (0, 1):
        kind = [sample.path for sample in samples if sample.label == label]
        for number in range(min(round(share * BALANCED), 2 * len(kind))):
            photo = read_image(kind[number % len(kind)])
            found.append(gate.describe(photo if number < len(kind) else np.ascontiguousarray(photo[:, ::-1])))
    return np.stack(found)


def rejected(data: Path, seed: int) -> dict:
    """Known products recognised and unknown ones rejected, each product being unknown once, two at a time."""
    looks = json.loads((data / ATTRIBUTES).read_text())
    names = dataset.categories(data)
    photos, simple = {}, {}
    for name in names:
        learned, tested = drawn(data, name)
        photos[name] = described(learned, LEARNED), described(tested, 1 - LEARNED)
        simple[name] = gate.learn(dataset.LazyImages([sample.path for sample in learned if not sample.label]))
        print("described", name, *(len(part) for part in photos[name]), flush=True)
    rows: dict = {system: [] for system in (*VARIANTS, GATE)}
    for pair in zip(names[::2], names[1::2]):
        known = [name for name in names if name not in pair]
        for system in rows:
            if system == GATE:
                judges = {name: simple[name] for name in known}

                def look(features: np.ndarray, judges: dict = judges) -> list[tuple[str, bool]]:
                    seen = [gate.judge({n: one.distance(row) for n, one in judges.items()}) for row in features]
                    return [(one.seen, one.known) for one in seen]

            else:
                taught = {name: photos[name][0] for name in known}
                model = embedding.learn(taught, looks["products"], words=looks["words"], seed=seed, **VARIANTS[system])

                def look(features: np.ndarray, model: embedding.Embedding = model) -> list[tuple[str, bool]]:
                    return [(one.nearest, one.known) for one in model.look(features)]

            right = [found == (name, True) for name in known for found in look(photos[name][1])]
            foreign = [not known_too for name in pair for part in photos[name] for _, known_too in look(part)]
            rows[system].append({"unknown": pair, "seen": right, "unseen": foreign})
            print(system, pair, np.mean(right), np.mean(foreign), flush=True)
    return {system: summed(parts) for system, parts in rows.items()}


def summed(parts: list[dict]) -> dict:
    """Shares in percent over all pairs, their harmonic mean, and that of each pair."""
    shares = {side: 100 * float(np.mean([flag for one in parts for flag in one[side]])) for side in ("seen", "unseen")}
    each = [harmonic(*(100 * float(np.mean(one[side])) for side in ("seen", "unseen"))) for one in parts]
    return {
        **{side: round(value, 2) for side, value in shares.items()},
        "harmonic": round(harmonic(*shares.values()), 2),
        "each": {" ".join(one["unknown"]): round(value, 2) for one, value in zip(parts, each)},
        "n_seen": sum(len(one["seen"]) for one in parts),
        "n_unseen": sum(len(one["unseen"]) for one in parts),
    }


def harmonic(a: float, b: float) -> float:
    return 2 * a * b / max(a + b, 1e-9)


def write(found: dict) -> None:
    """two_stage.json and two_stage.md."""
    (HERE / "two_stage.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        "# Known defects\n\nMade by `python benchmarks/two_stage.py`, one seed, 95% intervals over test photos. Masks: "
        "of so many of the known defects it was shown where they are.\n\n| Product | Detector | Good, defects, masks "
        f"to learn from | Test, good / defective | {' | '.join(COLUMNS.values())} | Epochs | Minutes |\n",
        "| --- |" + " --- |" * (len(COLUMNS) + 5) + "\n",
    ]
    for product, rows in found["segdec"].items():
        for one in rows:
            cells = []
            for name in COLUMNS:
                low, high = one["intervals"].get(name, (None, None))
                cell = "–" if one[name] is None else f"{one[name]:.3f}"
                cells.append(cell if low is None else f"{cell} [{low:.3f}, {high:.3f}]")
            taught = f"{one['n_train_good']}, {one['n_train_defect']}, {one['n_masks']}"
            lines.append(
                f"| `{product}` | {one['system']} | {taught} | {one['n_good']} / {one['n_defect']} | "
                f"{' | '.join(cells)} | {one['epochs'] or '–'} | {one['minutes']} |\n"
            )
    if found["unknown"]:
        lines.append(
            "\n# Unknown products\n\nOf ten surfaces eight are known and two unknown, five times, so that each is "
            f"unknown once; {BALANCED} good and {BALANCED} defective photos of each, 8:2. Seen: photos of known "
            "products that are recognised as theirs; unseen: photos of unknown ones that are rejected; each in "
            "percent, and their harmonic mean. The limits come from known products alone: 1% of their photos is "
            "refused. Published on ten surfaces of DAGM, with one pair unknown.\n\n"
            "| | Seen | Unseen | Harmonic mean | of each pair | n |\n"
            "| --- | --- | --- | --- | --- | --- |\n"
        )
        for system, values in PUBLISHED.items():
            lines.append(f"| {system} | {' | '.join(str(value or '–') for value in values)} | – | – |\n")
        for system, one in found["unknown"].items():
            each = ", ".join(str(value) for value in one["each"].values())
            figures = " | ".join(str(one[name]) for name in ("seen", "unseen", "harmonic"))
            lines.append(f"| {system} | {figures} | {each} | {one['n_seen']} / {one['n_unseen']} |\n")
        pairs = next(iter(found["unknown"].values()))["each"]
        lines.append(f"\nThe pairs: {'; '.join(pairs)}.\n")
    (HERE / "two_stage.md").write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of products")
    parser.add_argument("--product", action="append", default=[], help="to teach known defects; may be repeated")
    parser.add_argument("--beside", action="append", default=[], help="detector that learns from good photos alone")
    parser.add_argument("--epochs", type=int, default=30, help="at most, for each of these trainings")
    parser.add_argument("--minutes", type=float, default=6.0, help="the same")
    parser.add_argument("--unknown", action="store_true", help="reject unknown ones among all products of the folder")
    chosen = parser.parse_args()
    file = HERE / "two_stage.json"
    found = json.loads(file.read_text()) if file.is_file() else {"segdec": {}, "unknown": {}}
    for product in chosen.product:
        for system, share in [*(("segdec", share) for share in SHARES), *((name, None) for name in chosen.beside)]:
            one = measured(chosen.data, product, system, share, chosen.epochs, chosen.minutes)
            key, rows = (system, one["n_masks"]), found["segdec"].get(product, [])
            others = [row for row in rows if (row["system"], row["n_masks"]) != key]
            found["segdec"][product] = [*others, {"system": system} | one]
            write(found)
            print(product, system, share, json.dumps(one), flush=True)
    if chosen.unknown:
        found["unknown"] = rejected(chosen.data, seed=0)
        write(found)


if __name__ == "__main__":
    main()
