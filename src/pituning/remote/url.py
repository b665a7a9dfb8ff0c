"""A folder at a URL that fsspec knows: S3, Google Cloud Storage, a local or a network disk, memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import final

from pituning.errors import PituningError, RemoteError
from pituning.manifest import ENTRIES, MANIFEST
from pituning.remote.place import check_size, said, without_extra


@final
class UrlFolder:
    """An expert's entry is written last, and dropped before its files are replaced.

    So a reader of a push that is under way, or was killed, sees the whole expert or none.
    """

    repository = revision = ""

    def __init__(self, where: str) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise without_extra("fsspec", "remote", where) from error
        self.where = where.rstrip("/")
        try:
            with self._asking():  # an instance of our own: others' listings may be old
                self._files, self._root = url_to_fs(self.where, skip_instance_cache=True)
        except FileNotFoundError as error:
            raise RemoteError(
                "the URL's folder must be there", said(error), "Look for a mistyped name."
            ) from error

    def listing(self) -> Collection[str]:
        """The names of the files in the manifest's folder."""
        with self._asking():
            try:
                paths = self._files.ls(self._at(ENTRIES), detail=False)
            except FileNotFoundError:
                return []
        return [path.rstrip("/").rsplit("/", 1)[-1] for path in paths]

    def read(self, path: str, most: int) -> bytes:
        """See `Place`."""
        with self._asking():
            facts = self._files.info(self._at(path))
        if facts.get("type", "file") != "file":
            raise ValueError("is no regular file")
        size = check_size(facts.get("size"), most)
        with self._asking(), self._files.open(self._at(path), "rb", cache_type="none") as file:
            content: bytes = file.read(size)
        return content

    def start(self, facts: bytes) -> None:
        """See `Place`."""
        self._write(MANIFEST, facts)

    def put(self, name: str, files: Mapping[str, bytes], entry: bytes, gone: Collection[str]) -> None:
        """See `Place`."""
        listed = f"{ENTRIES}/{name}.json"
        for path in [listed, *(f"{name}/{file}" for file in gone)]:
            self._remove(path)
        for file, content in files.items():
            self._write(f"{name}/{file}", content)
        self._write(listed, entry)

    def finish(self, message: str, card: str) -> str:
        """See `Place`; it was all done before."""
        return self.revision

    def _write(self, path: str, content: bytes) -> None:
        full = self._at(path)
        try:
            with self._asking():
                try:
                    self._files.pipe_file(full, content)
                except FileNotFoundError:
                    self._make(full.rsplit("/", 1)[0])
                    self._files.pipe_file(full, content)
        except FileNotFoundError as error:
            fix = "Make the bucket or the folder first, or look for a mistyped name."
            raise RemoteError(f"{self.where} must be a place to write to", said(error), fix) from error

    def _make(self, folder: str) -> None:
        """Make a folder, but never a bucket: whoever mistypes its name is to be told."""
        if "/" in folder.strip("/") and not self._files.isdir(folder):
            self._make(folder.rsplit("/", 1)[0])
            self._files.mkdir(folder, create_parents=False)

    def _remove(self, path: str) -> None:
        with self._asking():
            try:
                self._files.rm_file(self._at(path))
            except FileNotFoundError:
                return

    def _at(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Raise RemoteError for what fsspec, or the client under it, raises; FileNotFoundError stays."""
        try:
            yield
        except (PituningError, FileNotFoundError):
            raise
        except ImportError as error:
            raise without_extra(said(error), "remote", self.where) from error
        except Exception as error:  # each client raises its own kinds
            if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
                must = f"{self.where} must allow it"
                fix = "Set the credentials that its client reads (for s3://: AWS_ACCESS_KEY_ID and the like)."
            else:
                must = f"{self.where} must be a URL that fsspec reaches"
                fix = "Check the URL and the network; run it again to go on."
            raise RemoteError(must, said(error), fix) from error
