"""The folder is the registry: every module here with one subclass of `Detector` is a detector of that name.

All but two: `base` is the contract, and `reconstruction` what the detectors share that draw the photo anew.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil

from anomaly.detectors.base import Detector
from anomaly.errors import UnknownName

USUAL = ("mahalanobis", "unet")  # trained where nobody says otherwise; the first of them judges
SHARED = ("base", "reconstruction")


@functools.cache
def names() -> tuple[str, ...]:
    """Names of all detectors, in alphabetical order."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in SHARED))


@functools.cache
def get(name: str) -> type[Detector]:
    """The class of a detector. Raises UnknownName."""
    if name not in names():
        raise UnknownName(f"There is no detector '{name}'", f"Choose one of: {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Detector) and value.__module__ == module.__name__
    ]
    (detector,) = found  # one file, one detector: anything else is our own mistake
    return detector


def create(name: str, **arguments: object) -> Detector:
    """A fresh detector with those of the arguments that its constructor knows.

    One command trains several detectors: `epochs` means something to one and nothing to another.
    """
    detector = get(name)
    known = inspect.signature(detector).parameters
    return detector(**{key: value for key, value in arguments.items() if key in known})
