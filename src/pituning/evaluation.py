"""A validation result: what decides between two, and what informs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Evaluation:
    """A validation result; `merit` decides between two.

    The score only informs: on a few dozen examples it moves in steps of several points.

    Attributes:
        negative_loss: minus the mean loss, in nats; among candidates, see `train.calibrated_losses`.
        score: by the task's metric; None where free-form answers would have to be generated.
        overlap: where boxes are drawn, their mean IoU with the right ones; else None.
        each: what decides, one number an example: minus the loss, or the IoU. Empty in what was read from a
            checkpoint.
    """

    negative_loss: float
    score: float | None = None
    overlap: float | None = None
    each: tuple[float, ...] = field(default=(), compare=False, repr=False)

    @property
    def merit(self) -> tuple[float, float]:
        """The greater is the better: the overlap of boxes, then the loss; a loss that is not finite is worst.

        A box can be nearly right, which the loss, that asks for the very numbers, does not see.
        """
        return (self.overlap or 0.0, self.negative_loss if math.isfinite(self.negative_loss) else -math.inf)

    @property
    def told(self) -> dict[str, float]:
        """What there is of it, without its examples."""
        told = {"negative_loss": self.negative_loss, "score": self.score, "overlap": self.overlap}
        return {name: value for name, value in told.items() if value is not None}


def pooled(found: Sequence[Evaluation]) -> Evaluation:
    """The mean of several validation results, each weighted by how many numbers are in its `each`.

    Example:
        >>> pooled([Evaluation(-1.0, each=(-1.0,)), Evaluation(-2.0, each=(-1.5, -2.5))]).negative_loss
        -1.6666666666666667
    """
    counts = [len(one.each) for one in found]

    def mean(values: Sequence[float]) -> float:
        return sum(count * value for count, value in zip(counts, values, strict=True)) / sum(counts)

    scores = [one.score for one in found if one.score is not None]
    overlaps = [one.overlap for one in found if one.overlap is not None]
    return Evaluation(
        mean([one.negative_loss for one in found]),
        score=mean(scores) if len(scores) == len(found) else None,
        overlap=mean(overlaps) if len(overlaps) == len(found) else None,
        each=tuple(value for one in found for value in one.each),
    )
