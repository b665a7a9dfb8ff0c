"""What a run of the recipe ends with: one plain expert, and the reason for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pituning.expert import Expert
from pituning.interpolate.compatible import Space
from pituning.metrics import METRICS
from pituning.predict import Neighbor
from pituning.selection import Lead


@dataclass(frozen=True)
class PiResult:
    """One plain expert, and the reason for it.

    Attributes:
        expert: the collapsed mixture, or the target's own expert where that is clearly better.
        kept: which of the two it is.
        own: the target's own expert; how it was trained is on its card.
        mixture: the collapsed mixture, kept or not.
        history: how the mixture was tuned; see `FitResult`.
        best_epoch: of which the state was kept; 0 is the mixture before tuning.
        similarity: of all pairs of the target (under its own expert's name) and the experts that it could be
            mixed with, one of its own task or data among them; of a big pool, of the target and the
            nearest 30 (or k) of other tasks.
        others: those of other tasks and other data among these, the most alike first.
        space: in which they are mixed.
        refused: expert of another task -> why it could not be a neighbour.
        start: the neighbour that the mixture was almost equal to before it was tuned; "" of equal weights.
        weights: expert -> its weight in the tuned mixture, averaged over the groups.
        weights_by_group: what shares one weight vector (a module, unless `sharing` is another) -> expert ->
            its weight.
        best_neighbor: the neighbour that is best as it is on labelled examples of the target (see
            `Mixing.unseen`); the nearest where there is no validation, and "" where there is no neighbour.
        scores: metric on the test split: base (no adapter), expert (the target's own), neighbor (the best one
            as it is, under the target's head where there is one), init (the mixture before tuning), pi (the
            result). Empty where the task has no test split.
        validation: the target's own expert and the mixture, as `Evaluation` has it, on the validation
            examples; where those are few and leave it open, on the training examples too, with both trained
            anew on the others (the neighbours and the start stay), unless the own expert was given. Empty
            where there are none; the mixture is then kept.
        lead: of the mixture over the own expert there. The own expert is kept where that is below zero by
            more than its standard error (or, where answers are written freely, where the mixture's score is
            lower: a loss can fall while captions get worse). None where there is no neighbour, or nothing to
            validate on.
        seconds: of all, the test split included.
        after: seconds until there was each of expert (the target's own), neighbors, and mixture (tuned, and
            kept or not).
    """

    task: str
    metric: str
    expert: Expert
    kept: Literal["mixture", "expert"]
    own: Expert
    mixture: Expert = field(repr=False)
    history: list[dict[str, int | float]] = field(repr=False)
    best_epoch: int
    neighbors: list[Neighbor]
    similarity: dict[str, dict[str, float]] = field(repr=False)
    others: list[Expert] = field(repr=False)
    space: Space
    refused: dict[str, str]
    start: str
    weights: dict[str, float]
    weights_by_group: dict[str, dict[str, float]] = field(repr=False)
    best_neighbor: str
    scores: dict[str, float]
    validation: dict[str, dict[str, float]]
    lead: Lead | None
    seconds: float
    after: dict[str, float]

    @property
    def reasons(self) -> list[str]:
        """Why experts were refused, each reason once."""
        return list(dict.fromkeys(self.refused.values()))

    @property
    def decided_by_score(self) -> bool:
        """Whether the own expert is kept for its score alone, of free text."""
        return self.kept == "expert" and self.lead is not None and not self.lead.behind

    @property
    def decided_by(self) -> str:
        """The IoU where boxes are drawn, else the loss; or the metric, of free text whose score is lower."""
        if METRICS[self.metric].gold == "box":
            return "mean_iou"
        return self.metric if self.decided_by_score else "loss"

    @property
    def deciding(self) -> dict[str, float]:
        """What decided, of the target's own expert and of the mixture; see `validation`."""
        if self.decided_by == "loss":
            return {name: -found["negative_loss"] for name, found in self.validation.items()}
        what = "overlap" if self.decided_by == "mean_iou" else "score"
        return {name: found.get(what, 0.0) for name, found in self.validation.items()}
