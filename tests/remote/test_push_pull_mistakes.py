"""What is wrong at a place, or on the way to it: refused with a reason, exit code 2, the pool as it was."""

from __future__ import annotations

import hashlib
import importlib
import json
import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fsspec
import pytest
from command import call, refuse
from hub_stub import Hub
from pools import snapshot, tiny

from pituning.pool import Pool
from pituning.remote import layout, push

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

WEIGHTS, CARD = "adapter_model.safetensors", "expert.json"
CLOSED = "http://127.0.0.1:9"

Tamper = Callable[[str, bytes | None], None]


@pytest.fixture
def tamper(place: str, request: pytest.FixtureRequest) -> Tamper:
    """Replaces a file at the place, or deletes it."""
    if place == "me/pool":
        hub: Hub = request.getfixturevalue("hub")
        return hub.tamper

    def change(path: str, content: bytes | None) -> None:
        files, root = fsspec.core.url_to_fs(f"{place}/{path}", skip_instance_cache=True)
        if content is None:
            files.rm_file(root)
        else:
            files.pipe_file(root, content)

    return change


@pytest.fixture
def mine(tmp_path: Path) -> Pool:
    """What is pulled into: it holds another `b` already, whose name is never asked for."""
    pool = Pool.create(tmp_path / "mine", init_seed=5)
    pool.add(tiny("b", 0.7))
    return pool


def entry_of(files: Mapping[str, bytes]) -> bytes:
    return json.dumps({"files": {n: hashlib.sha256(c).hexdigest() for n, c in files.items()}}).encode()


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def test_an_altered_file_is_mended_by_pushing_its_expert_again(
    place: str, tamper: Tamper, pool: Pool, mine: Pool
) -> None:
    push(pool, place)
    tamper(f"a/{WEIGHTS}", b"x" * 280)
    assert push(pool, place, replace=True).experts == []  # its entry is right
    refuse(call("pool", "pull", mine.path, "--from", place, "a"), "Push it again by its name with --replace")
    assert push(pool, place, ["a"], replace=True).experts == ["a"]
    assert call("pool", "pull", mine.path, "--from", place, "a").code == 0
    assert mine.files("a") == pool.files("a")


def test_altered_file_is_refused_and_the_pool_stays(
    place: str, tamper: Tamper, pool: Pool, mine: Pool
) -> None:
    push(pool, place)
    files = pool.files("a")
    before = snapshot(mine.path)
    for file, content in files.items():
        for wrong, reason in (
            (flipped(content), "was altered or truncated"),
            (content[:-1], "was altered or truncated"),
            (None, "is missing"),
        ):
            tamper(f"a/{file}", wrong)
            outcome = call("pool", "pull", mine.path, "--from", place, "a")
            refuse(outcome, "expert 'a' at", f"{file} {reason}", "Nothing of 'a' was stored")
            assert snapshot(mine.path) == before
            if place != "me/pool":
                break  # one fault for each file is enough at places where each costs a second
        tamper(f"a/{file}", content)
    assert call("pool", "pull", mine.path, "--from", place, "a", "c").code == 0
    assert mine.files("a") == files
    assert mine.verify() == []


def test_pull_into_no_pool_leaves_none_when_refused(hub: Hub, pool: Pool, tmp_path: Path) -> None:
    push(pool, "me/pool")
    hub.tamper(f"a/{WEIGHTS}", b"x" * 280)
    refuse(call("pool", "pull", tmp_path / "new", "--from", "me/pool"), "was altered")
    assert not (tmp_path / "new").exists()


SHA = "0" * 64
GOOD = dict.fromkeys(("adapter_config.json", WEIGHTS, CARD), SHA)
ENTRIES: dict[str, Any] = {
    "climbs": {"files": GOOD | {"../../evil.json": SHA}},
    "absolute": {"files": GOOD | {"/tmp/evil.json": SHA}},
    "hidden": {"files": GOOD | {".evil.json": SHA}},
    "pickle": {"files": GOOD | {"adapter_model.bin": SHA}},
    "other type": {"files": GOOD | {"tokenizer.json": SHA}},
    "no weights": {"files": {CARD: SHA}},
    "no file": {"files": {}},
    "no hash": {"files": GOOD | {CARD: "0"}},
    "no mapping": {"files": ["expert.json"]},
    "no object": [],
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_entry_that_is_not_one_is_refused(kind: str, hub: Hub, pool: Pool, mine: Pool) -> None:
    push(pool, "me/pool")
    hub.tamper(".manifest/a.json", json.dumps(ENTRIES[kind]).encode())
    before = snapshot(mine.path)
    hub.requests.clear()
    refuse(call("pool", "pull", mine.path, "--from", "me/pool", "a"), ".manifest/a.json at hf://me/pool")
    assert snapshot(mine.path) == before
    assert not any("evil" in request or "/a/" in request for request in hub.requests)


@pytest.mark.parametrize("name", ["../evil", "x/../../evil", ".hidden", "a b", "é"])
def test_names_that_could_be_paths_are_refused(name: str, hub: Hub, pool: Pool, mine: Pool) -> None:
    push(pool, "me/pool")
    hub.tamper(f".manifest/{name}.json", entry_of(pool.files("a")))
    before = snapshot(mine.path.parent)
    refuse(call("pool", "pull", mine.path, "--from", "me/pool", "--replace"), "an expert's name is")
    refuse(call("pool", "pull", mine.path, "--from", "me/pool", name), "an expert's name is")
    unchanged = {path: held for path, held in snapshot(mine.path.parent).items() if "cache" not in path}
    assert unchanged == {path: held for path, held in before.items() if "cache" not in path}


def test_files_that_the_manifest_does_not_name_are_not_fetched(hub: Hub, pool: Pool, mine: Pool) -> None:
    push(pool, "me/pool")
    for path in (
        "a/adapter_model.bin",
        "a/run.py",
        "setup.py",
        "a/more.safetensors",
        "z/adapter_config.json",
    ):
        hub.tamper(path, b"evil")
    hub.tamper("README.md", None)
    hub.requests.clear()
    assert call("pool", "pull", mine.path, "--from", "me/pool", "a").code == 0
    assert mine.files("a") == pool.files("a")
    fetched = {request.split("/", 5)[5] for request in hub.requests if "/resolve/" in request}
    assert fetched == {"pool.json", ".manifest/a.json", *(f"a/{file}" for file in pool.files("a"))}


def test_good_hashes_do_not_make_a_good_expert(hub: Hub, pool: Pool, mine: Pool) -> None:
    """Whoever can write there can make the entry agree: the files are still read as a stranger's."""
    push(pool, "me/pool")
    files, before = pool.files("a"), snapshot(mine.path)
    huge = (1 << 40).to_bytes(8, "little") + files[WEIGHTS][8:]
    card = json.loads(files[CARD])
    for spoilt, reason in (
        ({WEIGHTS: pickle.dumps({"weights": 1})}, "must be a whole safetensors file"),
        ({WEIGHTS: huge}, "must be a whole safetensors file"),
        ({CARD: json.dumps(card | {"name": "b"}).encode()}, "an expert's card has its name"),
        ({CARD: json.dumps(card | {"evil": "x"}).encode()}, "must hold an expert's card"),
        ({"adapter_config.json": b'{"peft_type": "EVIL"}'}, "configuration of the installed PEFT"),
        ({"embedding.safetensors": pool.files("b")["embedding.safetensors"]}, "must be of the expert as now"),
    ):
        wrong = files | spoilt
        for file, content in wrong.items():
            hub.tamper(f"a/{file}", content)
        hub.tamper(".manifest/a.json", entry_of(wrong))
        refuse(call("pool", "pull", mine.path, "--from", "me/pool", "a"), reason)
        assert snapshot(mine.path) == before


@pytest.mark.parametrize("place", ["hub", "file"], indirect=True)
def test_sizes_are_looked_at_before_files_are_read(
    place: str, tamper: Tamper, pool: Pool, mine: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(pool, place)
    tamper(f"a/{CARD}", b"")
    refuse(call("pool", "pull", mine.path, "--from", place, "a"), f"{CARD} has 0 bytes")
    monkeypatch.setattr(layout, "MOST_TENSOR_BYTES", 100)
    tamper(f"a/{CARD}", pool.files("a")[CARD])
    size = len(pool.files("a")[WEIGHTS])
    refuse(call("pool", "pull", mine.path, "--from", place, "a"), f"has {size} bytes, not 1 to 100")


@pytest.mark.parametrize("place", ["hub", "file"], indirect=True)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"format": 3, "init_seed": 0}', "reads pools up to format 2"),
        (b'{"format": 1, "init_seed": 0, "experts": {}}', "a pool is shared in format 2"),
        (b"[]", "must be the manifest of a pool"),
        (b"", "must be whole"),
        (None, "a pool that was pushed has pool.json"),
    ],
)
def test_manifest_of_another_kind_is_refused(
    content: bytes | None, reason: str, place: str, tamper: Tamper, pool: Pool, mine: Pool
) -> None:
    push(pool, place)
    tamper("pool.json", content)
    refuse(call("pool", "pull", mine.path, "--from", place), reason)


def test_unknown_experts_are_refused_with_the_nearest_name(place: str, pool: Pool, mine: Pool) -> None:
    push(pool, place, ["a"])
    before = snapshot(mine.path)
    refuse(call("pool", "pull", mine.path, "--from", place, "aa"), "aa", "Did you mean 'a'?", "It holds: a.")
    assert snapshot(mine.path) == before
    refuse(call("pool", "push", pool.path, "--to", place, "aa"), "aa", "Did you mean 'a'?")


def test_names_that_differ_by_case_are_refused(place: str, pool: Pool, mine: Pool) -> None:
    push(pool, place, ["a"])
    mine.add(tiny("A"))
    refuse(call("pool", "push", mine.path, "--to", place, "A"), "'A', and 'a' at")
    refuse(call("pool", "pull", mine.path, "--from", place, "a"), "differ by more than case")


def test_damaged_expert_is_not_pushed(hub: Hub, pool: Pool) -> None:
    (pool.path / "a" / CARD).write_text("{}")
    refuse(call("pool", "push", pool.path, "--to", "me/pool"), "expert 'a' must be as it was added")
    assert "pool.json" not in hub.repository().commits[hub.repository().head]


def test_damaged_entry_at_the_place_is_replaced_only_when_asked(hub: Hub, pool: Pool, tmp_path: Path) -> None:
    push(pool, "me/pool")
    hub.tamper(".manifest/a.json", b"{")
    refuse(call("pool", "push", pool.path, "--to", "me/pool"), "with --replace")
    assert call("pool", "push", pool.path, "--to", "me/pool", "--replace").code == 0
    assert call("pool", "pull", tmp_path / "copy", "--from", "me/pool").code == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["push"], "`pool push` takes --to"),
        (["pull", "--to", "me/pool"], "`pool pull` takes --from"),
        (["pull", "--from", "me/pool", "--to", "me/pool"], "`pool pull` takes --from; given: --to"),
        (["push", "--to", "me"], "hf://USER/NAME or at a URL"),
        (["push", "--to", "/tmp/folder"], "hf://USER/NAME or at a URL"),
        (["pull", "--from", "hf://me/pool/more"], "hf://USER/NAME or at a URL"),
        (["pull", "--from", "memory://x", "--revision", "main"], "revisions are of Hub repositories"),
        (["push", "--to", "me/pool", "--revision", "x"], "`pool push` takes its own options"),
        (["push", "--to", "s3://"], "a URL must name a bucket or a folder"),
        (["push", "--to", "s3:///pool"], "a URL must name a bucket or a folder"),
        (["push", "--to", "file:///"], "a URL must name a bucket or a folder"),
        (["pull", "--from", "memory://"], "a URL must name a bucket or a folder"),
        (["pull", "--from", "nothing://x"], "must be a URL that fsspec reaches"),
        (["pull", "--from", "memory://empty"], "a pool that was pushed has pool.json"),
        (["pull", "--from", "me/pool", "../a"], "an expert's name is"),
    ],
)
def test_mistaken_arguments_are_refused(arguments: list[str], reason: str, pool: Pool) -> None:
    before = snapshot(pool.path)
    refuse(call("pool", arguments[0], pool.path, *arguments[1:]), reason)
    assert snapshot(pool.path) == before


def test_empty_pool_is_not_pushed(hub: Hub, tmp_path: Path) -> None:
    Pool.create(tmp_path / "empty")
    refuse(call("pool", "push", tmp_path / "empty", "--to", "me/pool"), "a push needs an expert")
    assert not hub.requests


@pytest.mark.parametrize(
    ("package", "where", "fix"),
    [
        ("huggingface_hub", "me/pool", "pip install 'pituning[hub]'"),
        ("fsspec.core", "s3://bucket/pool", "pip install 'pituning[remote]'"),
        ("s3fs", "s3://bucket/pool", "pip install 'pituning[remote]'"),
    ],
)
def test_missing_extra_is_named(
    package: str, where: str, fix: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    known = importlib.import_module("fsspec.registry")  # its name is that of a mapping, too
    monkeypatch.delitem(known._registry, "s3", raising=False)
    refuse(call("pool", "pull", pool.path, "--from", where), fix)
    refuse(call("pool", "push", pool.path, "--to", where), fix)


def test_missing_repository_and_revision_are_named(hub: Hub, pool: Pool, mine: Pool) -> None:
    refuse(
        call("pool", "pull", mine.path, "--from", "me/pool"), "hf://me/pool must be there", "hf auth login"
    )
    push(pool, "me/pool")
    asked = ("pool", "pull", mine.path, "--from", "me/pool", "--revision", "f" * 40)
    refuse(call(*asked), "hf://me/pool must have the revision", "f" * 40)


def test_missing_credentials_are_named(hub: Hub, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    push(pool, "me/pool")
    hub.gated.add("me/pool")
    monkeypatch.delenv("HF_TOKEN")
    refuse(call("pool", "push", pool.path, "--to", "me/other"), "hf://me/other", "hf auth login")
    assert "me/other" not in hub.repositories
    refuse(call("pool", "pull", pool.path, "--from", "me/pool"), "hf://me/pool must be open to you")


def test_unreachable_hub_is_named(hub: Hub, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", CLOSED)
    for arguments in (("push", pool.path, "--to"), ("pull", pool.path, "--from")):
        refuse(call("pool", *arguments, "me/pool"), "hf://me/pool must be reached", "HF_ENDPOINT")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refuse(call("pool", "pull", pool.path, "--from", "me/pool"), "HF_HUB_OFFLINE is set")


def test_bucket_that_cannot_be_used_is_named(
    bucket: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    refuse(call("pool", "push", pool.path, "--to", "s3://no-such-bucket/pool"), "s3://no-such-bucket/pool")
    refuse(call("pool", "pull", pool.path, "--from", "s3://no-such-bucket/pool"), "none at s3://no-such")
    with monkeypatch.context() as patched:
        patched.delenv("AWS_ACCESS_KEY_ID")
        patched.delenv("AWS_SECRET_ACCESS_KEY")
        refuse(
            call("pool", "pull", pool.path, "--from", f"{bucket}/pool"), "credentials", "AWS_ACCESS_KEY_ID"
        )
    monkeypatch.setenv("AWS_ENDPOINT_URL", CLOSED)
    refuse(call("pool", "pull", pool.path, "--from", f"{bucket}/pool"), "must be a URL that fsspec reaches")
