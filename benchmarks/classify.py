"""How well are labelled photos classified, by the small network and by the fine-tuned backbone?

    python -m anomaly synth toys --train 60 --test 60
    python benchmarks/classify.py cnn neu_steel
    python benchmarks/classify.py convnext toys --minutes 10

`cnn` trains on a folder with a folder of photos for each class, over several seeds. `convnext` trains on the products
of a folder in MVTec AD layout, a class for each product and type of defect, and then tells good from defective parts by
the probability of "good" among the classes of the product, in two protocols: `published`, where the limit is the best
one on all test photos, most of which were learned from; and `honest`, where it is the best one on the validation part,
and only photos of the test part are judged. Writes classify.json, classify.md and a picture beside this file.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from anomaly import classify, dataset  # noqa: E402
from anomaly.thresholds import interval  # noqa: E402

SEEDS = 5


def learned(samples: list[dataset.Sample], model: str, *, seed: int, minutes: float | None) -> tuple:
    """A trained classifier, its three parts, and the seconds it took."""
    began = time.perf_counter()
    classifier = classify.train(samples, model, seed=seed, minutes=minutes)
    return classifier, classify.split(samples, seed=seed), time.perf_counter() - began


def protocols(classifier: classify.Classifier, parts: dict[str, list[dataset.Sample]]) -> dict[str, dict]:
    """{product: {"published": accuracy of good against defective, "honest": …, with n}}."""
    every = [sample for part in parts.values() for sample in part]
    shown = [sample for sample in every if "test" in sample.path.parts]
    table = classifier.probabilities(dataset.LazyImages([sample.path for sample in every]))
    table = dict(zip([sample.path for sample in every], table))
    found = {}
    for product in sorted({name.split("/")[0] for name in classifier.classes}):
        sides = {"published": (shown, shown), "honest": (parts["validation"], parts["test"])}
        found[product] = {
            name: judged(*(scored(classifier, table, part, product) for part in both)) for name, both in sides.items()
        }
    return found


def scored(
    classifier: classify.Classifier, table: dict, samples: list[dataset.Sample], product: str
) -> tuple[np.ndarray, np.ndarray]:
    """Probability of a defect, given the product, and whether there is one, of the photos of a product."""
    own = [i for i, name in enumerate(classifier.classes) if name.split("/")[0] == product]
    good = classifier.classes.index(f"{product}/{dataset.GOOD}")
    mine = [one for one in samples if one.kind.split("/")[0] == product]
    odds = [1 - table[one.path][good] / table[one.path][own].sum() for one in mine]
    return np.array(odds), np.array([one.kind != classifier.classes[good] for one in mine])


def judged(choosing: tuple[np.ndarray, np.ndarray], asked: tuple[np.ndarray, np.ndarray]) -> dict:
    """Accuracy on the photos asked of, by the limit with the best accuracy on those that choose."""
    scores, labels = choosing
    limit = max(np.unique([0.5, *scores]), key=lambda at: ((scores >= at) == labels).mean())
    scores, labels = asked
    right = int(((scores >= limit) == labels).sum())
    return {"accuracy": right / len(labels), "right": right, "n": len(labels)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=classify.RECIPES)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=None, help="default: five of cnn, one of convnext")
    parser.add_argument("--minutes", type=float, default=None, help="at most, for each training")
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    samples = dataset.labelled(asked.data)
    runs = []
    for seed in range(asked.seeds or (SEEDS if asked.model == "cnn" else 1)):
        classifier, parts, seconds = learned(samples, asked.model, seed=seed, minutes=asked.minutes)
        figures = classifier.evaluate(parts["test"]).to_json()
        run = {"seed": seed, "seconds": round(seconds), "epochs": len(classifier.history), **figures}
        run["photos"] = {name: len(part) for name, part in parts.items()}
        run["history"] = list(classifier.history)
        if asked.model == "convnext":
            run["protocols"] = protocols(classifier, parts)
        runs.append(run)
        print(seed, f"{figures['accuracy']:.4f} of {figures['n']}, {seconds:.0f} s", flush=True)
        write(asked.out, asked.model, asked.data.name, runs)


def write(out: Path, model: str, data: str, runs: list[dict]) -> None:
    path = out / "classify.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    found[model] = {"data": data, "runs": runs}
    path.write_text(json.dumps(found, indent=1) + "\n")
    (out / "classify.md").write_text("\n".join(line for name in sorted(found) for line in page(name, found[name])))
    draw(out / f"classify_{model}.svg", runs)


def page(model: str, found: dict) -> list[str]:
    runs = found["runs"]
    sizes = ", ".join(f"{n} {part}" for part, n in runs[0]["photos"].items())
    right, n = sum(round(run["accuracy"] * run["n"]) for run in runs), sum(run["n"] for run in runs)
    low, high = interval(right, n)
    lines = [
        f"# `{model}` on {found['data']}",
        "",
        f"{len(runs[0]['classes'])} classes, {sizes} photos. Over all seeds {right} of {n} test photos right: "
        f"{right / n:.4f} [{low:.4f}, {high:.4f}].",
        "",
        "| Seed | Accuracy | n | Epochs | Seconds |",
        "| --- | --- | --- | --- | --- |",
        *(f"| {r['seed']} | {r['accuracy']:.4f} | {r['n']} | {r['epochs']} | {r['seconds']} |" for r in runs),
        "",
        "Test photos of all seeds by their class, down, and by what was said, across:",
        "",
        "| | " + " | ".join(runs[0]["classes"]) + " |",
        "| --- |" + " --- |" * len(runs[0]["classes"]),
    ]
    total = np.sum([run["confusion"] for run in runs], axis=0)
    lines += [
        f"| {name} | " + " | ".join(map(str, row)) + " |" for name, row in zip(runs[0]["classes"], total.tolist())
    ]
    if "protocols" in runs[0]:
        lines += ["", "Good against defective:", "", "| Product | `published` | `honest` |", "| --- | --- | --- |"]
        for product, both in runs[0]["protocols"].items():
            told = (f"{one['accuracy']:.3f} ({one['right']}/{one['n']})" for one in both.values())
            lines.append(f"| `{product}` | " + " | ".join(told) + " |")
    return [*lines, "", f"![Learning curves of all seeds, and the confusion](classify_{model}.svg)", ""]


def draw(path: Path, runs: list[dict]) -> None:
    """Learning curves of all seeds, and the confusion of all test photos."""
    figure = Figure(figsize=(11, 4.4), dpi=120, layout="constrained")
    curves, table = figure.subplots(1, 2)
    told = {
        "train_loss": ("cross-entropy", "#3b6ea5"),
        "held_out_loss": ("share of wrong validation photos", "#b5651d"),
    }
    for key, (label, color) in told.items():
        for run in runs:
            epochs, values = zip(*((line["epoch"], line[key]) for line in run["history"]))
            curves.plot(epochs, values, color=color, alpha=0.7, label=label if run is runs[0] else None)
    curves.set(xlabel="epoch", yscale="log")
    curves.xaxis.get_major_locator().set_params(integer=True)
    curves.legend(frameon=False)
    total = np.sum([run["confusion"] for run in runs], axis=0)
    table.pcolormesh(total / total.sum(1, keepdims=True), cmap="viridis", vmin=0, vmax=1)
    table.invert_yaxis()
    names = runs[0]["classes"]
    places = np.arange(len(names)) + 0.5
    table.set_xticks(places, names, rotation=90, fontsize=7)
    table.set_yticks(places, names, fontsize=7)
    table.set(xlabel="said", ylabel="class")
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "classify"}):
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
