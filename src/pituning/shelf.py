"""The experts of a pool's folder, read from its files, and their sketches, kept in step with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import final

from pituning.errors import PituningError, PoolError
from pituning.expert import Expert
from pituning.manifest import SKETCHES, names_in
from pituning.predict.embedding import EMBEDDING, TaskEmbedding
from pituning.sketches import (
    Records,
    SketchIndex,
    forget_records,
    joined,
    lacking,
    name_key,
    put_records,
    read_records,
    record_of,
)
from pituning.store import Store


@final
class Shelf:
    """What a `Store` holds, understood."""

    def __init__(self, store: Store) -> None:
        self.store, self.path = store, store.path

    def __iter__(self) -> Iterator[str]:
        return iter(names_in(self.path))

    def read(self, name: str) -> dict[str, bytes]:
        """The files of an expert that is as it was added.

        Raises:
            PoolError: if there is none of this name, or it is not.
        """
        files, faults = self.store.look(name)
        if faults:
            raise PoolError(
                f"expert {name!r} must be as it was added",
                "; ".join(faults),
                f"Remove it and add it again, or run `pituning pool verify {self.path} --repair`.",
            )
        return files

    def expert(self, name: str, files: Mapping[str, bytes]) -> Expert:
        """The expert that these files are.

        Raises:
            PoolError: if it is of another name.
            ExpertError: if a file is not what its name says.
        """
        expert = Expert.from_files(files, self.path / name)
        if expert.name != name:
            raise PoolError("an expert's card has its name", f"{expert.name!r} for {name!r}", "Add it again.")
        return expert

    def embedding(self, expert: Expert, files: Mapping[str, bytes]) -> TaskEmbedding | None:
        """The embedding among an expert's files, if there is one.

        Raises:
            StaleEmbeddingError: if the expert has changed since, or it cannot be read.
        """
        if EMBEDDING not in files:
            return None
        embedding = TaskEmbedding.from_bytes(files[EMBEDDING], self.path / expert.name / EMBEDDING)
        embedding.check_fresh(expert)
        return embedding

    @contextmanager
    def sketched(self, expert: Expert, embedding: TaskEmbedding | None, content: bytes) -> Iterator[None]:
        """Around a commit: the sketch is there before its expert is, and an older one until after."""
        if not (self.path / SKETCHES).is_dir():  # a pool from before there were sketches
            with suppress(PituningError):
                put_records(self.path, joined(self.record(name) for name in self), {})
        name, digest = expert.name, hashlib.sha256(content).hexdigest() if content else ""
        now = {name_key(name): self._embedded_as(name)} if name in self.store else {}
        put_records(self.path, record_of(expert, embedding, digest), now)
        try:
            yield
        except BaseException:
            with suppress(OSError):
                forget_records(self.path, name, self._embedded_as(name) if name in self.store else None)
            raise
        with suppress(OSError):  # the change is made; an old sketch costs a look
            forget_records(self.path, name, digest)

    def record(self, name: str) -> Records:
        """What the sketch of the expert of this name should be."""
        files = self.read(name)
        return self.record_of(self.expert(name, files), files)

    def record_of(self, expert: Expert, files: Mapping[str, bytes]) -> Records:
        """What the sketch of an expert with these files should be."""
        embedding = self.embedding(expert, files)
        digest = "" if embedding is None else hashlib.sha256(files[EMBEDDING]).hexdigest()
        return record_of(expert, embedding, digest)

    def sketches(self) -> SketchIndex:
        """See `Pool.sketches`."""
        names, records = self._known(read_records(self.path))
        missing = sorted({*self}.difference(names))
        if missing:
            made = joined(self.record(name) for name in missing)
            with suppress(PoolError), self.store.writing():  # not ours to write: made again the next time
                now = {name_key(name): self._embedded_as(name) for name in missing if name in self.store}
                put_records(self.path, made[[key in now for key in made["name"].tolist()]], now)
            names, records = [*names, *missing], joined([records, made])
        return SketchIndex(names, records)

    def unsketched(self, wanted: Iterable[Records]) -> list[str]:
        """Faults of experts without a sketch; where no one has any, the next writer makes them."""
        if not (self.path / SKETCHES).is_dir():
            return []
        names, records = self._known(joined(wanted))
        faults = zip(names, lacking(read_records(self.path), records), strict=True)
        missing = [name for name, fault in faults if fault and self._still_unsketched(name)]
        return [f"{name}: its sketch is missing or stale" for name in missing]

    def _still_unsketched(self, name: str) -> bool:
        """Looked at again: it may have been replaced meanwhile."""
        with suppress(PituningError):
            wanted = self.record(name)  # first: the sketch is there before its expert is
            return lacking(read_records(self.path), wanted) == [True]
        return False

    def _known(self, records: Records) -> tuple[list[str], Records]:
        """The records of experts that there are, and their names."""
        by_key = {name_key(name): name for name in self}
        names = [by_key.get(key) for key in records["name"].tolist()]
        there = [name is not None for name in names]
        return [name for name in names if name is not None], records[there]

    def _embedded_as(self, name: str) -> str:
        """The SHA-256 of an expert's embedding; empty where there is none, or its entry is damaged."""
        with suppress(PoolError):
            return self.store.entry(name).get(EMBEDDING, "")
        return ""
