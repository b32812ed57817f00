"""Tags of whatever has an ARN."""

from sagehound_launchers.emulator.world import Record, World

_KIND = "tags"


class Tags:
    """AddTags, ListTags, DeleteTags; services call ``put`` with a Create request's tags."""

    def __init__(self, world: World) -> None:
        self._world = world

    def put(self, arn: str, tags: list[dict[str, str]]) -> None:
        """Give something new its tags; what had its ARN before may have left others."""
        if tags:
            self._world.save(_KIND, arn, {tag["Key"]: tag["Value"] for tag in tags})
        else:
            self._world.remove(_KIND, arn)

    def AddTags(self, request: Record) -> Record:
        """Add tags, and answer with all there are; a key's new value replaces the old one."""
        new = {tag["Key"]: tag["Value"] for tag in request["Tags"]}
        self._world.save(_KIND, request["ResourceArn"], (self._world.find(_KIND, request["ResourceArn"]) or {}) | new)
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
