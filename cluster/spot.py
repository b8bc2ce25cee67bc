"""Ray on a spot machine: runs it, and asks it to drain when the cloud takes the machine.

``python -m cluster.spot CLOUD COMMAND...``. Knows where a cloud says so (its metadata address), and that Ray drains its
node at SIGTERM: trials write their checkpoints while nothing new is placed there. Standard library only. Never knows a
trial.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from types import FrameType

LOOK_SECONDS = 5.0
ANSWER_SECONDS = 2.0
METADATA = "http://169.254.169.254"


def aws_takes_it(metadata: str = METADATA) -> bool:
    """Whether EC2 has given notice: the document exists only then (IMDSv2)."""
    asked = urllib.request.Request(
        f"{metadata}/latest/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    )
    token = urllib.request.urlopen(asked, timeout=ANSWER_SECONDS).read().decode()
    document = urllib.request.Request(
        f"{metadata}/latest/meta-data/spot/instance-action", headers={"X-aws-ec2-metadata-token": token}
    )
    try:
        urllib.request.urlopen(document, timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise
    return True


def gcp_takes_it(metadata: str = METADATA) -> bool:
    """Whether Compute Engine has given notice."""
    asked = urllib.request.Request(
        f"{metadata}/computeMetadata/v1/instance/preempted", headers={"Metadata-Flavor": "Google"}
    )
    return bool(urllib.request.urlopen(asked, timeout=ANSWER_SECONDS).read().decode().strip() == "TRUE")


CLOUDS: dict[str, Callable[[], bool]] = {"aws": aws_takes_it, "gcp": gcp_takes_it}


def watch(command: Sequence[str], takes_it: Callable[[], bool], look_seconds: float = LOOK_SECONDS) -> int:
    """Run ``command`` until it ends, and send it SIGTERM once at the cloud's notice; its exit status.

    SIGTERM to this process is handed on: a machine that is shut down says it so.
    """
    process = subprocess.Popen(command)

    def hand_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        while process.poll() is None and not _asked(takes_it):
            time.sleep(look_seconds)
        if process.poll() is None:
            print("the cloud takes this machine: Ray drains it", flush=True)
            process.terminate()
        return process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


def _asked(takes_it: Callable[[], bool]) -> bool:
    try:
        return takes_it()
    except OSError as error:
        # The next look may be answered; a machine is not given up for a slow metadata server.
        print(f"the metadata server does not answer: {error}", flush=True)
        return False


def main() -> None:
    cloud, *command = sys.argv[1:]
    sys.exit(watch(command, CLOUDS[cloud]))


if __name__ == "__main__":
    main()
