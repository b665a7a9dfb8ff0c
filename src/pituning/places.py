"""Folders that are still to be made: whether they can be, and what to say where they cannot."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pituning.errors import ExpertError

LOCK = ".lock"


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A folder that appears at `target` in the end, whole or not at all; it is made beside it at once.

    Raises:
        ExpertError: if it cannot be made, or moved there.
    """
    with _clearing(target):
        around = scratch_beside(target)
        try:
            folder = around / target.name
            with writing(target):
                folder.mkdir()  # unlike what is around it, with the permissions that the user gives
            yield folder
            with writing(target):
                os.replace(folder, target)
        finally:
            shutil.rmtree(around, ignore_errors=True)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raise ExpertError for what keeps `target` from being written (permissions, a full disk)."""
    try:
        yield
    except OSError as error:
        raise ExpertError(
            f"{target.parent} must be writable and have room",
            f"{error.strerror or error}",
            "Free space, mend the permissions or choose another folder; nothing was changed.",
        ) from error


@contextmanager
def _clearing(target: Path) -> Iterator[None]:
    """Those folders above `target` that were not there go again, where they are left with nothing in them."""
    new = [folder for folder in target.parents if not folder.exists()]
    try:
        yield
    finally:
        for folder in new:  # from the innermost
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def alone_in(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock in a folder for checkpoints, which goes when it is left with nothing but the lock.

    Raises:
        ExpertError: if it cannot be made or written, or another run holds it and is not waited for.
    """
    with _clearing(folder):
        lock = FileLock(folder / LOCK)
        while not lock.is_locked:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                try:
                    lock.acquire(timeout=0)
                except FileNotFoundError:  # its holder has finished, and cleared the folder
                    continue
                except Timeout as error:
                    if not wait:
                        fix = "Wait until it has ended, or choose another folder."
                        must = "two runs must not write into one place"
                        raise ExpertError(must, f"another has its checkpoints in {folder}", fix) from error
                    with suppress(FileNotFoundError):
                        lock.acquire()
        try:
            yield
        finally:
            with suppress(OSError):  # held still: who waits for it sees that it is gone, and makes a new one
                (folder / LOCK).unlink()
            lock.release()
            with suppress(OSError):
                folder.rmdir()


def scratch_beside(target: Path) -> Path:
    """A new hidden folder beside `target`, on the same disk, in which to make what is to appear there.

    Raises:
        ExpertError: if none can be made.
    """
    with writing(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        except FileExistsError as error:  # where a folder should be
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error


def require_place(target: Path) -> None:
    """Find out whether `target` could be made: in the innermost folder above it that is there.

    Raises:
        ExpertError: it could not.
    """
    above = next(folder for folder in target.absolute().parents if folder.exists())
    with writing(target):
        Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=above)).rmdir()
