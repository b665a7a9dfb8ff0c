"""A folder of experts and their embeddings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import final

from pituning.agreement import Origin, disagreements
from pituning.errors import PituningError, PoolError, StaleEmbeddingError
from pituning.expert import Expert
from pituning.manifest import MANIFEST, NAME, SCRATCH, entry_path, names_in, read_facts, read_folder
from pituning.predict.embedding import EMBEDDING, TaskEmbedding
from pituning.store import LOCK, WORK, Store


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

    def has_embedding(self, name: str) -> bool:
        """Whether an embedding was stored for this expert (it may be stale)."""
        return EMBEDDING in self._store.entry(name)

    def embedding(self, name: str) -> TaskEmbedding:
        """The expert's task embedding.

        Raises:
            StaleEmbeddingError: if there is none, or the expert has changed since.
        """
        files = self._read(name)
        if EMBEDDING not in files:
            raise StaleEmbeddingError(
                "an expert is embedded before it is compared", f"{name!r} is not", "Run `pituning embed`."
            )
        embedding = TaskEmbedding.from_bytes(files[EMBEDDING], self.path / name / EMBEDDING)
        embedding.check_fresh(self._expert(name, files))
        return embedding

    def add(self, expert: Expert, embedding: TaskEmbedding | None = None, *, replace: bool = False) -> None:
        """Store an expert (and its embedding) under its name.

        Raises:
            PoolError: if the name is taken and `replace` is not set, or the folder cannot be written.
        """
        self.check_name(expert.name)
        if embedding is not None:
            embedding.check_fresh(expert)
        with self._store.writing() as scratch:
            self._check_case(expert.name)
            if expert.name in self and not replace:
                raise PoolError(
                    "a name is used once in a pool",
                    f"{expert.name!r} is taken in {self.path}",
                    "Choose another with --name, or pass --replace.",
                )
            folder = scratch / expert.name
            folder.mkdir()
            expert.write(folder)
            if embedding is not None:
                (folder / EMBEDDING).write_bytes(embedding.to_bytes())
            self._store.commit(expert.name)

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
            embedding.check_fresh(self._expert(name, files))
            self._store.rewrite(name, files | {EMBEDDING: embedding.to_bytes()})

    def remove(self, name: str) -> None:
        """Delete an expert.

        Raises:
            PoolError: if there is none of this name.
        """
        with self._store.writing():
            self._store.remove(name)

    def verify(self) -> list[str]:
        """Everything that is wrong.

        Missing, altered or truncated files, links, what the manifest does not know, stale embeddings, and
        experts of another backbone, initialisation or shapes than most.
        """
        found, origins = [], {}
        for name in self:
            try:
                files, faults = self._store.look(name)
                found += [f"{name}: {fault}" for fault in faults]
                if not faults:
                    expert = self._expert(name, files)
                    origins[name] = Origin.of(expert)
                    self._check_embedding(expert, files)
            except PituningError as error:
                if name in self:  # not removed by another process meanwhile
                    found.append(f"{name}: {error}")
        found += disagreements(origins)
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
            self._store.rewrite(name, files)
            yield f"dropped the embedding, which {faults[EMBEDDING]}; run `pituning embed`"

    def _check_embedding(self, expert: Expert, files: Mapping[str, bytes]) -> None:
        """Raise StaleEmbeddingError where there is an embedding that is not the expert's."""
        if EMBEDDING in files:
            path = self.path / expert.name / EMBEDDING
            TaskEmbedding.from_bytes(files[EMBEDDING], path).check_fresh(expert)

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
