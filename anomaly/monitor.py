"""What a running inspection tells: shares with intervals, agreement of people and machine, drift of the scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from anomaly.thresholds import interval

VERDICTS = ("OK", "REVIEW", "ANOMALY")
REFUSED = "REFUSED"  # of a photo of another product: no verdict on a part, and in no share
LEAST = 20  # scores on either side: with fewer, only a shift of nearly the whole distribution could be told from chance
SURE = 0.01  # chance of a false alarm of `drift`, each time it is asked


@dataclass(frozen=True)
class Count:
    """So many inspections of one product and day with the same verdict, photos of the same kind, judged alike.

    Attributes:
        day: "2026-11-22", in the time of the server.
        said: by a person, "ok", "defect", "unsure"; None if nobody has.
        objected: the photo was taken otherwise than the good ones.
    """

    category: str
    day: str
    verdict: str
    said: str | None
    objected: bool
    count: int


@dataclass(frozen=True)
class Share:
    """Seen `k` times in `n`."""

    k: int
    n: int

    @property
    def value(self) -> float | None:
        """None of nothing."""
        return self.k / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float]:
        """Exact 95% interval of the share (Clopper & Pearson 1934)."""
        return interval(self.k, self.n) if self.n else (0.0, 1.0)


@dataclass(frozen=True)
class Agreement:
    """What people said of parts that the machine had judged.

    Attributes:
        table: {verdict: {said: parts}}.
        agreed: of the parts that the machine called OK or ANOMALY and a person called ok or defect, those called alike.
        kappa: their agreement beyond chance (Cohen 1960); None where one side has used one word only.
    """

    table: dict[str, dict[str, int]]
    agreed: Share
    kappa: float | None

    @classmethod
    def of(cls, counts: Iterable[Count]) -> Agreement:
        table = {verdict: dict.fromkeys(("ok", "defect", "unsure"), 0) for verdict in VERDICTS}
        for one in counts:
            if one.said and one.verdict in table:
                table[one.verdict][one.said] += one.count
        passed, escaped = table["OK"]["ok"], table["OK"]["defect"]
        alarmed, found = table["ANOMALY"]["ok"], table["ANOMALY"]["defect"]
        by_machine, by_person = (passed + escaped, alarmed + found), (passed + alarmed, escaped + found)
        agreed, kappa = Share(passed + found, sum(by_machine)), None
        if all((*by_machine, *by_person)):
            chance = sum(one * other for one, other in zip(by_machine, by_person)) / agreed.n**2
            kappa = (agreed.value - chance) / (1 - chance)
        return cls(table, agreed, kappa)

    def share(self, verdict: str, said: str) -> Share:
        """Of the parts with this verdict that a person called ok or defect, those called `said`."""
        row = self.table[verdict]
        return Share(row[said], row["ok"] + row["defect"])


@dataclass(frozen=True)
class Figures:
    """How inspection went.

    Attributes:
        inspected: parts that were judged; refused: photos of other products, besides.
        failed, review: of all inspected parts, those judged ANOMALY and REVIEW.
        objected: of all inspected parts, those whose photo was taken otherwise than the good ones.
        false_alarms: of the ANOMALY parts that a person has judged, the good ones.
        escapes: of the OK parts that a person has judged, the defective ones.
    """

    inspected: int
    refused: int
    failed: Share
    review: Share
    objected: Share
    false_alarms: Share
    escapes: Share

    @classmethod
    def of(cls, counts: Sequence[Count]) -> Figures:
        refused = sum(one.count for one in counts if one.verdict == REFUSED)
        n, agreement = sum(one.count for one in counts) - refused, Agreement.of(counts)
        return cls(
            inspected=n,
            refused=refused,
            failed=Share(sum(one.count for one in counts if one.verdict == "ANOMALY"), n),
            review=Share(sum(one.count for one in counts if one.verdict == "REVIEW"), n),
            objected=Share(sum(one.count for one in counts if one.objected and one.verdict in VERDICTS), n),
            false_alarms=agreement.share("ANOMALY", "ok"),
            escapes=agreement.share("OK", "defect"),
        )


def daily(counts: Iterable[Count]) -> list[dict]:
    """Figures of each day and product, as plain values for a file; the last day first."""
    groups: dict[tuple[str, str], list[Count]] = {}
    for one in counts:
        groups.setdefault((one.day, one.category), []).append(one)
    lines = []
    for (day, category), group in sorted(groups.items(), reverse=True):
        found = Figures.of(group)
        lines.append(
            {
                "day": day,
                "category": category,
                "inspected": found.inspected,
                "refused": found.refused,
                "failed": found.failed.k,
                "failed_interval": list(found.failed.interval),
                "review": found.review.k,
                "objected": found.objected.k,
                "false_alarms": found.false_alarms.k,
                "alarms_judged": found.false_alarms.n,
                "escapes": found.escapes.k,
                "ok_judged": found.escapes.n,
            }
        )
    return lines


@dataclass(frozen=True)
class Drift:
    """Recorded scores beside those of the held-out good parts that set the limit, both under the limit only.

    Attributes:
        n_seen, n_reference: scores under the limit; over: recorded scores at or over it.
        distance: the largest difference of the two distribution functions, 0 to 1; p: how often chance alone makes it
            as large. Both None where there are too few scores.
        direction: "upward", "downward", or "" for no drift seen.
    """

    n_seen: int
    n_reference: int
    over: int
    distance: float | None = None
    p: float | None = None
    direction: str = ""

    @property
    def sentence(self) -> str:
        n = f"n = {self.n_seen} against {self.n_reference} at calibration"
        if self.distance is None:
            said = f"Too few parts under the limit to tell drift ({n}; {LEAST} of each are needed)"
            return f"{said}, {self.over} lie over it: look at them first" if self.over > self.n_seen else said
        measured = f"(distance {self.distance:.2f}, p = {self.p:.2g}, {n})"
        if not self.direction:
            return f"No drift of the scores seen {measured}"
        do = {
            "upward": "check the light and the camera, then recalibrate",
            "downward": "check that known defects are still found, then recalibrate",
        }
        return f"Scores have drifted {self.direction} {measured}: {do[self.direction]}"


def drift(seen: ArrayLike, reference: ArrayLike, *, limit: float) -> Drift:
    """Do recorded scores come from the distribution of the calibration scores? (Kolmogorov & Smirnov, two samples)

    Only scores under the limit are compared, on both sides: what lies over it is mostly defects, and more defects are
    no drift. Good parts under the limit keep their distribution, whatever the share of defects.

    Args:
        seen: (n,) recorded scores, one a photo; reference: (m,) of held-out good parts, by the same weights.
        limit: of the verdict.
    """
    seen, reference = np.asarray(seen, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    under, kept = seen[seen < limit], reference[reference < limit]
    sizes = {"n_seen": int(under.size), "n_reference": int(kept.size), "over": int(seen.size - under.size)}
    if min(under.size, kept.size) < LEAST:
        return Drift(**sizes)
    found = stats.ks_2samp(under, kept, method="asymp" if under.size > 1000 else "exact")
    # +1: more of `seen` than of `reference` lies below the place where they differ most
    direction = {1: "downward", -1: "upward"}[int(found.statistic_sign)] if found.pvalue < SURE else ""
    return Drift(**sizes, distance=float(found.statistic), p=float(found.pvalue), direction=direction)
