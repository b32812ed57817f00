"""Tags of whatever has an ARN."""

from sagehound_launchers.emulator.world import Record, World

_KIND = "tags"


class Tags:
    """AddTags, ListTags, DeleteTags; services call ``put`` with a Create request's tags."""

    def __init__(self, world: World) -> None:
        self._world = world

    def put(self, arn: str, tags: list[dict[str, str]]) -> None:
        """Add tags to what an ARN names; a key's new value replaces the old one."""
        record = self._world.find(_KIND, arn) or {}
        if tags:
            self._world.save(_KIND, arn, record | {tag["Key"]: tag["Value"] for tag in tags})

    def AddTags(self, request: Record) -> Record:
        """Add tags, and answer with all there are."""
        self.put(request["ResourceArn"], request["Tags"])
        return self.ListTags(request)

    def ListTags(self, request: Record) -> Record:
        """All tags of a resource."""
        record = self._world.find(_KIND, request["ResourceArn"]) or {}
        return {"Tags": [{"Key": k, "Value": v} for k, v in record.items()]}

    def DeleteTags(self, request: Record) -> None:
        """Take tags off; those that are not there do not matter."""
        record = self._world.find(_KIND, request["ResourceArn"]) or {}
        kept = {k: v for k, v in record.items() if k not in request["TagKeys"]}
        self._world.save(_KIND, request["ResourceArn"], kept)
