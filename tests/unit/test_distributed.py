"""Laws of a group: what the first says all hear, and what one cannot do ends all, with one message."""

from __future__ import annotations

import gc
import json
import os
import time
import weakref
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import start_processes

from pituning.distributed import (
    Launched,
    from_first,
    is_first,
    own_rows,
    processes,
    require_same,
    spread,
    sum_gradients,
)
from pituning.errors import PituningError, TaskError


def in_two(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What `work(rank)` answers in each of two processes that share a store, as a launcher's do."""
    store = dist.TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60)
    )
    start_processes(_worker, (work, folder, store.port), nprocs=2, start_method="fork")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def _worker(rank: int, work: Callable[[int], Any], folder: Path, port: int) -> None:
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    (folder / f"{rank}.json").write_text(json.dumps(work(rank)))


def test_a_process_alone_is_the_first_of_one() -> None:
    assert (processes(), is_first(), own_rows(5)) == (1, True, slice(0, 5))
    assert from_first(lambda: 3) == 3


def test_all_hear_the_first_and_sum_what_they_have(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        with Launched():
            used, unused, ours = (nn.Parameter(torch.full((2,), float(rank))) for _ in range(3))
            used.grad = torch.tensor([1.0, 2.0]) * (rank + 1)
            if rank:
                ours.grad = torch.ones(2)
            totals = sum_gradients([used, unused, ours], 0.5, rank)
            spread([used])
            heard = from_first(lambda: f"from {dist.get_rank()}")
            require_same("same")
            rows = own_rows(5)
            gradients = [p.grad if p.grad is None else p.grad.tolist() for p in (used, unused, ours)]
            return [processes(), is_first(), totals, gradients, used.tolist(), heard, [rows.start, rows.stop]]

    shared = [[1.0, 1.0], [[3.0, 6.0], None, [1.0, 1.0]], [0.0, 0.0], "from 0"]
    assert in_two(work, tmp_path) == [[2, True, *shared, [0, 2]], [2, False, *shared, [2, 5]]]


def test_a_group_without_gloo_waits_for_the_first_on_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dist, "get_backend_config", lambda: "cuda:nccl")  # of which there is none on a CPU

    def work(rank: int) -> Any:
        store, patience = f"file://{tmp_path}/store", timedelta(seconds=4)
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=patience)
        found = [from_first(lambda: "at once"), from_first(lambda: (time.sleep(6), "late")[1])]
        require_same("same")
        dist.destroy_process_group()
        return found

    assert in_two(work, tmp_path) == [["at once", "late"]] * 2


def test_a_group_that_has_ended_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds its port, and another could not begin there."""
    monkeypatch.setattr(dist, "get_backend_config", lambda: "cuda:nccl")

    def work(rank: int) -> Any:
        found = []
        for number in range(2):
            store = f"file://{tmp_path}/store{number}"
            dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
            found.append(from_first(lambda number=number: number))  # type: ignore[misc]
            ended = weakref.ref(dist.group.WORLD)
            dist.destroy_process_group()
            gc.collect()
            found.append(ended() is None)
        return found

    assert in_two(work, tmp_path) == [[0, True, 1, True]] * 2


def failure(work: Callable[[], object]) -> list[Any]:
    """Kind and words of the error, and whether this process tells of it."""
    with Launched() as group:
        try:
            work()
        except PituningError as error:
            return [type(error).__name__, str(error), group.speaks()]
    return []


def test_the_first_ones_mistake_is_raised_in_all_and_told_once(tmp_path: Path) -> None:
    def wrong() -> None:
        raise TaskError("a must", "b", "Do c.")

    found = in_two(lambda rank: failure(lambda: from_first(wrong)), tmp_path)
    assert [words for *words, _ in found] == [["TaskError", "a must; given: b. Do c."]] * 2
    assert sorted(told for *_, told in found) == [False, True]


def test_processes_that_train_different_things_are_refused(tmp_path: Path) -> None:
    kinds = {words[0] for words in in_two(lambda rank: failure(lambda: require_same(str(rank))), tmp_path)}
    assert kinds == {"TrainingError"}


@pytest.mark.slow
def test_what_one_alone_cannot_do_ends_the_other_in_seconds(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        def alone() -> None:
            if rank:
                raise TaskError("a must", "b", "Do c.")
            spread([torch.zeros(2)])
            require_same("")  # waits for the other

        return failure(alone)

    start = time.monotonic()
    first, second = in_two(work, tmp_path)
    assert (second[0], second[2]) == ("TaskError", True)
    assert (first[0], first[2]) == ("TrainingError", False)
    assert time.monotonic() - start < 30
