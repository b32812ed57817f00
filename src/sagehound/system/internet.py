"""Checks within seconds whether a server can be reached."""

import socket
import urllib.request
from collections.abc import Callable
from threading import Thread
from urllib.parse import urlsplit

SECONDS = 4.5  # for DNS and connecting; over a satellite link they take one second
_PORTS = {"https": 443, "socks5": 1080, "socks5h": 1080}


def unreachable(url: str, request: Callable[[], object], seconds: float = SECONDS) -> str | None:
    """The reason why the server of ``url`` cannot be reached, or None if it can.

    A slow server is reachable if it, or the proxy in the environment variables, accepts a connection.

    Args:
        url: an address on the server.
        request: sends one request without retries; may raise any error of its HTTP client.
        seconds: time limit for the connection.
    """
    failures = [f"no connection within {seconds:g} seconds"]  # until the thread has connected
    host, port, name = _first_hop(url)

    def connect() -> None:
        try:
            socket.create_connection((host, port), seconds).close()
            failures.clear()
        except (OSError, UnicodeError) as error:
            failures[:] = [getattr(error, "strerror", None) or str(error)]

    thread = Thread(target=connect, daemon=True)  # a DNS request has no time limit
    thread.start()
    thread.join(seconds)
    if failures:
        return f"{name}: {failures[0]}"
    try:
        request()
    except Exception as error:  # HTTP clients have no common error class
        if "Timeout" not in type(error).__name__:  # the download retries if the server is slow
            return f"{urlsplit(url).hostname}: {str(error) or type(error).__name__}"
    return None


def _first_hop(url: str) -> tuple[str, int, str]:
    """Host and port that a request to ``url`` connects to, and their name in messages: the server's or its proxy's."""
    server = urlsplit(url)
    host = server.hostname or ""
    proxies = {} if urllib.request.proxy_bypass(host) else urllib.request.getproxies()
    proxy = proxies.get(server.scheme) or proxies.get("all")
    if proxy:
        hop = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if hop.hostname:
            port = hop.port or _PORTS.get(hop.scheme, 80)
            return hop.hostname, port, f"the proxy {hop.hostname}:{port}"
    return host, server.port or _PORTS.get(server.scheme, 80), host
