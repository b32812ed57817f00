"""Photos to S3 before a remote job, packed, beside one put_object after the other.

python benchmarks/upload.py [--photos 8351] [--rounds 3]

Files of 5 to 20 KB, as many as dogImages has photos, to the emulator's S3 on loopback, in a process of its own. It
answers in some milliseconds: each millisecond more that a real bucket takes is paid once a photo by the plain loop, and
once a pack by ours. Each round starts with an empty bucket; the second upload follows the first.
"""

import argparse
import multiprocessing
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from common import Row, against, median, scratch, show

from sagehound.data.folders import scan
from sagehound_launchers.sagemaker.photo_upload import Uploaded, upload_loose, upload_packed

CLASSES = 133
WORKERS = 16


def measure(arguments: list[str] | None = None) -> list[Row]:
    """A row for the first upload, for the second, and for photos that are sent as they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=8351)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args(arguments)
    seconds: dict[str, list[float]] = {name: [] for name in ("packed", "again", "loose", "loose again", "plain")}
    again: list[Uploaded] = []
    with scratch() as folder, s3_on_loopback() as s3:
        root = photos(folder / "photos", a.photos)
        for turn in range(a.rounds):
            bucket = f"photos-{turn}"
            s3.create_bucket(Bucket=bucket)
            for name, upload in (("packed", upload_packed), ("loose", upload_loose)):
                first, found = timed(upload, root, s3, bucket, name, WORKERS)
                assert found.sent == found.objects, f"{found}: the bucket was empty"
                seconds[name].append(first)
                second, found = timed(upload, root, s3, bucket, name, WORKERS)
                seconds["again" if name == "packed" else "loose again"].append(second)
                again.append(found)
            seconds["plain"].append(timed(one_by_one, root, s3, bucket)[0])
            empty(s3, bucket)
    sent = max(u.sent for u in again), max(u.bytes_sent for u in again)
    what = f"upload of {a.photos:,} photos"
    first, loose = median(seconds["packed"]), median(seconds["loose"])
    return [
        against(f"{what}, packed", seconds["packed"], seconds["plain"], "s", 3),
        against(f"{what}, as they are", seconds["loose"], seconds["plain"], "s", 1),
        Row("the second upload, packed", f"{median(seconds['again']):.1f} s", f"{first:.1f} s (the first)", "-", "-"),
        Row("the second, as they are", f"{median(seconds['loose again']):.1f} s", f"{loose:.1f} s", "-", "-"),
        Row("sent by a second upload", f"{sent[0]} objects, {sent[1]} bytes", "-", "-", "0, 0"),
    ]


def photos(root: Path, count: int) -> Path:
    """Files called like photos; an upload does not care what is in them."""
    made = random.Random(0)
    for i in range(count):
        split = "train" if i % 10 < 8 else ("valid", "test")[i % 2]
        file = root / split / f"class-{i % CLASSES:03}" / f"{i:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(made.randbytes(made.randrange(5_000, 20_000)))
    return root


def one_by_one(root: Path, s3: Any, bucket: str) -> None:  # noqa: ANN401 - botocore ships no types
    """What a script does."""
    for photo in scan(root).photos:
        s3.put_object(Bucket=bucket, Key=f"plain/{photo.file}", Body=(root / photo.file).read_bytes())


def timed(what: Any, *arguments: Any) -> tuple[float, Any]:  # noqa: ANN401 - any call
    """Seconds, and what came back."""
    start = time.perf_counter()
    found = what(*arguments)
    return time.perf_counter() - start, found


def empty(s3: Any, bucket: str) -> None:  # noqa: ANN401 - botocore ships no types
    """Delete what is in a bucket, and the bucket."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": item["Key"]} for item in page["Contents"]]})
    s3.delete_bucket(Bucket=bucket)


@contextmanager
def s3_on_loopback() -> Iterator[Any]:
    """A client of an S3 that a process beside this one keeps."""
    import boto3
    from botocore.config import Config

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield boto3.client(
            "s3",
            region_name="us-east-1",
            endpoint_url=ours.recv(),
            aws_access_key_id="benchmark",
            aws_secret_access_key="benchmark",
            config=Config(max_pool_connections=WORKERS),
        )
    finally:
        ours.send("the end")
        process.join()


def serve(pipe: Connection) -> None:
    """Keep an S3 until this process is ended; its address goes into the pipe."""
    from sagemaker_emulator.server import Emulator

    with scratch() as folder, Emulator(folder) as emulator:
        pipe.send(emulator.url)
        pipe.poll(None)


if __name__ == "__main__":
    show(measure())
