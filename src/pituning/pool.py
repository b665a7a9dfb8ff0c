"""A folder of experts and their embeddings."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from filelock import FileLock

from pituning.errors import PituningError, PoolError
from pituning.expert import Expert
from pituning.manifest import FORMAT, MANIFEST, NAME, file_faults, file_hashes, read_manifest, write_manifest
from pituning.predict.embedding import EMBEDDING, TaskEmbedding

LOCK = ".lock"
WORK = ".work-"  # checkpoints of a run that trains an expert


@final
class Pool:
    """Experts by name: one folder each, and a manifest with the SHA-256 of every file.

    A writer holds a file lock, writes the expert into a scratch folder and then the manifest, which names
    that folder as the expert's `next`: from this moment on the expert is in the pool. Only then are the
    folders renamed, by this writer or, if it was killed, by the next one; readers find the files in either
    place.

    Example:
        >>> pool = Pool.create("pool", init_seed=0)          # doctest: +SKIP
        >>> pool.add(expert, embedding)                      # doctest: +SKIP
        >>> [name for name in pool]                          # doctest: +SKIP
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / MANIFEST).is_file():
            raise PoolError(
                f"a pool is a folder with a {MANIFEST}",
                f"{self.path} has none",
                "Make one with `pituning train TASK --pool DIR`.",
            )
        read_manifest(self.path)

    @classmethod
    def create(cls, path: str | Path, *, init_seed: int = 0) -> Pool:
        """Open the pool at `path`, or make an empty one whose experts all start from `init_seed`."""
        folder = Path(path)
        if not (folder / MANIFEST).exists():
            if folder.exists() and any(folder.iterdir()):
                raise PoolError(
                    "a new pool starts in a new or empty folder",
                    f"{folder} holds other files",
                    "Choose another.",
                )
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write_manifest(folder, {"format": FORMAT, "init_seed": init_seed, "experts": {}})
            except OSError as error:
                raise _unwritable(folder, error) from error
        return cls(folder)

    @property
    def init_seed(self) -> int:
        """The seed of the initialisation that the pool's experts share."""
        return int(read_manifest(self.path)["init_seed"])

    def __iter__(self) -> Iterator[str]:
        """The experts' names, sorted."""
        return iter(sorted(read_manifest(self.path)["experts"]))

    def __contains__(self, name: str) -> bool:
        return name in read_manifest(self.path)["experts"]

    def __len__(self) -> int:
        return len(read_manifest(self.path)["experts"])

    def get(self, name: str) -> Expert:
        """Read an expert, whole and unaltered.

        Raises:
            PoolError: if there is none of this name, or a file is not what the manifest says.
        """
        return Expert.load(self._whole(name))

    def has_embedding(self, name: str) -> bool:
        """Whether an embedding was stored for this expert (it may be stale)."""
        entry = self._entry(name)
        return EMBEDDING in entry.get("next", entry)["files"]

    def embedding(self, name: str) -> TaskEmbedding:
        """The expert's task embedding.

        Raises:
            StaleEmbeddingError: if there is none, or the expert has changed since.
        """
        folder = self._whole(name)
        embedding = TaskEmbedding.load(folder / EMBEDDING)
        embedding.check_fresh(Expert.load(folder))
        return embedding

    def add(self, expert: Expert, embedding: TaskEmbedding | None = None, *, replace: bool = False) -> None:
        """Store an expert (and its embedding) under its name.

        Raises:
            PoolError: if the name is taken and `replace` is not set, or the folder cannot be written.
        """
        self.check_name(expert.name)
        with self._writing() as (manifest, scratch):
            taken = manifest["experts"]
            _check_case(expert.name, taken)
            if expert.name in taken and not replace:
                raise PoolError(
                    "a name is used once in a pool",
                    f"{expert.name!r} is taken in {self.path}",
                    "Choose another with --name, or pass --replace.",
                )
            self._store(expert, embedding, manifest, scratch)

    @staticmethod
    def check_name(name: str) -> None:
        """Raise PoolError for a name that could be a path, or hide."""
        if not NAME.fullmatch(name) or name == MANIFEST:
            raise PoolError(
                f"an expert's name is letters, digits, dots, dashes, underscores and +, and not {MANIFEST}",
                repr(name),
                "Rename it with --name.",
            )

    def add_embedding(self, name: str, embedding: TaskEmbedding) -> None:
        """Store or replace the embedding of an expert."""
        with self._writing() as (manifest, scratch):
            self._store(self.get(name), embedding, manifest, scratch)

    def remove(self, name: str) -> None:
        """Delete an expert.

        Raises:
            PoolError: if there is none of this name.
        """
        with self._writing() as (manifest, scratch):
            self._entry(name)
            del manifest["experts"][name]
            write_manifest(self.path, manifest)
            if (self.path / name).exists():
                os.replace(self.path / name, scratch / name)

    def verify(self) -> list[str]:
        """Everything that is wrong: missing, altered, truncated or stray files, stale embeddings."""
        found = []
        for name in self:
            folder, faults = self._find(name)
            found += [f"{name}: {fault}" for fault in faults]
            if faults:
                continue
            try:
                expert = Expert.load(folder)
                if self.has_embedding(name):
                    TaskEmbedding.load(folder / EMBEDDING).check_fresh(expert)
            except PituningError as error:
                found.append(f"{name}: {error}")
        known = {MANIFEST, LOCK, *self}
        others = [path.name for path in self.path.iterdir() if path.name not in known]
        found += [f"{name}: not in the manifest" for name in others if not name.startswith(WORK)]
        return sorted(found)

    @contextmanager
    def _writing(self) -> Iterator[tuple[dict[str, Any], Path]]:
        """The manifest under the lock, and a scratch folder."""
        try:
            with FileLock(self.path / LOCK):
                self._tidy()
                scratch = Path(tempfile.mkdtemp(prefix=".scratch-", dir=self.path))
                try:
                    yield read_manifest(self.path), scratch
                finally:
                    self._tidy()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _store(
        self, expert: Expert, embedding: TaskEmbedding | None, manifest: dict[str, Any], scratch: Path
    ) -> None:
        """Write the expert beside what there is, then the manifest."""
        if embedding is not None:
            embedding.check_fresh(expert)
        folder = scratch / expert.name
        folder.mkdir()
        expert.write(folder)
        if embedding is not None:
            (folder / EMBEDDING).write_bytes(embedding.to_bytes())
        entry = manifest["experts"].setdefault(expert.name, {})
        entry["next"] = {"files": file_hashes(folder), "scratch": scratch.name}
        write_manifest(self.path, manifest)

    def _tidy(self) -> None:
        """Under the lock: move what the manifest calls `next` to its place, and delete the scratch folders.

        What fails here, on a full disk, is left to the next writer: the pool reads the same before and after.
        """
        with contextlib.suppress(OSError):
            manifest = read_manifest(self.path)
            pending = {name: entry["next"] for name, entry in manifest["experts"].items() if "next" in entry}
            for name, entry in pending.items():
                scratch, final = self.path / entry["scratch"], self.path / name
                if (scratch / name).is_dir():
                    if final.exists():
                        os.replace(final, scratch / f".old-{name}")
                    os.replace(scratch / name, final)
                manifest["experts"][name] = {"files": entry["files"]}
            if pending:
                write_manifest(self.path, manifest)
            for scratch in self.path.glob(".scratch-*"):
                shutil.rmtree(scratch, ignore_errors=True)

    def _whole(self, name: str) -> Path:
        """The folder of an expert that is as it was added."""
        folder, faults = self._find(name)
        if faults:
            raise PoolError(
                f"expert {name!r} must be as it was added", "; ".join(faults), "Remove it and add it again."
            )
        return folder

    def _find(self, name: str) -> tuple[Path, list[str]]:
        """Where the expert lies, and what is wrong with it there."""
        entry = self._entry(name)
        places = [(self.path / name, entry["files"])] if "files" in entry else []
        if "next" in entry:
            coming = entry["next"]["files"]
            places = [
                (self.path / entry["next"]["scratch"] / name, coming),
                (self.path / name, coming),
                *places,
            ]
        found = [(folder, file_faults(folder, files)) for folder, files in places]
        best = min(found, key=lambda place: len(place[1]))
        # A writer may have moved the folder while it was read.
        return self._find(name) if best[1] and self._entry(name) != entry else best

    def _entry(self, name: str) -> dict[str, Any]:
        experts: dict[str, dict[str, Any]] = read_manifest(self.path)["experts"]
        if name not in experts:
            known = ", ".join(sorted(experts)) or "none"
            raise PoolError("the expert must be in the pool", f"{name!r}", f"{self.path} holds: {known}.")
        return experts[name]


def _check_case(name: str, taken: Iterable[str]) -> None:
    """Raise PoolError for a name that some disks cannot tell from one that is taken."""
    alike = [other for other in taken if other != name and other.casefold() == name.casefold()]
    if alike:
        raise PoolError(
            "names in a pool differ by more than case, which some disks ignore",
            f"{name!r} and {alike[0]!r}",
            "Rename it with --name.",
        )


def _unwritable(folder: Path, error: OSError) -> PoolError:
    return PoolError(
        f"{folder} must be writable and have room",
        f"{error.strerror or error}",
        "Free space, mend the permissions or choose another folder; the pool is as it was.",
    )
