"""Latency, fit time and memory on this machine, against the bare forward pass of the same backbone in the same run."""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from anomaly import backbones, detectors, runs
from anomaly.detectors.base import Progress
from anomaly.errors import UnknownName
from anomaly.images import read_image, stretch, write_image
from anomaly.inspection import Inspector

ROUNDS = 30
FIT_IMAGES = 400
PRODUCTS = 6  # loaded, for the memory
PHOTO = 1024  # side in pixels of the JPEG that is inspected


def bench(*, root: Path, book: Path, progress: Progress | None = None) -> dict:
    """Measure the first trained `mahalanobis` run of `root`, and load six products; each sees its own good example.

    Returns:
        threads; forward_ms, inspect_ms and latency_ratio (medians of interleaved rounds, one 1024 px JPEG, decoding
        included); peak_mb of the process after that, with products_loaded and all their detectors; images_per_second of
        the backbone (batches of 8); fit_seconds, fit_forward_seconds and fit_ratio (400 images).
    """
    inspector = Inspector(runs=root, thresholds=book)
    shown = {info: [path for path in info.examples if path.name.startswith("good")] for info in inspector.categories()}
    loaded = {
        info: read_image(good[0]) for info, good in shown.items() if good
    }  # of another product it would be refused
    measured = next((info for info in loaded if "mahalanobis" in info.detectors), None)
    if measured is None:
        problem = f"{root} holds no mahalanobis run with a good example to measure"
        raise UnknownName(problem, "Train one, and put a photo of a good part into its folder as examples/good.jpg")
    part, backbone = loaded[measured], backbones.load()
    frame = runs.open_run(root, measured.name, "mahalanobis").manifest["frame"]
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.jpg"
        write_image(photo, stretch(part, (PHOTO, PHOTO)))
        report = _latency(inspector, measured.name, photo, backbone, frame)
        for info, image in list(loaded.items())[:PRODUCTS]:
            write_image(photo, stretch(image, (PHOTO, PHOTO)))
            for name in info.detectors:
                inspector.inspect(photo, category=info.name, detector=name)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    # Before the batches and the fit, which are no part of inspecting.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    report |= {
        "products_loaded": min(len(loaded), PRODUCTS),
        "peak_mb": round(peak, 1),
        "images_per_second": _throughput(backbone, frame),
    }
    return report | _fit(part, backbone, frame, progress)


def _latency(inspector: Inspector, category: str, photo: Path, backbone: backbones.Backbone, frame: list[int]) -> dict:
    one = torch.rand(1, 3, *frame)
    forward, whole = [], []
    with torch.inference_mode():
        for _ in range(ROUNDS + 5):  # interleaved, so that a slow moment of the machine hits both
            forward.append(_timed(lambda: backbone(one)))
            whole.append(_timed(lambda: inspector.inspect(photo, category=category, detector="mahalanobis")))
    forward_ms, whole_ms = (1000 * statistics.median(values[5:]) for values in (forward, whole))
    return {
        "threads": torch.get_num_threads(),
        "forward_ms": round(forward_ms, 2),
        "inspect_ms": round(whole_ms, 2),
        "latency_ratio": round(whole_ms / forward_ms, 3),
    }


def _throughput(backbone: backbones.Backbone, frame: list[int]) -> float:
    batch = torch.rand(8, 3, *frame)
    with torch.inference_mode():
        seconds = [_timed(lambda: backbone(batch)) for _ in range(8)]
    return round(8 / statistics.median(seconds[2:]), 1)


def _fit(part: np.ndarray, backbone: backbones.Backbone, frame: list[int], progress: Progress | None) -> dict:
    rng = np.random.default_rng(0)
    images = [np.clip(part + rng.normal(0, 4, part.shape), 0, 255).astype(np.uint8) for _ in range(FIT_IMAGES)]
    batches = [torch.rand(16, 3, *frame) for _ in range(2)]
    with torch.inference_mode():
        backbone(batches[0])
        forward = _timed(lambda: [backbone(batches[i % 2]) for i in range(FIT_IMAGES // 16)])
    fit = _timed(lambda: detectors.get("mahalanobis")().fit(images, progress=progress))
    return {
        "fit_seconds": round(fit, 2),
        "fit_forward_seconds": round(forward, 2),
        "fit_ratio": round(fit / forward, 3),
    }


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
