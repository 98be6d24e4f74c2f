"""Does the product check know what a photo shows, defective or not, and does it refuse everything else?

    python -m anomaly synth toys --train 200 --test 60
    python benchmarks/gate.py DATA toys

DATA is a folder of products in MVTec AD layout, beside folders of foreign photos. Products are learned from train/good
alone; every test photo is then held against all of them. Writes gate.json and gate.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from anomaly import dataset, gate  # noqa: E402
from anomaly.images import list_images, read_image  # noqa: E402
from anomaly.thresholds import interval  # noqa: E402

REAL = ("screw", "casting", "magnetic_tile", "cookie", "hazelnut_sample", "transistor_sample")
FOREIGN = ("photos", "neu_steel")
COUNTS = (4, 8, 16, 32)  # good photos, to see how few are enough
TIMED = 50  # photos


def learned(data: Path, names: list[str], most: int | None = None) -> dict[str, gate.Product]:
    """Products by name, of all good training photos or of `most` drawn ones."""
    found = {}
    for name in names:
        good = dataset.good_images(data, name)
        if most is not None:
            good = [good[i] for i in np.sort(np.random.default_rng(0).permutation(len(good))[:most])]
        found[name] = gate.learn(dataset.LazyImages(good))
        print("learned", name, found[name].photos, flush=True)
    return found


def described(paths: list[Path]) -> np.ndarray:
    """(N, C) features."""
    return np.stack([gate.describe(read_image(path)) for path in paths])


def tested(data: Path, names: list[str]) -> dict[tuple[str, str], np.ndarray]:
    """{(product, "good" or "defect"): (N, C) features of its test photos}."""
    found = {}
    for name in names:
        samples = dataset.test_samples(data, name)
        for label, kind in enumerate(("good", "defect")):
            found[name, kind] = described([sample.path for sample in samples if sample.label == label])
        print("tested", name, flush=True)
    return found


def share(flags: list[bool]) -> dict:
    """{"k", "n", "value", "interval"}: exact 95% (Clopper & Pearson 1934)."""
    k, n = sum(flags), len(flags)
    return {"k": k, "n": n, "value": round(k / n, 5), "interval": [round(end, 5) for end in interval(k, n)]}


def measured(
    products: dict[str, gate.Product],
    own: dict[tuple[str, str], np.ndarray],
    foreign: dict[str, np.ndarray],
) -> dict:
    """Shares of photos of known products that are recognised, refused, and seen through; of foreign ones refused."""

    def apart(one: np.ndarray) -> dict[str, float]:
        return {name: product.distance(one) for name, product in products.items()}

    rows = [(name, kind, apart(one)) for (name, kind), many in own.items() for one in many]
    found: dict = {"products": {name: product.photos for name, product in products.items()}}
    for kind in ("good", "defect"):
        mine = [(name, distances) for name, one, distances in rows if one == kind]
        seen = [(name, gate.judge(distances)) for name, distances in mine]
        found[kind] = {
            "recognised": share([one.known and one.seen == name for name, one in seen]),
            "refused": share([gate.judge(distances, expected=name).refused for name, distances in mine]),
        }
        found[f"recognised_{kind}"] = {
            product: share([one.known and one.seen == name for name, one in seen if name == product])
            for product in products
        }
    found["mistaken"] = share(
        [
            not gate.judge(distances, expected=other).refused
            for name, _, distances in rows
            for other in products
            if other != name
        ]
    )
    nearest = {source: [min(apart(one).values()) for one in many] for source, many in foreign.items()}
    found["rejected"] = {source: share([value > 1 for value in values]) for source, values in nearest.items()}
    alone = {}
    for name, product in products.items():
        others = [product.distance(one) for many in foreign.values() for one in many]
        alone[name] = share([value > 1 for value in others])
    found["rejected_by_one_product"] = alone
    # Were the limits all moved by one factor, so that 1% of the known photos is refused.
    moved = float(np.quantile([distances[name] for name, _, distances in rows], 0.99))
    found["at_1_percent_refused"] = {
        "factor": round(moved, 4),
        "rejected": {source: share([value > moved for value in values]) for source, values in nearest.items()},
    }
    return found


def milliseconds(paths: list[Path], products: dict[str, gate.Product]) -> dict:
    """Median time that `look` takes for a photo that is already read."""
    photos = [read_image(path) for path in paths[:TIMED]]
    taken = []
    for photo in photos:
        began = time.perf_counter()
        gate.look(photo, products)
        taken.append(1000 * (time.perf_counter() - began))
    return {"median": round(float(np.median(taken)), 1), "fastest": round(min(taken), 1), "n": len(taken)}


def line(said: dict) -> str:
    low, high = said["interval"]
    return f"{said['value']:.4f} [{low:.4f}, {high:.4f}] ({said['k']}/{said['n']})"


def write(found: dict) -> None:
    (HERE / "gate.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        "# The product check\n\nMade by `python benchmarks/gate.py`. Share, exact 95% interval, (photos). Recognised: "
        "the right product is named, of all that are known. Refused: a photo of the product that was asked for. "
        "Mistaken: a photo of one known product passes as another that was asked for.\n"
    ]
    for title, one in found["sets"].items():
        lines.append(f"\n## {title}\n\n| | Good test photos | Defective test photos |\n| --- | --- | --- |\n")
        for key in ("recognised", "refused"):
            lines.append(f"| {key.capitalize()} | {line(one['good'][key])} | {line(one['defect'][key])} |\n")
        for name, photos in one["products"].items():
            good, defect = (line(one[f"recognised_{kind}"][name]) for kind in ("good", "defect"))
            lines.append(f"| `{name}`, learned from {photos}: recognised | {good} | {defect} |\n")
        lines.append(f"\nMistaken: {line(one['mistaken'])}.\n\n| Foreign photos | Rejected | Rejected where ")
        lines.append("1% of the known photos is refused |\n| --- | --- | --- |\n")
        for source, said in one["rejected"].items():
            lines.append(f"| {source} | {line(said)} | {line(one['at_1_percent_refused']['rejected'][source])} |\n")
        lines.append("\n| Known alone | Foreign photos rejected |\n| --- | --- |\n")
        lines += [f"| `{name}` | {line(said)} |\n" for name, said in one["rejected_by_one_product"].items()]
    time_taken = found["milliseconds"]
    lines.append(f"\nTime of the check, on one core: median {time_taken['median']} ms of {time_taken['n']} photos.\n")
    (HERE / "gate.md").write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of products and of foreign photos")
    parser.add_argument("toys", type=Path, help="folder of toy products")
    chosen = parser.parse_args()
    data, toys = chosen.data, chosen.toys
    drawn = dataset.categories(toys)
    foreign = {}
    for source in FOREIGN:
        inside = sorted(path for path in (data / source).iterdir() if path.is_dir()) or [data / source]
        foreign[source] = described([path for folder in inside for path in list_images(folder)])
        print("foreign", source, len(foreign[source]), flush=True)
    real, toy = tested(data, REAL), tested(toys, drawn)
    real_foreign = {name: np.concatenate([real[name, "good"], real[name, "defect"]]) for name in REAL}
    toy_foreign = {f"toy {name}": np.concatenate([toy[name, "good"], toy[name, "defect"]]) for name in drawn}
    products, toy_products = learned(data, list(REAL)), learned(toys, drawn)
    sets = {
        "Real products known": measured(products, real, foreign | toy_foreign),
        "Toy products known": measured(toy_products, toy, foreign | real_foreign),
        "All of them known": measured(products | toy_products, real | toy, foreign),
    }
    found = {"sets": sets, "milliseconds": milliseconds(list_images(data / FOREIGN[0]), products)}
    write(found)
    for count in COUNTS:
        few = learned(data, list(REAL), count)
        sets[f"Real products known, learned from {count} photos at most"] = measured(few, real, foreign | toy_foreign)
        write(found)


if __name__ == "__main__":
    main()
