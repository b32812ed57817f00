"""Tags of resources, by ARN."""

from collections.abc import Iterable, Iterator

from sagemaker_emulator.errors import invalid
from sagemaker_emulator.storage.listing import page
from sagemaker_emulator.storage.records import Record, Records

_KIND = "tags"
_KINDS = {  # kinds of resources in ARNs, and of their records
    "training-job": "training-job",
    "hyper-parameter-tuning-job": "tuning-job",
    "processing-job": "processing-job",
    "transform-job": "transform-job",
    "model": "model",
    "model-package": "model-package",
    "model-package-group": "model-package-group",
    "endpoint-config": "endpoint-config",
    "endpoint": "endpoint",
    "pipeline": "pipeline",
}
_MOST = 50  # tags of a resource
_PAGE = 50  # ListTags' least MaxResults


class Tags:
    """AddTags, ListTags, DeleteTags; services call ``put`` with a Create request's tags."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def put(self, arn: str, tags: list[dict[str, str]]) -> None:
        """Set the tags of a new resource, instead of those of an older one with the same ARN.

        Raises:
            ApiError: AWS would refuse the tags.
        """
        if tags:
            self._records.save(_KIND, arn, _read(tags))
        else:
            self._records.remove(_KIND, arn)

    def AddTags(self, request: Record) -> Record:
        """Add tags; returns all tags. A new value of a key replaces the old one."""
        arn = request["ResourceArn"]
        if not self._may_exist(arn):
            raise invalid(f"Could not find {arn}")
        tags = self._of(arn) | _read(request["Tags"])
        if len(tags) > _MOST:
            raise invalid(f"A resource has at most {_MOST} tags, and {arn} would have {len(tags)}.")
        self._records.save(_KIND, arn, tags)
        return {"Tags": _listed(tags)}

    def ListTags(self, request: Record) -> Record:
        """One page of a resource's tags."""
        return page({"MaxResults": _PAGE} | request, "Tags", self.of(request["ResourceArn"]))

    def DeleteTags(self, request: Record) -> None:
        """Remove tags; missing ones are ignored."""
        _check_keys(request["TagKeys"])
        remaining = {k: v for k, v in self._of(request["ResourceArn"]).items() if k not in request["TagKeys"]}
        self._records.save(_KIND, request["ResourceArn"], remaining)

    def of(self, arn: str) -> list[Record]:
        """The tags of a resource."""
        return _listed(self._of(arn))

    def _of(self, arn: str) -> Record:
        found = self._records.find(_KIND, arn)
        return found if found and self._may_exist(arn) else {}

    def _may_exist(self, arn: str) -> bool:
        """Whether there is such a resource, or it is of a kind that the emulator does not have."""
        kind, _, name = arn.split(":", 5)[5].partition("/")
        return kind not in _KINDS or self._records.find(_KINDS[kind], name) is not None


def tagged(records: Records) -> Iterator[tuple[str, list[Record]]]:
    """Every resource that has tags and exists: its ARN and its tags."""
    tags = Tags(records)
    for arn in records.names(_KIND):
        if of := tags.of(arn):
            yield arn, of


def _read(tags: list[dict[str, str]]) -> Record:
    """Tags of a request by key, if AWS allows them."""
    keys = [tag["Key"] for tag in tags]
    _check_keys(keys)
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise invalid(f"Tag keys must be unique, and these are given twice: {', '.join(twice)}")
    return {tag["Key"]: tag["Value"] for tag in tags}


def _check_keys(keys: Iterable[str]) -> None:
    for key in keys:
        if key.lower().startswith("aws:"):
            raise invalid(f"Tag key {key}: keys that begin with aws: are reserved for AWS.")


def _listed(tags: Record) -> list[Record]:
    return [{"Key": k, "Value": v} for k, v in tags.items()]
