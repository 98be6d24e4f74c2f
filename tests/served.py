"""A running app for the tests: the real program in a process of its own, or the page around a toy inspector."""

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image

from anomaly import ui
from anomaly.accounts import Desk, Person
from anomaly.api import build_api
from anomaly.defects import SAID, Example, Named, Types
from anomaly.detectors.base import Explanation
from anomaly.errors import MissingThreshold, UnknownName
from anomaly.gate import Seen
from anomaly.handlers.session import Session, Site
from anomaly.history import History
from anomaly.images import read_image
from anomaly.inspection import AUTO, CategoryInfo, Inspection
from anomaly.regions import find_regions
from anomaly.thresholds import standing
from anomaly.ui.signin import Door

ROOT = Path(__file__).parent.parent
START_SECONDS = 15  # what the page promises
CHROMIUM = shutil.which("chromium")
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running_app(*options: str):
    """`python app.py` on a free port; gives (address, seconds until the page answered)."""
    port = free_port()
    command = [sys.executable, "app.py", "--port", str(port), *options]
    began = time.monotonic()
    said = tempfile.TemporaryFile("w+")  # a pipe that nobody reads would fill up and stop the program
    process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, text=True)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            if process.poll() is not None:
                said.seek(0)
                raise RuntimeError(f"app.py ended with {process.returncode}: {said.read()}")
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
                break
            if time.monotonic() - began > 120:
                raise TimeoutError("app.py did not answer within 120 seconds")
            time.sleep(0.1)
        yield address, time.monotonic() - began
    finally:
        process.terminate()
        process.wait(timeout=20)
        said.close()


class ToyInspector:
    """Scores a gray plate by its darkest spot: limit 10, review 8, pixel limit 10; `blind` has no threshold.

    The map is (100 - gray) / 5, so that a spot of gray 0 scores 20, twice the limit.
    """

    def __init__(self, folder: Path):
        self.calls = 0
        self.capture = ()
        self.labelled: dict[str, str] = {}  # name of the example: type
        self.examples = (write_plate(folder / "dark_spot_000.png", spot=0), write_plate(folder / "good_000.png"))

    def categories(self) -> list[CategoryInfo]:
        def info(name: str, title: str) -> CategoryInfo:
            return CategoryInfo(
                name=name,
                title=title,
                kind="object",
                examples=self.examples,
                detectors=("toy", "twin", "blind"),
                active="toy",
            )

        return [info("plate", "Gray plate"), info("other_plate", "Other plate")]

    def loaded(self) -> list[str]:
        return ["plate/toy"]

    def inspect(
        self, path, *, category: str, detector: str | None = None, threshold: float | None = None
    ) -> Inspection:
        self.calls += 1
        if category not in ("plate", "other_plate", AUTO):
            raise UnknownName(f"Category {category!r} does not exist", "Choose one of: plate, other_plate")
        if detector == "blind":
            raise MissingThreshold("plate has no threshold for blind", "Run `python -m anomaly calibrate`")
        image = read_image(path)
        product = _seen(image, None if category == AUTO else category)
        product.require()
        spots = (np.float32(100) - image[:, :, 0]) / 5
        score = float(spots.max())
        return Inspection(
            path=str(path),
            category=product.seen,
            detector=detector or "toy",
            weights_sha256="0" * 64,
            score=score,
            threshold=10.0,
            review_threshold=8.0,
            pixel_threshold=10.0,
            verdict="REVIEW" if self.capture or 8 <= score < 10 else "ANOMALY" if score >= 10 else "OK",
            capture=self.capture,
            percentile=standing(score, range(20)),
            regions=tuple(find_regions(spots, 10.0)),
            milliseconds=1.0,
            width=image.shape[1],
            height=image.shape[0],
            preview=image,
            map=spots,
            reconstruction=np.full_like(image, 100) if detector == "twin" else None,
            default_threshold=10.0,
            product=product,
        )

    def types(self, category: str) -> Types:
        return Types(tuple(Example(name, kind, np.zeros(1)) for name, kind in self.labelled.items()))

    def name(self, category: str, photo: Path, box) -> Named | None:
        return Named("dent", 0.8) if "dent" in self.labelled.values() else None

    def label(self, category: str, photo: Path, box, kind: str) -> None:
        self.labelled.pop(SAID + photo.name, None)
        self.labelled |= {SAID + photo.name: kind} if kind else {}

    def explain(self, inspection: Inspection) -> Explanation:
        here = read_image(inspection.path)[5:20, 15:35]
        return Explanation(here=here, good=np.full_like(here, 100), source="plain plate", shares={"a": 0.25, "b": 0.75})


def _seen(image: np.ndarray, expected: str | None) -> Seen:
    """Bright photos show the other plate, white ones nothing that is known, all others what is expected."""
    light = image.mean()
    seen = "other_plate" if light > 180 else expected or "plate"
    return Seen(expected, seen, bool(light < 250), 3.0 if light >= 250 else 0.5)


def toy_site(inspector: ToyInspector, history: History | None = None) -> Site:
    folder = inspector.examples[0].parent.parent
    return Site(folder / "runs", folder / "threshold.json", inspector, history)


def launched(site: Site, person: Person, *rooms) -> gr.Blocks:
    """Some tabs alone, as this person sees them, served in this process."""
    with gr.Blocks(analytics_enabled=False) as app:
        session = gr.State(Session(person=person))
        with gr.Tabs():
            for room in rooms:
                with gr.Tab(room.TITLE):
                    room.build(site, session)
    desk = Desk()
    app.door, app.rest = Door(desk), build_api(site, desk, queue=lambda: 0)
    ui._launch(app, "127.0.0.1", free_port(), [])
    return app


def write_plate(path: Path, *, spot: int | None = None, gray: int = 100) -> Path:
    """A plate of a gray, 80 x 60 pixels, with a spot of the given gray at x 20..29, y 10..14."""
    plate = np.full((60, 80, 3), gray, dtype=np.uint8)
    if spot is not None:
        plate[10:15, 20:30] = spot
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(plate).save(path)
    return path
