"""Which keys may encrypt the storage volume of an instance, and which instances take none."""

import re
from collections.abc import Iterator

from sagemaker_emulator.storage.records import Record

# AWS's SDK (sagemaker 3.27, common_utils.instance_supports_kms): families with a d in their name, and these
_LOCAL_DISKS = re.compile(r"ml\.([^.]*d|g5|g6|g7e|p5|p6-b200|trn1|trn2)")
_ALIAS = re.compile(r"(arn:[^:]+:kms:[^:]*:[^:]*:)?alias/")


def has_local_disks(instance: str) -> bool:
    """Whether an instance type has local disks, for which AWS refuses a key."""
    return bool(_LOCAL_DISKS.match(instance))


def wrong_volume_key(resources: Record, path: str, alias: bool = False) -> Iterator[str]:
    """Problems of VolumeKmsKeyId.

    Args:
        resources: members InstanceType and VolumeKmsKeyId of a request.
        path: of these members, for the message: ResourceConfig.
        alias: whether an alias may name the key; otherwise its ID or its ARN must.
    """
    key, instance = resources.get("VolumeKmsKeyId"), resources.get("InstanceType", "")
    if not key:
        return
    if has_local_disks(instance):
        yield (
            f"{path}.VolumeKmsKeyId is not supported for {instance}: its local disks are encrypted by a hardware module"
        )
    if not alias and _ALIAS.match(key):
        yield f"{path}.VolumeKmsKeyId: {key} is an alias; give the ID or the ARN of the key"
