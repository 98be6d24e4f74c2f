"""From scores of known parts to a verdict: rules, the promise that comes with each, and threshold.json.

A score is anomalous iff `score >= threshold`. Scores are raw, higher = more anomalous, in the unit of the detector.
"""

from anomaly.thresholds.book import OperatingPoint, Thresholds, decide
from anomaly.thresholds.intervals import (
    Standing,
    design_effect,
    interval,
    needed_for,
    rate_to_come,
    standing,
    strongest_target,
)
from anomaly.thresholds.rules import BY_HAND, NEEDS_DEFECTS, RULES, Choice, by_hand, choose, review_limit

__all__ = [
    "BY_HAND",
    "NEEDS_DEFECTS",
    "RULES",
    "Choice",
    "OperatingPoint",
    "Standing",
    "Thresholds",
    "by_hand",
    "choose",
    "decide",
    "design_effect",
    "interval",
    "needed_for",
    "rate_to_come",
    "review_limit",
    "standing",
    "strongest_target",
]
