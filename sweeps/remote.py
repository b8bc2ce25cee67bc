"""A place on object storage that is used like a path: ``s3://bucket/prefix``, ``gs://bucket/prefix``.

Knows URIs, and pyarrow's file systems behind them. An object appears whole or not at all, so nothing is renamed, and
there are no folders but in the names. Never knows what an object holds.

Who may read and write is the environment's matter (``AWS_ACCESS_KEY_ID``, a role, ``GOOGLE_APPLICATION_CREDENTIALS``),
never the URI's. Another S3 service is named by ``?endpoint_override=host:port&scheme=http&region=...`` or
``AWS_ENDPOINT_URL``.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlsplit

SCHEMES = ("s3", "gs", "gcs")
_S3_SETTINGS = ("region", "scheme", "endpoint_override")
_ATTEMPTS = 12
"""Of a request that is answered by an error, or not at all, with growing pauses: about a minute in all."""
_CONNECT_SECONDS, _ANSWER_SECONDS = 10.0, 60.0
_PIECE_BYTES = 16 * 2**20
_AGAIN_SECONDS, _PAUSE_SECONDS = 10.0, 0.2
Result = TypeVar("Result")


def is_remote(where: str | Path | RemotePath) -> bool:
    """Whether this names a place on object storage, and not a path."""
    return isinstance(where, RemotePath) or (isinstance(where, str) and "://" in where)


def place(where: str | Path | RemotePath) -> Path | RemotePath:
    """The path or the place on object storage of this name. Raises ``ValueError`` where a URI is not understood."""
    if isinstance(where, RemotePath):
        return where
    return RemotePath(where) if isinstance(where, str) and is_remote(where) else Path(where)


class RemotePath:
    """An object, or what the names of several begin with."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._parts = _checked(uri)
        self._stamp = ""

    def __reduce__(self) -> tuple[type[RemotePath], tuple[str]]:
        return RemotePath, (self._uri,)

    def __str__(self) -> str:
        return self._uri

    def __repr__(self) -> str:
        return f"RemotePath({self._uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self._uri == other._uri

    def __hash__(self) -> int:
        return hash(self._uri)

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self._parts._replace(path=f"{self._parts.path.rstrip('/')}/{name}").geturl())

    @property
    def name(self) -> str:
        return self._key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return Path(self.name).stem

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    @property
    def stamp(self) -> str:
        """Changes whenever the object is written; empty where there is none. One from a listing asks nobody."""
        return self._stamp or _stamp_of(self._info())

    def resolve(self) -> RemotePath:
        return self

    def exists(self) -> bool:
        """Whether there is an object of this name."""
        return bool(self._info().is_file)

    def is_dir(self) -> bool:
        """Whether there are objects below this name."""
        return bool(self._listed(recursive=False))

    def iterdir(self) -> Iterator[RemotePath]:
        """What is directly below, by name; raises ``FileNotFoundError`` where there is nothing."""
        found = self._listed(recursive=False)
        if not found:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        for info in sorted(found, key=lambda info: info.path):
            child = self / info.base_name
            child._stamp = _stamp_of(info)
            yield child

    def files_below(self) -> list[str]:
        """The names of all objects below, as they go on from this one."""
        return sorted(info.path.removeprefix(f"{self._key}/") for info in self._listed(recursive=True) if info.is_file)

    def read_bytes(self) -> bytes:
        def read() -> bytes:
            with self._as_errors(), self._fs.open_input_stream(self._key) as stream:
                content: bytes = stream.read()
                return content

        return _tried(read)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Write the object, whole, in one go."""
        with self._as_errors(), self._fs.open_output_stream(self._key) as stream:
            stream.write(content)

    def upload(self, path: Path) -> None:
        """Write the object with a file's content, of any size; it appears when all of it is there."""
        with self._as_errors(), path.open("rb") as file, self._fs.open_output_stream(self._key) as stream:
            while piece := file.read(_PIECE_BYTES):
                stream.write(piece)

    def download(self, path: Path) -> None:
        """Write the object's content into a file."""

        def read() -> None:
            with self._as_errors(), self._fs.open_input_stream(self._key) as stream, path.open("wb") as file:
                while piece := stream.read(_PIECE_BYTES):
                    file.write(piece)

        _tried(read)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the object."""
        try:
            with self._as_errors():
                self._fs.delete_file(self._key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        """Remove all objects below; nothing happens where there are none."""
        with suppress(FileNotFoundError), self._as_errors():
            self._fs.delete_dir(self._key)

    @property
    def _key(self) -> str:
        return f"{self._parts.netloc}{self._parts.path}".rstrip("/")

    @property
    def _fs(self) -> Any:
        return _file_system(self._parts.scheme, self._parts.netloc, self._parts.query)

    def _info(self) -> Any:
        with self._as_errors():
            return self._fs.get_file_info(self._key)

    def _listed(self, *, recursive: bool) -> list[Any]:
        from pyarrow.fs import FileSelector

        with self._as_errors():
            found = self._fs.get_file_info(FileSelector(self._key, allow_not_found=True, recursive=recursive))
        return list(found)

    @contextmanager
    def _as_errors(self) -> Iterator[None]:
        """Errors with a number and words of their own, as those of a disk have."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno is not None:
                raise
            refused = "ACCESS_DENIED" in str(error) or "HTTP status 403" in str(error)
            raise OSError(errno.EACCES if refused else errno.EIO, str(error), str(self)) from error


def _tried(read: Callable[[], Result]) -> Result:
    """What ``read`` gives. A connection that breaks within an answer is an error that the client does not try again."""
    deadline = time.monotonic() + _AGAIN_SECONDS
    while True:
        try:
            return read()
        except OSError as error:
            if error.errno != errno.EIO or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_SECONDS)


def _checked(uri: str) -> SplitResult:
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise ValueError(f"store {uri!r} is no place on object storage: give s3://bucket/prefix or gs://bucket/prefix")
    if "@" in parts.netloc:
        raise ValueError(
            "store names a user or a key in its URI: give them in the environment, where nothing logs them"
        )
    strange = [name for name, _ in parse_qsl(parts.query) if name not in _S3_SETTINGS]
    if strange:
        raise ValueError(f"store has {strange[0]!r} in its URI: only {', '.join(_S3_SETTINGS)} can be given there")
    return parts


@lru_cache(maxsize=8)
def _file_system(scheme: str, bucket: str, query: str) -> Any:
    from pyarrow import fs

    if scheme != "s3":
        return fs.FileSystem.from_uri(f"{scheme}://{bucket}")[0]
    return fs.S3FileSystem(
        **dict(parse_qsl(query)),
        request_timeout=_ANSWER_SECONDS,
        connect_timeout=_CONNECT_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        # One request for what is small, when all of it is known.
        allow_delayed_open=True,
        background_writes=False,
    )


def _stamp_of(info: Any) -> str:
    return f"{info.mtime_ns}-{info.size}" if info.is_file else ""
