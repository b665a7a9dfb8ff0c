"""How good predictions are. Higher is better: scores lie in [0, 1], but for two.

Matthews correlation lies in [-1, 1], CIDEr-D in [0, 10].
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pituning.captions import bleu4, cider_d, meteor, spice
from pituning.errors import TaskError
from pituning.spelling import did_you_mean

Box = tuple[float, float, float, float]

POSITIVE = "yes"
"""The label that `f1_positive` looks for."""

BOX_STEPS = 999
"""A box is written as four integers 0..999; dividing by this gives fractions of width and height."""


def accuracy(predictions: Sequence[str], labels: Sequence[str]) -> float:
    """Share of predictions equal to their label."""
    return sum(p == label for p, label in zip(predictions, labels, strict=True)) / len(labels)


def f1(predictions: Sequence[str], labels: Sequence[str]) -> float:
    """F1 averaged over classes, each class weighing the same ("macro"), for two classes as for many."""
    from sklearn.metrics import f1_score  # lazy: scikit-learn takes a second to import

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The number of unique classes is greater")
        return float(f1_score(labels, predictions, average="macro", zero_division=0.0))


def f1_positive(predictions: Sequence[str], labels: Sequence[str]) -> float:
    """F1 of the label "yes" alone (GLUE's for QQP and MRPC); 1 where nothing is "yes" on either side.

    Example:
        >>> f1_positive(["yes", "yes", "no"], ["yes", "no", "no"]) == 2 / 3
        True
    """
    hits = sum(p == label == POSITIVE for p, label in zip(predictions, labels, strict=True))
    said = sum(p == POSITIVE for p in predictions) + sum(label == POSITIVE for label in labels)
    return 2 * hits / said if said else 1.0


def vqa_accuracy(predictions: Sequence[str], answers: Sequence[Mapping[str, float]]) -> float:
    """Mean confidence of the predicted answers: what share of people gave them, 0 where nobody did.

    Example:
        >>> vqa_accuracy(["red", "two"], [{"dark red": 1.0, "red": 0.3}, {"2": 1.0}])
        0.15
    """
    found = [texts.get(p.strip(), 0.0) for p, texts in zip(predictions, answers, strict=True)]
    return sum(found) / len(found)


def matthews_correlation(predictions: Sequence[str], labels: Sequence[str]) -> float:
    """Correlation of predictions and labels, in [-1, 1]; 0 where either holds one class only."""
    from sklearn.metrics import matthews_corrcoef  # lazy: as above

    if len(set(labels)) < 2 or len(set(predictions)) < 2:
        return 0.0  # as scikit-learn says too, but with a warning
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The number of unique classes is greater")
        return float(matthews_corrcoef(labels, predictions))


def exact_match(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Share of predictions equal to one of their references; case and runs of white space do not count."""
    hits = [_plain(p) in map(_plain, texts) for p, texts in zip(predictions, references, strict=True)]
    return sum(hits) / len(hits)


def chrf(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Character n-gram F-score of the whole corpus (chrF2), from sacrebleu, scaled to [0, 1]."""
    from sacrebleu.metrics import CHRF  # lazy: only texts need it

    width = max(map(len, references))
    streams = [[texts[i] if i < len(texts) else None for texts in references] for i in range(width)]
    return float(CHRF().corpus_score(list(predictions), streams).score) / 100


def accuracy_at_iou(predictions: Sequence[str], boxes: Sequence[Box], threshold: float = 0.5) -> float:
    """Share of predicted boxes (see `parse_box`) that overlap theirs by IoU >= `threshold`.

    A prediction that is no box, or one without area, counts as wrong. The official code for RefCOCO adds 1e-6
    square pixels to the union; in its float32 that vanishes for all but the smallest boxes, and is left out.
    """
    hits = [iou(parse_box(p), box) >= threshold for p, box in zip(predictions, boxes, strict=True)]
    return sum(hits) / len(hits)


def mean_iou(predictions: Sequence[str], boxes: Sequence[Box]) -> float:
    """Mean IoU of predicted boxes (see `parse_box`) with theirs; 0 for a prediction that is no box.

    Example:
        >>> mean_iou(["0 0 999 999", "none"], [(0, 0, 0.5, 1), (0, 0, 1, 1)])
        0.25
    """
    found = [iou(parse_box(p), box) for p, box in zip(predictions, boxes, strict=True)]
    return sum(found) / len(found)


def iou(a: Box, b: Box) -> float:
    """Area of the intersection over area of the union of two boxes (x0, y0, x1, y1).

    Example:
        >>> iou((0, 0, 1, 1), (0, 0, 0.5, 1))
        0.5
    """
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [max(0.0, x1 - x0) * max(0.0, y1 - y0) for x0, y0, x1, y1 in (a, b)]
    union = sum(areas) - width * height
    return width * height / union if union > 0 else 0.0


def format_box(box: Box) -> str:
    """A box in fractions as "x0 y0 x1 y1" in integers 0..999."""
    return " ".join(str(round(edge * BOX_STEPS)) for edge in box)


_INTEGERS = re.compile(r"[0-9]{1,3}")
_DECIMALS = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def parse_box(text: str) -> Box:
    """The box in fractions that `text` writes, or the empty box (0, 0, 0, 0) where it writes none.

    Four integers 0..999, or decimals of the same scale: these may lie beyond it, as a model with box tokens
    of its own can point past the edge of an image.

    Example:
        >>> parse_box("0 0 999 999"), parse_box("somewhere on the left")
        ((0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.0, 0.0))
        >>> parse_box("0 499.5 999 1065.6")[1]
        0.5
    """
    words = text.strip("[]() \n\t").replace(",", " ").split()
    form = _DECIMALS if any("." in word for word in words) else _INTEGERS
    if len(words) != 4 or not all(form.fullmatch(word) for word in words):
        return (0.0, 0.0, 0.0, 0.0)
    x0, y0, x1, y1 = (float(word) / BOX_STEPS for word in words)
    return (x0, y0, x1, y1)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric and what it holds predictions against.

    Attributes:
        gold: one label, accepted texts, a box, or answers with confidences an example.
        most: what it can reach.
    """

    name: str
    gold: Literal["label", "texts", "box", "answers"]
    compute: Callable[[Sequence[str], Sequence[Any]], float]
    most: float = 1.0


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="accuracy", gold="label", compute=accuracy),
        Metric(name="f1", gold="label", compute=f1),
        Metric(name="matthews_correlation", gold="label", compute=matthews_correlation),
        Metric(name="exact_match", gold="texts", compute=exact_match),
        Metric(name="chrf", gold="texts", compute=chrf),
        Metric(name="acc@iou0.5", gold="box", compute=accuracy_at_iou),
        Metric(name="mean_iou", gold="box", compute=mean_iou),
        Metric(name="f1_positive", gold="label", compute=f1_positive),
        Metric(name="vqa_accuracy", gold="answers", compute=vqa_accuracy),
        Metric(name="cider_d", gold="texts", compute=cider_d, most=10.0),
        Metric(name="bleu4", gold="texts", compute=bleu4),
        Metric(name="meteor", gold="texts", compute=meteor),
        Metric(name="spice", gold="texts", compute=spice),
    )
}
_ALIASES = {
    "acc": "accuracy",
    "mcc": "matthews_correlation",
    "cider": "cider_d",
    "cider-d": "cider_d",
    "bleu-4": "bleu4",
}


def metric_named(name: str) -> Metric:
    """The metric called `name` in any case; of "a / b / c" the first.

    Raises:
        TaskError: there is no such metric; the message lists those there are.

    Example:
        >>> metric_named("mcc").name, metric_named("exact_match / chrF").name
        ('matthews_correlation', 'exact_match')
    """
    word = name.split("/")[0].strip().casefold()
    word = _ALIASES.get(word, word)
    if word not in METRICS:
        raise TaskError(
            "a metric must be one of those known",
            f"metric {name!r}",
            f"{did_you_mean(word, METRICS)}Choose one of: {', '.join(METRICS)}.",
        )
    return METRICS[word]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
