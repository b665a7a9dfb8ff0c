"""Folders that are still to be made: whether they can be, and what to say where they cannot."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from pituning.errors import ExpertError


def scratch_beside(target: Path) -> Path:
    """A new hidden folder beside `target`, on the same disk, in which to make what is to appear there.

    Raises:
        ExpertError: if none can be made.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except FileExistsError as error:  # where a folder should be
        raise unwritable(target, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))) from error
    except OSError as error:
        raise unwritable(target, error) from error


def require_place(target: Path) -> None:
    """Find out whether `target` could be made: in the innermost folder above it that is there.

    Raises:
        ExpertError: it could not.
    """
    above = next(folder for folder in target.absolute().parents if folder.exists())
    try:
        Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=above)).rmdir()
    except OSError as error:
        raise unwritable(target, error) from error


def unwritable(target: Path, error: OSError) -> ExpertError:
    """The error for a folder that cannot be written (permissions, full disk)."""
    return ExpertError(
        f"{target.parent} must be writable and have room",
        f"{error.strerror or error}",
        "Free space, mend the permissions or choose another folder; nothing was changed.",
    )
