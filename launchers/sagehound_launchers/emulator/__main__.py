"""``python -m sagehound_launchers.emulator``: the emulator as a command."""

import argparse
import signal
import sys
import threading
from pathlib import Path

from sagehound import console
from sagehound.command import clear_errors


def main(arguments: list[str]) -> None:
    """Run the emulator until Ctrl-C or SIGTERM; its jobs end with it.

    Raises:
        SystemExit: with an exit code, after one line that says why.
    """
    about = "SageMaker and S3 on this machine: jobs really run, as processes, without Docker."
    parser = argparse.ArgumentParser(prog="python -m sagehound_launchers.emulator", description=about)
    parser.add_argument("--port", type=int, default=0, help="where to listen on 127.0.0.1; 0 (default): a free port")
    parser.add_argument(
        "--folder", type=Path, default=Path(".emulator"), help="where its state lies (default: .emulator)"
    )
    parser.add_argument("--region", default="us-west-2", help="AWS's name of the region (default: us-west-2)")
    parser.add_argument(
        "--grace", type=float, default=120.0, help="seconds from SIGTERM to SIGKILL (default: AWS's 120)"
    )
    given = parser.parse_args(arguments)
    with clear_errors():
        from sagehound_launchers.emulator.server import Emulator
        from sagehound_launchers.emulator.world import KEYS, Settings

        asked = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: asked.set())
        with Emulator(given.folder, given.port, Settings(region=given.region, grace=given.grace)) as emulator:
            console.say(f"emulator: {emulator.url}, state in {given.folder}; Ctrl-C ends it and its jobs")
            exports = {"AWS_ENDPOINT_URL": emulator.url, "AWS_DEFAULT_REGION": given.region}
            exports |= {name.upper(): value for name, value in KEYS.items()}
            for name, value in exports.items():
                console.say(f"export {name}={value}")
            asked.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
