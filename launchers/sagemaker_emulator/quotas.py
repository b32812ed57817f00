"""How many instances of a type an account may have in one use, such as endpoints."""

from sagehound_launchers.emulator.world import Refused, World

_QUOTA = 100  # instances of a type, where none was set


def check_quota(world: World, instance: str, count: int, used: int, use: str) -> None:
    """Hold what a request would start against the quota.

    Args:
        world: the emulator.
        instance: the type: ml.m5.large.
        count: instances that the request wants.
        used: instances of the type that are in this use already.
        use: AWS's name of it: ``endpoint usage``.

    Raises:
        Refused: with ResourceLimitExceeded.
    """
    limit = world.control.quota(instance, _QUOTA)
    if used + count > limit:
        raise Refused(
            "ResourceLimitExceeded",
            f"The account-level service limit '{instance} for {use}' is {limit} Instances, with current utilization of "
            f"{used} Instances and a request delta of {count} Instances. Please use AWS Service Quotas to request an "
            "increase for this quota. If AWS Service Quotas is not available, contact AWS support to request an "
            "increase for this quota.",
        )
