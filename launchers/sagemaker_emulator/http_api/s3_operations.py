"""S3's names of requests."""

from urllib.parse import parse_qs


def s3_operation(method: str, path: str, query: str) -> str:
    """S3's name of a request: PutObject."""
    _, _, key = path[1:].partition("/")
    parameters = parse_qs(query, keep_blank_values=True)
    if not path[1:]:
        return "ListBuckets"
    if not key:
        if "delete" in parameters:
            return "DeleteObjects"
        listing = "ListObjectsV2" if "list-type" in parameters else "ListObjects"
        name = {"GET": listing, "HEAD": "HeadBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket"}.get(
            method, method
        )
        settings = [k for k in parameters if k.islower() and not parameters[k][0]]
        return name if name == "ListObjectsV2" or not settings else f"{method.title()}Bucket{settings[0].title()}"
    if "uploads" in parameters:
        return "CreateMultipartUpload"
    if "uploadId" in parameters:
        steps = {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}
        return steps.get(method, "ListParts")
    names = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}
    return names.get(method, method) + ("Tagging" if "tagging" in parameters else "")
