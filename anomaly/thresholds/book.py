"""Operating points, the verdict they give, and threshold.json, which holds them."""

from __future__ import annotations

import hashlib
import json
import math
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from anomaly.errors import MissingThreshold, StaleThreshold, ThresholdError, UsageError
from anomaly.files import write_whole

_FROM_FILE = "from file"


def decide(score: float, *, threshold: float, review: float) -> str:
    """The verdict: "ANOMALY" at or over `threshold`, else "REVIEW" at or over `review`, else "OK".

    Raises:
        UsageError: a number is not finite (a NaN would pass as OK), or `review` lies over `threshold`.
    """
    if not all(map(math.isfinite, (score, threshold, review))):
        problem = f"score {score}, threshold {threshold} and review {review} must be finite numbers"
        raise UsageError(problem, "Train and calibrate the category again")
    if review > threshold:
        problem = f"the review threshold {review:g} lies over the fail threshold {threshold:g}"
        raise UsageError(problem, "Set it at or below the fail threshold")
    if score >= threshold:
        return "ANOMALY"
    return "REVIEW" if score >= review else "OK"


class Stored(BaseModel):
    """What a file holds: unchangeable, no unknown keys, no NaN, and our own error for the person who wrote it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _refuse(cls, values, handler, info: ValidationInfo):
        try:
            entry = handler(values)
            entry._check()
            return entry
        except ValueError as error:  # pydantic's ValidationError is one, too
            if info.context == _FROM_FILE:  # left to `load`, which knows the whole way to the entry
                raise
            problem = _first(error) if isinstance(error, ValidationError) else str(error)
            raise ThresholdError(problem, "Calibrate the category again") from error

    def _check(self) -> None:
        """Raise ValueError if the values contradict each other."""


class OperatingPoint(Stored):
    """The thresholds of one detector of one category, who set them and why.

    Attributes:
        fail, review: image scores; 0 < review <= fail.
        pixel: value of the map from which a pixel belongs to a defect; over 0, in the unit of the score.
        rule, target, promise, n_good, n_defect: of the `Choice`.
        weights_sha256: digest of the weights whose scores these are.
        set_by, set_at, why: the signature; `set_at` is ISO 8601 in UTC.
    """

    fail: float
    review: float = Field(gt=0)
    pixel: float = Field(gt=0)
    rule: str
    target: float | None = None
    promise: str
    n_good: int = Field(ge=0)
    n_defect: int = Field(ge=0)
    weights_sha256: str = Field(min_length=1)
    set_by: str
    set_at: str
    why: str

    @field_validator("set_at")
    @classmethod
    def _in_utc(cls, text: str) -> str:
        # Python 3.10 does not read the "Z" of ISO 8601.
        moment = datetime.fromisoformat(f"{text[:-1]}+00:00" if text.endswith("Z") else text)
        if moment.utcoffset() != timedelta(0):
            raise ValueError(f"{text!r} is not in UTC")
        return text

    @property
    def digest(self) -> str:
        """Of all its values, the signature included."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def _check(self) -> None:
        if self.review > self.fail:
            raise ValueError(f"review {self.review:g} lies over fail {self.fail:g}")


class _Category(Stored):
    active: str
    detectors: dict[str, OperatingPoint]

    def _check(self) -> None:
        if self.active not in self.detectors:
            raise ValueError(f"the active detector {self.active!r} has no operating point")


class Thresholds(Stored):
    """The content of threshold.json. An object never changes; `with_point` gives a new one."""

    version: Literal[1] = Field(default=1, alias="schema")
    categories: dict[str, _Category] = Field(default_factory=dict)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Thresholds:
        """Read threshold.json; a missing file is an empty book.

        Raises:
            ThresholdError: not JSON, another schema, unknown keys, or values out of range.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError) as error:
            problem = f"{path} cannot be read as JSON"
            raise ThresholdError(problem, "Restore it from a backup, or delete it and calibrate again") from error
        if not isinstance(content, dict) or content.get("schema") != 1:
            found = content.get("schema", "no schema") if isinstance(content, dict) else "no schema"
            problem = f"{path} is of schema {found!r}, schema 1 was expected"
            raise ThresholdError(problem, "Use the version that wrote it, or delete it and calibrate again")
        try:
            return cls.model_validate(content, context=_FROM_FILE)
        except ValidationError as error:
            problem = f"{path} cannot be used, {_first(error)}"
            raise ThresholdError(problem, "Correct this entry, or delete the file and calibrate again") from error

    def save(self, path: str | os.PathLike) -> None:
        """Write threshold.json whole or not at all: a reader sees the old content or the new one.

        The former content is lost: whoever sets a limit calls `ledger.save`, which keeps it.

        Raises:
            ThresholdError: the file cannot be written.
        """
        content = json.dumps(self.model_dump(by_alias=True), indent=2, ensure_ascii=False) + "\n"
        try:
            write_whole(path, content.encode())
        except OSError as error:
            problem = f"{path} cannot be written ({error.strerror})"
            raise ThresholdError(problem, "Check that its folder is there, may be written to and has room") from error

    def find(self, category: str, detector: str) -> OperatingPoint | None:
        """The stored operating point, whatever weights it was set for."""
        entry = self.categories.get(category)
        return entry.detectors.get(detector) if entry else None

    def get(self, category: str, detector: str, *, weights_sha256: str) -> OperatingPoint:
        """The operating point that was set for exactly these weights.

        Raises:
            MissingThreshold: none is stored.
            StaleThreshold: it was set for other weights.
        """
        remedy = f"Run: python -m anomaly calibrate --category {category} --detector {detector} --rule false-alarms"
        point = self.find(category, detector)
        if point is None:
            raise MissingThreshold(f"no threshold is stored for detector {detector!r} of category {category!r}", remedy)
        if point.weights_sha256 != weights_sha256:
            problem = f"the threshold of {category!r} / {detector!r} was set for other weights than those loaded"
            raise StaleThreshold(problem, remedy)
        return point

    def active(self, category: str) -> str | None:
        """The detector that judges a category; None when nothing is stored."""
        entry = self.categories.get(category)
        return entry.active if entry else None

    def with_point(self, category: str, detector: str, point: OperatingPoint, *, activate: bool = False) -> Thresholds:
        """A new book with this operating point; the first detector of a category becomes the active one."""
        entry = self.categories.get(category)
        detectors = {**(entry.detectors if entry else {}), detector: point}
        active = detector if entry is None or activate else entry.active
        changed = _Category(active=active, detectors=detectors)
        return Thresholds(categories={**self.categories, category: changed})


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = " / ".join(map(str, first["loc"])) or "the entry"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"
