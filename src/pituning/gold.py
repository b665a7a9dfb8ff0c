"""What a prediction for an example is held against."""

from __future__ import annotations

from collections.abc import Container, Mapping

from pituning.errors import TaskError
from pituning.example import Example
from pituning.metrics import Box, Metric

COLUMNS = {
    "label": "label",
    "texts": "references or label",
    "box": "bbox",
    "answers": "references with weights",
}


def gold_of(example: Example, metric: Metric) -> str | tuple[str, ...] | Box | Mapping[str, float]:
    """What `metric` compares with: a label, the accepted texts, a box, or answers and their confidences.

    Raises:
        TaskError: the example has none.
    """
    texts = (() if example.label is None else (example.label,)) + example.references
    gold = {
        "label": example.label,
        "texts": texts,
        "box": example.bbox,
        "answers": confidences(example),
    }[metric.gold]
    if not gold:
        column = COLUMNS[metric.gold]
        fix = "Add it, or remove the row."
        raise TaskError(f"metric {metric.name} needs {column} in every row", f"no {column}", fix)
    return gold


def confidences(example: Example) -> dict[str, float]:
    """Answer -> its confidence, in the order of the example; of an answer given twice the last confidence.

    Example:
        >>> confidences(Example(references=("dark red", "red"), weights=(1.0, 0.3)))
        {'dark red': 1.0, 'red': 0.3}
    """
    return dict(zip(example.references, example.weights, strict=True)) if example.weights else {}


def chosen(example: Example, candidates: Container[str | None]) -> str | None:
    """The label; without one the most confident answer (the first of equals).

    Of the answers those come first that are `candidates`; where none is, the most confident of all.
    """
    if example.label is not None or not example.weights:
        return example.label
    answers = confidences(example)
    known = {answer: weight for answer, weight in answers.items() if answer in candidates} or answers
    return max(known, key=known.__getitem__)
