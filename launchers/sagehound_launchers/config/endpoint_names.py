"""Names of endpoints that follow from the names of models and folders."""

import hashlib
import re

FORM = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")  # AWS's API reference, EndpointName
RESERVED = ("all", "idle")  # which `launch delete=` takes for several
_MOST = 50  # characters, so that names of models and configurations can be longer


def endpoint_name(of: str) -> str:
    """A name of at most 50 characters; of a longer one the end is replaced by a digest of it."""
    words = re.split(r"[^a-zA-Z0-9]+", of)
    name = f"sagehound-{'-'.join(filter(None, words)) or 'model'}"
    if len(name) <= _MOST:
        return name
    return f"{name[: _MOST - 9].rstrip('-')}-{hashlib.sha256(of.encode()).hexdigest()[:8]}"
