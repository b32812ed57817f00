"""The common parts of List operations: filters, order, pages."""

import base64
import hashlib
import json
from collections.abc import Sequence

from sagemaker_emulator.errors import ApiError
from sagemaker_emulator.storage.records import Record

_PAGE = 10  # AWS's default of MaxResults


def page(request: Record, member: str, items: Sequence[Record]) -> Record:
    """One page of a list: MaxResults items from NextToken on.

    Args:
        request: of the List operation.
        member: name of the response's list.
        items: all items, filtered and sorted.

    Raises:
        ApiError: NextToken is not one that a page of this list returned.
    """
    token, size = request.get("NextToken"), request.get("MaxResults") or _PAGE
    filters = {k: v for k, v in request.items() if k not in ("NextToken", "MaxResults")}
    of_list = hashlib.sha256(json.dumps([member, filters], sort_keys=True).encode()).hexdigest()[:16]
    start = _position(token, of_list) if token else 0
    more = {"NextToken": _token(start + size, of_list)} if start + size < len(items) else {}
    return {member: list(items[start : start + size]), **more}


def _token(start: int, of_list: str) -> str:
    """A page's NextToken: where the next page starts, and the list that it belongs to."""
    return base64.urlsafe_b64encode(f"{of_list}:{start}".encode()).decode()


def _position(token: str, of_list: str) -> int:
    try:
        name, _, start = base64.b64decode(token, altchars=b"-_", validate=True).decode("ascii").partition(":")
        if name == of_list:
            return int(start)
    except ValueError:  # not of this emulator
        pass
    raise ApiError("ValidationException", "Invalid pagination token provided in request")


def select(request: Record, records: Sequence[Record], prefix: str, by: str = "CreationTime") -> list[Record]:
    """Records that pass NameContains, StatusEquals and the bounds of time, sorted by SortBy (Name, CreationTime, ...).

    Args:
        request: of the List operation.
        records: with members ``<prefix>Name``, ``<prefix>Status``, CreationTime and LastModifiedTime.
        prefix: TrainingJob, HyperParameterTuningJob, Endpoint, ...
        by: AWS's default of SortBy.
    """

    def passes(record: Record) -> bool:
        text = request.get("NameContains", "").lower() in record[f"{prefix}Name"].lower()
        status = request.get("StatusEquals") in (None, record.get(f"{prefix}Status"))
        within = all(
            request.get(f"{time}After", 0) <= record.get(time, 0) <= request.get(f"{time}Before", float("inf"))
            for time in ("CreationTime", "LastModifiedTime")
        )
        return text and status and within

    chosen = request.get("SortBy", by)
    member = chosen if chosen.endswith("Time") else prefix + chosen
    descending = request.get("SortOrder") == "Descending"
    return sorted((r for r in records if passes(r)), key=lambda r: r[member], reverse=descending)


def pick(record: Record, *members: str) -> Record:
    """The given members of a record that exist."""
    return {name: record[name] for name in members if name in record}
