"""What the List operations share: filters, order, pages."""

from collections.abc import Sequence

from sagehound_launchers.emulator.world import Record, Refused

_PAGE = 10  # items where MaxResults is not given, as at AWS


def page(request: Record, member: str, items: Sequence[Record]) -> Record:
    """One page of a list: MaxResults items from NextToken on.

    Args:
        request: the List operation's.
        member: the answer's member that holds the items.
        items: all of them, filtered and sorted.

    Raises:
        Refused: NextToken is none that was given out.
    """
    token = request.get("NextToken") or "0"
    if not token.isdecimal():
        raise Refused("ValidationException", "Invalid pagination token provided in request")
    start, size = int(token), request.get("MaxResults") or _PAGE
    more = {"NextToken": str(start + size)} if start + size < len(items) else {}
    return {member: list(items[start : start + size]), **more}


def select(request: Record, records: Sequence[Record], prefix: str, by: str = "CreationTime") -> list[Record]:
    """Records that pass NameContains, StatusEquals and the bounds of time, sorted by SortBy (Name, CreationTime, ...).

    Args:
        request: the List operation's.
        records: with members ``<prefix>Name``, ``<prefix>Status``, CreationTime and LastModifiedTime.
        prefix: TrainingJob, HyperParameterTuningJob, Endpoint, ...
        by: AWS's order where SortBy is not given.
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
    """The members of a record that are there."""
    return {name: record[name] for name in members if name in record}
