"""Laws of sharing: what is pulled is what was pushed, bit for bit, whoever was interrupted."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import call
from hub_stub import Hub
from pools import TINY, embedding_of, snapshot, tiny
from torch import nn

from pituning import Expert
from pituning.errors import PituningError, RemoteError
from pituning.pool import Pool
from pituning.remote import pull, push
from pituning.remote.url import UrlFolder

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def experts(pool: Pool) -> dict[str, bytes | str]:
    """Every file of every expert, and the manifest: all but what a pool derives from them."""
    return {path: held for path, held in snapshot(pool.path).items() if not path.startswith(".sketches")}


def test_what_is_pulled_is_what_was_pushed_bit_for_bit(place: str, pool: Pool, tmp_path: Path) -> None:
    sent = push(pool, place)
    assert (sent.experts, sent.skipped, sent.notes) == (["a", "b", "c"], [], [])
    got = pull(tmp_path / "copy", place)
    assert (got.experts, got.skipped, got.notes) == (["a", "b", "c"], [], [])
    copy = Pool(tmp_path / "copy")
    assert experts(copy) == experts(pool)
    assert copy.init_seed == 5
    assert copy.verify() == []
    assert copy.sketches().embedded() == pool.sketches().embedded()


def test_experts_that_another_peft_wrote_keep_their_bytes(place: str, pool: Pool, tmp_path: Path) -> None:
    files = pool.files("c")
    config = json.loads(files["adapter_config.json"]) | {"peft_version": "0.1"}
    files["adapter_config.json"] = json.dumps(config).encode()
    pool.admit("c", files, replace=True)
    push(pool, place)
    pull(tmp_path / "copy", place)
    assert Pool(tmp_path / "copy").files("c") == files


def test_pushed_and_pulled_again_nothing_moves(place: str, pool: Pool, tmp_path: Path) -> None:
    first = push(pool, place)
    again = push(pool, place)
    assert (again.experts, again.skipped, again.revision) == ([], ["a", "b", "c"], first.revision)
    pull(tmp_path / "copy", place)
    before = snapshot(tmp_path / "copy")
    again = pull(Pool(tmp_path / "copy"), place)
    assert (again.experts, again.skipped) == ([], ["a", "b", "c"])
    assert snapshot(tmp_path / "copy") == before


def test_an_empty_pool_is_pulled_into(place: str, pool: Pool, tmp_path: Path) -> None:
    push(pool, place)
    empty = Pool.create(tmp_path / "empty", init_seed=pool.init_seed)
    pull(empty, place)
    assert [*empty] == [*pool]


def test_named_experts_alone_are_moved(place: str, pool: Pool, tmp_path: Path) -> None:
    push(pool, place, ["a", "b"])
    push(pool, place, ["c"])
    assert pull(tmp_path / "copy", place, ["c", "a", "c"]).experts == ["a", "c"]
    assert list(Pool(tmp_path / "copy")) == ["a", "c"]


def test_replaced_only_when_asked_in_both_directions(place: str, pool: Pool, tmp_path: Path) -> None:
    push(pool, place)
    copy = tmp_path / "copy"
    pull(copy, place)
    pool.add(tiny("a", 0.5), replace=True)  # not embedded any more
    with pytest.raises(PituningError, match="not replaced unasked"):
        push(pool, place)
    assert pull(copy, place).skipped == ["a", "b", "c"]
    assert push(pool, place, replace=True).experts == ["a"]
    before = snapshot(copy)
    with pytest.raises(PituningError, match="not replaced unasked"):
        pull(copy, place)
    assert snapshot(copy) == before
    assert pull(copy, place, replace=True).experts == ["a"]
    assert experts(Pool(copy)) == experts(pool)
    assert Pool(copy).verify() == []


def test_pull_goes_on_after_it_was_stopped(
    place: str, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(pool, place)
    whole = Pool.admit

    def stop_at_b(self: Pool, name: str, *args: Any, **options: Any) -> None:
        if name == "b":
            raise KeyboardInterrupt
        whole(self, name, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Pool, "admit", stop_at_b)
        with pytest.raises(KeyboardInterrupt):
            pull(tmp_path / "copy", place)
    copy = Pool(tmp_path / "copy")
    assert (list(copy), copy.verify()) == (["a"], [])
    got = pull(copy, place)
    assert (got.experts, got.skipped) == (["b", "c"], ["a"])
    assert experts(copy) == experts(pool)


@pytest.mark.parametrize("place", ["file", "memory", "s3"], indirect=True)
def test_stopped_push_shows_whole_experts_alone(
    place: str, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after every number of files that it writes: readers see each expert whole or not at all."""
    written: list[str] = []
    whole = UrlFolder._write

    def stop(self: UrlFolder, path: str, content: bytes) -> None:
        if len(written) == stopped_at:
            raise KeyboardInterrupt
        written.append(path)
        whole(self, path, content)

    monkeypatch.setattr(UrlFolder, "_write", stop)
    for stopped_at in range(1, 13, 3):
        there = f"{place}/{stopped_at}"
        written.clear()
        with pytest.raises(KeyboardInterrupt):
            push(pool, there)
        complete = sorted(Path(path).stem for path in written if path.startswith(".manifest"))
        copy = tmp_path / f"copy-{stopped_at}"
        if complete:
            assert pull(copy, there).experts == complete
        else:
            with pytest.raises(PituningError, match="a pull needs an expert"):
                pull(copy, there)
    stopped_at = -1
    assert push(pool, there).skipped == complete
    assert pull(tmp_path / "end", there).experts == ["a", "b", "c"]


def test_stopped_replacement_is_never_a_mixture(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = (tmp_path / "shared").as_uri()
    push(pool, place)
    pool.add(tiny("a", 0.5), replace=True)
    whole = UrlFolder._write

    def stop(self: UrlFolder, path: str, content: bytes) -> None:
        whole(self, path, content)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(UrlFolder, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            push(pool, place, replace=True)
    assert pull(tmp_path / "copy", place).experts == ["b", "c"]
    assert push(pool, place, replace=True).experts == ["a"]
    assert pull(tmp_path / "copy", place).experts == ["a"]


def test_folder_that_was_pushed_to_is_a_pool(pool: Pool, tmp_path: Path) -> None:
    push(pool, (tmp_path / "shared").as_uri())
    assert experts(Pool(tmp_path / "shared")) == experts(pool)
    assert Pool(tmp_path / "shared").verify() == []


def test_another_init_seed_is_told(place: str, pool: Pool, tmp_path: Path) -> None:
    push(pool, place)
    other = Pool.create(tmp_path / "other", init_seed=9)
    other.add(tiny("d"))
    assert "init_seed 5" in pull(other, place).notes[0]
    assert other.init_seed == 9
    assert "init_seed 5, this one 9" in push(other, place, ["d"]).notes[0]
    assert pull(tmp_path / "copy", place, ["d"]).notes == []
    assert Pool(tmp_path / "copy").init_seed == 5


def test_old_commit_is_pulled_after_a_newer_push(hub: Hub, pool: Pool, tmp_path: Path) -> None:
    first = push(pool, "me/pool")
    old = experts(pool)
    pool.add(tiny("a", 0.5), embedding_of(tiny("a", 0.5)), replace=True)
    second = push(pool, "hf://me/pool", replace=True)
    assert first.revision != second.revision == hub.repository().head
    pinned = pull(tmp_path / "old", "me/pool", revision=first.revision)
    assert (pinned.revision, experts(Pool(tmp_path / "old"))) == (first.revision, old)
    newest = pull(tmp_path / "new", "me/pool")
    assert (newest.revision, experts(Pool(tmp_path / "new"))) == (second.revision, experts(pool))


def test_every_file_is_fetched_at_the_commit_that_was_found_first(
    hub: Hub, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone pushes while we pull: what we get is still of one commit."""
    sent = push(pool, "me/pool")
    whole = Pool.admit

    def meanwhile(self: Pool, *args: Any, **options: Any) -> None:
        hub.tamper("c/expert.json", b"{}")
        whole(self, *args, **options)

    monkeypatch.setattr(Pool, "admit", meanwhile)
    hub.requests.clear()
    assert pull(tmp_path / "copy", "me/pool").revision == sent.revision
    assert experts(Pool(tmp_path / "copy")) == experts(pool)
    fetched = [request for request in hub.requests if "/resolve/" in request]
    assert fetched
    assert all(f"/resolve/{sent.revision}/" in request for request in fetched)


def test_a_push_to_the_hub_is_one_commit(hub: Hub, pool: Pool) -> None:
    sent = push(pool, "me/pool")
    assert list(hub.repository().commits) == ["0" * 40, sent.revision]
    assert sum("/commit/" in request for request in hub.requests) == 1


def test_push_to_the_hub_gives_way_to_another(hub: Hub, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Pool.files

    def meanwhile(self: Pool, name: str) -> dict[str, bytes]:
        hub.tamper("note.json", name.encode())
        return whole(self, name)

    monkeypatch.setattr(Pool, "files", meanwhile)
    with pytest.raises(RemoteError, match="no one else may write"):
        push(pool, "me/pool")
    assert "pool.json" not in hub.repository().commits[hub.repository().head]


def test_peft_loads_a_pushed_expert_from_the_hub(hub: Hub, pool: Pool) -> None:
    from peft import PeftModel

    push(pool, "me/pool")
    model = PeftModel.from_pretrained(TINY.fresh_module([]), "me/pool", subfolder="a")
    loaded = dict(model.named_parameters())
    for name, tensor in pool.get("a").tensors.items():
        assert loaded[name.replace(".weight", ".default.weight")].equal(tensor)
    assert isinstance(model, nn.Module)


def test_card_shows_experts_scores_and_neighbours(hub: Hub, pool: Pool, tmp_path: Path) -> None:
    from dataclasses import replace

    for number, name in enumerate("ab"):
        one = tiny(name)
        card = replace(
            one.card, task=name, backbone_name="org/model", scores={"validation": 0.5 + number / 4}
        )
        one = Expert(card, one.config, one.tensors)
        alone = replace(embedding_of(one, number + 1.0), source=name)
        pool.add(one, alone, replace=True)
    push(pool, "me/pool", ["a", "b"])
    readme = hub.repository().commits[hub.repository().head]["README.md"].decode()
    front = yaml.safe_load(readme.split("---\n")[1])
    assert front["library_name"] == "peft"
    assert front["base_model"] == "org/model"
    assert {"pituning", "lora"} <= {*front["tags"]}
    assert "| a | a | LORA | validation 0.5000 | b " in readme
    assert "| b | b | LORA | validation 0.7500 | a " in readme
    assert 'PeftModel.from_pretrained(backbone, "me/pool", subfolder="a")' in readme
    assert "pituning pool pull pool --from me/pool" in readme
    other = Pool.create(tmp_path / "other", init_seed=5)
    other.add(tiny("z"))
    push(other, "me/pool")
    readme = hub.repository().commits[hub.repository().head]["README.md"].decode()
    assert "| a | a | LORA | validation 0.5000 | b " in readme, "experts of earlier pushes stay in it"
    assert "| z | " in readme


def test_readme_of_someone_else_is_left_alone(hub: Hub, pool: Pool) -> None:
    hub.tamper("README.md", b"mine")
    sent = push(pool, "me/pool")
    assert "README.md was left alone" in sent.notes[0]
    assert hub.repository().commits[sent.revision]["README.md"] == b"mine"


def test_only_files_of_experts_are_pushed(place: str, pool: Pool, hub: Hub) -> None:
    (pool.path / "a" / "notes.pkl").write_bytes(b"secret")
    with pytest.raises(PituningError, match=r"notes\.pkl is stray"):
        push(pool, "me/pool")
    (pool.path / "a" / "notes.pkl").unlink()
    (pool.path / "secret.json").write_text("{}")
    push(pool, "me/pool")
    paths = hub.repository().commits[hub.repository().head]
    assert {Path(path).suffix for path in paths if "/" in path} == {".json", ".safetensors"}
    assert {path for path in paths if "/" not in path} == {".gitattributes", "README.md", "pool.json"}


def test_command_pushes_and_pulls(place: str, pool: Pool, tmp_path: Path) -> None:
    said = call("pool", "push", pool.path, "--to", place, "--json")
    assert said.code == 0, said
    assert said.document["pushed"] == ["a", "b", "c"]
    copy = tmp_path / "copy"
    told = call("pool", "pull", copy, "--from", place, "a")
    assert told.code == 0, told
    assert told.out.startswith("pulled 1 experts from ")
    revision = said.document["revision"]
    assert (f"at commit {revision}" in told.out) == bool(revision)
    pinned = ("--revision", revision) if revision else ()
    said = call("pool", "pull", copy, "--from", place, "--json", *pinned)
    assert said.document | {"from": "", "pool": ""} == {
        "from": "",
        "pool": "",
        "revision": revision,
        "pulled": ["b", "c"],
        "skipped": ["a"],
        "notes": [],
    }
    assert experts(Pool(copy)) == experts(pool)


def test_hashes_are_those_of_the_files(hub: Hub, pool: Pool) -> None:
    push(pool, "me/pool")
    files = hub.repository().commits[hub.repository().head]
    for name in pool:
        entry = json.loads(files[f".manifest/{name}.json"])["files"]
        assert entry == {file: hashlib.sha256(files[f"{name}/{file}"]).hexdigest() for file in entry}
