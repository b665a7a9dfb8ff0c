"""The part of the Hub that its client asks for pools: repositories with commits, LFS and pinned files.

Written from what huggingface_hub 2.4 sends. Weights go through LFS and are fetched by a redirect, as on the
Hub; a commit names its parent or is refused; writing takes a token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_of_the_tests"

Files = dict[str, bytes]


@dataclass
class Repository:
    """Commit -> files; the last one is `main`."""

    commits: dict[str, Files] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit(self, files: Files) -> str:
        content = json.dumps({path: hashlib.sha256(held).hexdigest() for path, held in sorted(files.items())})
        oid = hashlib.sha1(f"{len(self.commits)} {content}".encode()).hexdigest()
        self.commits[oid] = dict(files)
        return oid

    def at(self, revision: str) -> tuple[str, Files] | None:
        oid = self.head if revision == "main" else revision
        return (oid, self.commits[oid]) if oid in self.commits else None


@dataclass
class Hub:
    """Its repositories, and every request as "METHOD path"."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    uploaded: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    gated: set[str] = field(default_factory=set)

    def repository(self, name: str = "me/pool") -> Repository:
        return self.repositories.setdefault(name, Repository({"0" * 40: {".gitattributes": b""}}))

    def tamper(self, path: str, content: bytes | None, name: str = "me/pool") -> None:
        """Someone commits another file, or none."""
        repository = self.repository(name)
        files = {**repository.commits[repository.head]}
        files.pop(path, None)
        repository.commit(files if content is None else {**files, path: content})


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """To `Hub.requests` instead."""

    def do_GET(self) -> None:
        self._route()

    do_HEAD = do_POST = do_PUT = do_GET

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        body = self._body()
        writing = self.command in ("POST", "PUT") and not path.startswith("/api/validate-yaml")
        if writing and not path.startswith("/lfs/") and not self._may_write():
            return self._fail(401, "", "Invalid username or password.")
        for pattern, answer in ROUTES.items():
            match = re.fullmatch(pattern, path)
            if match:
                return answer(self, body, *match.groups())
        return self._fail(404, "", "no such page")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _answer(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), Content_Type="application/json")

    def _fail(self, status: int, code: str, message: str) -> None:
        headers = {"X_Error_Code": code, "X_Error_Message": message} if code else {}
        body = json.dumps({"error": message}).encode()
        self._send(status, body, Content_Type="application/json", **headers)

    def _at(self, name: str, revision: str) -> tuple[str, Files] | None:
        """Commit and files; None after an answer that there are none."""
        if name in self.hub.gated and not self._may_write():
            self._fail(403, "GatedRepo", "Access to this repository is restricted.")
            return None
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._fail(404, "RepoNotFound", "Repository not found")
            return None
        found = repository.at(revision)
        if found is None:
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        url = f"{self.hub.url}/{name}"
        if name in self.hub.repositories:
            return self._answer({"error": "You already created this model repo", "url": url}, 409)
        self.hub.repository(name)
        return self._answer({"url": url})

    def info(self, _: bytes, name: str, revision: str | None) -> None:
        found = self._at(name, revision or "main")
        if found:
            self._answer({"id": name, "sha": found[0], "siblings": [], "tags": [], "private": False})

    def tree(self, _: bytes, name: str, revision: str) -> None:
        found = self._at(name, revision)
        if not found:
            return
        folders = sorted({path.rpartition("/")[0] for path in found[1]} - {""})
        listed: list[dict[str, Any]] = [
            {"type": "directory", "path": folder, "oid": "0" * 40} for folder in folders
        ]
        for path, content in found[1].items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
            entry["oid"] = _git_oid(content)
            if path.endswith(".safetensors"):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
            listed.append(entry)
        self._answer(listed)

    def validate(self, body: bytes) -> None:
        front = json.loads(body)["content"].split("---\n")[1]
        good = isinstance(yaml.safe_load(front), dict)
        self._answer(
            {"errors": [] if good else [{"message": "no mapping"}], "warnings": []}, 200 if good else 400
        )

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        found = self._at(name, revision)
        if not found:
            return
        files = []
        for file in json.loads(body)["files"]:
            path = file["path"]
            mode = "lfs" if path.endswith(".safetensors") else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None})
        self._answer({"files": files, "commitOid": found[0]})

    def batch(self, body: bytes, _: str) -> None:
        objects = []
        for wanted in json.loads(body)["objects"]:
            upload = {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}
            objects.append({**wanted, "actions": {"upload": upload}})
        self._answer({"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self._fail(400, "", "not the object that was announced")
        self.hub.uploaded[oid] = body
        return self._send(200, b"")

    def load(self, body: bytes, oid: str) -> None:
        if self.command == "PUT":
            return self.store(body, oid)
        blobs = {
            hashlib.sha256(content).hexdigest(): content
            for repository in self.hub.repositories.values()
            for files in repository.commits.values()
            for content in files.values()
        }
        commit = urlsplit(self.path).query.removeprefix("commit=")
        return self._send(200, blobs[oid], ETag=f'"{oid}"', X_Repo_Commit=commit)

    def commit(self, body: bytes, name: str, revision: str) -> None:
        found = self._at(name, revision)
        if not found:
            return None
        files = dict(found[1])
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header" and value.get("parentCommit") not in (None, found[0]):
                return self._fail(412, "", "A commit has happened since. Please refresh and try again.")
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploaded[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        oid = self.hub.repositories[name].commit(files)
        return self._answer({"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def resolve(self, _: bytes, name: str, revision: str, path: str) -> None:
        found = self._at(name, revision)
        if not found:
            return None
        oid, files = found
        if path not in files:
            return self._send(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
        content = files[path]
        if path.endswith(".safetensors"):
            digest = hashlib.sha256(content).hexdigest()
            linked = {"X_Linked_Etag": f'"{digest}"', "X_Linked_Size": str(len(content))}
            location = f"/lfs/{digest}?commit={oid}"
            return self._send(302, b"", Location=location, X_Repo_Commit=oid, **linked)
        return self._send(200, content, ETag=f'"{_git_oid(content)}"', X_Repo_Commit=oid)


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


_REPOSITORY = r"([^/]+/[^/]+)"
ROUTES = {
    r"/api/repos/create": _Handler.create,
    r"/api/validate-yaml": _Handler.validate,
    rf"/api/models/{_REPOSITORY}/tree/([^/]+)": _Handler.tree,
    rf"/api/models/{_REPOSITORY}/preupload/([^/]+)": _Handler.preupload,
    rf"/api/models/{_REPOSITORY}/commit/([^/]+)": _Handler.commit,
    rf"/api/models/{_REPOSITORY}(?:/revision/([^/]+))?": _Handler.info,
    rf"/{_REPOSITORY}\.git/info/lfs/objects/batch": _Handler.batch,
    r"/lfs/([0-9a-f]+)": _Handler.load,
    rf"/{_REPOSITORY}/resolve/([^/]+)/(.+)": _Handler.resolve,
}
