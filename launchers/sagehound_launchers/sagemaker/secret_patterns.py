"""The formats of the services' keys, which must not reach a job's description or its source archive."""

import re
from collections.abc import Iterator, Mapping

from sagehound.errors import ConfigError

_SECRETS = {  # the formats of the services' keys
    # AWS's documentation uses ...EXAMPLE for fake keys
    "an AWS access key": rb"\b(?:AKIA|ASIA)(?![A-Z0-9]{9}EXAMPLE\b)[A-Z0-9]{16}\b",
    "an AWS secret key": rb"(?i:aws_?secret(?:_?access)?_?key|aws_?session_?token)[\"']?\s*[:=]\s*[\"']?"
    rb"(?![A-Za-z0-9/+]{30}EXAMPLEKEY)[A-Za-z0-9/+=]{40,}",
    "a private key": rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "a GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})",
    "a GitLab token": rb"\bglpat-[A-Za-z0-9_-]{20,}",
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{34,}",
    "a Slack token": rb"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "a Google key": rb"\bAIza[A-Za-z0-9_-]{35}",
    "a PyPI token": rb"\bpypi-AgE[A-Za-z0-9_-]{50,}",
    "an npm token": rb"\bnpm_[A-Za-z0-9]{36}\b",
    "a Stripe key": rb"\b[rs]k_live_[A-Za-z0-9]{24,}",
    "a model service's key": rb"\bsk-(?:ant-|proj-)[A-Za-z0-9_-]{32,}|\bsk-[A-Za-z0-9]{48}\b",
}
_PATTERNS = {what: re.compile(pattern) for what, pattern in _SECRETS.items()}


def secrets_in(content: bytes) -> Iterator[tuple[int, str]]:
    """The line, from 1, and the kind of each secret; never the secret itself."""
    text = content.replace(b"\0", b"") if b"\0" in content else content  # UTF-16 is ASCII with zeros between
    for what, pattern in _PATTERNS.items():
        if match := pattern.search(text):
            yield text.count(b"\n", 0, match.start()) + 1, what


def refuse_secrets(values: Mapping[str, str], where: str) -> None:
    """Refuse values that everybody in the account could read.

    Args:
        values: by their names.
        where: what they are, for the message.

    Raises:
        ConfigError: a value has the format of a key or token.
    """
    for name, value in values.items():
        for _, what in secrets_in(f"{name}={value}".encode()):
            raise ConfigError(
                f"{name}: its value looks like {what}, and everybody in the account can read {where}: let the role "
                "read it from AWS Secrets Manager in the job, or give the role the permission itself"
            )
