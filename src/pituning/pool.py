"""A folder of experts and their embeddings."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import final

from pituning.adapter_files import CARD, CONFIG, WEIGHTS
from pituning.agreement import Origin, disagreements
from pituning.errors import ExpertError, PituningError, PoolError, StaleEmbeddingError
from pituning.expert import Expert
from pituning.manifest import (
    MANIFEST,
    NAME,
    SCRATCH,
    SKETCHES,
    entry_path,
    names_in,
    read_facts,
    read_folder,
)
from pituning.predict.embedding import EMBEDDING, TaskEmbedding
from pituning.safe_files import check_tensors, read_file
from pituning.sketches import (
    Records,
    SketchIndex,
    forget_records,
    joined,
    lacking,
    may_differ_by_case,
    name_key,
    put_records,
    read_records,
    record_of,
    replace_records,
    stray_files,
)
from pituning.store import LOCK, WORK, Store

NEEDED = frozenset({WEIGHTS, CONFIG, CARD})
EXPERT_FILES = NEEDED | {EMBEDDING}


@final
class Pool:
    """Experts by name: one folder each, and a manifest with the SHA-256 of every file.

    It survives killed writers, and several at once: see `Store`.

    Example:
        >>> pool = Pool.create("pool", init_seed=0)          # doctest: +SKIP
        >>> pool.add(expert, embedding)                      # doctest: +SKIP
        >>> [name for name in pool]                          # doctest: +SKIP
    """

    def __init__(self, path: str | Path) -> None:
        self._store = Store(Path(path))

    @classmethod
    def create(cls, path: str | Path, *, init_seed: int = 0) -> Pool:
        """Open the pool at `path`, or make an empty one whose experts all start from `init_seed`."""
        return cls(Store.create(Path(path), init_seed).path)

    @property
    def path(self) -> Path:
        """Its folder."""
        return self._store.path

    @property
    def init_seed(self) -> int:
        """The seed of the initialisation that the pool's experts share."""
        return read_facts(self.path)["init_seed"]

    def __iter__(self) -> Iterator[str]:
        """The experts' names, sorted."""
        return iter(names_in(self.path))

    def __contains__(self, name: str) -> bool:
        return name in self._store

    def __len__(self) -> int:
        return len(names_in(self.path))

    def get(self, name: str) -> Expert:
        """Read an expert, whole and unaltered.

        Raises:
            PoolError: if there is none of this name, or a file is not what the manifest says.
        """
        return self._expert(name, self._read(name))

    def hashes(self, name: str) -> dict[str, str]:
        """File name -> SHA-256 of an expert, as the manifest says.

        Raises:
            PoolError: if there is none of this name, or its entry is damaged.
        """
        return self._store.entry(name)

    def files(self, name: str) -> dict[str, bytes]:
        """File name -> content of an expert that is as it was added.

        Raises:
            PoolError: as `get`.
        """
        return self._read(name)

    def has_embedding(self, name: str) -> bool:
        """Whether an embedding was stored for this expert (it may be stale)."""
        return EMBEDDING in self._store.entry(name)

    def embedding(self, name: str, digest: str = "") -> TaskEmbedding:
        """The expert's task embedding.

        Args:
            name: of the expert.
            digest: the SHA-256 of the embedding's file, where it is known: see `embedding_file`.

        Raises:
            StaleEmbeddingError: if there is none, or the expert has changed since.
        """
        path = self.path / name / EMBEDDING
        if digest:
            return TaskEmbedding.from_bytes(self.embedding_file(name, digest), path)
        files = self._read(name)
        if EMBEDDING not in files:
            raise StaleEmbeddingError(
                "an expert is embedded before it is compared", f"{name!r} is not", "Run `pituning embed`."
            )
        embedding = TaskEmbedding.from_bytes(files[EMBEDDING], path)
        embedding.check_fresh(self._expert(name, files))
        return embedding

    def embedding_file(self, name: str, digest: str) -> bytes:
        """The file of an embedding that has this SHA-256, without a look at the expert; else the present one.

        Raises:
            PoolError: if there is no expert of this name (any more), or it was altered.
            StaleEmbeddingError: if it has no embedding (any more).
        """
        with suppress(OSError, ValueError):
            content = read_file(self.path / name / EMBEDDING, header=False)
            if hashlib.sha256(content).hexdigest() == digest:
                return content
        return self.embedding(name).to_bytes()

    def add(self, expert: Expert, embedding: TaskEmbedding | None = None, *, replace: bool = False) -> None:
        """Store an expert (and its embedding) under its name.

        Raises:
            PoolError: if the name is taken and `replace` is not set, or the folder cannot be written.
        """
        self.check_name(expert.name)
        if embedding is not None:
            embedding.check_fresh(expert)
        with self._store.writing() as scratch:
            self._check_free(expert.name, replace)
            folder = scratch / expert.name
            folder.mkdir()
            expert.write(folder)
            content = b"" if embedding is None else embedding.to_bytes()
            if content:
                (folder / EMBEDDING).write_bytes(content)
            with self._sketched(expert, embedding, content):
                self._store.commit(expert.name)

    def admit(self, name: str, files: Mapping[str, bytes], *, replace: bool = False) -> None:
        """Store the files of an expert that another pool holds as they are, bit for bit.

        Raises:
            PoolError: as `add`; or for other files than a pool's expert has.
            ExpertError, StaleEmbeddingError: if a file is not what its name says.
        """
        self.check_name(name)
        strangers, missing = sorted({*files} - EXPERT_FILES), sorted(NEEDED - {*files})
        if strangers or missing:
            raise PoolError(
                f"an expert has {', '.join(sorted(NEEDED))}, may have {EMBEDDING}, and no other file",
                f"{name!r}: " + "; ".join([f"no {file}" for file in missing] + strangers),
                "Push or add it again.",
            )
        for file, content in files.items():
            try:
                if file.endswith(".safetensors"):
                    check_tensors(content)
            except ValueError as error:
                given = f"{name}/{file}: {error}"
                raise ExpertError(
                    f"{file} must be a whole safetensors file", given, "Push it again."
                ) from error
        expert, content = self._expert(name, files), files.get(EMBEDDING, b"")
        embedding = None
        if content:
            embedding = TaskEmbedding.from_bytes(content, self.path / name / EMBEDDING)
            embedding.check_fresh(expert)
        with self._store.writing():
            self._check_free(name, replace)
            with self._sketched(expert, embedding, content):
                self._store.rewrite(name, files)

    def _check_free(self, name: str, replace: bool) -> None:
        """Within `writing`: raise PoolError for a name that is taken and not to be replaced."""
        self._check_case(name)
        if name in self and not replace:
            raise PoolError(
                "a name is used once in a pool",
                f"{name!r} is taken in {self.path}",
                "Choose another with --name, or pass --replace.",
            )

    @staticmethod
    def check_name(name: str) -> None:
        """Raise PoolError for a name that could be a path, or hide."""
        if not NAME.fullmatch(name) or name == MANIFEST:
            raise PoolError(
                "an expert's name is at most 200 letters, digits, dots, dashes, underscores and +, and not "
                f"{MANIFEST}",
                repr(name),
                "Rename it with --name.",
            )

    def add_embedding(self, name: str, embedding: TaskEmbedding) -> None:
        """Store or replace the embedding of an expert, whose other files stay as they are."""
        with self._store.writing():
            files = self._read(name)
            expert, content = self._expert(name, files), embedding.to_bytes()
            embedding.check_fresh(expert)
            with self._sketched(expert, embedding, content):
                self._store.rewrite(name, files | {EMBEDDING: content})

    def remove(self, name: str) -> None:
        """Delete an expert.

        Raises:
            PoolError: if there is none of this name.
        """
        with self._store.writing():
            self._store.remove(name)
            with suppress(OSError):  # what is not in the manifest is not looked at
                forget_records(self.path, name, None)

    def sketches(self) -> SketchIndex:
        """The sketches of all experts; those that are missing are made, and written where that is allowed.

        Raises:
            PoolError, StaleEmbeddingError: if an expert without a sketch is not as it was added.
        """
        names, records = self._known(read_records(self.path))
        missing = sorted({*self}.difference(names))
        if missing:
            made = joined(self._record(name) for name in missing)
            with suppress(PoolError), self._store.writing():  # not ours to write: made again the next time
                now = {name_key(name): self._embedded_as(name) for name in missing if name in self}
                put_records(self.path, made[[key in now for key in made["name"].tolist()]], now)
            names, records = [*names, *missing], joined([records, made])
        return SketchIndex(names, records)

    def verify(self) -> list[str]:
        """Everything that is wrong.

        Missing, altered or truncated files, links, what the manifest does not know, stale embeddings, and
        experts of another backbone, initialisation or shapes than most.
        """
        found: list[str] = []
        origins: dict[str, Origin] = {}
        records: list[Records] = []
        for name in self:
            try:
                files, faults = self._store.look(name)
                found += [f"{name}: {fault}" for fault in faults]
                if not faults:
                    expert = self._expert(name, files)
                    origins[name] = Origin.of(expert)
                    self._check_embedding(expert, files)
                    records.append(self._record(name, files))
            except PituningError as error:
                if name in self:  # not removed by another process meanwhile
                    found.append(f"{name}: {error}")
        found += disagreements(origins)
        found += self._unsketched(records)
        try:
            with self._store.lock() if (self.path / LOCK).exists() else nullcontext():
                strays = self._store.strays()
        except OSError:  # not ours to write: look without the lock
            strays = self._store.strays()
        found += [f"{path.relative_to(self.path)}: {reason}" for path, reason in strays.items()]
        return sorted(found)

    def repair(self) -> list[str]:
        """Mend what can be mended, and say what was done.

        What a killed writer left is finished or cleared; embeddings that are stale or damaged are dropped,
        for `pituning embed` to make again; damaged experts and what the manifest does not know are moved to
        `.quarantine`. Experts of another backbone, initialisation or shapes are left.
        """
        done = []
        left = (self.path / SCRATCH).is_dir()
        with self._store.writing():
            done += ["finished or cleared what a killed writer left"] if left else []
            for path in self._store.strays():
                if path.name.startswith((WORK, f".{MANIFEST}")) and not path.is_symlink():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                    done.append(f"{path.name}: deleted, it belongs to a run that has ended")
                elif path.name != SCRATCH:
                    done.append(f"{path.name}: moved to {self._store.quarantine(path)}")
            for name in self:
                done += [f"{name}: {what}" for what in self._mend(name)]
            for path in stray_files(self.path):
                done.append(f"{path.name}: moved to {self._store.quarantine(path)}")
            there, wanted = read_records(self.path), joined(self._record(name) for name in self)
            if len(there) != len(wanted) or any(lacking(there, wanted)):
                replace_records(self.path, wanted)
                done.append("made the sketches again")
        return done

    def _mend(self, name: str) -> Iterator[str]:
        """Repair one expert."""
        folder = self.path / name
        try:
            files, faults = read_folder(folder, self._store.entry(name))
            for file in [file for file, fault in faults.items() if fault == "is stray"]:
                del faults[file]
                yield f"moved {file} to {self._store.quarantine(folder / file)}"
            if set(faults) - {EMBEDDING}:
                raise PoolError("", "; ".join(f"{file} {fault}" for file, fault in faults.items()), "")
            expert = self._expert(name, files)
        except PituningError as error:
            yield f"moved to {self._store.quarantine(entry_path(self.path, name), folder)}, for {error.given}"
            return
        try:
            self._check_embedding(expert, files)
        except StaleEmbeddingError as error:
            faults[EMBEDDING] = f"was of no use ({error.given})"
        if faults:
            files.pop(EMBEDDING, None)
            with self._sketched(expert, None, b""):
                self._store.rewrite(name, files)
            yield f"dropped the embedding, which {faults[EMBEDDING]}; run `pituning embed`"

    def _check_embedding(self, expert: Expert, files: Mapping[str, bytes]) -> None:
        """Raise StaleEmbeddingError where there is an embedding that is not the expert's."""
        if EMBEDDING in files:
            path = self.path / expert.name / EMBEDDING
            TaskEmbedding.from_bytes(files[EMBEDDING], path).check_fresh(expert)

    @contextmanager
    def _sketched(self, expert: Expert, embedding: TaskEmbedding | None, content: bytes) -> Iterator[None]:
        """Around a commit: the sketch is there before its expert is, and an older one until after."""
        if not (self.path / SKETCHES).is_dir():  # a pool from before there were sketches
            with suppress(PituningError):
                put_records(self.path, joined(self._record(name) for name in self), {})
        name, digest = expert.name, hashlib.sha256(content).hexdigest() if content else ""
        now = {name_key(name): self._embedded_as(name)} if name in self else {}
        put_records(self.path, record_of(expert, embedding, digest), now)
        try:
            yield
        except BaseException:
            with suppress(OSError):
                forget_records(self.path, name, self._embedded_as(name) if name in self else None)
            raise
        with suppress(OSError):  # the change is made; an old sketch costs a look
            forget_records(self.path, name, digest)

    def _embedded_as(self, name: str) -> str:
        """The SHA-256 of an expert's embedding; empty where there is none, or its entry is damaged."""
        with suppress(PoolError):
            return self._store.entry(name).get(EMBEDDING, "")
        return ""

    def _record(self, name: str, files: Mapping[str, bytes] | None = None) -> Records:
        """What its sketch should be."""
        files = self._read(name) if files is None else files
        expert = self._expert(name, files)
        if EMBEDDING not in files:
            return record_of(expert, None, "")
        embedding = TaskEmbedding.from_bytes(files[EMBEDDING], self.path / name / EMBEDDING)
        embedding.check_fresh(expert)
        return record_of(expert, embedding, hashlib.sha256(files[EMBEDDING]).hexdigest())

    def _known(self, records: Records) -> tuple[list[str], Records]:
        """The records of experts that there are, and their names."""
        by_key = {name_key(name): name for name in self}
        names = [by_key.get(key) for key in records["name"].tolist()]
        there = [name is not None for name in names]
        return [name for name in names if name is not None], records[there]

    def _unsketched(self, wanted: Iterable[Records]) -> list[str]:
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
            wanted = self._record(name)  # first: the sketch is there before its expert is
            return lacking(read_records(self.path), wanted) == [True]
        return False

    def _read(self, name: str) -> dict[str, bytes]:
        """The files of an expert that is as it was added.

        Raises:
            PoolError: if there is none of this name, or it is not.
        """
        files, faults = self._store.look(name)
        if faults:
            raise PoolError(
                f"expert {name!r} must be as it was added",
                "; ".join(faults),
                "Remove it and add it again, or run `pituning pool verify POOL --repair`.",
            )
        return files

    def _expert(self, name: str, files: Mapping[str, bytes]) -> Expert:
        expert = Expert.from_files(files, self.path / name)
        if expert.name != name:
            raise PoolError("an expert's card has its name", f"{expert.name!r} for {name!r}", "Add it again.")
        return expert

    def _check_case(self, name: str) -> None:
        """Raise PoolError for a name that some disks cannot tell from one that is taken."""
        if (self.path / SKETCHES).is_dir() and not may_differ_by_case(self.path, name):
            return  # without a look at every entry
        entry = entry_path(self.path, name)
        folded = entry.name.casefold()
        alike = [
            file for file in os.listdir(entry.parent) if file.casefold() == folded and file != entry.name
        ]
        if alike:
            raise PoolError(
                "names in a pool differ by more than case, which some disks ignore",
                f"{name!r} and {Path(alike[0]).stem!r}",
                "Rename it with --name.",
            )
