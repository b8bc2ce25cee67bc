"""A spot machine's notice: from a metadata server on loopback to a drain of what runs."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster.spot import aws_takes_it, gcp_takes_it, watch

# Says so when it is asked to end, as Ray does, and ends by itself otherwise.
DRAINS = (
    "import signal, sys, time, pathlib\n"
    "def drain(*_):\n    pathlib.Path(sys.argv[1]).write_text('drained'); sys.exit(7)\n"
    "signal.signal(signal.SIGTERM, drain); pathlib.Path(sys.argv[1] + '.ready').touch(); time.sleep(60)"
)


class Metadata(BaseHTTPRequestHandler):
    """EC2's and Compute Engine's, as far as a notice goes; ``taken`` is set by the test."""

    taken = False

    def do_PUT(self) -> None:
        assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self._say(200, "key")

    def do_GET(self) -> None:
        if self.path == "/computeMetadata/v1/instance/preempted" and self.headers["Metadata-Flavor"] == "Google":
            self._say(200, "TRUE" if Metadata.taken else "FALSE")
        elif (
            self.path == "/latest/meta-data/spot/instance-action" and self.headers["X-aws-ec2-metadata-token"] == "key"
        ):
            self._say(200 if Metadata.taken else 404, '{"action": "terminate"}')
        else:
            self._say(401, "")

    def log_message(self, *_: object) -> None:
        pass

    def _say(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())


@contextmanager
def metadata() -> Iterator[str]:
    Metadata.taken = False
    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("takes_it", [aws_takes_it, gcp_takes_it])
def test_a_notice_is_seen_when_it_is_there(takes_it) -> None:  # type: ignore[no-untyped-def]
    with metadata() as address:
        assert not takes_it(address)
        Metadata.taken = True
        assert takes_it(address)


def test_at_a_notice_what_runs_is_asked_to_drain_once(tmp_path: Path) -> None:
    with metadata() as address:
        command = [sys.executable, "-c", DRAINS, str(tmp_path / "said")]

        def taken_once_it_runs() -> bool:
            Metadata.taken = (tmp_path / "said.ready").exists()
            return aws_takes_it(address)

        assert watch(command, taken_once_it_runs, look_seconds=0.2) == 7
    assert (tmp_path / "said").read_text() == "drained"


def test_what_ends_by_itself_and_a_silent_metadata_server_are_no_notice() -> None:
    def silent() -> bool:
        raise ConnectionError("nobody there")

    assert watch([sys.executable, "-c", "raise SystemExit(3)"], silent, look_seconds=0.1) == 3


def test_a_shutdown_of_the_machine_is_handed_on(tmp_path: Path) -> None:
    said = tmp_path / "said"
    code = (
        f"from cluster.spot import watch; raise SystemExit(watch([{sys.executable!r}, '-c', {DRAINS!r}, {str(said)!r}]"
    )
    code += ", lambda: False, look_seconds=0.2))"
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not Path(f"{said}.ready").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate()
    assert process.wait(timeout=20) == 7
    assert said.read_text() == "drained"
