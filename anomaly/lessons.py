"""A training in a thread of its own: it goes on when the page is closed, and whoever comes can look in."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from anomaly.detectors.base import Detector, Preview
from anomaly.errors import AnomalyError, UsageError

log = logging.getLogger(__name__)

RUNNING, DONE, CANCELLED, FAILED = "running", "done", "cancelled", "failed"


class Cancelled(Exception):
    """Ends a training from inside; nothing of it is kept."""


class Lesson:
    """One training.

    Args:
        title: of the product.
        work: does it all and gives the result; it is given this lesson, whose `progress` it calls and which it tells
            the detector that learns at the time.

    Attributes:
        state: "running", "done" (then `result` is there), "cancelled" or "failed" (then `error` says why).
        stage, done, total: where it is; began, ended: seconds of `time.monotonic`.
    """

    def __init__(self, title: str, work: Callable[[Lesson], object]):
        self.title = title
        self.state, self.result, self.error = RUNNING, None, ""
        self.stage, self.done, self.total = "read", 0, 1
        self.detector: Detector | None = None
        self.began, self.ended = time.monotonic(), None
        self.stopping = self.cancelling = False
        self._work = work
        self._thread = threading.Thread(target=self._run, name=f"lesson {title}", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def progress(self, stage: str, done: int, total: int) -> bool:
        """As `detectors.base.Progress`: True once the lesson shall stop and keep what it has."""
        if self.cancelling:
            raise Cancelled
        self.stage, self.done, self.total = stage, done, total
        return self.stopping

    def stop(self) -> None:
        """End early and keep: what is learned by now gets its limit and is saved."""
        self.stopping = True

    def cancel(self) -> None:
        """End and leave nothing."""
        self.cancelling = True

    def wait(self, seconds: float | None = None) -> None:
        self._thread.join(seconds)

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.began

    def history(self) -> list[dict[str, float]]:
        return list(self.detector.history()) if self.detector else []

    def preview(self) -> Preview | None:
        return self.detector.preview() if self.detector else None

    def _run(self) -> None:
        state = FAILED
        self.error = "The training ended by a fault of this program; its log says where. Nothing was kept."
        try:
            self.result = self._work(self)
            state, self.error = DONE, ""
        except Cancelled:
            state, self.error = CANCELLED, ""
        except AnomalyError as error:
            self.error = str(error)
        except MemoryError:
            self.error = "The photos do not fit into memory. Use fewer photos, or the detector unet."
        finally:
            self.ended, self.state = time.monotonic(), state
            log.info("the lesson of %s is %s", self.title, state)


class Classroom:
    """One lesson at a time; the last one can be looked at until the next begins."""

    def __init__(self) -> None:
        self.lesson: Lesson | None = None
        self._lock = threading.Lock()

    def begin(self, title: str, work: Callable[[Lesson], object]) -> Lesson:
        """Start a lesson. Raises UsageError while another runs."""
        with self._lock:
            if self.lesson and self.lesson.state == RUNNING:
                problem = f"The training of '{self.lesson.title}' is running, and there is one at a time"
                raise UsageError(problem, "Wait until it is done, or stop it")
            self.lesson = Lesson(title, work)
            self.lesson.begin()
            return self.lesson

    def close(self) -> None:
        """Forget a lesson that has ended."""
        with self._lock:
            if self.lesson and self.lesson.state != RUNNING:
                self.lesson = None
