"""Writes a toy product as a folder in the layout of MVTec AD."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly.errors import UsageError
from anomaly.images import write_image
from anomaly.synthetic.rendering import check_request, product, render_defect, render_good

FIRST_TEST_INDEX = 1_000_000  # good parts of the test are numbered from here, so none of them is a training part


def write_product(
    out: Path,
    name: str,
    *,
    train: int = 60,
    test: int = 40,
    size: int = 256,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `out`/`name` and return it: train/good, test/good, test/<defect>, ground_truth/<defect>, all PNG.

    train: good images to learn from. test: so many good test images, and as many defective ones, which are dealt in
    turn to the defect types of the product. Masks are 0 or 255. progress(done, total) is called after each image.
    Files of the same name are replaced.
    """
    item = product(name)
    check_request(size=size, index=0, seed=seed)
    if train < 0 or test < 0:
        raise UsageError(f"{train} training and {test} test images were asked for", "Ask for zero or more of each")
    if train > FIRST_TEST_INDEX:
        raise UsageError(f"{train} training images were asked for", f"Ask for {FIRST_TEST_INDEX} at most")
    folder, done = Path(out) / name, 0

    def written(image: np.ndarray, *parts: str) -> None:
        path = folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, compress_level=3)

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, train + 2 * test)

    for split, first, count in (("train", 0, train), ("test", FIRST_TEST_INDEX, test)):
        for number in range(count):
            written(render_good(name, seed=seed, index=first + number, size=size), split, "good", f"{number:03d}.png")
            advance()
    for number in range(test):
        index, kind = divmod(number, len(item.defects))
        defect = item.defects[kind]
        image, mask = render_defect(name, defect, seed=seed, index=index, size=size)
        written(image, "test", defect, f"{index:03d}.png")
        written(mask.astype(np.uint8) * 255, "ground_truth", defect, f"{index:03d}_mask.png")
        advance()
    return folder


def write_examples(folder: Path, name: str, *, size: int = 256, seed: int = 1000) -> None:
    """Write a good part and one of each defect type as <folder>/<kind>_000.jpg, to try a detector on.

    The default seed differs from that of `write_product`: no example is a training or test image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_image(folder / "good_000.jpg", render_good(name, seed=seed, index=0, size=size))
    for defect in product(name).defects:
        image, _ = render_defect(name, defect, seed=seed, index=0, size=size)
        write_image(folder / f"{defect}_000.jpg", image)
