"""Do light, focus, noise, turning and compression change who is refused?

Each product is learned from some of its good photos as `train` does it: a quarter of them sets the limit. Then the same
test photos, good and defective, are judged as they are and as other cameras might have taken them:

    python benchmarks/fairness.py photos-of-products toys

writes fairness.json and fairness.md beside this file, product by product; what they tell of other products and
detectors stays, as long as they were measured with the same settings.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from promises import blurred, brighter, compressed, darker  # noqa: E402 - beside this file

from anomaly import dataset, detectors, metrics, thresholds, training  # noqa: E402 - found by the line above
from anomaly.capture import Profile  # noqa: E402
from anomaly.errors import TooFewImages  # noqa: E402

LEARNED = 64  # good photos to learn from, a quarter of which sets the limit
LIMIT = 10  # good and as many defective test photos of each product
ENOUGH = 5  # of them, at least, for a product to count in the mean AUROC: of two, one that moves changes it by half
MINUTES = 0.15  # of training for each network and product: a full run shall be a matter of minutes
NOISE = 8.0  # grey levels
TURN = 5.0  # degrees
SLOPE = 0.25  # brighter at the one side, darker at the other, by this share


def one_sided(image: np.ndarray) -> np.ndarray:
    light = np.linspace(1 - SLOPE, 1 + SLOPE, image.shape[1])[None, :, None]
    return np.clip(image * light, 0, 255).astype(np.uint8)


def noisy(image: np.ndarray) -> np.ndarray:
    grain = np.random.default_rng(0).normal(0, NOISE, image.shape)
    return np.clip(image + grain, 0, 255).round().astype(np.uint8)


def turned(image: np.ndarray) -> np.ndarray:
    return ndimage.rotate(image, TURN, axes=(1, 0), reshape=False, order=1, mode="mirror")


CAMERAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it was": lambda image: image,
    "light +20%": brighter,
    "light -20%": darker,
    "light from one side": one_sided,
    "blur": blurred,
    "noise": noisy,
    "turned": turned,
    "JPEG 60": compressed,
}


def evenly(items: Sequence, count: int) -> list:
    """So many of them, from the first to the last."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))]


def measure(data: Path, product: str, names: Sequence[str], *, limit: int, learned: int, minutes: float) -> dict:
    """{detector: {"target", "n_limit", "n_learned", camera: as `judged` gives it}}."""
    split = dataset.split_good(evenly(dataset.good_images(data, product), learned), held_out=training.HELD_OUT, seed=0)
    tested = dataset.test_samples(data, product)
    samples = [s for label in (0, 1) for s in evenly([s for s in tested if s.label == label], limit)]
    labels = np.array([sample.label for sample in samples])
    profile = Profile.of(dataset.LazyImages([*split.train, *split.held_out]))
    found = {}
    for name in names:
        began = time.monotonic()
        detector = detectors.create(name, seed=0, minutes=minutes).fit(dataset.LazyImages(split.train))
        good = [detector.score(photo).score for photo in dataset.LazyImages(split.held_out)]
        target = training.supported_target(len(good))
        bar = thresholds.choose("false-alarms", good, target=target).threshold
        found[name] = {"target": target, "n_limit": len(good), "n_learned": len(split.train)}
        for camera, taken in CAMERAS.items():
            photos = [taken(photo) for photo in dataset.LazyImages([sample.path for sample in samples])]
            scores = np.array([result.score for result in detector.score_batch(photos)])
            warned = np.array([bool(profile.objections(photo)) for photo in photos])
            found[name][camera] = judged(labels, scores, scores >= bar, warned)
        print(f"{product} / {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return found


def judged(labels: np.ndarray, scores: np.ndarray, over: np.ndarray, warned: np.ndarray) -> dict:
    """Counts and image AUROC of one camera; `unwarned`: over the limit without a word on how the photo was taken."""
    good = labels == 0
    return {
        "n_good": int(good.sum()),
        "alarms": int(over[good].sum()),
        "unwarned": int((over & ~warned)[good].sum()),
        "n_defect": int((~good).sum()),
        "found": int(over[~good].sum()),
        "image_auroc": round(metrics.image_auroc(labels, scores), 4),
    }


def kept(settings: dict) -> dict[str, dict]:
    """What an earlier run with the same settings measured."""
    path = HERE / "fairness.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    return before["products"] if settings.items() <= before.items() else {}


def write(products: dict[str, dict], settings: dict) -> None:
    """fairness.json and fairness.md."""
    (HERE / "fairness.json").write_text(json.dumps({**settings, "products": products}, indent=1) + "\n")
    (HERE / "fairness.md").write_text(page(products, settings))


def page(products: dict[str, dict], settings: dict) -> str:
    names = list(dict.fromkeys(name for one in products.values() for name in one))
    lines = [
        "# Other light, other cameras\n\nMade by `python benchmarks/fairness.py`. Each detector learned from at most "
        f"{settings['learned']} good photos of a product, a quarter of which set its limit (so it promises less than "
        f"after a full training; networks were given {60 * settings['minutes']:.0f} seconds), and judged at most "
        f"{settings['limit']} good and {settings['limit']} defective test photos of it eight times. False alarms: good "
        "photos over the limit, of all products, with the 95% interval. Unwarned: without a word on how the photo was "
        "taken; the app shows the others as REVIEW. Found: defective photos over the limit. AUROC: of images, mean of "
        f"the products with at least {ENOUGH} good and {ENOUGH} defective ones.\n"
    ]
    for name in names:
        mine = {product: one[name] for product, one in products.items() if name in one}
        promised = np.mean([one["target"] for one in mine.values()])
        lines.append(
            f"\n## {name}\n\n{len(mine)} products, {100 * promised:.1f}% false alarms promised on average.\n\n"
            "| Camera | False alarms | Unwarned | Found | AUROC | Lowest AUROC |\n"
            "| --- | --- | --- | --- | --- | --- |\n"
        )
        lines += [_row(camera, mine) for camera in CAMERAS]
        lines.append(f"\n| False alarms; AUROC | {' | '.join(CAMERAS)} |\n|{' --- |' * (len(CAMERAS) + 1)}\n")
        for product, one in mine.items():
            cells = [f"{one[c]['alarms']}/{one[c]['n_good']}; {one[c]['image_auroc']:.3f}" for c in CAMERAS]
            lines.append(f"| `{product}` | {' | '.join(cells)} |\n")
    return "".join(lines)


def _row(camera: str, mine: dict[str, dict]) -> str:
    rows = [one[camera] for one in mine.values()]
    n, alarms, unwarned, defects, caught = (
        sum(row[key] for row in rows) for key in ("n_good", "alarms", "unwarned", "n_defect", "found")
    )
    low, high = thresholds.interval(alarms, n)
    aurocs = {
        product: one[camera]["image_auroc"]
        for product, one in mine.items()
        if min(one[camera]["n_good"], one[camera]["n_defect"]) >= ENOUGH
    }
    worst = min(aurocs, key=aurocs.get, default=None)
    ranked = f"{np.mean([*aurocs.values()]):.3f} | {aurocs[worst]:.3f} (`{worst}`)" if worst else "– | –"
    return (
        f"| {camera} | {100 * alarms / n:.1f}% [{100 * low:.1f}, {100 * high:.1f}] ({alarms}/{n}) | "
        f"{100 * unwarned / n:.1f}% | {100 * caught / defects:.1f}% ({caught}/{defects}) | "
        f"{ranked} |\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", type=Path, help="folders of products in MVTec AD layout")
    parser.add_argument("--product", action="append", help="only this one; may be repeated")
    parser.add_argument("--detector", action="append", help="may be repeated; default: the usual ones")
    parser.add_argument("--limit", type=int, default=LIMIT, help="test photos of each kind and product")
    parser.add_argument("--learned", type=int, default=LEARNED, help="good photos to learn from, at most")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="to train a network on a product")
    chosen = parser.parse_args()
    settings = {"limit": chosen.limit, "learned": chosen.learned, "minutes": chosen.minutes}
    names = chosen.detector or list(detectors.USUAL)
    products = kept(settings)
    measured = False
    for data in chosen.data:
        for product in dataset.categories(data):
            labels = {sample.label for sample in dataset.test_samples(data, product)}
            if labels != {0, 1} or (chosen.product and product not in chosen.product):
                continue
            try:
                found = measure(data, product, names, **settings)
            except TooFewImages as refusal:
                print(f"{product} is left out: {refusal}", file=sys.stderr, flush=True)
                continue
            products[product] = products.get(product, {}) | found
            write(products, settings)
            measured = True
    if not measured:
        message = "Nothing was measured: give a folder in MVTec AD layout, with good and defective test photos"
        sys.exit(f"{message}, and enough good ones to learn from")


if __name__ == "__main__":
    main()
