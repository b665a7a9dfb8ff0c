"""Laws of the pool on disk: nothing altered is read, nothing finished is lost."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from pools import FILES, TINY, embedding_of, snapshot, tiny
from small import expert, lora, same_tensors
from torch import nn

from pituning.errors import ExpertError, PoolError, StaleEmbeddingError
from pituning.expert import Expert
from pituning.foundation import Frozen
from pituning.pool import Pool


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    pool = Pool.create(tmp_path / "pool", init_seed=5)
    for name in ("a", "b"):
        pool.add(tiny(name), embedding_of(tiny(name)))
    return pool


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
    assert sorted(path.name for path in pool.path.iterdir()) == [
        ".lock",
        ".manifest",
        ".sketches",
        "a",
        "b",
        "pool.json",
    ]


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


@pytest.mark.parametrize("failing", ["write_bytes", "write_text", "mkdir"])
@pytest.mark.parametrize("change", ["add", "replace", "embed", "remove"])
def test_full_or_read_only_disk_leaves_the_pool_as_it_was(
    failing: str, change: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"pathlib.Path.{failing}", full)
    before = snapshot(pool.path)
    changes = {
        "add": lambda: pool.add(tiny("c"), embedding_of(tiny("c"))),
        "replace": lambda: pool.add(tiny("a", 0.5), replace=True),
        "embed": lambda: pool.add_embedding("a", embedding_of(tiny("a"), 3.0)),
        "remove": lambda: pool.remove("a"),
    }
    if change == "remove" and failing != "mkdir":
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


def kill_at(moment: int, patch: pytest.MonkeyPatch) -> None:
    """Before the rename of this number, and let nothing be deleted after."""
    real, calls = os.replace, 0

    def replace(old: Path, new: Path) -> None:
        nonlocal calls
        calls += 1
        if calls > moment:
            raise Killed
        real(old, new)

    patch.setattr(os, "replace", replace)
    patch.setattr(shutil, "rmtree", lambda *_, **__: None)


@pytest.mark.parametrize("change", ["add", "replace", "embed", "remove"])
@pytest.mark.parametrize("moment", range(5))
def test_writer_killed_between_any_two_renames_loses_nothing(
    change: str, moment: int, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "add": lambda: pool.add(tiny("c"), embedding_of(tiny("c"))),
        "replace": lambda: pool.add(tiny("a", 0.5), replace=True),
        "embed": lambda: pool.add_embedding("a", embedding_of(tiny("a"), 3.0)),
        "remove": lambda: pool.remove("a"),
    }
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        kill_at(moment, patch)
        changes[change]()
    survivor = Pool(pool.path)
    assert same_tensors(survivor.get("b"), tiny("b"))
    if change == "add" and moment > 1:  # the sketch first, then the entry
        assert same_tensors(survivor.get("c"), tiny("c"))
    if change == "replace":
        assert same_tensors(survivor.get("a"), tiny("a", 0.5 if moment > 1 else 0.2))
    if change == "embed":
        assert float(survivor.embedding("a").components["0.lora_A.weight"].mean()) == (
            3.0 if moment > 1 else 1.0
        )
    if change == "remove":
        assert ("a" in survivor) is (moment == 0)
    for name in survivor:
        survivor.get(name)
    survivor.add(tiny("last"))  # the next writer tidies
    assert survivor.verify() == []
    assert not list(pool.path.glob(".scratch*"))


def test_manifest_is_json_with_the_hash_of_every_file(pool: Pool) -> None:
    assert json.loads((pool.path / "pool.json").read_text()) == {"format": 2, "init_seed": 5}
    entry = json.loads((pool.path / ".manifest" / "a.json").read_text())
    digests = {file: hashlib.sha256((pool.path / "a" / file).read_bytes()).hexdigest() for file in FILES}
    assert entry == {"files": digests}


def as_format_1(pool: Pool) -> dict[str, Any]:
    """Put the pool into the format whose `pool.json` held every entry."""
    entries = {name: json.loads((pool.path / ".manifest" / f"{name}.json").read_text()) for name in pool}
    shutil.rmtree(pool.path / ".manifest")
    manifest = {"format": 1, "init_seed": 5, "experts": entries}
    (pool.path / "pool.json").write_text(json.dumps(manifest))
    return manifest


def test_pool_of_format_1_is_migrated(pool: Pool) -> None:
    before = snapshot(pool.path)
    as_format_1(pool)
    assert (list(Pool(pool.path)), Pool(pool.path).init_seed, pool.verify()) == (["a", "b"], 5, [])
    assert snapshot(pool.path) == before


@pytest.mark.parametrize("moment", range(4))
def test_migration_killed_at_any_rename_is_done_again(
    moment: int, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the format-1 writer was killed before it moved a new version of `a` into place."""
    before = snapshot(pool.path)
    manifest = as_format_1(pool)
    entry = manifest["experts"]["a"]
    (pool.path / ".scratch-x").mkdir()
    shutil.copytree(pool.path / "a", pool.path / ".scratch-x" / "a")
    (pool.path / "a" / "expert.json").write_text("{}")
    manifest["experts"]["a"] = {"files": {"expert.json": "0" * 64}, "next": entry | {"scratch": ".scratch-x"}}
    (pool.path / "pool.json").write_text(json.dumps(manifest))
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        kill_at(moment, patch)
        Pool(pool.path)
    assert Pool(pool.path).verify() in (
        [],
        [".scratch: left by a killed writer; the next one finishes or clears it"],
    )
    pool.repair()
    assert snapshot(pool.path) == before


def test_pool_of_a_newer_format_is_refused(pool: Pool) -> None:
    (pool.path / "pool.json").write_text('{"format": 3, "experts": "elsewhere"}')
    before = snapshot(pool.path)
    with pytest.raises(PoolError, match=r"reads pools up to format 2; given: format 3 .*Update pituning"):
        Pool(pool.path)
    assert snapshot(pool.path) == before


def test_embedding_again_keeps_the_expert_bit_for_bit(pool: Pool) -> None:
    path = pool.path / "a" / "adapter_config.json"
    with pool._store.writing():
        files = {file: (pool.path / "a" / file).read_bytes() for file in FILES}
        pool._store.rewrite("a", files | {path.name: files[path.name] + b"\n"})
    pool.add_embedding("a", embedding_of(tiny("a"), 3.0))
    assert path.read_bytes() == files[path.name] + b"\n"


def stored(pool: Pool, name: str, **files: bytes) -> None:
    """An expert whose files are as the manifest says, whatever they hold."""
    with pool._store.writing():
        found = {path.name: path.read_bytes() for path in (pool.path / "a").iterdir()}
        pool._store.rewrite(name, found | {file.replace("__", "."): held for file, held in files.items()})


def of_another_backbone(pool: Pool) -> None:
    other = Frozen(nn.Sequential(nn.Linear(4, 4)), name="other")
    pool.add(expert("x", lora(target_modules=["0"]), other))


def of_another_start(pool: Pool) -> None:
    pool.add(expert("x", lora(target_modules=["0"]), TINY, init_seed=7))


def of_other_shapes(pool: Pool) -> None:
    one = tiny("x")
    pool.add(Expert(one.card, one.config, {name: t[:, :3] for name, t in one.tensors.items()}))


def stale(pool: Pool) -> None:
    card = json.loads((pool.path / "a" / "expert.json").read_text())
    stored(
        pool,
        "x",
        embedding__safetensors=embedding_of(tiny("b")).to_bytes(),
        expert__json=json.dumps(card | {"name": "x"}).encode(),
    )


FAULTS: dict[str, tuple[Callable[[Pool], Any], str, str]] = {
    "altered weights": (
        lambda p: (p.path / "a" / FILES[0]).write_bytes(b"short"),
        "a: adapter_model.safetensors was altered or truncated",
        "a: moved to .quarantine/a-1, for adapter_model.safetensors was altered or truncated",
    ),
    "missing card": (
        lambda p: (p.path / "a" / FILES[2]).unlink(),
        "a: expert.json is missing",
        "a: moved to .quarantine/a-1, for expert.json is missing",
    ),
    "missing folder": (
        lambda p: shutil.rmtree(p.path / "a"),
        "a: embedding.safetensors is missing",
        "a: moved to .quarantine/a-1.json, for ",
    ),
    "damaged entry": (
        lambda p: (p.path / ".manifest" / "a.json").write_text("{"),
        "a: an expert's entry in the manifest names its files",
        "a: moved to .quarantine/a-1, for ",
    ),
    "lost entry": (
        lambda p: (p.path / ".manifest" / "a.json").unlink(),
        "a: not in the manifest",
        "a: moved to .quarantine/a-1",
    ),
    "card of another name": (
        lambda p: stored(p, "x"),
        "x: an expert's card has its name; given: 'a' for 'x'",
        "x: moved to .quarantine/x-1, for 'a' for 'x'",
    ),
    "altered embedding": (
        lambda p: (p.path / "a" / FILES[3]).write_bytes(b"short"),
        "a: embedding.safetensors was altered or truncated",
        "a: dropped the embedding, which was altered or truncated; run `pituning embed`",
    ),
    "missing embedding": (
        lambda p: (p.path / "a" / FILES[3]).unlink(),
        "a: embedding.safetensors is missing",
        "a: dropped the embedding, which is missing; run `pituning embed`",
    ),
    "stale embedding": (
        stale,
        "x: the embedding of 'x' must be of the expert as now",
        "x: dropped the embedding, which was of no use",
    ),
    "stray file of an expert": (
        lambda p: (p.path / "a" / "adapter_model.bin").write_bytes(b"pickle"),
        "a: adapter_model.bin is stray",
        "a: moved adapter_model.bin to .quarantine/adapter_model.bin-1",
    ),
    "stray file": (
        lambda p: (p.path / "notes.txt").write_text("mine"),
        "notes.txt: not in the manifest",
        "notes.txt: moved to .quarantine/notes.txt-1",
    ),
    "stray folder": (
        lambda p: shutil.copytree(p.path / "a", p.path / "c"),
        "c: not in the manifest",
        "c: moved to .quarantine/c-1",
    ),
    "stray entry": (
        lambda p: (p.path / ".manifest" / "notes.txt").write_text("mine"),
        ".manifest/notes.txt: no expert's entry",
        "notes.txt: moved to .quarantine/notes.txt-1",
    ),
    "link to another expert": (
        lambda p: (shutil.rmtree(p.path / "a"), (p.path / "a").symlink_to("b")),
        "a: is a link, which is never followed",
        "a: moved to .quarantine/a-1",
    ),
    "link for a file": (
        lambda p: (
            (p.path / "a" / FILES[2]).unlink(),
            (p.path / "a" / FILES[2]).symlink_to("../b/expert.json"),
        ),
        "a: expert.json is a link, which is never followed",
        "a: moved to .quarantine/a-1, for expert.json is a link",
    ),
    "killed writer": (
        lambda p: shutil.copytree(p.path / "a", p.path / ".scratch" / "c"),
        ".scratch: left by a killed writer",
        "finished or cleared what a killed writer left",
    ),
    "checkpoint of a run that has ended": (
        lambda p: ((p.path / ".work-a").mkdir(), os.utime(p.path / ".work-a", (0, 0))),
        ".work-a: left by a run that has ended",
        ".work-a: deleted, it belongs to a run that has ended",
    ),
    "copy of the manifest": (
        lambda p: (p.path / ".pool.json.bak").write_text("mine"),
        ".pool.json.bak: not in the manifest",
        ".pool.json.bak: moved to .quarantine/.pool.json.bak-1",
    ),
    "killed while it was created": (
        lambda p: (p.path / ".pool.json.new").write_text("{"),
        ".pool.json.new: not in the manifest",
        ".pool.json.new: deleted",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_verify_finds_it_and_repair_mends_it_and_loses_nothing(case: str, pool: Pool) -> None:
    pool.add(tiny("z"))
    break_it, fault, mended = FAULTS[case]
    break_it(pool)
    before = snapshot(pool.path)
    assert any(found.startswith(fault) for found in pool.verify()), pool.verify()
    done = pool.repair()
    assert [line for line in done if line.startswith(mended)], done
    assert (pool.verify(), pool.repair()) == ([], [])
    assert same_tensors(pool.get("b"), tiny("b"))
    derived = ("embedding.safetensors", ".work-a", ".scratch", ".pool.json.new", ".manifest", ".sketches")
    kept = list(snapshot(pool.path).values())
    lost = [name for name, held in before.items() if held not in kept]
    assert not [name for name in lost if not any(part in name for part in derived)]


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (of_another_backbone, r"x: was trained on another backbone \(.{12}\) than most"),
        (of_another_start, r"x: started from another initialisation \(.{12}\) than most"),
        (of_other_shapes, r"x: its shapes are not those of its initialisation"),
    ],
)
def test_expert_that_does_not_belong_is_found_and_left(
    make: Callable[[Pool], None], fault: str, pool: Pool
) -> None:
    make(pool)
    assert re.search(fault, "\n".join(pool.verify()))
    before = snapshot(pool.path)
    assert pool.repair() == []
    assert snapshot(pool.path) == before


def test_a_file_that_may_not_be_read_keeps_nobody_from_writing(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pool.path / "a", pool.path / ".scratch" / "a")  # of a killed writer

    def locked(folder: Path, entry: object) -> None:
        raise PoolError("files must be readable", str(folder), "")

    monkeypatch.setattr("pituning.store.read_folder", locked)
    pool.add(tiny("c"))
    monkeypatch.undo()
    assert same_tensors(pool.get("a"), tiny("a"))
    assert same_tensors(pool.get("c"), tiny("c"))


def forbidding(asking: Any, forbidden: Callable[[Path], bool]) -> Any:
    """This function of a path, as if permissions forbade it for some."""

    def asked(path: Any, *rest: Any, **options: Any) -> Any:
        if forbidden(Path(path)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return asking(path, *rest, **options)

    return asked


def lock(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """As if the files in this folder might not be read."""
    for holder in (Path, os):
        patch.setattr(holder, "open", forbidding(holder.open, lambda path: path.parent == folder))


def test_repair_loses_nothing_that_a_killed_writer_left_and_may_not_be_read(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = pool.path / ".scratch" / "a"
    left.parent.mkdir()
    (pool.path / "a").rename(left)
    shutil.copytree(left, left.with_name("old"))
    with monkeypatch.context() as patch:
        lock(patch, left)
        with pytest.raises(PoolError, match=r"files must be readable; given: .*\.scratch"):
            pool.repair()
        assert [*left.parent.iterdir()] == [left]
    assert pool.repair() == ["finished or cleared what a killed writer left"]
    assert same_tensors(pool.get("a"), tiny("a"))


def test_an_expert_is_read_whatever_a_killed_writer_left_of_it(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = pool.path / ".scratch" / "a"
    shutil.copytree(pool.path / "a", left)
    with monkeypatch.context() as patch:
        lock(patch, left)
        assert same_tensors(pool.get("a"), tiny("a"))
        lock(patch, pool.path / "a")
        with pytest.raises(PoolError, match="files must be readable"):
            pool.get("a")


def test_what_was_committed_is_kept_where_the_manifest_may_not_be_read(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = pool.path / ".scratch" / "a"
    left.parent.mkdir()
    (pool.path / "a").rename(left)
    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", forbidding(os.lstat, lambda path: path.parent.name == ".manifest"))
        for change in (pool.repair, lambda: pool.add(tiny("c"))):
            with pytest.raises(PoolError, match=r"files must be readable; given: .*\.manifest"):
                change()
    assert same_tensors(pool.get("a"), tiny("a"))


def test_a_rest_that_is_not_needed_is_cleared_without_a_look(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = pool.path / ".scratch" / "a"
    shutil.copytree(pool.path / "a", left)
    lock(monkeypatch, left)
    pool.add(tiny("c"))
    assert not left.exists()


def test_repair_moves_a_link_whose_end_may_not_be_read(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    file = pool.path / "a" / FILES[2]
    file.unlink()
    file.symlink_to("../b/expert.json")
    monkeypatch.setattr(Path, "open", forbidding(Path.open, lambda path: path == file))
    assert pool.repair()[0].startswith("a: moved to .quarantine/a-1, for expert.json is a link")


def test_checkpoints_of_a_run_that_goes_on_are_no_fault(pool: Pool) -> None:
    work = pool.path / ".work-a"
    work.mkdir()
    (work / "checkpoint.safetensors").write_bytes(b"")
    with FileLock(work / ".lock"):
        os.utime(work, (0, 0))  # as if its expert had been embedded anew meanwhile
        assert (pool.verify(), pool.repair()) == ([], [])
    assert (work / "checkpoint.safetensors").exists()
    os.utime(work, (0, 0))
    assert pool.repair() == [".work-a: deleted, it belongs to a run that has ended"]


def test_a_pool_that_cannot_be_written_is_verified(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    work = pool.path / ".work-a"
    work.mkdir()
    (work / ".lock").touch()
    os.utime(work, (0, 0))
    monkeypatch.setattr("pituning.store.FileLock", refused)
    assert pool.verify() == [".work-a: left by a run that has ended"]


def test_adapter_from_elsewhere_is_no_fault(pool: Pool, tmp_path: Path) -> None:
    folder = expert("x", lora(target_modules=["0"], r=3), TINY).save(tmp_path / "x")
    (folder / "expert.json").unlink()
    pool.add(Expert.load(folder))
    assert pool.verify() == []


def test_damaged_expert_can_be_removed_and_replaced(pool: Pool) -> None:
    for name in "ab":
        (pool.path / ".manifest" / f"{name}.json").write_text("{")
    pool.remove("a")
    pool.add(tiny("b"), replace=True)
    assert (list(pool), pool.verify()) == (["b"], [])


def test_reader_sees_the_old_or_the_new_expert_while_it_is_replaced(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One looks after every step of a writer."""
    seen = []
    versions = {scale: tiny("a", scale) for scale in (0.2, 0.5)}

    def followed(step: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any, **named: Any) -> Any:
            found = step(*given, **named)
            expert = Pool(pool.path).get("a")
            seen.append(next(scale for scale, one in versions.items() if same_tensors(expert, one)))
            return found

        return wrapped

    for owner, name in ((os, "replace"), (Path, "write_bytes"), (Path, "write_text"), (Path, "mkdir")):
        monkeypatch.setattr(owner, name, followed(getattr(owner, name)))
    pool.add(tiny("a", 0.5), replace=True)
    monkeypatch.undo()
    assert sorted(seen) == seen
    assert set(seen) == {0.2, 0.5}
    assert len(seen) > 8
