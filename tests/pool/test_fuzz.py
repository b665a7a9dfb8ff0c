"""Whatever bytes lie in a file, a reader gives an expert or a PituningError."""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pools import FILES, TINY, embedding_of, tiny

from pituning.errors import PituningError
from pituning.expert import Expert, attach_expert
from pituning.pool import Pool
from pituning.predict import TaskEmbedding

WEIGHTS, CONFIG, CARD, EMBEDDING = FILES
FUZZ = settings(
    max_examples=300,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS | st.sampled_from(["(", "../a", "LORA", "gaussian", "all-linear", 0, -1, 10**12]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
# Bytes to put at a place (a fraction of the length), and how many of those there to take away.
EDITS = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=9), st.integers(0, 9)), min_size=1, max_size=4)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """An expert with its embedding; never written to."""
    folder = tiny("a").save(tmp_path / "good")
    (folder / EMBEDDING).write_bytes(embedding_of(tiny("a")).to_bytes())
    return folder


def read(folder: Path) -> None:
    """Load what there is, and use it on a backbone; anything but a PituningError fails the test."""
    for load in (lambda: attach_expert(TINY, Expert.load(folder)), lambda: embedded(folder)):
        with warnings.catch_warnings(), contextlib.suppress(PituningError):
            warnings.simplefilter("ignore")
            load()


def embedded(folder: Path) -> None:
    TaskEmbedding.load(folder / EMBEDDING).check_fresh(Expert.load(folder))


def copied(good: Path) -> Path:
    return shutil.copytree(good, good.with_name("spoilt"), dirs_exist_ok=True)


@FUZZ
@given(file=st.sampled_from(FILES), edits=EDITS)
def test_edited_bytes(good: Path, file: str, edits: list[tuple[float, bytes, int]]) -> None:
    folder = copied(good)
    content = (good / file).read_bytes()
    for place, put, taken in edits:
        at = int(place * len(content))
        content = content[:at] + put + content[at + taken :]
    (folder / file).write_bytes(content)
    read(folder)


def put(document: Any, key: str, value: Any) -> bytes:
    return json.dumps(document | {key: value}).encode()


@FUZZ
@given(data=st.data(), value=VALUES)
def test_other_values_in_json(good: Path, data: st.DataObject, value: Any) -> None:
    folder = copied(good)
    file = data.draw(st.sampled_from([CONFIG, CARD]))
    document = json.loads((good / file).read_text())
    key = data.draw(st.sampled_from(sorted(document)) | st.text(max_size=5))
    (folder / file).write_bytes(put(document, key, value))
    read(folder)


@FUZZ
@given(data=st.data(), value=VALUES, file=st.sampled_from([WEIGHTS, EMBEDDING]))
def test_other_values_in_safetensors_headers(good: Path, data: st.DataObject, value: Any, file: str) -> None:
    folder = copied(good)
    content = (good / file).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = data.draw(st.sampled_from(sorted(header)))
    inside = data.draw(st.sampled_from([None, *sorted(header[name])]))
    changed = (
        put(header, name, value) if inside is None else put(header, name, header[name] | {inside: value})
    )
    (folder / file).write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])
    read(folder)


@FUZZ
@given(
    data=st.data(),
    value=VALUES,
    place=st.sampled_from(["pool.json", ".manifest/a.json"]),
    form=st.sampled_from([1, 2]),
)
def test_other_values_in_manifests(
    tmp_path: Path, data: st.DataObject, value: Any, place: str, form: int
) -> None:
    folder = tmp_path / "pool"
    shutil.rmtree(folder, ignore_errors=True)
    pool = Pool.create(folder)
    pool.add(tiny("a"), embedding_of(tiny("a")))
    entry = json.loads((folder / ".manifest" / "a.json").read_text())
    if place == "pool.json":
        document: Any = {"format": form, "init_seed": 0, "experts": {"a": entry}}
        key = data.draw(st.sampled_from(["format", "init_seed", "experts"]))
    else:
        document, key = entry, data.draw(st.sampled_from(["files", "a"]))
    content = data.draw(st.sampled_from([put(document, key, value), json.dumps(value).encode()]))
    (folder / place).write_bytes(content)
    with contextlib.suppress(PituningError):
        opened = Pool(folder)
        opened.verify()
        opened.repair()
        assert opened.verify() == []
        opened.get("a")
