"""A Hugging Face Hub on loopback, for tests: real files over real HTTP, and nothing from outside.

    with LoopbackHub(root) as hub:
        environment["HF_ENDPOINT"] = hub.url      # in a new process: the client reads it once, at import

Repositories are folders: ``root/models/<owner>/<name>/`` and ``root/datasets/<owner>/<name>/``. A repository has one
content, whatever revision is asked for; its commit is the hash of that or, as on the real Hub, the commit that was
asked for. What it serves under a real repository's name is made up: give the client an ``HF_HOME`` of the test's own.
"""

from __future__ import annotations

import hashlib
import json
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

_KINDS = ("models", "datasets")


class LoopbackHub:
    """The server; ``requests`` lists (method, path) of what was asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[tuple[str, str]] = []
        hub = self

        class Handler(_Handler):
            def __init__(self, *arguments: object) -> None:
                self.hub = hub
                super().__init__(*arguments)  # type: ignore[arg-type]  # as socketserver calls it

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files(self, kind: str, repository: str) -> dict[str, bytes]:
        """Content by path inside the repository; empty where there is no such repository."""
        folder = self.root / kind / repository
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def commit(self, kind: str, repository: str, revision: str = "main") -> str:
        """The revision where it is a commit, else 40 hex digits over the repository's content."""
        if len(revision) == 40:
            return revision
        digest = hashlib.sha1()
        for name, data in self.files(kind, repository).items():
            digest.update(f"{name} {len(data)}\n".encode() + data)
        return digest.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Silent: ``requests`` is the log."""

    def _answer(self) -> None:
        self.hub.requests.append((self.command, self.path))
        url = urlsplit(self.path)
        match unquote(url.path).strip("/").split("/"):
            case ["api", kind, owner, name, *rest] if kind in _KINDS:
                self._api(kind, f"{owner}/{name}", rest, parse_qs(url.query))
            case ["datasets", owner, name, "resolve", revision, *path]:
                self._file("datasets", f"{owner}/{name}", revision, "/".join(path))
            case [owner, name, "resolve", revision, *path]:
                self._file("models", f"{owner}/{name}", revision, "/".join(path))
            case _:
                self._missing("EntryNotFound")

    def _api(self, kind: str, repository: str, rest: list[str], query: dict[str, list[str]]) -> None:
        files = self.hub.files(kind, repository)
        if not files:
            return self._missing("RepoNotFound")
        match rest:
            case [] | ["revision", _]:
                self._json(
                    {
                        "id": repository,
                        "sha": self.hub.commit(kind, repository, *rest[1:]),
                        "private": False,
                        "gated": False,
                        "disabled": False,
                        "tags": [],
                        "downloads": 0,
                        "likes": 0,
                        "siblings": [{"rfilename": name} for name in files],
                    }
                )
            case ["tree", _, *path]:
                recursive = query.get("recursive", [""])[0].lower() in ("1", "true")
                self._tree(files, "/".join([*path, ""]) if path else "", recursive)
            case _:
                self._missing("EntryNotFound")

    def _tree(self, files: dict[str, bytes], prefix: str, recursive: bool) -> None:
        inside = {name.removeprefix(prefix): data for name, data in files.items() if name.startswith(prefix)}
        if prefix and not inside:
            return self._missing("EntryNotFound")
        folders = sorted({"/".join(n.split("/")[:depth]) for n in inside for depth in range(1, n.count("/") + 1)})
        entries = [
            {"type": "directory", "path": prefix + name, "oid": "0" * 40, "size": 0}
            for name in folders
            if recursive or "/" not in name
        ]
        entries += [
            {"type": "file", "path": prefix + name, "oid": hashlib.sha1(data).hexdigest(), "size": len(data)}
            for name, data in inside.items()
            if recursive or "/" not in name
        ]
        self._json(entries)

    def _file(self, kind: str, repository: str, revision: str, path: str) -> None:
        files = self.hub.files(kind, repository)
        if not files:
            return self._missing("RepoNotFound")
        commit = {"X-Repo-Commit": self.hub.commit(kind, repository, revision)}
        if path not in files:
            return self._missing("EntryNotFound", commit)
        data = files[path]
        headers = {**commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if wanted[0]:
            first, last = int(wanted[0]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            return self._send(HTTPStatus.PARTIAL_CONTENT, data[first : last + 1], headers)
        return self._send(HTTPStatus.OK, data, headers)

    def _json(self, value: object) -> None:
        self._send(HTTPStatus.OK, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(HTTPStatus.NOT_FOUND, b"{}", {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})

    def _send(self, status: HTTPStatus, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
