"""Files of strangers: a bad one is refused with its reason, nothing in it is run, the pool stays as it is."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pools import FILES, TINY, embedding_of, snapshot, tiny
from safetensors.torch import save_file

from pituning.errors import PituningError
from pituning.expert import Expert, attach_expert
from pituning.pool import Pool
from pituning.predict import TaskEmbedding

WEIGHTS, CONFIG, CARD, EMBEDDING = FILES
Bad = Callable[[Path], Any]


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """Two experts; `victim.txt` beside it is what a bad file may want to reach."""
    pool = Pool.create(tmp_path / "pool")
    for name in ("a", "b"):
        pool.add(tiny(name), embedding_of(tiny(name)))
    (tmp_path / "victim.txt").write_text("mine")
    return pool


@pytest.fixture
def offered(tmp_path: Path) -> Path:
    """A good expert, for a test to spoil."""
    return tiny("offered").save(tmp_path / "offered")


class Trap:
    """A pickle that leaves a trace where it is read."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("trapped",)


def refuse(error: PituningError, reason: str) -> None:
    assert reason in str(error)
    assert all((error.must, error.given, error.fix)), "what must hold, what was given, what to do"


def packed(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file of this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def weights(content: bytes) -> Bad:
    return lambda folder: (folder / WEIGHTS).write_bytes(content)


def header(entries: Any, data: bytes = b"\0" * 8) -> Bad:
    return weights(packed(entries, data))


def values(value: float, dtype: torch.dtype) -> Bad:
    """One value among good ones."""

    def spoil(folder: Path) -> None:
        one = Expert.load(folder)
        tensors = {name: held.to(dtype) for name, held in one.tensors.items()}
        next(iter(tensors.values())).view(-1)[-1] = value
        save_file(tensors, folder / WEIGHTS)

    return spoil


def raw(file: str, content: bytes) -> Bad:
    return lambda folder: (folder / file).write_bytes(content)


def said(file: str, **changes: Any) -> Bad:
    """The JSON file with other values."""

    def spoil(folder: Path) -> None:
        found = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(found | changes))

    return spoil


def twice(file: str, key: str) -> Bad:
    def spoil(folder: Path) -> None:
        content = (folder / file).read_text().strip()
        (folder / file).write_text(f'{content[:-1]}, "{key}": "x"}}')

    return spoil


def without(file: str, key: str) -> Bad:
    def spoil(folder: Path) -> None:
        found = json.loads((folder / file).read_text())
        del found[key]
        (folder / file).write_text(json.dumps(found))

    return spoil


def instead(file: str, put: Callable[[Path], Any]) -> Bad:
    """Something that is no file under the file's name."""

    def spoil(folder: Path) -> None:
        (folder / file).unlink()
        put(folder / file)

    return spoil


def sparse(file: str, size: int, start: bytes = b"") -> Bad:
    """A file that says it is huge and takes no room on the disk."""

    def spoil(folder: Path) -> None:
        (folder / file).write_bytes(start)
        os.truncate(folder / file, size)

    return spoil


def pickled(name: str) -> Bad:
    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(pickle.dumps(Trap()))

    return spoil


def zipped(folder: Path) -> None:
    torch.save({"x": Trap()}, folder / WEIGHTS)


WHOLE, OUR_PEFT, ITS_CARD = "must be a whole", "configuration of the installed PEFT", "an expert's card"
HUGE = 1 << 40

ADAPTERS: dict[str, tuple[Bad, str]] = {
    "pickle as .bin": (pickled("adapter_model.bin"), "adapter_model.bin, a pickle"),
    "pickle as .pt": (pickled("weights.pt"), "weights.pt, a pickle"),
    "pickle as .pkl": (pickled("weights.pkl"), "weights.pkl, a pickle"),
    "pickle under our name": (pickled(WEIGHTS), WHOLE),
    "pickle in a zip under our name": (zipped, WHOLE),
    "pickle for a configuration": (raw(CONFIG, pickle.dumps(Trap())), "not UTF-8"),
    "pickle for a card": (raw(CARD, pickle.dumps(Trap())), "not UTF-8"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no such file"),
    "weights: empty": (weights(b""), "no room for the header"),
    "weights: seven bytes": (weights(b"\1" * 7), "no room for the header"),
    "weights: header longer than the file": (weights(struct.pack("<Q", 100) + b"{}"), "no room"),
    "weights: header of 2^63 bytes": (weights(struct.pack("<Q", 1 << 63) + b"{}"), "no room"),
    "weights: header of no byte": (weights(struct.pack("<Q", 0)), WHOLE),
    "weights: header is no JSON": (header(b"{'a': 1}"), WHOLE),
    "weights: header is a list": (header([1]), "no JSON object"),
    "weights: header is not UTF-8": (header(b'{"\xff": 1}'), "not UTF-8"),
    "weights: header nested deeply": (header(b"[" * 100_000), "nested too deeply"),
    "weights: a name twice": (header(b'{"a": 1, "a": 2}'), "the key 'a' stands twice"),
    "weights: a field twice": (header(b'{"a": {"dtype": "F32", "dtype": "F64"}}'), "'dtype' stands twice"),
    "weights: control character in a name": (header({"a\x1b[2J": tensor()}), "it holds the character"),
    "weights: entry is no object": (header({"a": 3}), "dtype, shape and data_offsets alone"),
    "weights: entry without a shape": (
        header({"a": {"dtype": "F32"}}),
        "dtype, shape and data_offsets alone",
    ),
    "weights: entry with more": (header({"a": tensor(code="x")}), "dtype, shape and data_offsets alone"),
    "weights: metadata that are no texts": (header({"__metadata__": {"a": [1]}}), "metadata"),
    "weights: huge shape": (header({"a": tensor(shape=[HUGE])}), "does not have 8 bytes"),
    "weights: huge shape, huge offsets": (
        header({"a": tensor(shape=[HUGE], offsets=[0, 4 * HUGE])}),
        "declare 4398046511104 bytes, and 8 are there",
    ),
    "weights: shape that overflows": (
        header({"a": tensor(shape=[1 << 62, 4], offsets=[0, 0])}),
        "does not have 0 bytes",
    ),
    "weights: shape beyond 64 bits": (header({"a": tensor(shape=[1 << 64])}), "natural numbers"),
    "weights: negative shape": (header({"a": tensor(shape=[-2])}), "natural numbers"),
    "weights: fractional shape": (header({"a": tensor(shape=[2.0])}), "natural numbers"),
    "weights: shape of booleans": (header({"a": tensor(shape=[True, 2])}), "natural numbers"),
    "weights: shape is a text": (header({"a": tensor(shape="22")}), "natural numbers"),
    "weights: too many dimensions": (header({"a": tensor(shape=[1] * 99 + [2])}), "100 dimensions"),
    "weights: other shape than bytes": (header({"a": tensor(shape=[3])}), "does not have 8 bytes"),
    "weights: three offsets": (header({"a": tensor(offsets=[0, 4, 8])}), "3 offsets"),
    "weights: offsets backwards": (header({"a": tensor(offsets=[8, 0])}), "does not have -8 bytes"),
    "weights: tensors overlap": (header({"a": tensor(), "b": tensor()}), "overlap"),
    "weights: a gap": (header({"a": tensor(offsets=[4, 12])}, b"\0" * 12), "leave a gap at byte 0"),
    "weights: bytes left over": (header({"a": tensor()}, b"\0" * 9), "declare 8 bytes, and 9 are there"),
    "weights: integers": (header({"a": tensor("I32")}), "of type 'I32'"),
    "weights: bytes": (header({"a": tensor("U8", [8])}), "of type 'U8'"),
    "weights: booleans": (header({"a": tensor("BOOL", [8])}), "of type 'BOOL'"),
    "weights: complex": (header({"a": tensor("C64", [1])}), "of type 'C64'"),
    "weights: floats of 8 bits": (header({"a": tensor("F8_E4M3", [8])}), "of type 'F8_E4M3'"),
    "weights: unknown type": (header({"a": tensor("F31")}), "of type 'F31'"),
    "weights: type is a list": (header({"a": tensor(["F32"])}), "of type ['F32']"),  # type: ignore[arg-type]
    "weights: no tensor": (header({"__metadata__": {"format": "pt"}}, b""), "an expert has tensors"),
    "weights: NaN": (values(math.nan, torch.float32), "values are finite"),
    "weights: NaN in float16": (values(math.nan, torch.float16), "values are finite"),
    "weights: infinity": (values(math.inf, torch.float64), "values are finite"),
    "weights: minus infinity in bfloat16": (values(-math.inf, torch.bfloat16), "values are finite"),
    "weights: a terabyte that is not there": (sparse(WEIGHTS, HUGE), "more than 17179869184"),
    "weights: header of 90 MB": (sparse(WEIGHTS, 1 << 30, struct.pack("<Q", 90 << 20)), "no room"),
    "weights: a folder": (instead(WEIGHTS, Path.mkdir), "no such file"),
    "weights: a pipe": (instead(WEIGHTS, os.mkfifo), "no such file"),
    "weights: a device": (instead(WEIGHTS, lambda path: path.symlink_to("/dev/zero")), "no such file"),
    "weights: a link to nothing": (instead(WEIGHTS, lambda path: path.symlink_to("none")), "no such file"),
    "configuration: none": (lambda folder: (folder / CONFIG).unlink(), "holds adapter_config.json"),
    "configuration: empty": (raw(CONFIG, b""), OUR_PEFT),
    "configuration: not UTF-8": (raw(CONFIG, b'{"peft_type": "LORA\xff"}'), "not UTF-8 at byte 19"),
    "configuration: UTF-16": (raw(CONFIG, '{"peft_type": "LORA"}'.encode("utf-16")), "not UTF-8"),
    "configuration: UTF-8 with a byte order mark": (raw(CONFIG, b"\xef\xbb\xbf{}"), OUR_PEFT),
    "configuration: a list": (raw(CONFIG, b"[]"), OUR_PEFT),
    "configuration: a key twice": (twice(CONFIG, "peft_type"), "'peft_type' stands twice"),
    "configuration: NaN": (said(CONFIG, lora_alpha=math.nan), "NaN is no finite number"),
    "configuration: infinity": (said(CONFIG, lora_alpha=-math.inf), "-Infinity is no finite number"),
    "configuration: beyond floats": (raw(CONFIG, b'{"lora_alpha": 1e999}'), "1e999 is no finite number"),
    "configuration: beyond integers": (raw(CONFIG, b'{"r": ' + b"9" * 5000 + b"}"), OUR_PEFT),
    "configuration: nested deeply": (raw(CONFIG, b'{"a":' * 100_000), "nested too deeply"),
    "configuration: 1 GB": (sparse(CONFIG, 1 << 30), "more than 16777216"),
    "configuration: no method": (without(CONFIG, "peft_type"), OUR_PEFT),
    "configuration: unknown method": (said(CONFIG, peft_type="NEWEST"), OUR_PEFT),
    "configuration: method is a list": (said(CONFIG, peft_type=["LORA"]), OUR_PEFT),
    "configuration: unknown option": (said(CONFIG, on_load="import os"), "unknown options on_load"),
    "configuration: control character": (said(CONFIG, bias="\0"), "it holds the character"),
    "configuration: lone surrogate": (said(CONFIG, bias="\ud800"), "it holds the character"),
    "configuration: huge rank": (said(CONFIG, r=10**9), "r 1000000000, and no tensor is longer than 64"),
    "configuration: huge rank of a layer": (said(CONFIG, rank_pattern={"0": 10**9}), "rank_pattern 0 10000"),
    "configuration: huge prompt": (
        raw(CONFIG, b'{"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 1000000000}'),
        "num_virtual_tokens 1000000000",
    ),
    "configuration: imports a module": (
        said(CONFIG, megatron_config={"a": 1}, megatron_core="trap"),
        "import modules or read other files",
    ),
    "configuration: reads a pickle": (
        raw(
            CONFIG,
            b'{"peft_type": "MULTITASK_PROMPT_TUNING", "num_virtual_tokens": 1, '
            b'"prompt_tuning_init_state_dict_path": "trap.bin"}',
        ),
        "import modules or read other files",
    ),
    "configuration: runs a tokenizer's code": (
        raw(
            CONFIG,
            b'{"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 1, "prompt_tuning_init": "TEXT", '
            b'"prompt_tuning_init_text": "x", "tokenizer_name_or_path": "trap", '
            b'"tokenizer_kwargs": {"trust_remote_code": true}}',
        ),
        "import modules or read other files",
    ),
    "configuration: a folder": (instead(CONFIG, Path.mkdir), "must be a whole JSON file"),
    "configuration: a pipe": (instead(CONFIG, os.mkfifo), "no regular file"),
    "configuration: a device": (
        instead(CONFIG, lambda path: path.symlink_to("/dev/zero")),
        "no regular file",
    ),
    "card: empty": (raw(CARD, b""), ITS_CARD),
    "card: a list": (raw(CARD, b"[]"), ITS_CARD),
    "card: not UTF-8": (raw(CARD, b'{"name": "\xe9"}'), "not UTF-8"),
    "card: a key twice": (twice(CARD, "name"), "'name' stands twice"),
    "card: no name": (without(CARD, "name"), ITS_CARD),
    "card: unknown field": (said(CARD, code="x"), ITS_CARD),
    "card: name is a number": (said(CARD, name=3), "name of another type"),
    "card: task is nothing": (said(CARD, task=None), "task of another type"),
    "card: labels are a text": (said(CARD, labels="yes"), "labels of another type"),
    "card: labels are numbers": (said(CARD, labels=[1]), "labels of another type"),
    "card: scores are texts": (said(CARD, scores={"test": "1"}), "scores of another type"),
    "card: score is NaN": (said(CARD, scores={"test": math.nan}), "NaN is no finite number"),
    "card: history of numbers": (said(CARD, history=[1]), "history of another type"),
    "card: rewrites the terminal": (said(CARD, task="\x1b]0;x\x07"), "it holds the character"),
    "card: 1 GB": (sparse(CARD, 1 << 30), "more than 16777216"),
    "card: a pipe": (instead(CARD, os.mkfifo), "no regular file"),
    "name: up": (said(CARD, name="../a"), "an expert's name is"),
    "name: absolute": (said(CARD, name="/etc/passwd"), "an expert's name is"),
    "name: below": (said(CARD, name="a/b"), "an expert's name is"),
    "name: backslash": (said(CARD, name="..\\a"), "an expert's name is"),
    "name: hidden": (said(CARD, name=".manifest"), "an expert's name is"),
    "name: the manifest": (said(CARD, name="pool.json"), "an expert's name is"),
    "name: empty": (said(CARD, name=""), "an expert's name is"),
    "name: a line more": (said(CARD, name="a\n"), "an expert's name is"),
    "name: not ASCII": (said(CARD, name="а"), "an expert's name is"),
    "name: too long": (said(CARD, name="a" * 201), "an expert's name is"),
    "name: taken": (said(CARD, name="a"), "a name is used once"),
    "name: taken but for case": (said(CARD, name="A"), "differ by more than case"),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_bad_adapter_is_not_admitted(
    case: str, offered: Path, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap.py").write_text("import os; os.mkdir('trapped')")
    (tmp_path / "trap.bin").write_bytes(pickle.dumps(Trap()))
    spoil, reason = ADAPTERS[case]
    spoil(offered)
    before = snapshot(pool.path)
    with pytest.raises(PituningError) as caught:
        pool.add(Expert.load(offered))
    refuse(caught.value, reason)
    assert snapshot(pool.path) == before
    assert not Path("trapped").exists()


def shaped(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Expert], Expert]:
    def spoil(one: Expert) -> Expert:
        tensors = dict(one.tensors)
        change(tensors)
        return Expert(one.card, one.config, tensors)

    return spoil


A = "base_model.model.0.lora_A.weight"
MISFITS = {
    "another shape": shaped(lambda tensors: tensors.update({A: torch.zeros(2, 3)})),
    "another rank": shaped(lambda tensors: tensors.update({A: torch.zeros(3, 4)})),
    "a scalar": shaped(lambda tensors: tensors.update({A: torch.zeros(())})),
    "a tensor too few": shaped(lambda tensors: tensors.pop(A)),
    "a tensor too many": shaped(lambda tensors: tensors.update({"x": torch.zeros(1)})),
    "a tensor of the backbone": shaped(lambda tensors: tensors.update({"0.weight": torch.zeros(4, 4)})),
}


@pytest.mark.parametrize("case", MISFITS)
def test_adapter_of_other_shapes_than_the_backbones_is_refused(case: str) -> None:
    before = {name: held.clone() for name, held in TINY.model.state_dict().items()}
    with pytest.raises(PituningError, match="must be those of its configuration on this backbone") as caught:
        attach_expert(TINY, MISFITS[case](tiny("x")))
    refuse(caught.value, "missing, extra or of another shape")
    assert all(torch.equal(held, TINY.model.state_dict()[name]) for name, held in before.items())


def linked(place: str, target: str) -> Bad:
    """A link in the pool, in the place of what is there."""

    def spoil(pool: Path) -> None:
        path = pool / place
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.symlink_to(target)

    return spoil


def entry(content: bytes | dict[str, Any]) -> Bad:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda pool: (pool / ".manifest" / "a.json").write_bytes(text)


def old(experts: Any) -> Bad:
    return raw("pool.json", json.dumps({"format": 1, "init_seed": 0, "experts": experts}).encode())


ZEROS = "0" * 64
IS_MANIFEST, IS_ENTRY = "must be the manifest of a pool", "names its files and their SHA-256"
AS_ADDED, NO_LINK = "must be as it was added", "nothing in a pool is a link"

POOLS: dict[str, tuple[Bad, str]] = {
    "manifest: empty": (raw("pool.json", b""), IS_MANIFEST),
    "manifest: a list": (raw("pool.json", b"[]"), IS_MANIFEST),
    "manifest: pickle": (raw("pool.json", pickle.dumps(Trap())), "not UTF-8"),
    "manifest: not UTF-8": (raw("pool.json", b'{"format": 2, "\xff": 0}'), "not UTF-8"),
    "manifest: a key twice": (raw("pool.json", b'{"format": 2, "format": 1}'), "'format' stands twice"),
    "manifest: no format": (raw("pool.json", b'{"init_seed": 0}'), IS_MANIFEST),
    "manifest: newer": (raw("pool.json", b'{"format": 3}'), "reads pools up to format 2"),
    "manifest: format 0": (raw("pool.json", b'{"format": 0, "init_seed": 0}'), IS_MANIFEST),
    "manifest: format is a text": (raw("pool.json", b'{"format": "2", "init_seed": 0}'), IS_MANIFEST),
    "manifest: format is true": (raw("pool.json", b'{"format": true, "init_seed": 0}'), IS_MANIFEST),
    "manifest: format is NaN": (raw("pool.json", b'{"format": NaN, "init_seed": 0}'), IS_MANIFEST),
    "manifest: no seed": (raw("pool.json", b'{"format": 2}'), IS_MANIFEST),
    "manifest: seed below 0": (raw("pool.json", b'{"format": 2, "init_seed": -1}'), IS_MANIFEST),
    "manifest: nested deeply": (raw("pool.json", b"[" * 100_000), IS_MANIFEST),
    "manifest: 1 GB": (sparse("pool.json", 1 << 30), "more than 16777216"),
    "manifest: a folder": (instead("pool.json", Path.mkdir), "a folder with a pool.json"),
    "manifest: a pipe": (instead("pool.json", os.mkfifo), "a folder with a pool.json"),
    "manifest: a link": (linked("pool.json", "../victim.txt"), NO_LINK),
    "old manifest: name up": (old({"../a": {"files": {}}}), "'../a' is no name"),
    "old manifest: absolute name": (old({"/tmp/a": {"files": {}}}), "'/tmp/a' is no name"),
    "old manifest: file up": (old({"a": {"files": {"../../victim.txt": ZEROS}}}), "is no name"),
    "old manifest: scratch up": (
        old({"a": {"next": {"files": {}, "scratch": "../pool"}}}),
        "'../pool' is no scratch folder",
    ),
    "old manifest: no files": (old({"a": {}}), IS_MANIFEST),
    "old manifest: no hash": (old({"a": {"files": {"x": 3}}}), "is no SHA-256"),
    "old manifest: experts are a list": (old([]), IS_MANIFEST),
    "entry: empty": (entry(b""), IS_ENTRY),
    "entry: a list": (entry(b"[]"), IS_ENTRY),
    "entry: not UTF-8": (entry(b"\xff"), "not UTF-8"),
    "entry: a file twice": (entry(b'{"files": {"x": "", "x": ""}}'), "'x' stands twice"),
    "entry: file up": (entry({"files": {"../../victim.txt": ZEROS}}), "is no name"),
    "entry: absolute file": (entry({"files": {"/etc/passwd": ZEROS}}), "is no name"),
    "entry: hidden file": (entry({"files": {".x": ZEROS}}), "is no name"),
    "entry: no hash": (entry({"files": {"x": "0" * 63}}), "is no SHA-256"),
    "entry: hash is a number": (entry({"files": {"x": 0}}), "is no SHA-256"),
    "entry: files are a list": (entry({"files": ["x"]}), IS_ENTRY),
    "entry: 1 GB": (sparse(".manifest/a.json", 1 << 30), "more than 16777216"),
    "entry: a link": (linked(".manifest/a.json", "b.json"), "it is a link"),
    "entry: a pipe": (instead(".manifest/a.json", os.mkfifo), "no regular file"),
    "entry: no file": (entry({"files": {}}), "no file is named"),
    "entries: a link": (linked(".manifest", "../elsewhere"), NO_LINK),
    "lock: a link": (linked(".lock", "../victim.txt"), NO_LINK),
    "scratch: a link": (linked(".scratch", ".."), NO_LINK),
    "quarantine: a link": (linked(".quarantine", ".."), NO_LINK),
    "expert: a link out": (linked("a", "../offered"), "lies behind a link"),
    "expert: a link to another": (linked("a", "b"), "lies behind a link"),
    "expert: a link to itself": (linked("a", "a"), "lies behind a link"),
    "expert: weights link out": (linked(f"a/{WEIGHTS}", f"../../offered/{WEIGHTS}"), "is a link"),
    "expert: card links out": (linked(f"a/{CARD}", "/etc/hostname"), "is a link"),
    "expert: embedding links to itself": (linked(f"a/{EMBEDDING}", EMBEDDING), "is a link"),
    "expert: a file": (lambda pool: (shutil.rmtree(pool / "a"), (pool / "a").write_text("")), "is missing"),
    "expert: weights are a pipe": (instead(f"a/{WEIGHTS}", os.mkfifo), AS_ADDED),
    "expert: weights are a folder": (instead(f"a/{WEIGHTS}", Path.mkdir), AS_ADDED),
    "expert: weights are a terabyte": (sparse(f"a/{WEIGHTS}", HUGE), AS_ADDED),
    "expert: a pickle more": (
        lambda pool: (pool / "a" / "adapter_model.bin").write_bytes(pickle.dumps(Trap())),
        "adapter_model.bin is stray",
    ),
    "expert: a link more": (lambda pool: (pool / "a" / "x").symlink_to("/etc"), "x is stray"),
}


@pytest.mark.parametrize("case", POOLS)
def test_bad_pool_is_refused(
    case: str, pool: Pool, offered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By readers and writers, `verify` tells it too, and nothing outside is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    spoil, reason = POOLS[case]
    spoil(pool.path)
    before = snapshot(tmp_path)
    with pytest.raises(PituningError) as caught:
        Pool(pool.path).get("a")
    refuse(caught.value, reason)
    with pytest.raises(PituningError):
        Pool(pool.path).embedding("a")
    with pytest.raises(PituningError):
        Pool(pool.path).add_embedding("a", embedding_of(tiny("a")))
    with contextlib.suppress(PituningError):  # one that cannot even be opened
        assert [fault for fault in Pool(pool.path).verify() if fault.startswith("a: ")]
    assert snapshot(tmp_path) == before
    assert not Path("trapped").exists()


def test_link_in_the_place_of_a_checkpoint_is_found(pool: Pool) -> None:
    (pool.path / ".work-c").symlink_to("/tmp")
    assert pool.verify() == [".work-c: is a link, which is never followed"]
    pool.repair()
    assert pool.verify() == []


def facts(**changes: Any) -> bytes:
    one = embedding_of(tiny("a"))
    said = {name: getattr(one, name) for name in vars(one) if name != "components"} | changes
    return packed({"__metadata__": {"embedding": json.dumps(said)}, "0.lora_A.weight": tensor()}, b"\0" * 8)


EMBEDDINGS = {
    "no metadata": packed({"a": tensor()}, b"\0" * 8),
    "metadata that are no JSON": packed({"__metadata__": {"embedding": "{"}}),
    "a fact twice": packed({"__metadata__": {"embedding": '{"task": "a", "task": "b"}'}}),
    "a fact too many": facts(code="x"),
    "a fact of another type": facts(examples="many"),
    "facts that are a list": packed({"__metadata__": {"embedding": "[]"}}),
    "negative": packed({"__metadata__": {"embedding": "{}"}, "a": tensor()}, struct.pack("<2f", -1.0, 1.0)),
    "NaN": packed({"__metadata__": {"embedding": "{}"}, "a": tensor()}, struct.pack("<2f", math.nan, 1.0)),
    "float16": packed({"__metadata__": {"embedding": "{}"}, "a": tensor("F16", [4])}, b"\0" * 8),
    "another expert's": facts(expert=ZEROS),
}


@pytest.mark.parametrize("case", EMBEDDINGS)
def test_bad_embedding_is_refused(case: str, pool: Pool) -> None:
    with pool._store.writing():
        files = {file: (pool.path / "a" / file).read_bytes() for file in FILES}
        pool._store.rewrite("a", files | {EMBEDDING: EMBEDDINGS[case]})
    with pytest.raises(PituningError, match="embedding"):
        pool.embedding("a")
    assert [fault[:3] for fault in pool.verify()] == ["a: "]
    assert pool.get("a").name == "a"


@pytest.mark.parametrize("file", FILES)
def test_file_truncated_at_any_length_is_refused(file: str, offered: Path, pool: Pool) -> None:
    """Alone, as from a stranger, and in the pool."""
    (offered / EMBEDDING).write_bytes(embedding_of(tiny("offered")).to_bytes())
    alone, held = offered / file, pool.path / "a" / file
    whole, stored = alone.read_bytes(), held.read_bytes()
    for length in range(len(whole.rstrip())):
        alone.write_bytes(whole[:length])
        with pytest.raises(PituningError):
            TaskEmbedding.load(alone) if file == EMBEDDING else Expert.load(offered)
    for length in range(len(stored)):
        held.write_bytes(stored[:length])
        with pytest.raises(PituningError, match=AS_ADDED):
            pool.get("a")
    held.write_bytes(stored)
    assert pool.get("a").name == "a"
