"""Answers to questions: how sure people were of each, and which a model may choose from."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pituning.cells import read_json
from pituning.errors import TaskError

SEPARATOR = "|!+"
"""Stands between confidence and answer in official files."""


def official_answers(cell: str) -> dict[str, float]:
    """Answer -> confidence of a cell of an official file.

    Raises:
        TaskError: it is not written so.

    Example:
        >>> official_answers("1.0|!+dark red&&0.3|!+red")
        {'dark red': 1.0, 'red': 0.3}
    """
    answers = {}
    for part in cell.split("&&"):
        weight, separator, answer = part.partition(SEPARATOR)
        try:
            confidence = float(weight) if separator and answer.strip() else math.nan
        except ValueError:
            confidence = math.nan
        if not 0 <= confidence <= 1:
            raise TaskError(
                f"must hold answers as confidence{SEPARATOR}answer with a confidence in [0, 1], joined by &&",
                f"{part[:60]!r}",
                f"Write 0.9{SEPARATOR}yes&&0.3{SEPARATOR}no.",
            )
        answers[answer] = confidence
    return answers


def voted_answers(cell: Any) -> dict[str, float]:
    """Answer -> confidence of a cell of a table, the answer with most votes first.

    Ten people's answers (texts, or {answer: ...} in a list) count 0.3 for one vote, 0.6 for two, 0.9 for
    three and 1 for more; {ids: [...], weights: [...]} and {answer: confidence} are taken as they are, and so
    is a single text (confidence 1).

    Raises:
        TaskError: it is none of those.

    Example:
        >>> voted_answers([{"answer": "no"}, {"answer": "yes"}, {"answer": "yes"}])
        {'yes': 0.6, 'no': 0.3}
    """
    if isinstance(cell, str):
        return _of_text(cell)
    if isinstance(cell, dict):
        if isinstance(cell.get("answer"), list):
            return _votes(cell["answer"])
        if isinstance(cell.get("ids"), list) and isinstance(cell.get("weights"), list):
            cell = dict(zip(cell["ids"], cell["weights"], strict=False))
        cell = {answer: weight for answer, weight in cell.items() if weight is not None}
        if cell and all(isinstance(w, int | float) and 0 <= w <= 1 for w in cell.values()):
            return {str(answer): float(weight) for answer, weight in cell.items()}
    if isinstance(cell, list) and cell:
        return _votes([item.get("answer") if isinstance(item, dict) else item for item in cell])
    raise _no_answers(cell)


def _of_text(cell: str) -> dict[str, float]:
    """A table in text holds lists as JSON."""
    if SEPARATOR in cell:
        return official_answers(cell)
    read = read_json(cell, ("[", "{"))
    if not isinstance(read, str):
        return voted_answers(read)
    if not cell.strip():
        raise _no_answers(cell)
    return {cell: 1.0}


def _votes(answers: Iterable[Any]) -> dict[str, float]:
    votes = Counter(str(answer).strip().lower() for answer in answers if answer is not None)
    votes.pop("", None)
    if not votes:
        raise _no_answers(answers)
    return {answer: (0.3, 0.6, 0.9, 1.0)[min(count, 4) - 1] for answer, count in votes.most_common()}


def _no_answers(cell: Any) -> TaskError:
    return TaskError(
        "must hold answers: a list of texts, of {answer: TEXT}, or confidences by answer",
        f"{str(cell)[:60]!r}",
        "Remove rows without answers.",
    )


def read_answers(path: Path) -> tuple[str, ...]:
    """The candidate answers of a JSON file ({answer: index} or a list), or of a text file with one a line.

    Raises:
        TaskError: no such file, a pickle, or a file that is neither.
    """
    must = "answers must be a JSON file ({answer: index} or a list), or a text file with one answer a line"
    if path.suffix.lower() in {".pkl", ".pickle", ".pt", ".bin"}:
        read, write = f"pickle.load(open('{path.name}', 'rb'))", "open('answers.json', 'w')"
        turn = f"import json, pickle; json.dump({read}, {write})"
        fix = f'If you trust where it came from, run: python -c "{turn}" and name answers.json instead.'
        raise TaskError(must, f"{path}, a pickle: reading one runs whatever code is in it", fix)
    try:
        text = path.read_text(encoding="utf-8-sig")
        content: Any = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    except (OSError, ValueError) as fault:
        raise TaskError(must, f"{path} ({fault})", "Mend the path or the file.") from fault
    if isinstance(content, Mapping) and all(isinstance(index, int) for index in content.values()):
        content = sorted(content, key=content.__getitem__)
    names = [str(answer) for answer in content if str(answer).strip()] if isinstance(content, list) else []
    if not names or len(set(names)) != len(names):
        given = "an answer twice" if names else "no answers"
        raise TaskError(must, f"{path} with {given}", "Write each answer once.")
    return tuple(names)
