"""Sketches find what exact search finds, and follow the pool."""

from __future__ import annotations

import copy
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pools import tiny
from tiny import text_task
from torch import Tensor

from pituning import card
from pituning.errors import ConfigError, PoolError
from pituning.expert import Expert
from pituning.interpolate.compatible import Space
from pituning.manifest import SKETCHES
from pituning.neighborhood import ExactNeighborhood, neighborhood_of, sketched
from pituning.pool import Pool
from pituning.predict import FisherConfig, TaskEmbedding, TaskGraph
from pituning.predict.embedding import Order
from pituning.predict.similarity import Setting, flat_similarities, similarities
from pituning.predict.sketch import SIZE, STEP, UNKNOWN, Sketches, layout, sketch
from pituning.sketches import read_records

SHAPES = {"0.lora_A.weight": (4, 64), "0.lora_B.weight": (64, 4), "bias": (50,)}


def drawn(seed: int, family: int | None = None) -> dict[str, Tensor]:
    """Log-normal components of a family (its own for None), which vary by member."""
    own = np.random.default_rng([0, seed])
    shared = np.random.default_rng([1, seed if family is None else family])
    spread = own.uniform(0.1, 0.6)
    return {
        name: torch.from_numpy(
            np.exp(shared.normal(-9, 0.8, shape) + own.normal(0, spread, shape)).astype(np.float32)
        )
        for name, shape in SHAPES.items()
    }


def point(name: str, components: dict[str, Tensor], setting: Setting = "default") -> TaskEmbedding:
    return TaskEmbedding(name, components, tiny(name).digest, "d", "c", f"source of {name}", setting, 1)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """Forty experts of four families."""
    pool = Pool.create(tmp_path / "pool")
    for number in range(40):
        pool.add(tiny(f"e{number}"), point(f"e{number}", drawn(number, number % 4)))
    return pool


def records(pool: Pool) -> set[bytes]:
    return {record.tobytes() for record in read_records(pool.path)}


def nearest(pool: Pool, target: TaskEmbedding, exact: int, k: int = 5) -> list[str]:
    around, own = neighborhood_of(pool, exact=exact), tiny("target")
    refused = around.refusals(own, target, "parameters")
    found = around.nearest(target, k, space="parameters", without=refused)
    return [neighbor.name for neighbor in found]


def test_recall_of_ten_among_thousands_is_099() -> None:
    embeddings = [drawn(seed, seed % 60) for seed in range(3000)]
    sketches = Sketches(np.stack([sketch(one) for one in embeddings]))
    order = Order(embeddings[0])
    flat = [order.flat(one) for one in embeddings]
    recalls = []
    for seed in range(3000, 3020):
        query = drawn(seed, seed % 60)
        exact = flat_similarities(order.flat(query), flat, order.sizes)
        short, _ = sketches.nearest(sketch(query), 100)
        recalls.append(len({*np.argsort(-exact)[:10]} & {*short}) / 10)
    assert np.mean(recalls) >= 0.99


def test_a_sketch_does_not_depend_on_scale_and_is_the_same_in_every_run() -> None:
    one = drawn(7)
    assert np.array_equal(sketch(one), sketch({name: 5 * t for name, t in reversed(one.items())}))
    assert sketch(one).shape == (SIZE,)
    assert int(np.abs(sketch(one).astype(int)).sum()) == 4599


def test_single_numbers_rows_and_columns_weigh_alike() -> None:
    """A third of the mean squared difference, 1 from what is flat, each, whichever effect it comes from."""
    draw = np.random.default_rng(0)
    one = {"w": torch.ones(30, 40)}
    for shape in ((30, 1), (1, 40), (30, 40)):
        noise = draw.normal(0, 0.5, shape)
        noise -= noise.mean()
        other = {"w": torch.from_numpy(np.exp(noise + np.zeros((30, 40))).astype(np.float32))}
        found = np.square((sketch(one).astype(float) - sketch(other)) * STEP).mean()
        assert 3 * found == pytest.approx(1, rel=0.2), shape


@pytest.mark.parametrize("shape", [(), (1,), (600,), (600, 1), (1, 600), (3, 4, 5)])
@pytest.mark.parametrize("components", [1, 24, 700])
def test_a_sketch_is_full_whatever_the_shapes(shape: tuple[int, ...], components: int) -> None:
    draw = torch.Generator().manual_seed(0)
    found = sketch({f"{i:03}": torch.rand(shape, generator=draw) for i in range(components)})
    assert found.shape == (SIZE,)
    assert (found != UNKNOWN).all()
    assert len(shape) == 0 or shape == (1,) or (found != 0).mean() > 0.6


def test_a_zero_component_is_left_out() -> None:
    one, other = drawn(1), drawn(2)
    zero = one | {"bias": torch.zeros(50)}
    assert (sketch(zero) == UNKNOWN).any()
    far, near = sketch(other), sketch(zero)
    assert Sketches(np.stack([far, near])).nearest(sketch(one), 2)[0].tolist() == [1, 0]
    assert Sketches(np.stack([far, sketch(one)])).nearest(near, 2)[0].tolist() == [1, 0]


@pytest.mark.parametrize("setting", ["default", "paper"])
def test_flat_similarities_are_the_similarities(setting: Setting) -> None:
    one, others = drawn(1), [drawn(2), drawn(3) | {"bias": torch.zeros(50)}, drawn(1)]
    order, exact = Order(one), 1e-12 if setting == "paper" else 1e-6
    found = flat_similarities(
        order.flat(one), [order.flat(other) for other in others], order.sizes, setting=setting
    )
    assert found == pytest.approx(similarities(one, others, setting=setting).numpy(), abs=exact)


def test_numbers_of_a_file_are_those_of_its_components() -> None:
    one = point("a", drawn(1))
    order = Order(one.components)
    assert np.array_equal(order.values(one.to_bytes(), Path("a")), order.flat(one.components))


def test_layouts_tell_components_and_settings_apart() -> None:
    one = point("a", drawn(1))
    assert layout(one) == layout(point("b", drawn(2)))
    others = (replace(one, setting="paper"), replace(one, labels="sampled"), replace(one, at="start"))
    assert len({layout(other) for other in (one, *others)}) == 4


def test_a_big_pool_that_was_embedded_elsewhere_has_no_neighbours_and_says_so(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    target = replace(point("target", drawn(100, 1)), at="start")
    assert nearest(pool, target, exact=0) == []
    assert "has the same tensors, embedded at" in caplog.text
    assert "at the untrained adapter" in caplog.text


@pytest.mark.parametrize("exact", [0, 500])
def test_a_pool_that_was_embedded_otherwise_is_refused_before_training(pool: Pool, exact: int) -> None:
    around = neighborhood_of(pool, exact=exact)
    around.check_manner(FisherConfig(at="expert"))
    with pytest.raises(PoolError, match="the target at the untrained adapter, the experts at its expert"):
        around.check_manner(FisherConfig())


def test_a_big_pool_gives_what_exact_search_gives(pool: Pool) -> None:
    for seed, family in ((100, 1), (101, 3), (102, None)):
        target = point("target", drawn(seed, family))
        assert nearest(pool, target, exact=0) == nearest(pool, target, exact=500)


def test_at_the_threshold_search_is_exact(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "sketches", lambda _: pytest.fail("must not be asked"))
    target = point("target", drawn(100, 1))
    names = list(pool)
    graph = TaskGraph([pool.embedding(name) for name in names], names=names)
    assert nearest(pool, target, exact=40) == [neighbor.name for neighbor in graph.nearest(target, 5)]


def test_a_big_pool_reads_few_experts(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketched, "AT_ONCE", 4)
    around, target = neighborhood_of(pool, exact=0), point("target", drawn(100, 1))
    read: list[str] = []
    file = Pool.embedding_file
    monkeypatch.setattr(Pool, "embedding_file", lambda *a: (read.append(a[1]), file(*a))[1])
    refused = around.refusals(tiny("target"), target, "parameters")
    found = around.nearest(target, 2, space="parameters", without=refused)
    assert len(found) == 2
    assert len({*read}) < 20
    assert len(around.similarity("target", target, k=2, space="parameters", without=refused)) <= 31


def test_those_of_another_start_do_not_fill_the_shortlist(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketched, "SHORTLIST", 4)
    own = tiny("target")
    card = replace(own.card, initialisation="another")
    target = point("target", drawn(100, 1))
    for number in range(3):
        far = replace(tiny(f"far{number}"), card=replace(card, name=f"far{number}", task=f"far{number}"))
        pool.add(far, point(f"far{number}", drawn(number, 7)))
    own = replace(own, card=card)
    found = []
    for exact in (0, 500):
        around = neighborhood_of(pool, exact=exact)
        refused = around.refusals(own, target, "parameters")
        nearest = around.nearest(target, 5, space="parameters", without=refused)
        found.append([neighbor.name for neighbor in nearest])
    assert found[0] == found[1]
    assert {*found[0]} == {"far0", "far1", "far2"}


@pytest.mark.parametrize("exact", [0, 500])
def test_one_of_an_unknown_start_does_not_speak_for_the_others(exact: int, tmp_path: Path) -> None:
    pool, own = Pool.create(tmp_path / "pool"), tiny("target")
    for name in ("dora", "plain"):
        one = tiny(name)
        config = copy.deepcopy(one.config)
        config.use_dora = name == "dora"
        foreign = Expert(replace(one.card, initialisation=card.UNKNOWN), config, one.tensors)
        pool.add(foreign)
    task = text_task(0)
    found = neighborhood_of(pool, exact=exact).obstacles(own, task, "delta")
    assert not all(found.values())


def test_what_is_looked_at_is_among_the_similarities_of_a_big_pool(pool: Pool) -> None:
    around, target = neighborhood_of(pool, exact=0), point("target", drawn(100, 1))
    refused = around.refusals(tiny("target"), target, "parameters")
    reach = around.nearest(target, 36, space="parameters", without=refused)
    alike = around.similarity("target", target, k=36, space="parameters", without=refused)
    assert {neighbor.name for neighbor in reach} <= alike["target"].keys()
    assert len(reach) == 36


@pytest.mark.parametrize("space", ["parameters", "delta"])
def test_neighbours_are_one_at_least(space: Space, pool: Pool) -> None:
    around, target = neighborhood_of(pool), point("target", drawn(100, 1))
    with pytest.raises(ConfigError, match="at least 1"):
        around.nearest(target, 0, space=space, without={})


def test_a_search_ends_where_the_other_sketches_lie_far_away(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketched, "AT_ONCE", 12)  # a family has ten
    read: list[str] = []
    file = Pool.embedding_file
    monkeypatch.setattr(Pool, "embedding_file", lambda *a: (read.append(a[1]), file(*a))[1])
    numbers = []
    for target in (point("relative", drawn(100, 1)), point("stranger", drawn(102))):
        around = neighborhood_of(pool, exact=0)
        refused = around.refusals(tiny("target"), target, "parameters")
        read.clear()
        around.nearest(target, 5, space="parameters", without=refused)
        numbers.append(len({*read}))
    assert numbers[0] == 12
    assert numbers[1] >= 36  # until nothing changes three times


def test_a_big_pool_refuses_what_a_small_one_refuses(pool: Pool) -> None:
    zero = point("zero", {name: torch.zeros(shape) for name, shape in SHAPES.items()})
    broken = point("broken", drawn(100) | {"bias": torch.full((50,), float("nan"))})
    for exact in (0, 500):
        for target, k in ((zero, 5), (broken, 5), (point("target", drawn(100)), 0)):
            with pytest.raises(ConfigError):
                nearest(pool, target, exact, k)


def test_names_are_told_apart_where_sketches_are_of_an_older_version(pool: Pool) -> None:
    for file in (pool.path / SKETCHES).iterdir():
        file.write_bytes(file.read_bytes().replace(b"sketch5", b"sketch1", 1))
    with pytest.raises(PoolError, match="differ by more than case"):
        pool.add(tiny("E1"))
    assert pool.repair() == ["made the sketches again"]
    assert pool.verify() == []


def test_own_task_and_refused_experts_are_replaced_by_the_next(pool: Pool) -> None:
    target = point("target", drawn(100, 1))
    first, second, third = nearest(pool, target, exact=0, k=3)
    pool.add_embedding(first, replace(pool.embedding(first), source=target.source))
    other = tiny(second)
    stranger = replace(other, card=replace(other.card, initialisation="other"))
    pool.add(stranger, pool.embedding(second), replace=True)
    assert nearest(pool, target, exact=0, k=1) == nearest(pool, target, exact=500, k=1) == [third]
    around = neighborhood_of(pool, exact=0)
    refused = around.refusals(tiny("target"), target, "parameters")
    around.nearest(target, 1, space="parameters", without=refused)
    assert [*refused] == []  # one of another start is not looked at


def test_typical_of_a_big_pool_is_that_of_a_small_one(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    from pools import TINY

    get, read = Pool.get, list[str]()
    monkeypatch.setattr(Pool, "get", lambda *a: (read.append(a[1]), get(*a))[1])
    big, small = neighborhood_of(pool, exact=0), neighborhood_of(pool, exact=500)
    assert big.typical(TINY).name == small.typical(TINY).name
    assert len(read) == 1


def test_sketches_follow_what_is_added_replaced_embedded_and_removed(pool: Pool) -> None:
    pool.add(tiny("new"))
    pool.add_embedding("new", point("new", drawn(200)))
    pool.add(tiny("e3"), point("e3", drawn(201)), replace=True)
    pool.remove("e4")
    there = records(pool)
    assert pool.verify() == []
    assert nearest(pool, point("target", drawn(201)), exact=0, k=1) == ["e3"]
    assert nearest(pool, point("target", drawn(200)), exact=0, k=1) == ["new"]
    assert "e4" not in nearest(pool, point("target", drawn(4, 0)), exact=0, k=40)
    assert pool.repair() == []
    assert records(pool) == there


@pytest.mark.parametrize("damage", ["gone", "truncated", "altered"])
def test_damaged_sketches_are_found_and_made_again(damage: str, pool: Pool) -> None:
    there, file = records(pool), next((pool.path / SKETCHES).iterdir())
    content = file.read_bytes()
    damaged = {"truncated": content[:-1], "altered": content[:-1] + bytes([content[-1] ^ 64])}
    file.unlink() if damage == "gone" else file.write_bytes(damaged[damage])
    assert all("sketch is missing or stale" in fault for fault in pool.verify())
    assert pool.verify()
    if damage != "altered":
        assert len(neighborhood_of(pool, exact=0).embeddings) == 40  # made when the pool is opened
        assert pool.verify() == []
    else:
        assert pool.repair() == ["made the sketches again"]
    assert records(pool) == there


def test_a_pool_from_before_sketches_gets_them_from_its_next_writer(pool: Pool) -> None:
    there = records(pool)
    for file in (pool.path / SKETCHES).iterdir():
        file.unlink()
    (pool.path / SKETCHES).rmdir()
    assert pool.verify() == []
    pool.add(tiny("new"))
    pool.remove("new")
    assert records(pool) == there


def test_an_expert_altered_after_it_was_sketched_is_an_error(pool: Pool) -> None:
    target = point("target", drawn(100, 1))
    [first] = nearest(pool, target, exact=0, k=1)
    file = pool.path / first / "embedding.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    with pytest.raises(PoolError, match="must be as it was added"):
        nearest(pool, target, exact=0, k=1)


def test_of_many_starts_one_is_told_that_is_embedded(pool: Pool) -> None:
    start = pool.sketches().starts()
    pool.add(tiny("a-first"))
    assert pool.sketches().starts() == start


def test_a_pool_of_large_experts_is_not_read_whole(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    target = point("target", drawn(100, 1))
    size = sum(file.stat().st_size for name in pool for file in (pool.path / name).iterdir())
    assert isinstance(neighborhood_of(pool, held=size), ExactNeighborhood)
    around = neighborhood_of(pool, held=size - 1)
    assert isinstance(around, sketched.SketchedNeighborhood)
    monkeypatch.setattr(sketched, "TOGETHER", 1)  # each embedding is compared by itself
    refused = around.refusals(tiny("target"), target, "parameters")
    found = around.nearest(target, 5, space="parameters", without=refused)
    assert [one.name for one in found] == nearest(pool, target, exact=500)


@pytest.mark.parametrize("space", ["parameters", "delta"])
def test_of_a_big_pool_only_what_was_asked_for_last_is_kept(
    space: Space, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketched, "KEPT", 4)
    get, read, counts = Pool.get, list[weakref.ref[Expert]](), list[int]()

    def seen(*asked: Any) -> Expert:
        expert = get(*asked)
        read.append(weakref.ref(expert))
        counts.append(sum(one() is not None for one in read))
        return expert

    monkeypatch.setattr(Pool, "get", seen)
    around, target = neighborhood_of(pool, exact=0), point("target", drawn(100, 1))
    refused = around.refusals(tiny("target"), target, space)
    around.nearest(target, 12, space=space, without=refused)
    assert len(read) >= 12
    assert max(counts) <= 4 + 2  # one that is being looked at, and one that was just read
