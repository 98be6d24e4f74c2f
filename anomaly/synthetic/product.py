"""What a toy product is: how a part is planned, drawn, built wrongly and damaged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.random import Generator

from anomaly.synthetic.surface import Surface


@dataclass(frozen=True)
class Product:
    """One kind of part.

    plan: draws what varies from part to part, in unit coordinates. draw: a plan at a size in pixels to a surface.
    assembly: faults of making, `(plan, rng) -> plan`: the part is drawn from the wrong plan.
    damage: faults of the surface, `(surface, plan, rng) -> None`: drawn in place on the finished part.
    """

    name: str
    title: str
    kind: str  # "texture" (an endless surface, any crop of it) or "object" (a part in the picture)
    plan: Callable[[Generator], Any] = field(repr=False)
    draw: Callable[[Any, int], Surface] = field(repr=False)
    assembly: Mapping[str, Callable[[Any, Generator], Any]] = field(repr=False, hash=False)
    damage: Mapping[str, Callable[[Surface, Any, Generator], None]] = field(repr=False, hash=False)

    @property
    def defects(self) -> tuple[str, ...]:
        """Names of the defect types, sorted."""
        return tuple(sorted({**self.assembly, **self.damage}))
