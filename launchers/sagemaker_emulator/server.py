"""The emulator as a server on 127.0.0.1."""

import os
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from moto.core.base_backend import BackendDict
from werkzeug.serving import make_server

from sagemaker_emulator.aws_services import AwsServices
from sagemaker_emulator.control import Control
from sagemaker_emulator.errors import EmulatorError
from sagemaker_emulator.http_api.application import Application
from sagemaker_emulator.identity import Identity
from sagemaker_emulator.processes.containers import Containers
from sagemaker_emulator.processes.images import Images
from sagemaker_emulator.processes.reaper import Reaper
from sagemaker_emulator.processes.tasks import Tasks, report
from sagemaker_emulator.regions import Region, Regions
from sagemaker_emulator.services import make_services
from sagemaker_emulator.settings import Settings
from sagemaker_emulator.status_page.page import StatusPage
from sagemaker_emulator.status_page.request_log import RequestLog
from sagemaker_emulator.storage.atomic_files import locked, write_json, write_text
from sagemaker_emulator.storage.object_store import ObjectStore
from sagemaker_emulator.storage.records import Records
from sagemaker_emulator.storage.transfers import Transfers
from sagemaker_emulator.web import Handler

_OTHERS = "regions"  # folder of the state of regions other than the first
_PORT = "port"  # the file that holds the last emulator's port, so that open shells and notebooks find the next one
_one_at_a_time = threading.Lock()  # moto's state belongs to the process


class Emulator:
    """SageMaker and S3 on this machine, at ``url``: ``with Emulator(folder) as emulator: ...``."""

    def __init__(self, folder: Path, port: int = 0, settings: Settings | None = None) -> None:
        """Make it ready; nothing is read or started yet.

        Args:
            folder: its state; it may hold that of an earlier run.
            port: on 127.0.0.1; 0 takes that of the folder's last emulator, or a free one.
            settings: what else may be chosen.
        """
        self.folder, self._port = folder, port
        self.settings = settings or Settings()
        self.url = ""
        self._tasks = Tasks()
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        """Start it.

        Raises:
            EmulatorError: another emulator uses the folder, one runs in this process, or the port is in use.
        """
        with ExitStack() as ends:
            if not _one_at_a_time.acquire(blocking=False):
                raise EmulatorError("an emulator runs in this process already; end that one first")
            ends.callback(_one_at_a_time.release)
            address = self.folder / "address.json"
            busy = f"{self.folder}: another emulator has this folder; {address} says where it listens"
            ends.enter_context(locked(self.folder / ".lock", busy))
            BackendDict.reset()
            folder, region = self.folder.absolute(), self.settings.region
            store = ObjectStore(folder, region)
            ends.callback(store.close)
            self._tasks, reaper = Tasks(), Reaper()
            control, log = Control(), RequestLog()
            regions = self._regions(folder, Transfers(store, folder / "temporary"), control, reaper)
            page = StatusPage(regions, log)
            application = Application(regions, control, self._tasks, self.settings, store, page, log)
            port = self._port or _last_port(folder / _PORT)
            try:
                server = make_server("127.0.0.1", port, application, threaded=True, request_handler=Handler)
            except (OSError, SystemExit) as error:  # werkzeug exits if the port is in use
                raise EmulatorError(f"port={port} cannot be listened on; choose another, or 0") from error
            self.url = regions.first.identity.url = f"http://127.0.0.1:{server.server_port}"
            ends.callback(server.server_close)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            # new requests wait: recover() would take their records for those of an earlier run
            with regions.first.records.lock:
                thread.start()
                ends.callback(setattr, server, "app", _closed)
                ends.callback(thread.join)  # it closes the port
                ends.callback(server.shutdown)
                ends.callback(address.unlink, missing_ok=True)
                ends.callback(reaper.close)
                ends.callback(self._tasks.close)
                ends.callback(regions.close)
                regions.recover(other.name for other in sorted((folder / _OTHERS).glob("*/")))
            write_text(folder / _PORT, f"{server.server_port}\n")
            write_json(address, {"url": self.url, "pid": os.getpid(), "region": region})
            self._ends = ends.pop_all()
        return self

    def _regions(self, folder: Path, transfers: Transfers, control: Control, reaper: Reaper) -> Regions:
        images = Images(self.settings.images)

        def make(name: str) -> Region:
            own = folder if name == self.settings.region else folder / _OTHERS / name
            identity, records, aws = Identity(name), Records(own / "records"), AwsServices(own, name)
            identity.url = self.url
            containers = Containers(own, self.settings, identity, images, self._tasks, reaper)
            parts = (records, identity, control, self._tasks, containers, transfers, aws)
            return Region(make_services(*parts), records, aws, identity)

        return Regions(make, self.settings.region)

    def __exit__(self, *_: object) -> None:
        self._tasks.stopping.set()
        self._ends.close()


def _closed(*_: object) -> list[bytes]:
    """Close a connection to an emulator that has ended, so that its client connects to the next one."""
    raise ConnectionError


def _last_port(file: Path) -> int:
    """The port of the folder's last emulator, or 0 where it is in use or there was none."""
    try:
        port = int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server: connections of the last one linger
        try:
            trial.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            report(f"port {port} is in use now, so the address is a new one: set up open shells and notebooks again")
            return 0
    return port
