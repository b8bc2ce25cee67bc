"""An S3 service on loopback with a bucket in it, and a proxy before it that fails and dawdles on demand."""

from __future__ import annotations

import http.client
import logging
import random
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from moto.server import ThreadedMotoServer

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(kw_only=True)
class Bucket:
    """A bucket, and what the proxy before it does. A share of requests fails; every answer takes ``seconds``."""

    address: str = ""
    failing: float = 0.0
    seconds: float = 0.0
    away: bool = False
    writes: Counter[str] = field(default_factory=Counter)
    """PUT and POST requests that reached the service, by path."""
    num_failed: int = 0

    def uri(self, prefix: str) -> str:
        return f"s3://bucket/{prefix}?endpoint_override={self.address}&scheme=http&region=us-east-1"


@contextmanager
def running_bucket() -> Iterator[Bucket]:
    """Set ``CREDENTIALS`` in the environment before anything uses it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT"))
    bucket = Bucket()
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(bucket, f"{host}:{port}"))
    bucket.address = f"127.0.0.1:{proxy.server_address[1]}"
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield bucket
    finally:
        proxy.shutdown()
        proxy.server_close()
        server.stop()


def _handler(bucket: Bucket, service: str) -> type[BaseHTTPRequestHandler]:
    chance, lock = random.Random(0), threading.Lock()

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self._body()
            time.sleep(bucket.seconds)
            with lock:
                draw = chance.random()
            if bucket.away or draw < bucket.failing:
                bucket.num_failed += 1
                if draw < bucket.failing / 2 or bucket.away:
                    self._answer(503, {}, b"<Error><Code>SlowDown</Code><Message>slow</Message></Error>")
                else:
                    self.close_connection = True  # not a word
                return
            if self.command in ("PUT", "POST"):
                bucket.writes[self.path.partition("?")[0]] += 1
            connection = http.client.HTTPConnection(service)
            headers = {n: v for n, v in self.headers.items() if n.lower() not in ("transfer-encoding", "expect")}
            connection.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
            answer = connection.getresponse()
            self._answer(answer.status, dict(answer.getheaders()), answer.read())
            connection.close()

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            pieces = []
            while length := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(length))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", len(body)) if self.command == "HEAD" else len(body)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Silence."""

    return Proxy
