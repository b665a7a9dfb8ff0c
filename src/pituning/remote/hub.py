"""A repository of the Hugging Face Hub, through its own client."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from pituning.errors import PituningError, RemoteError
from pituning.manifest import ENTRIES, MANIFEST
from pituning.remote.place import README, check_size, said, without_extra
from pituning.safe_files import read_file

MAIN = "main"
LOGIN = "Run `hf auth login`, or set HF_TOKEN to a token that may do this."


@final
class HubRepository:
    """Read at one commit, which the revision is resolved to once; written in one on its main branch."""

    def __init__(self, repository: str, revision: str | None, *, writing: bool) -> None:
        try:
            from huggingface_hub import HfApi
        except ImportError as error:
            raise without_extra("huggingface_hub", "hub", repository) from error
        self.repository, self.where = repository, f"hf://{repository}"
        self._hub, self._operations = HfApi(), list[Any]()
        with self._asking():
            if writing:
                self._hub.create_repo(repository, exist_ok=True)
            info = self._hub.repo_info(repository, revision=revision)
        self.revision: str = info.sha or ""  # none in a repository without a commit
        self._sizes = self._files_at(self.revision) if self.revision else {}

    def listing(self) -> Collection[str]:
        """The names of the files in the manifest's folder."""
        folder = f"{ENTRIES}/"
        return [path.removeprefix(folder) for path in self._sizes if path.startswith(folder)]

    def read(self, path: str, most: int) -> bytes:
        """See `Place`; the file lies in the Hub's cache."""
        if path not in self._sizes:
            raise FileNotFoundError(path)
        check_size(self._sizes[path], most)
        with self._asking():
            file = self._hub.hf_hub_download(self.repository, path, revision=self.revision)
        try:
            return read_file(Path(file), follow=True, header=False)
        except OSError as error:
            raise ValueError(f"cannot be read in the Hub's cache ({error})") from error

    def start(self, facts: bytes) -> None:
        """See `Place`."""
        self._add({MANIFEST: facts})

    def put(self, name: str, files: Mapping[str, bytes], entry: bytes, gone: Collection[str]) -> None:
        """See `Place`; weights are uploaded, and become visible with the commit."""
        from huggingface_hub import CommitOperationDelete

        paths = [f"{name}/{file}" for file in gone]
        self._operations += [CommitOperationDelete(path) for path in paths if path in self._sizes]
        self._add({f"{name}/{file}": content for file, content in files.items()})
        self._add({f"{ENTRIES}/{name}.json": entry})

    def finish(self, message: str, card: str) -> str:
        """See `Place`; refused by the Hub if someone else has committed since the listing was read."""
        if card:
            self._add({README: card.encode()})
        sent = {operation.path_in_repo for operation in self._operations}
        removed = {o.path_in_repo for o in self._operations if not hasattr(o, "path_or_fileobj")}
        with self._asking():
            commit = self._hub.create_commit(
                self.repository,
                self._operations,
                commit_message=message,
                revision=MAIN,
                parent_commit=self.revision or None,
            )
        missing = sorted((sent - removed).difference(self._files_at(commit.oid)))
        if missing:
            raise RemoteError(
                f"commit {commit.oid} of {self.where} must hold what was pushed",
                f"no {missing[0]}",
                "Look whether the repository's .gitignore leaves it out.",
            )
        return str(commit.oid)

    def _add(self, files: Mapping[str, bytes]) -> None:
        from huggingface_hub import CommitOperationAdd

        added = [CommitOperationAdd(path, content) for path, content in files.items()]
        with self._asking():
            self._hub.preupload_lfs_files(self.repository, added, revision=MAIN, free_memory=True)
        self._operations += added

    def _files_at(self, revision: str) -> dict[str, int]:
        """Path -> size."""
        with self._asking():
            found = self._hub.list_repo_tree(self.repository, recursive=True, revision=revision)
            return {entry.path: entry.size for entry in found if hasattr(entry, "size")}

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Raise RemoteError for what the client, or the transport under it, raises."""
        from huggingface_hub import errors

        try:
            yield
        except PituningError:
            raise
        except errors.GatedRepoError as error:
            must = f"{self.where} must be open to you"
            raise RemoteError(must, said(error), "Ask for access on its page.") from error
        except errors.RepositoryNotFoundError as error:
            must = f"{self.where} must be there, and visible to you"
            raise RemoteError(must, said(error), f"Look for a mistyped name. {LOGIN}") from error
        except errors.RevisionNotFoundError as error:
            must = f"{self.where} must have the revision"
            raise RemoteError(must, said(error), "Name a branch, a tag or a whole commit hash.") from error
        except errors.OfflineModeIsEnabled as error:
            raise RemoteError(f"{self.where} is asked", "HF_HUB_OFFLINE is set", "Unset it.") from error
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                must, fix = f"{self.where} must allow it", LOGIN
            elif status in (409, 412):
                must, fix = f"no one else may write to {self.where} meanwhile", "Push again."
            else:
                must, fix = f"{self.where} must answer", "Try again later."
            raise RemoteError(must, said(error), fix) from error
        except Exception as error:  # each transport raises its own kinds
            fix = "Check the network, the free space and HF_ENDPOINT; run it again to go on."
            raise RemoteError(f"{self.where} must be reached", said(error), fix) from error
