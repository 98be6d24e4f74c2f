"""What many tests share: plain plates, a toy product on disk, and one small run of each detector, made once."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

JSON_KEYS = [  # of one line of `inspect --json`: scripts outside rely on them
    "path",
    "category",
    "detector",
    "score",
    "threshold",
    "review_threshold",
    "level",
    "verdict",
    "regions",
    "defect_type",
    "defect_confidence",
    "attributes",
    "alarm",
    "product",
    "capture",
    "percentile",
    "milliseconds",
    "error",
]
SMALL = {"image_size": 64, "base": 8, "start": None, "epochs": 1}  # the least that the detectors can be built with
CATEGORY = "hex_nut"


def plate(number: int) -> np.ndarray:
    """A good part, (64, 64, 3) uint8: a bluish plate with three soft bands, each a little brighter or darker."""
    rng = np.random.default_rng(number)
    bands = 1 + 0.08 * np.sin(6 * np.pi * np.arange(64) / 64 + rng.uniform(0, 0.6))
    light = (1 + 0.03 * rng.standard_normal()) * bands[None, :, None]
    return np.clip(np.array([130, 140, 150]) * light + rng.normal(0, 3, (64, 64, 1)), 0, 255).astype(np.uint8)


def painted(number: int) -> tuple[np.ndarray, np.ndarray]:
    """The same plate with a red square of 10 pixels, and the (64, 64) bool mask of it."""
    image, mask = plate(number), np.zeros((64, 64), dtype=bool)
    row, column = np.random.default_rng(1000 + number).integers(12, 40, 2)
    mask[row : row + 10, column : column + 10] = True
    image[mask] = (220, 60, 40)
    return image, mask


@dataclass(frozen=True)
class Site:
    """A plant with a trained toy product: runs folder, threshold.json, and photos in MVTec AD layout."""

    runs: Path
    book: Path
    data: Path

    @property
    def options(self) -> list[str]:
        return ["--runs", str(self.runs), "--thresholds", str(self.book)]

    @property
    def good_photo(self) -> Path:
        return self.data / CATEGORY / "test" / "good" / "000.png"

    def content(self) -> dict[str, bytes]:
        """Every file of runs and thresholds, to prove that nothing was written or lost."""
        files = [path for path in self.runs.rglob("*") if path.is_file()]
        files += [self.book] if self.book.is_file() else []
        return {str(path): path.read_bytes() for path in files}


@pytest.fixture
def inspector(tmp_path):
    """The toy inspector of gray plates."""
    from served import ToyInspector

    return ToyInspector(tmp_path / "runs" / "examples")


@pytest.fixture
def history(tmp_path):
    """An empty record."""
    from anomaly.history import History

    return History(tmp_path / "record")


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium; a test that asks for it is skipped where there is none."""
    from served import CHROMIUM, CHROMIUM_ARGS

    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory) -> Path:
    """24 good images of hex nuts, 8 good and 8 defective test images with masks, 64 px. Read only."""
    from anomaly import synthetic

    root = tmp_path_factory.mktemp("data")
    synthetic.write_product(root, CATEGORY, train=24, test=8, size=64, seed=3)
    return root


@pytest.fixture(scope="session")
def trained(toy_data, tmp_path_factory) -> Site:
    """Every detector trained on `toy_data` as the command line does it. Read only: `site` is a copy to damage."""
    from anomaly import detectors, training

    root = tmp_path_factory.mktemp("plant")
    found = Site(root / "runs", root / "threshold.json", toy_data)
    for name in sorted(detectors.names(), key=lambda name: name not in detectors.USUAL):  # the first one judges
        training.train(toy_data, CATEGORY, detectors.create(name, **SMALL), root=found.runs, book=found.book)
    return found


@pytest.fixture
def site(trained, tmp_path) -> Site:
    """A copy of `trained` that a test may change."""
    shutil.copytree(trained.runs, tmp_path / "runs")
    shutil.copy(trained.book, tmp_path / "threshold.json")
    return Site(tmp_path / "runs", tmp_path / "threshold.json", trained.data)
