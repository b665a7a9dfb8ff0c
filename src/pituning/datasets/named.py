"""The 20 data sets, by name."""

from __future__ import annotations

from collections.abc import Mapping

from pituning.datasets.definition import Dataset
from pituning.datasets.language import GLUE
from pituning.datasets.vision import VISION
from pituning.errors import TaskError
from pituning.spelling import did_you_mean

DATASETS: Mapping[str, Dataset] = {dataset.name: dataset for dataset in (*VISION, *GLUE)}


def dataset_named(name: str) -> Dataset:
    """The data set called `name`, in any case, with _ or -; refcoco_plus is refcoco+.

    Raises:
        TaskError: there is no such data set; the message lists those there are.

    Example:
        >>> dataset_named("COCO_captions").metric, dataset_named("refcoco_plus").name
        ('cider_d', 'refcoco+')
    """
    word = name.strip().lower().replace("_", "-").replace("-plus", "+")
    if word not in DATASETS:
        near = did_you_mean(word, DATASETS)
        raise TaskError(
            "dataset must be one of the built-in definitions",
            f"dataset {name!r}",
            f"{near}Choose one of: {', '.join(DATASETS)}; or leave dataset out and describe the task.",
        )
    return DATASETS[word]
