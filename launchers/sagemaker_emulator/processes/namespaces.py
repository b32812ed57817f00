"""A literal /opt/ml for each container, by mount and process namespaces of Linux, where the system allows them.

Code that has /opt/ml written into it then works unchanged, and whatever a container starts ends with it. Elsewhere
(macOS, many containers of Docker and Kubernetes) a folder's path replaces /opt/ml; see ``Containers.translate``.
"""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_INIT = Path(__file__).with_name("container_init.py")
_HOSTS = Path("/etc/hosts")


def name_hosts(folder: Path, count: int) -> None:
    """Make the names algo-1, algo-2, ... known to a container, as 127.0.0.1, 127.0.0.2, ...

    Args:
        folder: the parent of the container's /opt/ml.
        count: number of names.
    """
    own = _HOSTS.read_text(encoding="utf-8", errors="replace").rstrip("\n")
    lines = "".join(f"\n127.0.0.{number} algo-{number}" for number in range(1, count + 1))
    (folder / _HOSTS.name).write_text(f"{own}{lines}\n", encoding="utf-8")


def wrap(command: list[str], opt_ml: Path) -> list[str]:
    """The command that runs another one in namespaces, with a folder as /opt/ml."""
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    options = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["unshare", *as_root, *options, sys.executable, "-I", "-S", str(_INIT), str(opt_ml), *command]


@functools.cache
def refusal() -> str:
    """Why this system allows no namespaces; empty if it does."""
    if sys.platform != "linux":
        return "this is not Linux"
    if not shutil.which("unshare"):
        return "there is no command unshare (util-linux)"
    with tempfile.TemporaryDirectory(prefix="sagemaker-emulator-") as folder:
        opt_ml = Path(folder, "ml")
        opt_ml.mkdir()
        try:
            name_hosts(opt_ml.parent, 1)
            done = subprocess.run(
                wrap(["test", "-d", "/opt/ml"], opt_ml), capture_output=True, text=True, timeout=20, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    lines = done.stderr.strip().splitlines() or ["it failed"]
    return f"unshare: {lines[-1]}" if done.returncode else ""
