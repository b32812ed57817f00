"""Durations in ISO 8601, as in a step's ExpireAfter."""

import re

from sagemaker_emulator.errors import JobFailed
from sagemaker_emulator.pipelines.definition import Json

_DURATION = re.compile(
    r"p?(?:(?P<y>\d{1,9})y)?(?:(?P<mo>\d{1,9})m)?(?:(?P<w>\d{1,9})w)?(?:(?P<d>\d{1,9})d)?(?:t?(?:(?P<h>\d{1,9})h)?(?:(?P<mi>\d{1,9})m)?(?:(?P<s>\d{1,9})s)?)?"
)
_SECONDS = {"y": 365 * 86_400, "mo": 30 * 86_400, "w": 7 * 86_400, "d": 86_400, "h": 3_600, "mi": 60, "s": 1}


def seconds(duration: Json) -> float:
    """Seconds of an ISO 8601 duration such as P30D or PT12H; a month has 30 days, a year 365.

    Raises:
        JobFailed: it is not a duration.
    """
    match = _DURATION.fullmatch(duration.lower()) if isinstance(duration, str) else None
    if match is None or not any(match.groups()):
        raise JobFailed(f"ClientError: ExpireAfter: {duration} is not a duration in ISO 8601, such as P30D")
    return float(sum(int(number) * _SECONDS[unit] for unit, number in match.groupdict().items() if number))
