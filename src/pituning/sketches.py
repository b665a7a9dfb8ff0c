"""The sketches of a pool's experts: records of one length, in 256 files by the hash of the name.

All of it can be made again from the experts. A record is plain bytes, and nothing in it is a path. For each
expert there is a record of its present version; after a killed writer there may be one of another version
too, which costs a look, so readers need no lock.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from pituning.card import UNKNOWN
from pituning.expert import Expert
from pituning.manifest import SCRATCH, SKETCHES
from pituning.predict.embedding import TaskEmbedding
from pituning.predict.sketch import SIZE, Sketches, layout, sketch
from pituning.safe_files import read_file

MAGIC = b"pituning sketch5"

RECORD = np.dtype(
    [
        ("name", "V16"),  # see `name_key`
        ("embedding", "V32"),  # the SHA-256 of the file; zeros where there is none
        ("start", "V8"),  # what the expert shares with those it can be mixed with in parameter space
        ("layout", "V8"),  # what the embedding shares with those it can be compared with
        ("sketch", np.int8, (SIZE,)),
    ]
)
Records = np.ndarray  # of RECORD, one dimension


@final
@dataclass(frozen=True)
class Candidate:
    """An expert to look at, the SHA-256 of the embedding's file whose sketch says so, and how far that is."""

    name: str
    digest: str
    distance: float


@final
class SketchIndex:
    """The records of a pool in memory, about 1.1 KB each once asked for `nearest`.

    Args:
        names: of the experts, one a record.
        records: all that there are.
    """

    def __init__(self, names: Sequence[str], records: Records) -> None:
        self._names, self._records = names, records
        self._rows = {name: row for row, name in enumerate(names)}
        self._alike: dict[tuple[bytes, bytes | None], tuple[np.ndarray, Sketches]] = {}

    def embedded(self) -> dict[str, bytes]:
        """The experts that have an embedding -> the SHA-256 of its file."""
        digests = self._records["embedding"].tolist()
        return {name: digest for name, digest in zip(self._names, digests, strict=True) if any(digest)}

    def starts(self) -> list[str]:
        """One expert of each backbone, method and initialisation, the commonest first.

        The first by name, of those with an embedding where there are some.
        """
        first: dict[bytes, tuple[bool, str]] = {}
        keys: list[bytes] = self._records["start"].tolist()
        embedded = self._records["embedding"].tolist()
        for key, digest, name in zip(keys, embedded, self._names, strict=True):
            this = (not any(digest), name)
            first[key] = min(first.get(key, this), this)
        counts = Counter(keys)
        return [first[key][1] for key in sorted(first, key=lambda key: (-counts[key], first[key][1]))]

    def starts_like(self, name: str, expert: Expert) -> bool:
        """Whether backbone, method and initialisation (and with it, configuration) are those of `expert`."""
        row = self._rows.get(name)
        known = row is not None and expert.card.initialisation != UNKNOWN
        return known and self._records["start"][row].tobytes() == start_key(expert)

    def holds(self, embedding: TaskEmbedding) -> bool:
        """Whether an expert has an embedding of the same components, made in the same manner."""
        return bool((self._records["layout"] == np.void(layout(embedding))).any())

    def nearest(self, embedding: TaskEmbedding, most: int, *, start: bytes | None = None) -> list[Candidate]:
        """The experts whose sketches are nearest to that of an embedding, nearest first.

        Args:
            embedding: with whose components and manner others can be compared.
            most: how many at most.
            start: see `start_key`; with one, of no other.
        """
        key = layout(embedding), start
        if key not in self._alike:
            alike = self._records["layout"] == np.void(key[0])
            if start is not None:
                alike &= self._records["start"] == np.void(start)
            rows = np.flatnonzero(alike)
            self._alike[key] = (rows, Sketches(np.ascontiguousarray(self._records["sketch"][rows])))
        rows, sketches = self._alike[key]
        places, distances = sketches.nearest(sketch(embedding.components), most)
        found = rows[places]
        digests = [digest.hex() for digest in self._records["embedding"][found].tolist()]
        names = [self._names[row] for row in found.tolist()]
        return [Candidate(*facts) for facts in zip(names, digests, distances.tolist(), strict=True)]


def name_key(name: str) -> bytes:
    """What stands for a name in a record; the first half is the same for names that differ by case alone."""
    return b"".join(hashlib.sha256(text.encode()).digest()[:8] for text in (name.casefold(), name))


def may_differ_by_case(pool: Path, name: str) -> bool:
    """Whether there may be an expert whose name differs by case alone."""
    key = name_key(name)
    file = pool / SKETCHES / f"{key[0]:02x}"
    names = _keys(_read(file))
    if not names and os.path.lexists(file):
        return True  # damaged, or of an older version
    return any(other[:8] == key[:8] and other != key for other in names)


def start_key(expert: Expert) -> bytes:
    """What stands for backbone, method and initialisation."""
    facts = (expert.card.backbone, expert.method, expert.card.initialisation)
    return hashlib.sha256(repr(facts).encode()).digest()[:8]


def record_of(expert: Expert, embedding: TaskEmbedding | None, digest: str) -> Records:
    """The record of an expert whose embedding's file has this SHA-256 (empty where there is none)."""
    record = np.zeros(1, RECORD)
    record["name"] = np.void(name_key(expert.name))
    record["start"] = np.void(start_key(expert))
    if embedding is not None:
        record["embedding"] = np.void(_digest_bytes(digest))
        record["layout"] = np.void(layout(embedding))
        record["sketch"] = sketch(embedding.components)
    return record


def joined(records: Iterable[Records]) -> Records:
    """All of them, also where there are none."""
    return np.concatenate([np.zeros(0, RECORD), *records])


def read_records(pool: Path) -> Records:
    """All of them, in the order of the files; a damaged file counts as missing."""
    return joined(_read(pool / SKETCHES / f"{bucket:02x}") for bucket in range(256))


def lacking(there: Records, wanted: Records) -> list[bool]:
    """Of each wanted record, whether it is not there; machines may round sketches differently, by one."""
    heads = {record.tobytes()[:-SIZE]: record["sketch"].astype(int) for record in there}
    sketches = [heads.get(record.tobytes()[:-SIZE]) for record in wanted]
    return [
        mine is None or bool((np.abs(mine - record["sketch"]) > 1).any())
        for mine, record in zip(sketches, wanted, strict=True)
    ]


def put_records(pool: Path, records: Records, current: Mapping[bytes, str]) -> None:
    """Under the pool's lock: add records; of the same names, keep those of the current embeddings.

    Args:
        current: key of a name -> SHA-256 of its embedding; of a name that is not there, none is kept.
    """
    buckets = np.array([key[0] for key in _keys(records)], np.uint8)
    for bucket in np.unique(buckets):
        new = records[buckets == bucket]
        old = _read(pool / SKETCHES / f"{bucket:02x}")
        _write(pool, int(bucket), np.concatenate([_without(old, new, current), new]))


def forget_records(pool: Path, name: str, digest: str | None) -> None:
    """Under the pool's lock: keep of a name the record of this embedding alone, or none."""
    key = name_key(name)
    old = _read(pool / SKETCHES / f"{key[0]:02x}")
    wanted = None if digest is None else _digest_bytes(digest)
    keep = [
        mine != key or embedding == wanted
        for mine, embedding in zip(_keys(old), old["embedding"].tolist(), strict=True)
    ]
    if not all(keep):
        _write(pool, key[0], old[keep])


def replace_records(pool: Path, records: Records) -> None:
    """Under the pool's lock: these and no others."""
    buckets = np.array([key[0] for key in _keys(records)], np.uint8)
    for bucket in range(256):
        mine = records[buckets == bucket]
        if len(mine) or os.path.lexists(pool / SKETCHES / f"{bucket:02x}"):
            _write(pool, bucket, mine)


def stray_files(pool: Path) -> Collection[Path]:
    """What lies among the sketches and is none."""
    folder = pool / SKETCHES
    known = {f"{bucket:02x}" for bucket in range(256)}
    return [path for path in folder.iterdir() if path.name not in known] if folder.is_dir() else []


def _without(old: Records, new: Records, current: Mapping[bytes, str]) -> Records:
    """The old records, less those that the new ones replace."""
    names, same = set(_keys(new)), set(zip(_keys(new), new["embedding"].tolist(), strict=True))
    keep = [
        pair[0] not in names
        or (pair not in same and pair[0] in current and pair[1] == _digest_bytes(current[pair[0]]))
        for pair in zip(_keys(old), old["embedding"].tolist(), strict=True)
    ]
    return old[keep]


def _digest_bytes(digest: str) -> bytes:
    return bytes.fromhex(digest).ljust(32, b"\0")


def _keys(records: Records) -> list[bytes]:
    found: list[bytes] = records["name"].tolist()
    return found


def _read(path: Path) -> Records:
    try:
        content = read_file(path)
    except (OSError, ValueError):
        return np.zeros(0, RECORD)
    body = content.removeprefix(MAGIC)
    if len(body) == len(content) or len(body) % RECORD.itemsize:
        return np.zeros(0, RECORD)
    return np.frombuffer(body, RECORD)


def _write(pool: Path, bucket: int, records: Records) -> None:
    """Write beside, then move into place; no file holds no record."""
    (pool / SKETCHES).mkdir(exist_ok=True)
    scratch = pool / SCRATCH / SKETCHES
    if not len(records):
        (pool / SKETCHES / f"{bucket:02x}").unlink(missing_ok=True)
        return
    try:
        scratch.write_bytes(MAGIC + records.tobytes())
        os.replace(scratch, pool / SKETCHES / f"{bucket:02x}")
    finally:
        scratch.unlink(missing_ok=True)
