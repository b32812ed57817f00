"""Tags of resources, by ARN."""

from sagemaker_emulator.storage.records import Record, Records

_KIND = "tags"


class Tags:
    """AddTags, ListTags, DeleteTags; services call ``put`` with a Create request's tags."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def put(self, arn: str, tags: list[dict[str, str]]) -> None:
        """Set the tags of a new resource, instead of those of an older one with the same ARN."""
        if tags:
            self._records.save(_KIND, arn, {tag["Key"]: tag["Value"] for tag in tags})
        else:
            self._records.remove(_KIND, arn)

    def AddTags(self, request: Record) -> Record:
        """Add tags; returns all tags. A new value of a key replaces the old one."""
        new = {tag["Key"]: tag["Value"] for tag in request["Tags"]}
        self._records.save(
            _KIND, request["ResourceArn"], (self._records.find(_KIND, request["ResourceArn"]) or {}) | new
        )
        return self.ListTags(request)

    def ListTags(self, request: Record) -> Record:
        """All tags of a resource."""
        record = self._records.find(_KIND, request["ResourceArn"]) or {}
        return {"Tags": [{"Key": k, "Value": v} for k, v in record.items()]}

    def DeleteTags(self, request: Record) -> None:
        """Remove tags; missing ones are ignored."""
        record = self._records.find(_KIND, request["ResourceArn"]) or {}
        remaining = {k: v for k, v in record.items() if k not in request["TagKeys"]}
        self._records.save(_KIND, request["ResourceArn"], remaining)
