"""What the settings of a task must be."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence

from pituning import metrics
from pituning.errors import TaskError
from pituning.inferred import MODALITIES, text_of
from pituning.spelling import did_you_mean, listed


def setting_faults(
    modality: str,
    metric: str,
    candidates: Sequence[str],
    texts: Mapping[str, str],
    prompt: str | None,
    *,
    image_size: int | None,
) -> Iterator[TaskError]:
    """Each setting of a `Task` that cannot be; `texts` has what a model reads for each candidate."""
    if modality not in MODALITIES:
        fix = f"{did_you_mean(modality, MODALITIES)}Use one of those."
        yield TaskError(f"modality must be one of {', '.join(MODALITIES)}", repr(modality), fix)
    yield from _metric_faults(metric, candidates)
    strange = sorted(set(texts) - set(candidates))
    if strange or len(set(candidates)) != len(candidates):
        given = f"candidates {list(candidates)}, texts for {strange or 'them'}"
        yield TaskError("candidates must differ, and texts be theirs", given, "Remove what is too much.")
    yield from _text_faults({label: texts.get(label, text_of(label)) for label in candidates})
    if image_size is not None and (not isinstance(image_size, int) or image_size < 1):
        yield TaskError("image_size must be a number of pixels from 1", repr(image_size), "Mend it.")
    try:
        parts = [part[1:] for part in string.Formatter().parse(prompt or "")]
    except ValueError:
        parts = [("", "", "")]
    if any(name not in ("text_a", "text_b", None) or spec or convert for name, spec, convert in parts):
        fix = "Write other braces twice: {{ and }}."
        yield TaskError("a prompt may hold {text_a} and {text_b}", repr(prompt), fix)


def _text_faults(texts: Mapping[str, str]) -> Iterator[TaskError]:
    """Labels that no model can tell apart, by what it reads for them."""
    given = [f"{listed(labels)} are all {texts[labels[0]]!r}" for labels in _sharing(texts)]
    given += [
        f"{label!r} is {text!r}"
        for label, text in texts.items()
        if not (isinstance(text, str) and text.strip())
    ]
    if given:
        must = "what a model reads for a label must be a text, not empty, and another for each"
        yield TaskError(must, "; ".join(given[:5]), "Mend the labels, or their texts in the task file.")


def alike(texts: Mapping[str, str]) -> Iterator[TaskError]:
    """Labels that a model reads alike but for blanks and case, as mistakes of typing do."""
    plain = {label: " ".join(text.lower().split()) for label, text in texts.items()}
    told = {
        label: repr(label) if text == text_of(label) else f"{label!r} ({text!r})"
        for label, text in texts.items()
    }
    given = [listed([told[label] for label in labels]) for labels in _sharing(plain)]
    if given:
        must = "what a model reads for labels must differ by more than blanks and case"
        fix = "Mend the rows; if both are meant, give them other texts under `labels` in the task file."
        yield TaskError(must, "; ".join(given[:5]), fix)


def _sharing(texts: Mapping[str, str]) -> list[list[str]]:
    """The labels of each text that two or more have."""
    found: dict[str, list[str]] = {}
    for label, text in texts.items():
        found.setdefault(text, []).append(label)
    return [labels for labels in found.values() if len(labels) > 1]


def _metric_faults(metric: str, candidates: Sequence[str]) -> Iterator[TaskError]:
    try:
        name = metrics.metric_named(metric).name
    except TaskError as fault:
        yield fault
        return
    if name == "f1_positive" and metrics.POSITIVE not in candidates:
        must = f"metric f1_positive needs a candidate {metrics.POSITIVE!r}"
        yield TaskError(must, f"candidates {listed(list(candidates))}", "Use accuracy, f1 or another metric.")
