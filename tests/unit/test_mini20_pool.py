"""The pool of the twenty tasks that the package carries. Its graph must make sense."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from statistics import mean

import pytest

from pituning.backbones import load_backbone
from pituning.cli.recipes import read_recipe
from pituning.mini20 import NAMES, Sizes, mini_task
from pituning.pool import Pool
from pituning.predict import TaskGraph
from pituning.weights import MINI20

REFERRING = ("refcoco", "refcoco+", "refcocog")
PAIRS_OF_TEXTS = ("mnli", "qqp", "mrpc", "qnli", "rte")
"""All language tasks but sst2, whose single short texts are like none of them."""

MOST_BYTES = 12_000_000


@cache
def graph() -> TaskGraph:
    pool = Pool(MINI20)
    return TaskGraph([pool.embedding(name) for name in NAMES], names=NAMES)


def similarity(one: str, other: str) -> float:
    return float(graph().similarity[NAMES.index(one), NAMES.index(other)])


def nearest(name: str, k: int) -> set[str]:
    return {neighbor.name for neighbor in graph().nearest(name, k)}


def test_the_files_are_small_and_say_nothing_of_where_they_were_made() -> None:
    files = [file for file in MINI20.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES
    for name in NAMES:
        card = Pool(MINI20).get(name).card
        assert card.recipe["method"] == "ofa-mini.json"
        assert card.backbone_name == "ofa-mini"


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_that_is_named_for_it_made_it(name: str) -> None:
    made = read_recipe("mini20").train
    card = Pool(MINI20).get(name).card
    assert {key: card.recipe[key] for key in made} == {**made, "method": Path(made["method"]).name}


def test_it_is_whole_and_of_the_model_and_the_tasks_of_today() -> None:
    pool, backbone = Pool(MINI20), load_backbone("ofa-mini")
    assert pool.verify() == []
    assert set(pool) == set(NAMES)
    assert {pool.get(name).card.backbone for name in pool} == {backbone.fingerprint}
    assert len({pool.get(name).card.initialisation for name in pool}) == 1
    for name in pool:
        assert pool.get(name).card.source == mini_task(name).source, name


@pytest.mark.parametrize("name", REFERRING)
def test_the_referring_tasks_are_each_others_nearest(name: str) -> None:
    assert nearest(name, 2) == set(REFERRING) - {name}


@pytest.mark.parametrize("name", PAIRS_OF_TEXTS)
def test_language_tasks_cluster(name: str) -> None:
    assert nearest(name, 2) < set(PAIRS_OF_TEXTS)


def test_textures_and_land_from_above_are_each_others_nearest() -> None:
    assert (nearest("dtd", 1), nearest("eurosat", 1)) == ({"eurosat"}, {"dtd"})


def test_one_question_of_two_and_three_answers_and_a_picture_with_a_sentence_are_nearest() -> None:
    assert (nearest("rte", 1), nearest("mnli", 1)) == ({"mnli"}, {"rte"})
    assert (nearest("snli-ve", 1), nearest("vqav2", 1)) == ({"vqav2"}, {"snli-ve"})


def test_tasks_of_a_kind_are_more_alike_than_tasks_of_two() -> None:
    one = Sizes(train=1, validation=1, test=1)
    kinds = {name: mini_task(name, sizes=one).modality for name in NAMES}
    pairs = [(a, b) for index, a in enumerate(NAMES) for b in NAMES[:index]]
    within = mean(similarity(a, b) for a, b in pairs if kinds[a] == kinds[b])
    across = mean(similarity(a, b) for a, b in pairs if kinds[a] != kinds[b])
    print(f"mean similarity within a kind {within:.3f}, across kinds {across:.3f}")
    assert within > across + 0.08
