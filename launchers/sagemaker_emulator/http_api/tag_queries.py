"""GetResources of the Resource Groups Tagging API: SageMaker's resources by their tags, which moto does not know."""

import json
from typing import Any

from sagemaker_emulator.errors import ApiError
from sagemaker_emulator.storage.listing import page
from sagemaker_emulator.storage.records import Records
from sagemaker_emulator.storage.tags import tagged

OPERATION = "tagging:GetResources"
_PAGE = 50  # resources; AWS's default
_SERVICE = "sagemaker"


def asks_for_sagemaker(request: dict[str, Any]) -> bool:
    """Whether the request's types are SageMaker's, or any."""
    types = request.get("ResourceTypeFilters") or [_SERVICE]
    return any(str(one).partition(":")[0] == _SERVICE for one in types)


def get_resources(records: Records, request: dict[str, Any], others: list[dict[str, Any]]) -> bytes:
    """The response to GetResources.

    Args:
        records: of the region.
        request: with ResourceTypeFilters, TagFilters, ResourcesPerPage and PaginationToken.
        others: resources of other services, as moto lists them.

    Raises:
        ApiError: the token is not one of this list.
    """
    types = [str(one).partition(":")[2] for one in request.get("ResourceTypeFilters") or [""]]
    chosen = [
        {"ResourceARN": arn, "Tags": tags}
        for arn, tags in tagged(records)
        if any(one in ("", arn.split(":", 5)[5].partition("/")[0]) for one in types)
        and all(_fits(tags, one) for one in request.get("TagFilters", []))
    ]
    asked = {k: v for k, v in request.items() if k in ("ResourceTypeFilters", "TagFilters")}
    asked |= {"MaxResults": request.get("ResourcesPerPage") or _PAGE}
    if token := request.get("PaginationToken"):
        asked["NextToken"] = token
    try:
        listed = page(asked, "ResourceTagMappingList", [*others, *chosen])
    except ApiError as error:
        raise ApiError("PaginationTokenExpiredException", error.message) from error
    return json.dumps(
        {
            "ResourceTagMappingList": listed["ResourceTagMappingList"],
            "PaginationToken": listed.get("NextToken", ""),
        }
    ).encode()


def _fits(tags: list[dict[str, str]], wanted: dict[str, Any]) -> bool:
    """Whether a resource has a tag of the filter's key and, if it gives values, one of them."""
    values = wanted.get("Values") or None
    return any(tag["Key"] == wanted.get("Key") and (values is None or tag["Value"] in values) for tag in tags)
