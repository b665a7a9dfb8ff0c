"""What all twenty generated tasks have in common."""

from __future__ import annotations

from functools import cache

import pytest

from pituning.datasets import DATASETS
from pituning.errors import ConfigError, TaskError
from pituning.mini20 import NAMES, Sizes, mini_task
from pituning.task import Task

SMALL = Sizes(train=60, validation=20, test=40)


@cache
def made(name: str, seed: int = 0) -> Task:
    return mini_task(name, seed, SMALL)


def test_there_is_one_for_each_dataset_of_the_paper() -> None:
    assert set(NAMES) == set(DATASETS)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_mirrors_its_dataset(name: str) -> None:
    task, original = made(name), DATASETS[name]
    assert (task.name, task.kind, task.metric, task.prompt) == (
        name,
        original.kind,
        original.metric,
        original.prompt,
    )
    assert task.modality == original.modality
    assert task.image_size is None
    assert not task.check()


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_alone_decides(name: str) -> None:
    again = mini_task(name, 0, SMALL)
    assert again.fingerprint == made(name).fingerprint
    assert made(name, 1).fingerprint != again.fingerprint


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_input(name: str) -> None:
    task = made(name)
    seen: set[str] = set()
    for split in (task.train, task.validation, task.test):
        inputs = {example.input_digest for example in split}
        assert not inputs & seen
        seen |= inputs


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(TaskError, match=r"Did you mean 'refcoco'"):
        mini_task("refcocoo")


def test_a_split_without_examples_is_refused() -> None:
    with pytest.raises(ConfigError, match="test must be at least 1"):
        Sizes(test=0)
