"""Errors of AWS as one clear line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sagehound.errors import ConfigError, SagehoundError

EMULATOR = "aws=emulator runs the same on this machine, free of charge"


class RemoteError(SagehoundError):
    """A job on SageMaker failed."""

    exit_code = 4


class Unreachable(SagehoundError):
    """AWS gave no usable response; a later attempt may succeed."""


class Expired(ConfigError, Unreachable):
    """Credentials have expired; renewed ones may be found later."""


class QuotaInUse(ConfigError):
    """The account's quota is large enough, but other jobs use it now."""


_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_UNKNOWN = {"InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"}
_BUSY = {"Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown"}


@contextmanager
def aws_errors(doing: str) -> Iterator[None]:
    """Turn boto3's errors, after its retries, into one line that says what to do.

    Raises:
        ConfigError: credentials, permissions or quotas are missing.
        Unreachable: AWS could not be reached, is busy, or had an internal error.
        SagehoundError: AWS refused.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        SSOTokenLoadError,
        TokenRetrievalError,
        UnauthorizedSSOTokenError,
    )

    try:
        yield
    except ClientError as error:
        raise _of_service(doing, error) from error
    except (NoCredentialsError, SSOTokenLoadError, TokenRetrievalError, UnauthorizedSSOTokenError) as error:
        raise _expired(doing) from error
    except (BotoCoreError, Boto3Error) as error:
        raise Unreachable(f"{doing}: AWS could not be reached: {error}") from error


def failure(reason: str) -> str:
    """A job's FailureReason as one line: the program's own message first, and a hint if the system killed it."""
    line = re.sub(r"^(\w+Error): ([^,].*)$", r"\2 (\1)", " ".join(reason.split()))
    if re.search(r"exit code:? 137\b", line):
        line += "; it was killed, probably out of memory: a smaller data.batch_size, or a larger aws.instance_type"
    return line


def code_of(error: Exception) -> str:
    """AWS's name of an error."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def _expired(doing: str) -> Expired:
    return Expired(f"{doing}: the credentials have expired: renew them (aws sso login)")


def _of_service(doing: str, error: Exception) -> SagehoundError:
    response: dict[str, Any] = getattr(error, "response", {})
    code = code_of(error)
    message = str(response.get("Error", {}).get("Message", error)).strip()
    if code in _EXPIRED:
        return _expired(doing)
    if code in _UNKNOWN:
        return ConfigError(f"{doing}: AWS does not know these credentials: aws configure sets them up; {EMULATOR}")
    if code in _DENIED:
        return ConfigError(
            f"{doing}: these credentials lack a permission: {message}; ask who runs the account; {EMULATOR}"
        )
    if code == "NoSuchBucket":
        return ConfigError(f"{doing}: there is no such bucket")
    if code == "ResourceLimitExceeded":
        limit, delta = re.search(r" is (\d+) Instances", message), re.search(r"delta of (\d+) Instances", message)
        is_in_use = limit and delta and int(limit[1]) >= int(delta[1])
        return (QuotaInUse if is_in_use else ConfigError)(
            f"{doing}: the account's quota is too small: {message} Ask for more under Service Quotas, SageMaker, or "
            f"choose another aws.instance_type; {EMULATOR}"
        )
    busy = code in _BUSY or response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500
    return (Unreachable if busy else SagehoundError)(f"{doing}: {code}: {message}")
