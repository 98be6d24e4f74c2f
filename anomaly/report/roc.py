"""ROC curves as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from anomaly.metrics import Curves


def write_roc(curves: dict[str, Curves], path: Path, *, title: str) -> None:
    """Write a PNG with one curve for each name, which is shown with the area under it. Folders are made."""
    figure = Figure(figsize=(6, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name, one in curves.items():
        area = np.trapezoid(one.recall, one.false_alarms)
        axes.plot(one.false_alarms, one.recall, linewidth=1.6, label=f"{name}: AUROC {area:.3f}")
    axes.plot((0, 1), (0, 1), color="0.7", linestyle=":", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="false alarms", ylabel="defects found", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
