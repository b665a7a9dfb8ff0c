"""Where a pool is shared: a Hub repository or an fsspec URL."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Protocol

from pituning.errors import RemoteError

REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
README = "README.md"


class Place(Protocol):
    """Files by path, in the layout of a pool."""

    @property
    def where(self) -> str:
        """For people."""

    @property
    def revision(self) -> str:
        """The commit that is read; "" where there are none."""

    @property
    def repository(self) -> str:
        """The Hub's id, for the model card; "" where there is none."""

    def listing(self) -> Collection[str]:
        """The names of the files in the manifest's folder; none where there is no such folder.

        Raises:
            RemoteError: it cannot be reached.
        """

    def read(self, path: str, most: int) -> bytes:
        """A file of at most `most` bytes, its size looked at before it is read.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is empty, too big or no regular file.
            RemoteError: it cannot be reached.
        """

    def put(self, name: str, files: Mapping[str, bytes], entry: bytes, gone: Collection[str]) -> None:
        """Store an expert: its files, then its entry; `gone` are files that its old version had.

        Raises:
            RemoteError: it cannot be written.
        """

    def start(self, facts: bytes) -> None:
        """Store `pool.json`, where there is none yet.

        Raises:
            RemoteError: it cannot be written.
        """

    def finish(self, message: str, card: str) -> str:
        """Make what was put the new revision, with this model card if there is one; return the revision.

        Raises:
            RemoteError: it cannot be written.
        """


def place_of(where: str, revision: str | None = None, *, writing: bool = False) -> Place:
    """The place that `hf://USER/NAME`, `USER/NAME` or a URL names.

    Args:
        where: the place.
        revision: branch, tag or commit of a Hub repository; its main branch where not given.
        writing: make the repository or folder if it is not there.

    Raises:
        RemoteError: it is no place, or it cannot be reached.
    """
    scheme, separator, rest = where.partition("://")
    if scheme == "hf" or not separator:
        repository = rest.rstrip("/") if separator else where
        if not REPOSITORY.fullmatch(repository):
            raise RemoteError(
                "a pool is shared at hf://USER/NAME or at a URL",
                where,
                "Examples: me/my-pool, hf://me/my-pool, s3://bucket/pool, file:///shared/pool.",
            )
        from pituning.remote.hub import HubRepository  # lazy: only the Hub needs its client

        return HubRepository(repository, revision, writing=writing)
    if revision:
        raise RemoteError(
            "revisions are of Hub repositories", f"{revision} of {where}", "Leave --revision out."
        )
    local = scheme.rpartition("::")[2] in ("file", "local", "memory")
    if not rest.strip("/") or (rest.startswith("/") and not local):
        fix = "Name one: s3://bucket/pool. A variable that is not set may have been meant."
        raise RemoteError("a URL must name a bucket or a folder", repr(where), fix)
    from pituning.remote.url import UrlFolder  # lazy: only URLs need fsspec

    return UrlFolder(where)


def check_size(size: object, most: int) -> int:
    """A file's size; ValueError if it is empty, too big or not known."""
    if type(size) is not int:
        raise ValueError("does not say its size")
    if not 0 < size <= most:
        raise ValueError(f"has {size} bytes, not 1 to {most}")
    return size


def without_extra(package: str, extra: str, where: str) -> RemoteError:
    """The error for a client that is not installed."""
    return RemoteError(
        f"{where} is reached through {package}", "it is not installed", f"pip install 'pituning[{extra}]'"
    )


def said(error: BaseException) -> str:
    """The first line of what a client says, and of its reason."""
    text = str(error).strip().splitlines()
    line = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
    return f"{line} ({said(error.__cause__)})" if error.__cause__ else line
