"""Quotas: instances of a type that an account may have in one use, such as endpoints."""

from sagemaker_emulator.control import Control
from sagemaker_emulator.errors import ApiError

_QUOTA = 100  # default quota of instances of a type


def check_quota(control: Control, instance: str, count: int, used: int, use: str) -> None:
    """Check a request against the quota.

    Args:
        control: has the quotas that were set.
        instance: the type: ml.m5.large.
        count: instances in the request.
        used: instances of the type in use.
        use: AWS's name of it: ``endpoint usage``.

    Raises:
        ApiError: with ResourceLimitExceeded.
    """
    limit = control.quota(instance, _QUOTA)
    if used + count > limit:
        raise ApiError(
            "ResourceLimitExceeded",
            f"The account-level service limit '{instance} for {use}' is {limit} Instances, with current utilization of "
            f"{used} Instances and a request delta of {count} Instances. Please use AWS Service Quotas to request an "
            "increase for this quota. If AWS Service Quotas is not available, contact AWS support to request an "
            "increase for this quota.",
        )
