"""Named folders of files, each with its hashes, that many processes write to and any may be killed."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import final

from filelock import FileLock, Timeout

from pituning.errors import PoolError
from pituning.manifest import (
    ENTRIES,
    FORMAT,
    MANIFEST,
    NAME,
    SCRATCH,
    SKETCHES,
    entry_path,
    file_hashes,
    migrate,
    names_in,
    read_entry,
    read_facts,
    read_folder,
    write_entry,
    write_facts,
)
from pituning.places import LOCK
from pituning.safe_files import permitted, read_file
from pituning.spelling import did_you_mean, listed

QUARANTINE = ".quarantine"
WORK = ".work-"  # checkpoints of a run that trains an expert
OWN = (MANIFEST, LOCK, ENTRIES, SCRATCH, SKETCHES, QUARANTINE)
NEW = f".{MANIFEST}.new"

# A writer moves a folder once for each entry that it writes, so a reader that saw the same entry this often
# and found its files nowhere did not miss them in between.
ATTEMPTS = 3


@final
class Store:
    """The folder of a pool: names, files and hashes, without a thought of what is in the files.

    A writer holds a file lock, writes the files into a scratch folder and then their entry in the manifest:
    from this moment on they are what the name means. Only then is the folder moved into place, by this
    writer or, if it was killed, by the next one. Readers need no lock: they look in both places for files
    with the entry's hashes.
    """

    @permitted(PoolError)
    def __init__(self, path: Path) -> None:
        self.path = path
        self._refuse_links()
        if not (path / MANIFEST).is_file():
            near = [pool.parent.name for pool in path.parent.glob(f"*/{MANIFEST}")]
            raise PoolError(
                f"a pool is a folder with a {MANIFEST}",
                f"{path} has none" if path.exists() else f"{path}, which does not exist",
                f"{did_you_mean(path.name, near)}Check the path, or make one with `pituning pool build`.",
            )
        if read_facts(path)["format"] < FORMAT:
            with _disk(path), self.lock():
                migrate(path)

    @classmethod
    def create(cls, folder: Path, init_seed: int) -> Store:
        """Open the one at `folder`, or make an empty one."""
        if not (folder / MANIFEST).exists():
            ours = {*OWN, NEW}  # another process may be making it
            if folder.exists() and not ours.issuperset(path.name for path in folder.iterdir()):
                raise PoolError(
                    "a new pool starts in a new or empty folder",
                    f"{folder} holds other files",
                    "Choose another.",
                )
            with _disk(folder):
                folder.mkdir(parents=True, exist_ok=True)
                with FileLock(folder / LOCK):
                    if not (folder / MANIFEST).exists():
                        write_facts(folder, init_seed)
        return cls(folder)

    @permitted(PoolError)
    def __contains__(self, name: str) -> bool:
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            return False
        try:
            os.lstat(entry_path(self.path, name))  # not lexists, which takes what it may not ask for missing
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def look(self, name: str) -> tuple[dict[str, bytes], list[str]]:
        """Files, and what is wrong with them, whatever a writer does meanwhile."""
        seen: list[dict[str, str]] = []
        while True:
            entry = self.entry(name)
            seen = [*seen, entry] if entry in seen else [entry]
            locked = None
            for folder in (self.path / SCRATCH / name, self.path / name):
                try:
                    files, faults = read_folder(folder, entry)
                except PoolError as error:  # the other place may have them
                    locked = error
                    continue
                if not faults:
                    return files, []
            if locked:
                raise locked
            if len(seen) == ATTEMPTS:
                return files, [f"{file} {fault}" for file, fault in faults.items()]

    def entry(self, name: str) -> dict[str, str]:
        """File name -> SHA-256.

        Raises:
            PoolError: if there is none of this name, or its entry is not whole.
        """
        if name not in self:
            raise self._unknown(name)
        try:
            return read_entry(self.path, name)
        except FileNotFoundError:
            raise self._unknown(name) from None

    def _unknown(self, name: str) -> PoolError:
        known = listed(names_in(self.path)) or "none"
        return PoolError("the expert must be in the pool", f"{name!r}", f"{self.path} holds: {known}.")

    def remove(self, name: str) -> None:
        """Within `writing`: take a name out; its folder follows when the scratch folder is cleared.

        Raises:
            PoolError: if there is none of this name.
        """
        if name not in self:
            raise self._unknown(name)
        os.replace(entry_path(self.path, name), self.path / SCRATCH / f".removed-{name}")

    def strays(self) -> dict[Path, str]:
        """What lies in the folder and should not -> why. Writers come and go: hold the lock."""
        names = set(names_in(self.path))
        found = {}
        for path in self.path.iterdir():
            work = path.name.removeprefix(WORK) if path.name.startswith(WORK) else ""
            if path.name == SCRATCH:
                found[path] = "left by a killed writer; the next one finishes or clears it"
            elif path.is_symlink() and (work or path.name in names):
                found[path] = "is a link, which is never followed"
            elif work in names and _is_older(path, entry_path(self.path, work)) and not _is_held(path):
                found[path] = "left by a run that has ended"
            elif not work and path.name not in names and path.name not in OWN:
                found[path] = "not in the manifest"
        entries = {entry_path(self.path, name) for name in names}
        others = (self.path / ENTRIES).iterdir() if (self.path / ENTRIES).is_dir() else ()
        return found | {path: "no expert's entry" for path in others if path not in entries}

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """An empty scratch folder, under the lock."""
        with _disk(self.path), self.lock():
            self._tidy()
            scratch = self.path / SCRATCH
            for folder in (scratch, self.path / ENTRIES):
                folder.mkdir(exist_ok=True)
            try:
                yield scratch
            finally:
                self._tidy()

    def lock(self) -> FileLock:
        """What writers hold, one at a time."""
        self._refuse_links()
        return FileLock(self.path / LOCK, poll_interval=0.01)

    def _refuse_links(self) -> None:
        links = [name for name in OWN if (self.path / name).is_symlink()]
        if links:
            raise PoolError(
                "nothing in a pool is a link",
                f"{self.path / links[0]}",
                "Put what it points to in its place.",
            )

    def commit(self, name: str) -> None:
        """Make what lies in the scratch folder the expert of this name."""
        folder = self.path / SCRATCH / name
        try:
            files = {path.name: read_file(path) for path in folder.iterdir()}
        except ValueError as error:
            raise PoolError(
                "what a pool holds can be read again", f"{name!r}: {error}", "Make it smaller."
            ) from error
        write_entry(self.path, name, file_hashes(files))
        self._place(name)

    def rewrite(self, name: str, files: Mapping[str, bytes]) -> None:
        """Replace an expert's files."""
        (self.path / SCRATCH / name).mkdir()
        for file, content in files.items():
            (self.path / SCRATCH / name / file).write_bytes(content)
        self.commit(name)

    def _place(self, name: str) -> None:
        """Move an expert from the scratch folder to its place."""
        if os.path.lexists(self.path / name):
            os.replace(self.path / name, self.path / SCRATCH / f".old-{name}")
        os.replace(self.path / SCRATCH / name, self.path / name)

    def _tidy(self) -> None:
        """Under the lock: finish what a killed writer had committed, and delete the scratch folder.

        What fails here, on a full disk, is left to the next writer: the pool reads the same before and after.
        What may not be read stays, too: it may be what an entry means.
        """
        scratch, kept = self.path / SCRATCH, set[Path]()
        with contextlib.suppress(OSError):
            for path in [*scratch.iterdir()] if scratch.is_dir() else []:
                name = path.name.removeprefix(".removed-")
                if name != path.name and name not in self and os.path.lexists(self.path / name):
                    os.replace(self.path / name, scratch / f".old-{name}")
                elif path.name in self:
                    try:
                        if self._is_pending(name):
                            self._place(name)
                    except PoolError:
                        kept.add(path)
            for path in {*scratch.iterdir()} - kept:
                with contextlib.suppress(OSError):
                    delete(path)
            scratch.rmdir()

    def _is_pending(self, name: str) -> bool:
        """Whether the files that the entry means lie in the scratch folder alone."""
        try:
            entry = self.entry(name)
        except PoolError:
            return False
        _, faults = read_folder(self.path / name, entry)
        return bool(faults) and not read_folder(self.path / SCRATCH / name, entry)[1]

    def quarantine(self, *paths: Path) -> str:
        """Move an expert's entry and folder, or a stray file, out of the way; nothing is deleted."""
        (self.path / QUARANTINE).mkdir(exist_ok=True)
        for number in itertools.count(1):
            target = self.path / QUARANTINE / f"{paths[-1].name}-{number}"
            entry = target.with_name(f"{target.name}.json")
            if not os.path.lexists(target) and not os.path.lexists(entry):
                break
        for path in paths:
            if os.path.lexists(path):
                os.replace(path, target if path == paths[-1] else entry)
        return str((target if os.path.lexists(target) else entry).relative_to(self.path))


def delete(path: Path) -> None:
    """A file or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _is_older(path: Path, other: Path) -> bool:
    return path.stat().st_mtime < other.stat().st_mtime


def _is_held(folder: Path) -> bool:
    """Whether a run has the lock of its folder: an expert may be embedded anew while it is trained again."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # not ours to write
        return False


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Raise PoolError for what a full or read-only disk does."""
    try:
        yield
    except OSError as error:
        raise PoolError(
            f"{folder} must be writable and have room",
            f"{error.strerror or error}",
            "Free space, mend the permissions or choose another folder; the pool is as it was.",
        ) from error
