"""Twenty small tasks, one for each dataset of the paper, made from a seed by code: no files, no network.

Each is of its original's kind, with its prompt, answers and metric. The command takes `mini20/refcoco`
wherever it takes a task folder.
"""

from __future__ import annotations

from collections.abc import Mapping

from pituning.errors import TaskError
from pituning.mini20 import language, vision, vision_language
from pituning.mini20.definition import Maker, Sizes
from pituning.spelling import did_you_mean
from pituning.task import Task

__all__ = ["NAMES", "Sizes", "mini_task"]

_MAKERS: Mapping[str, Maker] = {**vision_language.TASKS, **vision.TASKS, **language.TASKS}

NAMES = tuple(_MAKERS)
"""The twenty, named as the datasets that they mirror."""


TRAIN = {
    **dict.fromkeys(("refcoco", "refcoco+", "refcocog", "snli-ve", "vqav2", "qnli", "rte", "sst2"), 6_000),
    **dict.fromkeys(("mnli", "qqp"), 8_000),
    "mrpc": 3_600,
}
"""Training examples: more where the originals have many; the others have as many as `Sizes` says."""


def mini_task(name: str, seed: int = 0, sizes: Sizes | None = None) -> Task:
    """One of the twenty; without `sizes`, of as many training examples as it should have.

    Raises:
        TaskError: there is no such task.

    Example:
        >>> task = mini_task("rte", sizes=Sizes(train=4, validation=2, test=2))
        >>> task.candidates, len(task.train)
        (('no', 'yes'), 4)
    """
    if name not in _MAKERS:
        fix = f"{did_you_mean(name, NAMES)}Choose one of them."
        raise TaskError(f"a task of mini20 is one of {', '.join(NAMES)}", repr(name), fix)
    return _MAKERS[name](seed, sizes or Sizes(train=TRAIN.get(name, Sizes.train)))
