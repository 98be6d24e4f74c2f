"""Our detectors beside anomalib's and two naive ones, on the same photos, splits and metrics.

    python benchmarks/accuracy.py DATA...

DATA are folders of products in MVTec AD layout; toy products come from `python -m anomaly synth`. Every measurement
runs in a process of its own, so that its memory is its own, and is kept in benchmarks/measured/ for as long as code and
weights stay the same: a run that was stopped goes on where it was. Writes results.json, results.md and results.png
beside this file; what they tell of other products and systems stays.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib
import numpy as np
from scipy import stats

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import systems  # noqa: E402

from anomaly import dataset, detectors, evaluation, metrics, synthetic, thresholds, training  # noqa: E402

MEASURED = HERE / "measured"
LEAST = max(detectors.get(name).least for name in detectors.names())  # good photos, for every one of them to learn
SHARED = 64  # good photos of each product, evenly chosen, that one model for all of them learns from: none drowns
JUDGES = (  # what systems of others depend on
    "backbones",
    "dataset",
    "detectors/base",
    "evaluation",
    "images",
    "metrics",
    "thresholds",
    "training",
)
COLUMNS = {
    "image_auroc": "Image AUROC",
    "image_ap": "AP",
    "f1": "Best F1",
    "accuracy": "Accuracy at the limit",
    "pixel_auroc": "Pixel AUROC",
    "aupro": "AUPRO",
    "fit_seconds": "Fit (s)",
    "ms_per_image": "ms / image",
    "peak_mb": "Peak (MB)",
    "disk_mb": "Run (MB)",
}


def measure(data: Path, product: str, system: str, seed: int) -> dict:
    """Fit on three quarters of the good photos, set the limit on the last quarter, judge the test photos.

    The unified system is fitted on photos of every product of the folder. Which one a photo shows is for `gate` to say
    (benchmarks/gate.py), and with it whose limit counts.
    """
    split = _split(data, product)
    samples = dataset.test_samples(data, product)
    train = _shared(data) if system == systems.UNIFIED else split.train
    detector = systems.create(system, seed=seed)
    began = time.perf_counter()
    detector.fit(dataset.LazyImages(train))
    fitted = time.perf_counter() - began
    held_out = evaluation.judge(detector, [dataset.Sample(p, dataset.GOOD, None) for p in split.held_out])
    target = training.supported_target(len(held_out.scores))
    limit = thresholds.choose("false-alarms", held_out.scores, [], target=target).threshold
    judged = evaluation.judge(detector, samples)
    figures = evaluation.measure(judged, threshold=limit, pixel=float(held_out.peaks.max()))
    wanted = {name: figures[name] for name in ("image_auroc", "image_ap", "accuracy", "pixel_auroc", "aupro")}
    return {
        **wanted,
        "f1": metrics.best_f1(judged.labels, judged.scores),
        "fit_seconds": round(fitted, 2),
        "ms_per_image": round(1000 * judged.seconds / len(samples), 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "n_good": figures["n_good"],
        "n_defect": figures["n_defect"],
        "disk_mb": None if system in systems.OTHERS else _size(detector),
        "n_train": len(train),
        "intervals": {name: figures["intervals"].get(name) for name in ("image_auroc", "image_ap", "accuracy")},
    }


def _split(data: Path, product: str) -> dataset.Split:
    """One for all systems and seeds."""
    return dataset.split_good(dataset.good_images(data, product), held_out=training.HELD_OUT, seed=0)


def _shared(data: Path) -> list[Path]:
    """Good photos of every product that is tested."""
    found = []
    for product in dataset.categories(data):
        if dataset.test_samples(data, product):
            train = _split(data, product).train
            found += [train[i] for i in np.linspace(0, len(train) - 1, min(SHARED, len(train))).round().astype(int)]
    return found


def _size(detector: detectors.Detector) -> float:
    """MB of what is stored of it."""
    with tempfile.TemporaryDirectory() as folder:
        detector.save(Path(folder) / "run")
        return round(sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors")) / 1e6, 2)


def measure_apart(data: Path, product: str, system: str, seed: int) -> dict:
    """`measure` in a process of its own, or what an earlier run of this program measured."""
    kept = MEASURED / f"{product}.{system}.{seed}.{_fingerprint(data.resolve(), system not in systems.OTHERS)}.json"
    if not kept.is_file():
        MEASURED.mkdir(exist_ok=True)
        arguments = [str(data), "--one", product, system, str(seed)]
        done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            sys.exit(f"{system} on {product}, seed {seed}, stopped: {last}")
        kept.write_text(done.stdout.strip().splitlines()[-1] + "\n")
    return json.loads(kept.read_text())


@functools.cache
def _fingerprint(data: Path, ours: bool) -> str:
    """Of all that a measurement depends on: another one is another file, and none is taken for it."""
    package = HERE.parent / "anomaly"
    files = [HERE / "accuracy.py", HERE / "systems.py"]
    if ours:
        files += [*package.rglob("*.py"), *(HERE.parent / "runs" / "_backbones").rglob("*.safetensors")]
    else:
        files += [path for name in JUDGES for path in (package / name).rglob("*.py")]
        files += [path for name in JUDGES if (path := package / f"{name}.py").is_file()]
    seen = hashlib.sha256(str(data).encode())
    for path in sorted(files):
        seen.update(path.read_bytes())
    return seen.hexdigest()[:12]


def summarise(runs: list[dict]) -> dict:
    """Means over seeds; `intervals` holds [low, high], 95%: over seeds (Student's t), or over photos of one seed."""
    summary = {key: runs[0][key] for key in ("n_good", "n_defect", "n_train")} | {"seeds": len(runs), "intervals": {}}
    for name in COLUMNS:
        values = [run[name] for run in runs]
        if None in values:
            summary[name] = None
            continue
        summary[name] = round(float(np.mean(values)), 4)
        half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else np.nan
        interval = [round(summary[name] - half, 4), round(summary[name] + half, 4)]
        summary["intervals"][name] = interval if np.isfinite(half) else runs[0]["intervals"].get(name)
    return summary


def write(products: dict[str, dict[str, dict]]) -> None:
    """results.json, results.md and results.png."""
    results = {"default": detectors.USUAL[0], "products": products}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "results.md").write_text(_page(products))
    _plot(products)


def _page(products: dict[str, dict[str, dict]]) -> str:
    head = "| " + " | ".join(COLUMNS.values()) + " |\n"
    rule = " --- |" * len(COLUMNS)
    lines = [
        "# Accuracy\n\nMade by `python benchmarks/accuracy.py`; [lowest, highest] is a 95% interval: over seeds, or, "
    ]
    lines.append("where one seed was measured, over photos (bootstrap). ")
    lines.append(f"`{systems.UNIFIED}` is one model that learned from at most {SHARED} good photos of each product.\n")
    drawn = {name: found for name, found in products.items() if name in synthetic.PRODUCTS}
    real = {name: found for name, found in products.items() if name not in drawn}
    for kind, group in (("photographed", real), ("drawn", drawn)):
        if group:
            lines.append(f"\n## Mean over {len(group)} {kind} products\n\n| System {head}| --- |{rule}\n")
        for system in _systems(group):
            if not all(system in found for found in group.values()):
                continue
            cells = []
            for name in COLUMNS:
                values = [row[system][name] for row in group.values() if row[system].get(name) is not None]
                cells.append(_cell(name, float(np.mean(values)) if values else None))
            lines.append(f"| {system} | " + " | ".join(cells) + " |\n")
    for product, found in products.items():
        one = next(iter(found.values()))
        counts = (
            f"{one['n_train']} good photos to learn from; judged: {one['n_good']} good, {one['n_defect']} defective"
        )
        lines.append(f"\n## {product}\n\n{counts}.\n\n| System | Seeds {head}| --- | --- |{rule}\n")
        for system, row in found.items():
            cells = [_cell(name, row.get(name), row["intervals"].get(name)) for name in COLUMNS]
            lines.append(f"| {system} | {row['seeds']} | " + " | ".join(cells) + " |\n")
    return "".join(lines)


def _cell(name: str, value: float | None, interval: list[float] | None = None) -> str:
    if value is None:
        return "–"
    digits = 0 if name in ("fit_seconds", "ms_per_image", "peak_mb") else 3
    text = f"{value:.{digits}f}"
    return text + (f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval and digits else "")


def _systems(products: dict[str, dict[str, dict]]) -> list[str]:
    return [name for name in systems.names() if any(name in found for found in products.values())]


def _plot(products: dict[str, dict[str, dict]]) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = _systems(products)
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.55 * len(products)), layout="constrained")
    places = np.arange(len(products))
    for i, system in enumerate(shown):
        values = [found.get(system, {}).get("image_auroc", np.nan) for found in products.values()]
        marker = {"naive_mean_image": "x", "naive_brightness": "+"}.get(system, "o")
        color = f"C{i}" if marker == "o" else "0.55"
        beside = places + 0.6 * ((i + 0.5) / len(shown) - 0.5)  # equal values would hide each other
        axes.scatter(values, beside, s=30, marker=marker, color=color, label=system, zorder=3)
    axes.set(yticks=places, yticklabels=list(products), xlabel="Image AUROC", xlim=(None, 1.01))
    axes.axvline(0.5, color="0.8", linestyle=":")
    axes.invert_yaxis()
    axes.grid(axis="y", color="0.93")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(HERE / "results.png", dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", type=Path, help="folders of products in MVTec AD layout")
    parser.add_argument("--product", action="append", help="only this one; may be repeated")
    parser.add_argument("--system", action="append", choices=systems.names(), help="only this one; may be repeated")
    parser.add_argument("--seeds", type=int, default=5, help="of systems whose training is random")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        product, system, seed = chosen.one
        print(json.dumps(measure(chosen.data[0], product, system, int(seed))))
        return
    kept = HERE / "results.json"
    products: dict[str, dict[str, dict]] = json.loads(kept.read_text())["products"] if kept.is_file() else {}
    measured = False
    for data in chosen.data:
        for product in dataset.categories(data):
            if (chosen.product and product not in chosen.product) or not dataset.test_samples(data, product):
                continue
            learned = len(_split(data, product).train)
            if learned < LEAST:
                refusal = f"{learned} good photos to learn from, at least {LEAST} are needed"
                print(f"{product} is left out: {refusal}", file=sys.stderr, flush=True)
                continue
            for system in chosen.system or systems.names():
                seeds = chosen.seeds if system in systems.RANDOM else 1
                runs = [measure_apart(data, product, system, seed) for seed in range(seeds)]
                products.setdefault(product, {})[system] = summarise(runs)
                print(f"{product} {system}: image AUROC {products[product][system]['image_auroc']}", flush=True)
                write(products)
                measured = True
    if not measured:
        sys.exit("Nothing was measured: give a folder in MVTec AD layout, with test photos and enough good ones")


if __name__ == "__main__":
    main()
