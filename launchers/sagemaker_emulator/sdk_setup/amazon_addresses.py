"""Sends requests to AWS_ENDPOINT_URL also where code names an address of amazonaws.com.

SageMaker's SDKs do so for STS, whatever AWS_ENDPOINT_URL says. Standard library only, from Python 3.8 on.
"""

from __future__ import annotations

import functools
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from typing import Any
from urllib.parse import urlsplit

_MODULE = "botocore.session"
_AWS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")


def redirect_when_imported() -> None:
    """Redirect as soon as botocore is imported, which takes time that other programs need not spend."""
    if _MODULE in sys.modules:
        redirect()
    else:
        sys.meta_path.insert(0, _Finder())


def redirect() -> None:
    """Let new clients of botocore use AWS_ENDPOINT_URL where an address of amazonaws.com was given."""
    from botocore.session import Session

    if getattr(Session.create_client, "_of_emulator", False):
        return
    plain = Session.create_client

    @functools.wraps(plain)
    def create_client(self: Any, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - botocore ships no types
        host = urlsplit(named.get("endpoint_url") or "").hostname or ""
        if host.endswith(_AWS) and os.environ.get("AWS_ENDPOINT_URL"):
            named["endpoint_url"] = os.environ["AWS_ENDPOINT_URL"]
        return plain(self, *arguments, **named)

    create_client._of_emulator = True  # type: ignore[attr-defined]
    Session.create_client = create_client


class _Finder(MetaPathFinder):
    """Finds botocore.session once, and redirects after its import."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:  # noqa: ANN401 - as importlib's
        """The spec of botocore.session; None for all others."""
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:  # noqa: ANN401 - a module
            execute(module)
            redirect()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
