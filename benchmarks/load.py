"""Sends photos to a server with wrk, as fast as it answers."""

import http.client
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("wrk.lua")
TIMEOUT = 120  # seconds that a client waits for an answer


@dataclass(frozen=True)
class Load:
    """What a server did under a load."""

    rate: float  # photos classified a second
    p50: float  # ms
    p99: float
    answered: int
    failed: dict[str, int]  # how many, by status, and "broken" connections and "timeouts"

    @property
    def failures(self) -> str:
        """For the table."""
        return ", ".join(f"{n} {kind}" for kind, n in self.failed.items()) or "none"


def check_wrk() -> None:
    """End with a clear error if wrk is missing."""
    if shutil.which("wrk") is None:
        sys.exit("the load comes from wrk, which is not installed: apt-get install wrk, or brew install wrk")


def load(address: str, clients: int, seconds: float, photos: list[Path]) -> Load:
    """Let so many clients post the photos in turn, each the next one as soon as it has an answer."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:.0f}s", "--timeout", f"{TIMEOUT}s", "-s", str(SCRIPT)]
    command += [f"http://{address}/invocations", "--", *map(str, photos)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        sys.exit(f"wrk failed:\n{done.stdout}{done.stderr}")
    said = json.loads(lines[-1])
    answered = said["statuses"].pop("200", 0)
    failed = said["statuses"] | {kind: said[kind] for kind in ("broken", "timeouts") if said[kind]}
    return Load(answered / said["seconds"], said["p50"], said["p99"], answered, failed)


def classify(address: str, photo: Path) -> dict[str, Any]:
    """The answer for one photo, outside of any load."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT)
    try:
        connection.request("POST", "/invocations", photo.read_bytes(), {"Content-Type": "image/jpeg"})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        sys.exit(f"{address} answered {photo.name} with {response.status} {body[:200]!r}")
    found: dict[str, Any] = json.loads(body)
    return found
