"""Are the promises kept: the interval of false alarms, and the word of warning when the camera changes?

    python benchmarks/promises.py DATA...

DATA are folders of products in MVTec AD layout. Each product's detector is fitted once on half of the good photos
(those of train and test together, whole groups of neighbouring file numbers); the other half is scored once and split
200 times, again by groups, into photos that set the limit and fresh ones that are judged by it. Then fresh photos are
taken again with another camera. Last, each product's good test photos are held against the good photos to learn from.
Writes promises.json and promises.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from scipy import stats

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from anomaly import dataset, detectors, evaluation, thresholds, training  # noqa: E402
from anomaly.capture import WORKING, Profile  # noqa: E402
from anomaly.images import decode_image, encode_jpeg  # noqa: E402

SPLITS = 200
RETAKEN = 100  # photos at most that are scored again under each camera


def brighter(image: np.ndarray) -> np.ndarray:
    return np.clip(image * 1.2, 0, 255).astype(np.uint8)


def darker(image: np.ndarray) -> np.ndarray:
    return (image * 0.8).astype(np.uint8)


def blurred(image: np.ndarray) -> np.ndarray:
    """By a Gaussian of 1.5 pixels where the longest side has 448."""
    sigma = 1.5 * max(image.shape[:2]) / WORKING
    return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))


def compressed(image: np.ndarray) -> np.ndarray:
    return decode_image(encode_jpeg(image, quality=60), name="a recompressed photo")


CAMERAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it was": lambda image: image,
    "brightness +20%": brighter,
    "brightness -20%": darker,
    "blur of 1.5 px at 448": blurred,
    "JPEG quality 60": compressed,
}


def measure(data: Path, product: str) -> dict:
    """Fit once, score once, split often; then retake the fresh photos of the first split."""
    good = _good(data, product)
    half = dataset.split_good(good, held_out=0.5, seed=0)
    detector = detectors.create(detectors.USUAL[0], seed=0).fit(dataset.LazyImages(half.train))
    print(f"{product}: fitted on {len(half.train)} photos", file=sys.stderr, flush=True)
    judged = evaluation.judge(detector, [dataset.Sample(path, dataset.GOOD) for path in half.held_out])
    scores = dict(zip(half.held_out, judged.scores))
    splits = [split_once(scores, seed) for seed in range(SPLITS)]
    print(f"{product}: split {SPLITS} times", file=sys.stderr, flush=True)
    return {
        "n_good": len(good),
        "n_fitted": len(half.train),
        "n_scored": len(half.held_out),
        "groups": len(dataset.group_by_number(half.held_out)),
        **summarise(splits),
        "cameras": retake(detector, half.train, scores),
    }


def split_once(scores: dict[Path, float], seed: int) -> dict:
    """Set the limit on one half of the scored photos as `train` does, and count the false alarms on the other."""
    split = dataset.split_good(scores, held_out=0.5, seed=seed)
    held_out, fresh = (np.array([scores[path] for path in part]) for part in (split.held_out, split.train))
    n, m = len(held_out), len(fresh)
    target = training.supported_target(n)
    choice = thresholds.choose("false-alarms", held_out, target=target)
    k = int(np.sum(held_out < choice.threshold))
    effect = thresholds.design_effect(held_out, dataset.group_labels(split.held_out))
    low, high = thresholds.rate_to_come(k, n, effect)
    least, most = next_parts(k, n, m, effect)
    alarms = int(np.sum(fresh >= choice.threshold))
    return {
        "n": n,
        "m": m,
        "target": target,
        "effect": effect,
        "rate": alarms / m,
        "printed": low <= alarms / m <= high,
        "next": bool(least <= alarms <= most),
        "over": bool(alarms > most),
        "review": _between(fresh, choice),
        "review_said": _between(held_out, choice),
    }


def _between(scores: np.ndarray, choice: thresholds.Choice) -> float:
    return float(np.mean((scores >= choice.review) & (scores < choice.threshold)))


def next_parts(k: int, n: int, m: int, effect: float = 1.0) -> tuple[float, float]:
    """The 95% interval of false alarms among the next m parts, of a limit just over the k-th lowest of n good scores.

    Their rate follows Beta(n + 1 - k, k), so their number is beta-binomial; n parts and m parts that resemble each
    other count as `effect` times fewer (thresholds.design_effect).
    """
    fewer = max(1, round(m / effect))
    low, high = stats.betabinom.ppf((0.025, 0.975), fewer, (n + 1 - k) / effect, k / effect)
    return low * m / fewer, high * m / fewer


def summarise(splits: list[dict]) -> dict:
    """Means over the splits; shares as fractions, counts as medians."""
    means = {key: float(np.mean([one[key] for one in splits])) for key in splits[0]}
    counts = {f"n_{key}": int(np.median([one[key] for one in splits])) for key in ("n", "m")}
    names = {
        "target": "target",
        "effect": "design_effect",
        "rate": "rate_seen",
        "printed": "inside_printed",
        "next": "inside_next",
        "over": "more_than_next",
        "review": "review_seen",
        "review_said": "review_said",
    }
    return {
        "splits": len(splits),
        "n_limit": counts["n_n"],
        "n_fresh": counts["n_m"],
        **{name: round(means[key], 4) for key, name in names.items()},
    }


def retake(detector, learned: tuple[Path, ...], scores: dict[Path, float]) -> dict:
    """False alarms, and words of warning, on fresh photos of the first split under each camera."""
    split = dataset.split_good(scores, held_out=0.5, seed=0)
    target = training.supported_target(len(split.held_out))
    limit = thresholds.choose("false-alarms", [scores[path] for path in split.held_out], target=target).threshold
    profile = Profile.of(dataset.LazyImages([*learned, *split.held_out]))
    shown = split.train[:: -(-len(split.train) // RETAKEN)]
    found = {}
    for name, camera in CAMERAS.items():
        alarms = warned = either = 0
        for image in dataset.LazyImages(shown):
            photo = camera(image)
            alarm, word = detector.score(photo).score >= limit, bool(profile.objections(photo))
            alarms, warned, either = alarms + alarm, warned + word, either + (alarm and not word)
        found[name] = {"n": len(shown), "alarms": int(alarms), "warned": int(warned), "alarms_unwarned": int(either)}
    return found


def capture_on_test(data: Path, product: str) -> dict:
    """How often the check objects to good test photos, by the good photos to learn from."""
    test = [sample.path for sample in dataset.test_samples(data, product) if not sample.label]
    profile = Profile.of(dataset.LazyImages(dataset.good_images(data, product)))
    said = [profile.objections(image) for image in dataset.LazyImages(test)]
    sentences = sorted({sentence for one in said for sentence in one})
    return {
        "n_profile": profile.photos,
        "n_test": len(test),
        "warned": sum(map(bool, said)),
        "said": {sentence: sum(sentence in one for one in said) for sentence in sentences},
    }


def write(products: dict[str, dict], captures: dict[str, dict]) -> None:
    """promises.json and promises.md."""
    results = {"products": products, "capture": captures}
    (HERE / "promises.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "promises.md").write_text(page(products, captures))


def page(products: dict[str, dict], captures: dict[str, dict]) -> str:
    lines = [
        "# Promises\n\nMade by `python benchmarks/promises.py`.\n\n## False alarms\n\n"
        f"Detector {detectors.USUAL[0]}, rule false-alarms. Half of the good photos were learned from, the others "
        f"split {SPLITS} times by whole groups. Inside: share of splits whose fresh photos had as many false alarms as "
        "the 95% interval said: the printed one, which speaks of the rate in the long run, and the beta-binomial one "
        "for just so many fresh photos. Both are widened by the design effect (mean of the splits): so many photos of "
        "neighbouring numbers say as much as one; 1 where they are not alike. Splits of one pool are not independent "
        "of each other.\n\n| Product | n learned | n limit / fresh | Groups | Design effect | Promised | Seen | "
        "Inside printed | Inside, next m | More than that | REVIEW said / seen |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    ]
    for name, one in products.items():
        cells = [
            name,
            one["n_fitted"],
            f"{one['n_limit']} / {one['n_fresh']}",
            one["groups"],
            f"{one['design_effect']:.1f}",
            *(f"{100 * one[key]:.1f}%" for key in ("target", "rate_seen", "inside_printed", "inside_next")),
            f"{100 * one['more_than_next']:.1f}%",
            f"{100 * one['review_said']:.1f}% / {100 * one['review_seen']:.1f}%",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |\n")
    lines.append(
        "\n## Another camera\n\nGood photos of the first split, taken again. Warned: the capture check spoke, so the "
        "verdict is REVIEW and not ANOMALY.\n\n| Product | Camera | n | Over the limit | Warned | Over the limit "
        "without a warning |\n| --- | --- | --- | --- | --- | --- |\n"
    )
    for name, one in products.items():
        for camera, row in one["cameras"].items():
            shares = [f"{100 * row[key] / row['n']:.0f}%" for key in ("alarms", "warned", "alarms_unwarned")]
            lines.append(f"| {name} | {camera} | {row['n']} | " + " | ".join(shares) + " |\n")
    lines.append(
        "\n## The capture check on good test photos\n\n| Product | n to learn from | n test | Warned | Said |\n"
        "| --- | --- | --- | --- | --- |\n"
    )
    for name, one in captures.items():
        said = "; ".join(f"{sentence} ({count})" for sentence, count in one["said"].items()) or "–"
        share = f"{100 * one['warned'] / one['n_test']:.1f}%"
        lines.append(f"| {name} | {one['n_profile']} | {one['n_test']} | {one['warned']} ({share}) | {said} |\n")
    return "".join(lines)


def _good(data: Path, product: str) -> list[Path]:
    test = [sample.path for sample in dataset.test_samples(data, product) if not sample.label]
    return dataset.good_images(data, product) + test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", type=Path, help="folders of products in MVTec AD layout")
    parser.add_argument("--product", action="append", help="fit only this one; may be repeated")
    chosen = parser.parse_args()
    products: dict[str, dict] = {}
    captures: dict[str, dict] = {}
    for data in chosen.data:
        for product in dataset.categories(data):
            if all(sample.label for sample in dataset.test_samples(data, product)):
                continue
            captures[product] = capture_on_test(data, product)
            if chosen.product and product not in chosen.product:
                continue
            products[product] = measure(data, product)
            print(f"{product}: {products[product]['inside_next']:.3f} of splits inside", flush=True)
            write(products, captures)
    if not captures:
        sys.exit("No product with good test photos was found: give a folder in MVTec AD layout")
    write(products, captures)


if __name__ == "__main__":
    main()
