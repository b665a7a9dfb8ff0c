"""A folder of experts and their embeddings."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import final

from pituning import health
from pituning.adapter_files import CARD, CONFIG, WEIGHTS
from pituning.errors import ConfigError, ExpertError, PoolError, StaleEmbeddingError
from pituning.expert import Expert
from pituning.manifest import MANIFEST, NAME, SKETCHES, entry_path, names_in, read_facts
from pituning.predict.embedding import EMBEDDING, TaskEmbedding
from pituning.safe_files import check_tensors, read_file
from pituning.shelf import Shelf
from pituning.sketches import SketchIndex, forget_records, may_differ_by_case
from pituning.store import Store

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
        ConfigError.check_kinds((str | os.PathLike, path))
        self._shelf = Shelf(Store(Path(path)))
        self._store = self._shelf.store

    @classmethod
    def create(cls, path: str | Path, *, init_seed: int = 0) -> Pool:
        """Open the pool at `path`, or make an empty one whose experts all start from `init_seed`."""
        ConfigError.check_kinds((str | os.PathLike, path))
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
        return self._shelf.expert(name, self._shelf.read(name))

    def read(self, name: str) -> tuple[Expert, TaskEmbedding | None]:
        """An expert, and its embedding if there is one: both of one look at the files.

        Raises:
            PoolError: as `get`.
            StaleEmbeddingError: if the expert has changed since it was embedded.
        """
        files = self._shelf.read(name)
        expert = self._shelf.expert(name, files)
        return expert, self._shelf.embedding(expert, files)

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
        return self._shelf.read(name)

    def has_embedding(self, name: str) -> bool:
        """Whether an embedding was stored for this expert (it may be stale)."""
        return EMBEDDING in self._store.entry(name)

    def embedding(self, name: str, digest: str = "") -> TaskEmbedding:
        """The expert's task embedding.

        Args:
            name: of the expert.
            digest: the SHA-256 of the embedding's file, where it is known: see `embedding_file`.

        Raises:
            PoolError, ExpertError: if there is no such expert, or it is not as it was added.
            StaleEmbeddingError: if there is none, or the expert has changed since.
        """
        if digest:
            path = self.path / name / EMBEDDING
            return TaskEmbedding.from_bytes(self.embedding_file(name, digest), path)
        _, embedding = self.read(name)
        if embedding is None:
            raise StaleEmbeddingError(
                "an expert is embedded before it is compared", f"{name!r} is not", "Run `pituning embed`."
            )
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
            StaleEmbeddingError: if the embedding is of another state of the expert, or not finite.
        """
        ConfigError.check_kinds((Expert, expert))
        self.check_name(expert.name)
        if embedding is not None:
            ConfigError.check_kinds((TaskEmbedding, embedding))
            embedding.check_fresh(expert)
        with self._store.writing() as scratch:
            self.check_free(expert.name, replace=replace)
            folder = scratch / expert.name
            folder.mkdir()
            expert.write(folder)
            content = b"" if embedding is None else embedding.to_bytes()
            if content:
                (folder / EMBEDDING).write_bytes(content)
            with self._shelf.sketched(expert, embedding, content):
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
        expert, content = self._shelf.expert(name, files), files.get(EMBEDDING, b"")
        embedding = self._shelf.embedding(expert, files)
        with self._store.writing():
            self.check_free(name, replace=replace)
            with self._shelf.sketched(expert, embedding, content):
                self._store.rewrite(name, files)

    def check_free(self, name: str, *, replace: bool = False) -> None:
        """Raise PoolError for a name that is taken and not to be replaced."""
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
                "Give another `name` in the task file, or another --name where there is that option.",
            )

    def add_embedding(self, name: str, embedding: TaskEmbedding) -> None:
        """Store or replace the embedding of an expert, whose other files stay as they are."""
        ConfigError.check_kinds((TaskEmbedding, embedding))
        with self._store.writing():
            files = self._shelf.read(name)
            expert, content = self._shelf.expert(name, files), embedding.to_bytes()
            embedding.check_fresh(expert)
            with self._shelf.sketched(expert, embedding, content):
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
        return self._shelf.sketches()

    def verify(self) -> list[str]:
        """Everything that is wrong.

        Missing, altered or truncated files, links, what the manifest does not know, stale embeddings, and
        experts of another backbone, initialisation or shapes than most.
        """
        return health.verify(self._shelf)

    def repair(self) -> list[str]:
        """Mend what can be mended, and say what was done.

        What a killed writer left is finished or cleared; embeddings that are stale or damaged are dropped,
        for `pituning embed` to make again; damaged experts and what the manifest does not know are moved to
        `.quarantine`. Experts of another backbone, initialisation or shapes are left.
        """
        return health.repair(self._shelf)

    def _check_case(self, name: str) -> None:
        """Raise PoolError for a name that some disks cannot tell from one that is taken."""
        if (self.path / SKETCHES).is_dir() and not may_differ_by_case(self.path, name):
            return  # without a look at every entry
        entry = entry_path(self.path, name)
        if not entry.parent.is_dir():  # a pool that holds nothing yet
            return
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
