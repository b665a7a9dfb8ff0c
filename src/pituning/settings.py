"""What the settings of a task must be."""

from __future__ import annotations

import string
from collections.abc import Collection, Iterator, Sequence

from pituning import metrics
from pituning.errors import TaskError
from pituning.inferred import MODALITIES
from pituning.spelling import did_you_mean, listed


def setting_faults(
    modality: str,
    metric: str,
    candidates: Sequence[str],
    texts: Collection[str],
    prompt: str | None,
    *,
    image_size: int | None,
) -> Iterator[TaskError]:
    """Each setting of a `Task` that cannot be; `texts` are the labels that have a candidate text."""
    if modality not in MODALITIES:
        fix = f"{did_you_mean(modality, MODALITIES)}Use one of those."
        yield TaskError(f"modality must be one of {', '.join(MODALITIES)}", repr(modality), fix)
    yield from _metric_faults(metric, candidates)
    strange = sorted(set(texts) - set(candidates))
    if strange or len(set(candidates)) != len(candidates):
        given = f"candidates {list(candidates)}, texts for {strange or 'them'}"
        yield TaskError("candidates must differ, and texts be theirs", given, "Remove what is too much.")
    if image_size is not None and (not isinstance(image_size, int) or image_size < 1):
        yield TaskError("image_size must be a number of pixels from 1", repr(image_size), "Mend it.")
    try:
        parts = [part[1:] for part in string.Formatter().parse(prompt or "")]
    except ValueError:
        parts = [("", "", "")]
    if any(name not in ("text_a", "text_b", None) or spec or convert for name, spec, convert in parts):
        fix = "Write other braces twice: {{ and }}."
        yield TaskError("a prompt may hold {text_a} and {text_b}", repr(prompt), fix)


def _metric_faults(metric: str, candidates: Sequence[str]) -> Iterator[TaskError]:
    try:
        name = metrics.metric_named(metric).name
    except TaskError as fault:
        yield fault
        return
    if name == "f1_positive" and metrics.POSITIVE not in candidates:
        must = f"metric f1_positive needs a candidate {metrics.POSITIVE!r}"
        yield TaskError(must, f"candidates {listed(list(candidates))}", "Use accuracy, f1 or another metric.")
