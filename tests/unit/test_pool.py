"""Laws of the pool on disk: nothing altered is read, nothing finished is lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from small import expert, lora, same_tensors
from torch import nn

from pituning.errors import ExpertError, PoolError, StaleEmbeddingError
from pituning.expert import Expert
from pituning.foundation import Frozen
from pituning.pool import Pool
from pituning.predict import TaskEmbedding

TINY = Frozen(nn.Sequential(nn.Linear(4, 4)), name="tiny")


def tiny(name: str, scale: float = 0.2) -> Expert:
    return expert(name, lora(target_modules=["0"]), TINY, scale=scale)


def embedding_of(one: Expert, value: float = 1.0) -> TaskEmbedding:
    return TaskEmbedding(
        task=one.name,
        components={"0.lora_A.weight": torch.full((2, 4), value)},
        expert=one.digest,
        data="data",
        config="config",
        source="source",
        setting="default",
        examples=1,
    )


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    pool = Pool.create(tmp_path / "pool", init_seed=5)
    for name in ("a", "b"):
        pool.add(tiny(name), embedding_of(tiny(name)))
    return pool


def snapshot(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != ".lock"}


def test_add_then_get_is_bit_exact(tmp_path: Path) -> None:
    pool, one = Pool.create(tmp_path / "pool"), expert("x")
    pool.add(one)
    found = Pool(pool.path).get("x")
    assert same_tensors(found, one)
    assert found.digest == one.digest
    assert found.card == one.card


def test_pool_lists_contains_counts_and_remembers_its_seed(pool: Pool) -> None:
    again = Pool.create(pool.path, init_seed=9)
    assert (list(again), len(again), "a" in again, "z" in again, again.init_seed) == (
        ["a", "b"],
        2,
        True,
        False,
        5,
    )
    assert pool.verify() == []
    assert sorted(path.name for path in pool.path.iterdir()) == [".lock", "a", "b", "pool.json"]


def test_embedding_round_trip(pool: Pool) -> None:
    found = pool.embedding("a")
    assert torch.equal(found.components["0.lora_A.weight"], torch.ones(2, 4))
    pool.add(tiny("c"))
    assert [pool.has_embedding(name) for name in "ac"] == [True, False]
    with pytest.raises(StaleEmbeddingError):
        pool.embedding("c")
    pool.add_embedding("c", embedding_of(tiny("c"), 2.0))
    assert float(pool.embedding("c").components["0.lora_A.weight"].sum()) == 16
    assert pool.verify() == []


def test_stale_embedding_is_refused_when_stored(pool: Pool) -> None:
    before = snapshot(pool.path)
    with pytest.raises(StaleEmbeddingError):
        pool.add_embedding("a", embedding_of(tiny("b")))
    with pytest.raises(StaleEmbeddingError):
        pool.add(tiny("c"), embedding_of(tiny("b")))
    assert snapshot(pool.path) == before


def test_replacing_an_expert_drops_its_old_embedding(pool: Pool) -> None:
    with pytest.raises(PoolError, match="'a' is taken"):
        pool.add(tiny("a", 0.5))
    pool.add(tiny("a", 0.5), replace=True)
    assert same_tensors(pool.get("a"), tiny("a", 0.5))
    assert not pool.has_embedding("a")
    assert pool.verify() == []


def test_removed_expert_is_gone(pool: Pool) -> None:
    pool.remove("a")
    assert list(pool) == ["b"]
    assert not (pool.path / "a").exists()
    assert pool.verify() == []
    for use in (pool.get, pool.remove, pool.embedding, pool.has_embedding):
        with pytest.raises(PoolError, match=r"must be in the pool.*holds: b"):
            use("a")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/b",
        "",
        ".hidden",
        "target:sst2",
        "pool.json",
        "a b",
        "x\n",
        "/etc/x",
        "-x",
        "..",
        "a\\b",
        "A",
    ],
)
def test_names_that_are_no_plain_folder_are_refused(name: str, pool: Pool) -> None:
    before = snapshot(pool.path.parent)
    with pytest.raises(PoolError, match=r"names? "):
        pool.add(tiny("x").renamed(name), replace=True)
    assert snapshot(pool.path.parent) == before


FILES = ("adapter_model.safetensors", "adapter_config.json", "expert.json", "embedding.safetensors")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("fault", ["altered", "truncated", "missing"])
def test_damage_is_found_and_refused(file: str, fault: str, pool: Pool) -> None:
    path = pool.path / "a" / file
    content = path.read_bytes()
    if fault == "missing":
        path.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes(flipped if fault == "altered" else content[:-1])
    reason = f"{file} is missing" if fault == "missing" else f"{file} was altered or truncated"
    assert pool.verify() == [f"a: {reason}"]
    for read in (pool.get, pool.embedding):
        with pytest.raises(PoolError, match=reason):
            read("a")
    assert pool.get("b").name == "b"


def test_stray_files_are_found(pool: Pool) -> None:
    (pool.path / "a" / "adapter_model.bin").write_bytes(b"pickle")
    (pool.path / "notes.txt").write_text("")
    assert pool.verify() == ["a: adapter_model.bin is stray", "notes.txt: not in the manifest"]
    with pytest.raises(PoolError, match="is stray"):
        pool.get("a")


def test_missing_folder_is_found(pool: Pool) -> None:
    shutil.rmtree(pool.path / "a")
    assert len(pool.verify()) == 4
    pool.remove("a")
    assert pool.verify() == []


@pytest.mark.parametrize(
    "manifest",
    [
        "", "[]", "{}", '{"format": 1}', '{"format": 2, "experts": {}}', '{"format": 1, "experts": []}',
        '{"format": 1, "init_seed": 0, "experts": {"../a": {"files": {}}}}',
        '{"format": 1, "init_seed": 0, "experts": {"a": {"files": {"../../x": ""}}}}',
        '{"format": 1, "init_seed": 0, "experts": {"a": {"next": {"files": {}, "scratch": "../x"}}}}',
        '{"format": 1, "init_seed": 0, "experts": {"a": {}}}',
    ],
)  # fmt: skip
def test_manifest_that_is_none_is_refused(manifest: str, pool: Pool) -> None:
    (pool.path / "pool.json").write_text(manifest)
    with pytest.raises(PoolError, match=r"must be the manifest of a pool|reads pools of format"):
        Pool(pool.path)


def test_folder_without_manifest_is_no_pool(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"a folder with a pool\.json"):
        Pool(tmp_path)
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(PoolError, match="holds other files"):
        Pool.create(tmp_path)


def test_values_that_are_not_finite_are_refused(pool: Pool) -> None:
    before = snapshot(pool.path)
    one = tiny("nan")
    bad = Expert(one.card, one.config, {n: t * float("nan") for n, t in one.tensors.items()})
    with pytest.raises(ExpertError, match="values are finite"):
        pool.add(bad)
    assert snapshot(pool.path) == before


@pytest.mark.parametrize("failing", ["write_bytes", "write_text", "mkdtemp", "mkdir"])
@pytest.mark.parametrize("change", ["add", "replace", "embed", "remove"])
def test_full_or_read_only_disk_leaves_the_pool_as_it_was(
    failing: str, change: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.mkdtemp" if failing == "mkdtemp" else f"pathlib.Path.{failing}", full)
    before = snapshot(pool.path)
    changes = {
        "add": lambda: pool.add(tiny("c"), embedding_of(tiny("c"))),
        "replace": lambda: pool.add(tiny("a", 0.5), replace=True),
        "embed": lambda: pool.add_embedding("a", embedding_of(tiny("a"), 3.0)),
        "remove": lambda: pool.remove("a"),
    }
    if change == "remove" and failing in ("write_bytes", "mkdir"):
        pytest.skip("removing writes no such file")
    with pytest.raises(PoolError, match=r"have room.*No space left.*the pool is as it was"):
        changes[change]()
    monkeypatch.undo()
    assert snapshot(pool.path) == before
    assert pool.verify() == []
    changes[change]()
    assert pool.verify() == []


def test_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PoolError, match="must be writable"):
        Pool.create(tmp_path / "file" / "pool")


class Killed(BaseException):
    """Stands for SIGKILL: nothing that runs after it may touch the disk."""


@pytest.mark.parametrize("change", ["add", "replace", "embed", "remove"])
@pytest.mark.parametrize("moment", range(4))
def test_writer_killed_between_any_two_renames_loses_nothing(
    change: str, moment: int, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.replace, 0

    def replace(old: Path, new: Path) -> None:
        nonlocal calls
        calls += 1
        if calls > moment:
            raise Killed
        real(old, new)

    def nothing(*_: object, **__: object) -> None:
        return None

    changes = {
        "add": lambda: pool.add(tiny("c"), embedding_of(tiny("c"))),
        "replace": lambda: pool.add(tiny("a", 0.5), replace=True),
        "embed": lambda: pool.add_embedding("a", embedding_of(tiny("a"), 3.0)),
        "remove": lambda: pool.remove("a"),
    }
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(os, "replace", replace)
        patch.setattr(shutil, "rmtree", nothing)
        changes[change]()
    survivor = Pool(pool.path)
    assert same_tensors(survivor.get("b"), tiny("b"))
    if change == "add" and moment > 0:
        assert same_tensors(survivor.get("c"), tiny("c"))
    if change == "replace":
        assert same_tensors(survivor.get("a"), tiny("a", 0.5 if moment else 0.2))
    if change == "embed":
        assert float(survivor.embedding("a").components["0.lora_A.weight"].mean()) == (3.0 if moment else 1.0)
    if change == "remove":
        assert ("a" in survivor) is (moment == 0)
    for name in survivor:
        survivor.get(name)
    survivor.add(tiny("last"))  # the next writer tidies
    found = [fault for fault in survivor.verify() if fault != "a: not in the manifest"]
    assert found == []
    assert not list(pool.path.glob(".scratch-*"))


# A process of its own imports torch once and forks the writers; each says in a file what it has finished.
WRITERS = textwrap.dedent(
    """
    import os, random, signal, sys, time
    sys.path[:0] = {path!r}
    import torch
    torch.set_num_threads(1)
    from test_pool import Pool, tiny
    tiny("warm")

    def write(folder, log, names, count):
        pool = Pool(folder)
        for index in range(count):
            pool.add(tiny(names[index % len(names)], 0.1 + index), replace=True)
            with open(log, "a") as file:
                file.write(f"{{names[index % len(names)]}} {{index}}\\n")
        os._exit(0)

    def fork(*arguments):
        child = os.fork()
        return child or write(*arguments)

    {body}
    """
)


def run_writers(body: str, **values: object) -> None:
    here = Path(__file__).parent
    code = WRITERS.format(path=[str(here), str(here.parent)], body=body.format(**values))
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


def finished(log: Path) -> dict[str, int]:
    lines = log.read_text().splitlines() if log.exists() else []
    return {name: int(index) for name, index in (line.split() for line in lines)}


@pytest.mark.slow
def test_two_writers_lose_none_of_each_others_experts(tmp_path: Path) -> None:
    pool = Pool.create(tmp_path / "pool")
    names = {prefix: [f"{prefix}-{index}" for index in range(20)] for prefix in "xy"}
    body = (
        "children = [fork({pool!r}, {log!r} + prefix, names, 20) for prefix, names in {names!r}.items()];"
        "assert all(os.waitpid(child, 0)[1] == 0 for child in children)"
    )
    run_writers(body, pool=str(pool.path), log=str(tmp_path / "log"), names=names)
    assert sorted(pool) == sorted(names["x"] + names["y"])
    assert pool.verify() == []


@pytest.mark.slow
def test_killed_writer_leaves_every_finished_expert(tmp_path: Path) -> None:
    pools = [Pool.create(tmp_path / f"pool-{index}") for index in range(10)]
    body = (
        "draw = random.Random({seed});"
        "[(child := fork(pool, pool + '.log', ['a', 'b', 'c'], 10**6), time.sleep(draw.uniform(0.05, 0.3)),"
        " os.kill(child, signal.SIGKILL), os.waitpid(child, 0)) for pool in {pools!r}]"
    )
    run_writers(body, seed=0, pools=[str(pool.path) for pool in pools])
    assert any(pool.path.with_suffix(".log").exists() for pool in pools)
    for pool in pools:
        done = finished(pool.path.with_suffix(".log"))
        found = {name: pool.get(name) for name in pool}
        assert set(done) <= set(found)
        for name, index in done.items():  # its next version may have been finished and not announced
            assert any(same_tensors(found[name], tiny(name, 0.1 + version)) for version in (index, index + 3))
        pool.add(tiny("next"))
        assert pool.verify() == []


def test_manifest_is_json_with_the_hash_of_every_file(pool: Pool) -> None:
    manifest = json.loads((pool.path / "pool.json").read_text())
    assert set(manifest["experts"]["a"]["files"]) == set(FILES)
    assert set(manifest["experts"]["a"]) == {"files"}
