"""The task graph and its neighbours."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

from pituning.errors import ConfigError
from pituning.predict import Neighbor, TaskEmbedding, TaskGraph, similarity
from pituning.predict.delta import comparable, shared_modules, similarities_in_delta
from pituning.predict.similarity import Setting


def point(task: str, *values: float, source: str = "", setting: Setting = "default") -> TaskEmbedding:
    return TaskEmbedding(
        task=task,
        components={"w": torch.tensor(values)},
        expert="e",
        data="d",
        config="c",
        source=source or f"data of {task}",
        setting=setting,
        examples=1,
    )


A, B, C = point("a", 1.0, 2.0, 3.0), point("b", 1.0, 2.0, 2.9), point("c", 9.0, 1.0, 0.1)


def names(neighbors: list[Neighbor]) -> list[str]:
    return [neighbor.name for neighbor in neighbors]


def test_graph_holds_the_similarity_of_every_pair() -> None:
    graph = TaskGraph([A, B, C])
    assert graph.similarity.shape == (3, 3)
    assert torch.equal(graph.similarity, graph.similarity.T)
    assert graph.similarity.diag().tolist() == [1.0] * 3
    assert float(graph.similarity[0, 2]) == pytest.approx(similarity(A.components, C.components))


def test_nearest_by_name_and_by_embedding_agree() -> None:
    graph = TaskGraph([C, A, B])
    assert names(graph.nearest("a", 2)) == ["b", "c"]
    assert graph.nearest(A, 2) == graph.nearest("a", 2)
    [nearest] = TaskGraph([B, C]).nearest(A, 1)
    assert nearest.name == "b"
    assert nearest.similarity == pytest.approx(similarity(A.components, B.components))


def test_ties_are_broken_by_name() -> None:
    twins = [point(name, 1.0, 2.0, 2.9) for name in ("z", "m", "b")]
    assert names(TaskGraph([C, *twins]).nearest(A, 3)) == ["b", "m", "z"]
    assert names(TaskGraph([*twins[::-1], C]).nearest(A, 3)) == ["b", "m", "z"]


def test_an_expert_of_the_same_task_or_data_is_no_neighbour() -> None:
    same_task = point("a", 1.0, 2.0, 3.0, source="other data")
    same_data = point("renamed", 1.0, 2.0, 3.0, source=A.source)
    graph = TaskGraph([A, same_task, same_data, C], names=["a", "a-again", "copy", "c"])
    assert names(graph.nearest("a", 4)) == ["c"]
    assert names(graph.nearest(A, 4)) == ["c"]


def test_k_above_the_number_of_tasks_gives_all_and_below_1_raises() -> None:
    graph = TaskGraph([A, B, C])
    assert names(graph.nearest("a", 99)) == ["b", "c"]
    for k in (0, -1):
        with pytest.raises(ConfigError, match="k must be at least 1"):
            graph.nearest("a", k)


def test_graphs_of_one_and_of_no_task_have_no_neighbours() -> None:
    assert TaskGraph([A]).nearest("a", 1) == []
    assert TaskGraph([A]).similarity.tolist() == [[1.0]]
    assert TaskGraph([]).nearest(A, 1) == []
    assert TaskGraph([]).similarity.shape == (0, 0)


def test_names_are_unique_and_known() -> None:
    with pytest.raises(ConfigError, match="its own name"):
        TaskGraph([A, A])
    with pytest.raises(ConfigError, match="its own name"):
        TaskGraph([A, B], names=["a"])
    with pytest.raises(ConfigError, match="Known: a, b"):
        TaskGraph([A, B]).nearest("c", 1)


def test_a_graph_compares_in_the_setting_of_its_embeddings() -> None:
    small = [
        point(name, *values, setting="paper") for name, values in (("a", (1e-7, 4e-7)), ("b", (4e-7, 1e-7)))
    ]
    found = float(TaskGraph(small).similarity[0, 1])
    assert found == pytest.approx(similarity(small[0].components, small[1].components, setting="paper"))
    with pytest.raises(ConfigError, match="one manner"):
        TaskGraph([A, small[1]])
    with pytest.raises(ConfigError, match="one manner"):
        TaskGraph(small).nearest(A, 1)


def lora_point(task: str, ranks: dict[str, int], seed: int, zero: bool = False) -> TaskEmbedding:
    """Information of a LoRA of these ranks on modules of 5 inputs and 4 outputs."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {f"{n}.lora_A.weight": (r, 5) for n, r in ranks.items()}
    shapes |= {f"{n}.lora_B.weight": (4, r) for n, r in ranks.items()}
    components = {n: torch.rand(shape, generator=draw) * (not zero) for n, shape in shapes.items()}
    return replace(point(task, 1.0), components=components)


def test_in_delta_space_all_pairs_are_compared_as_each_alone() -> None:
    points = {
        "one": lora_point("one", {"q": 2, "v": 2}, 0),
        "other rank": lora_point("other rank", {"q": 3, "v": 1}, 1),
        "q alone": lora_point("q alone", {"q": 2}, 2),
        "elsewhere": lora_point("elsewhere", {"k": 2}, 3),
        "zero": lora_point("zero", {"q": 2, "v": 2}, 4, zero=True),
    }
    found = similarities_in_delta(points)
    for a, b in product(points, points):
        mine, theirs = shared_modules(points[a], points[b])
        expected = float(a == b)
        if a != b and comparable(points[a], points[b]):
            expected = similarity(mine.components, theirs.components)
        assert found[a][b] == pytest.approx(expected, abs=1e-6), (a, b)
    assert 0 < found["one"]["other rank"] < 1
    assert found["one"]["elsewhere"] == found["one"]["zero"] == 0
