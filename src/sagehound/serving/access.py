"""Who may reach a server and what they may do: hosts, token, administration, paths of models, requests a second."""

import base64
import binascii
import hmac
import ipaddress
import math
import os
import re
import socket
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sagehound.errors import ConfigError, InputError

TOKEN = "SAGEHOUND_TOKEN"  # the environment variable, of servers and of clients
_SHORTEST = 16  # characters of a token
_TOKEN = re.compile(r"[!-~]+")  # what fits into a header: ASCII without blanks
_CLIENTS = 10_000  # whose rate is remembered
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]/@]+)(:\d{1,5})?")


class Forbidden(InputError):
    """The client may not do this."""


@dataclass(frozen=True)
class Access:
    """The rules of one server. The defaults let everybody do everything, as in a SageMaker container."""

    hosts: tuple[str, ...] = ("*",)  # names in the header Host; *.NAME: every name below; IP addresses are always valid
    token: str | None = None  # required for every address but /ping
    local_admin: bool = True  # whether models may be loaded and deleted without the token
    proxied_admin: bool = True  # also for requests that a proxy on this machine passes on, which all look local
    any_path: bool = True  # whether a model may come from any folder if model_root is None
    model_root: Path | None = None  # the folder that models are loaded from
    rate: float | None = None  # requests a second of one client

    def is_host(self, header: str) -> bool:
        """Whether a header Host names this server.

        A page of another site can make its own name point here (DNS rebinding), but it cannot change the header.
        """
        if "*" in self.hosts:
            return True
        match = _HOST.fullmatch(header.strip())
        if not match:
            return False
        name = match[1].lower().rstrip(".")
        return any(h == name or (h.startswith("*.") and name.endswith(h[1:])) for h in self.hosts) or _is_ip(
            name.strip("[]")
        )

    def is_authorised(self, header: str) -> bool:
        """Whether a header Authorization holds the token.

        It is a Bearer token, or the password of Basic, for which browsers ask. The time of the comparison does not
        depend on the header's content.
        """
        scheme, _, given = header.strip().partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given.strip(), validate=True).decode().partition(":")[2]
            except (binascii.Error, ValueError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return self.token is not None and hmac.compare_digest(given.strip().encode(), self.token.encode())

    def check_path(self, url: str) -> None:
        """Check that a model may be loaded from this path.

        Raises:
            Forbidden: it lies outside of ``model_root``; the message is the same whether or not it exists.
        """
        if self.model_root is None:
            if not self.any_path:
                raise Forbidden("models are loaded from deploy.model_root only: start the server with it")
            return
        try:
            path = Path(url.removeprefix("file://")).expanduser().resolve()
        except (OSError, RuntimeError, ValueError) as error:  # links in a circle, ~ of an unknown user, a null byte
            raise Forbidden("the url is not a path in deploy.model_root") from error
        if not path.is_relative_to(self.model_root.resolve()):
            raise Forbidden("the url is not a path in deploy.model_root")


def access_of(
    host: str,
    allowed_hosts: Sequence[str] = (),
    token: str | None = None,
    token_file: str | None = None,
    model_root: str | None = None,
    rate: float | None = None,
) -> Access:
    """The rules for a server that listens on ``host``.

    Args:
        host: address to listen on.
        allowed_hosts: further names by which clients may address it.
        token: the secret; None: of ``token_file``, or else of the environment variable SAGEHOUND_TOKEN.
        token_file: a file whose content is the token.
        model_root: the folder that models are loaded from by POST /models.
        rate: requests a second of one client.

    Raises:
        ConfigError: the token is too short or cannot be read, or ``model_root`` is no folder.
    """
    local = is_loopback(host)
    names = ["localhost", "*.localhost", host.lower(), *([] if local else [socket.gethostname().lower()])]
    root = Path(model_root).expanduser() if model_root else None
    if root and not root.is_dir():
        raise ConfigError(f"deploy.model_root={model_root}: no such folder (from {Path.cwd()})")
    return Access(
        hosts=(*names, *(name.lower() for name in allowed_hosts)),
        token=_token(token, token_file),
        local_admin=local,
        proxied_admin=False,
        any_path=local,
        model_root=root,
        rate=rate,
    )


def _token(given: str | None, file: str | None) -> str | None:
    source, token = "deploy.token", given
    if given is None and file is not None:
        source = f"deploy.token_file={file}"
        try:
            token = Path(file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise ConfigError(f"{source} cannot be read: {reason}; give a file that holds the token") from error
    elif given is None:
        source, token = TOKEN, os.environ.get(TOKEN)
    if token is not None and (len(token) < _SHORTEST or not _TOKEN.fullmatch(token)):
        raise ConfigError(
            f"{source}: a token has {_SHORTEST} characters or more, without blanks: openssl rand -hex 24 prints one"
        )
    return token


def own_token() -> dict[str, str]:
    """The headers by which a client sends its token, of the environment variable SAGEHOUND_TOKEN.

    Raises:
        ConfigError: the token is too short.
    """
    token = _token(None, None)
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach a server that listens on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def client_of(address: str) -> str:
    """The client that an address belongs to: an IPv6 address to its network of 64 bits, which one machine may own."""
    if ":" in address and _is_ip(address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return address


def refilled(rate: float, left: float | None, seconds: float) -> float:
    """The requests that a client has left: ``left`` some seconds ago (None: a new client), twice the rate at most."""
    burst = max(1.0, 2 * rate)
    return burst if left is None else min(burst, left + seconds * rate)


def seconds_until(rate: float, left: float) -> int:
    """After how many seconds a client with so many requests left may send one; 0 is now."""
    return 0 if left >= 1 else math.ceil((1 - left) / rate)


class RateLimit:
    """A token bucket for each client: ``rate`` requests a second, and twice as many at once.

    The clients that were seen last are remembered. An IPv6 client is its network of 64 bits, which one machine may own.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests left, at which time

    def wait(self, address: str) -> int:
        """Count a request; returns 0, or after how many seconds the client may send the next one."""
        client, now = client_of(address), time.monotonic()
        before, at = self._clients.pop(client, (None, now))
        left = refilled(self._rate, before, now - at)
        self._clients[client] = (left - 1 if left >= 1 else left, now)
        if len(self._clients) > _CLIENTS:
            self._clients.popitem(last=False)
        return seconds_until(self._rate, left)
