"""Connects to an AWS account or to the emulator, and checks what is missing before anything is sent."""

import atexit
import functools
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagehound.errors import ConfigError, SagehoundError
from sagehound.system import console
from sagehound_launchers.config import Aws
from sagehound_launchers.config.extras import needs
from sagehound_launchers.sagemaker.aws_errors import EMULATOR, aws_errors, code_of
from sagehound_launchers.sagemaker.requests import Account

_ATTEMPTS = 6  # attempts of a call, with growing pauses
# GPUs below compute capability 7.5, the lowest that torch 2.15 for CUDA 13 is built for (torch.cuda.get_arch_list())
_OLD_GPUS = {"ml.p2": "K80 (compute capability 3.7)", "ml.p3": "V100 (7.0)", "ml.p3dn": "V100 (7.0)"}


OF_WORKFLOW = "SAGEHOUND_EMULATOR"  # environment variable: the emulator that the command of several steps has started


@dataclass(frozen=True)
class AwsSession:
    """A session with AWS's services or the emulator's."""

    region: str
    url: str | None  # address of the emulator
    own: bool  # this command started the emulator and ends it
    client: Callable[[str], Any]  # by boto3's name of the service


@dataclass(frozen=True)
class Cloud(AwsSession):
    """An account with everything that jobs need."""

    account: Account

    @property
    def emulated(self) -> bool:
        """Whether this is the emulator."""
        return self.url is not None

    @property
    def poll(self) -> float:
        """Seconds between two polls of a job."""
        return 0.5 if self.emulated else 10.0


def connect(aws: Aws, *, dry_run: bool = False, own_image: bool = True) -> Cloud:
    """Find credentials, region, account, role, bucket and image; with aws=emulator, start one if none runs.

    Args:
        aws: the keys of the group ``aws``.
        dry_run: whether nothing is sent, so that the bucket need not exist and is not made.
        own_image: whether jobs run Sagehound's image, on a machine that trains.

    Raises:
        ConfigError: one of them is missing; the message says how to set it.
        SagehoundError: AWS could not be reached.
    """
    needs(f"aws={aws.name}", "sagemaker", "boto3")
    if own_image:
        _check_instance(aws)
    session = open_session(aws)
    return Cloud(
        session.region,
        session.url,
        session.own,
        session.client,
        _account(aws, session, dry_run=dry_run, own_image=own_image),
    )


def open_session(aws: Aws, connections: int = 32, seconds: float = 30) -> AwsSession:
    """Find credentials and region; with aws=emulator, start one if none runs.

    Args:
        aws: the keys of the group ``aws``.
        connections: that threads share.
        seconds: until a response must come.

    Raises:
        ConfigError: one of them is missing; the message says how to set it.
    """
    needs(f"aws={aws.name}", "sagemaker", "boto3")
    import boto3
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import ProfileNotFound

    url = None
    if aws.name == "emulator":  # ignore the shell's profile
        url, region = emulator(Path(aws.folder).expanduser())
        plain = botocore.session.Session(session_vars={"profile": (None, None, None, None)})
        session = boto3.Session("emulator", "emulator", region_name=aws.region or region, botocore_session=plain)
    else:
        try:
            session = boto3.Session(profile_name=aws.profile, region_name=aws.region or os.environ.get("AWS_REGION"))
        except ProfileNotFound as error:
            raise ConfigError(f"aws.profile={aws.profile}: {error}; aws configure list-profiles lists them") from error
        _check_session(session)
    for name in ("boto3", "botocore"):
        logging.getLogger(name).setLevel(logging.WARNING)  # else Hydra prints where credentials were found
    settings = Config(
        retries={"mode": "standard", "max_attempts": _ATTEMPTS},
        max_pool_connections=connections,
        connect_timeout=10,
        read_timeout=seconds,
    )
    lock = threading.Lock()

    @functools.cache
    def client(service: str) -> Any:  # noqa: ANN401 - boto3 ships no types
        with lock:  # creating a client is not thread-safe
            return session.client(service, endpoint_url=url, config=settings)

    own = url in _started or (url is not None and os.environ.get(OF_WORKFLOW) == url)
    return AwsSession(str(session.region_name), url, own, client)


def _check_instance(aws: Aws) -> None:
    import botocore.session

    instance = aws.instance_type
    known = botocore.session.get_session().get_service_model("sagemaker").shape_for("TrainingInstanceType").enum
    if instance not in known:
        family = [k for k in known if k.rpartition(".")[0] == instance.rpartition(".")[0]]
        raise ConfigError(
            f"aws.instance_type={instance}: SageMaker trains on no such instance; choose from "
            f"{', '.join(family or ['ml.m5.xlarge', 'ml.g4dn.xlarge', 'ml.g5.xlarge'])}, ..."
        )
    if aws.image is None and (gpu := _OLD_GPUS.get(instance.rpartition(".")[0])):
        raise ConfigError(
            f"aws.instance_type={instance}: PyTorch in the image sagehound:latest has no kernels for its GPU, a "
            f"{gpu}: choose ml.g4dn.xlarge, ml.g5.xlarge or ml.g6.xlarge, or give aws.image=URI with an older PyTorch"
        )


def _check_session(session: Any) -> None:  # noqa: ANN401 - boto3 ships no types
    if session.region_name is None:
        raise ConfigError(
            f"no AWS region: give aws.region=us-east-1, or yours, or export AWS_DEFAULT_REGION; {EMULATOR}"
        )
    with aws_errors("reading AWS credentials"):
        credentials = session.get_credentials()
    if credentials is None:
        raise ConfigError(
            f"no AWS credentials: aws configure (or aws sso login) sets them up, aws.profile=NAME chooses; {EMULATOR}"
        )


def _account(aws: Aws, session: AwsSession, *, dry_run: bool, own_image: bool) -> Account:
    with aws_errors("asking AWS whose credentials these are"):
        caller = session.client("sts").get_caller_identity()
    number, emulated = str(caller["Account"]), session.url is not None
    role = _role(aws.role, str(caller["Arn"]), session.client, emulated=emulated)
    bucket = aws.bucket or f"sagemaker-{session.region}-{number}"
    if not dry_run:
        _check_bucket(bucket, aws.bucket, session.region, number, session.client("s3"))
    domain = "amazonaws.com.cn" if session.region.startswith("cn-") else "amazonaws.com"
    own = f"{number}.dkr.ecr.{session.region}.{domain}/sagehound:latest"
    if own_image and aws.image is None and not emulated:
        _check_image(session.client("ecr"))
    return Account(session.region, number, role, bucket, aws.image or own)


def _role(given: str | None, caller: str, client: Callable[[str], Any], *, emulated: bool) -> str:
    """The execution role's ARN."""
    if given and given.startswith("arn:"):
        return given
    if assumed := re.search(r":assumed-role/([^/]+)/SageMaker", caller):  # a notebook on SageMaker
        given = given or assumed.group(1)
    given = given or ("SageMakerRole" if emulated else None)
    if given is None:
        raise ConfigError(
            "no execution role: give aws.role=NAME, one that SageMaker may assume with AmazonSageMakerFullAccess "
            f"(the console's SageMaker page makes one); {EMULATOR}"
        )
    from botocore.exceptions import ClientError

    with aws_errors(f"looking the role {given} up"):
        try:
            return str(client("iam").get_role(RoleName=given)["Role"]["Arn"])
        except client("iam").exceptions.NoSuchEntityException as error:
            raise ConfigError(
                f"aws.role={given}: the account has no such role; aws iam list-roles lists them"
            ) from error
        except ClientError as error:
            if code_of(error) not in ("AccessDenied", "AccessDeniedException"):
                raise
            raise ConfigError(
                f"aws.role={given}: these credentials lack iam:GetRole: give its ARN, arn:aws:iam::.../{given}"
            ) from error


def _check_bucket(name: str, given: str | None, region: str, number: str, s3: Any) -> None:  # noqa: ANN401 - boto3
    """Check that the bucket is in the region; SageMaker's default bucket is created if it is missing."""
    from botocore.exceptions import ClientError

    owner = {} if given else {"ExpectedBucketOwner": number}  # others may own a bucket with the default name
    with aws_errors(f"looking at the bucket {name}"):
        try:
            bucket_region = s3.head_bucket(Bucket=name, **owner).get("BucketRegion", region)
            if bucket_region != region:
                raise ConfigError(
                    f"aws.bucket={name} is in {bucket_region}, and jobs run in {region}: "
                    f"give aws.region={bucket_region}"
                )
        except ClientError as error:
            if code_of(error) not in ("404", "NoSuchBucket"):
                raise
            if given:
                raise ConfigError(f"aws.bucket={given}: there is no such bucket: aws s3 mb s3://{given}") from error
            where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
            s3.create_bucket(Bucket=name, **where)
            console.info(f"made the bucket {name}")


def _check_image(ecr: Any) -> None:  # noqa: ANN401 - boto3 ships no types
    from botocore.exceptions import ClientError

    with aws_errors("looking for the image sagehound:latest"):
        try:
            ecr.describe_images(repositoryName="sagehound", imageIds=[{"imageTag": "latest"}])
        except ClientError as error:
            if code_of(error) in ("AccessDeniedException", "AccessDenied"):
                return  # without permission to check, assume it is there
            if code_of(error) not in ("RepositoryNotFoundException", "ImageNotFoundException"):
                raise
            raise ConfigError(
                "the account has no image sagehound:latest: python launch.py image=ecr builds and pushes it, or give "
                f"aws.image=URI; {EMULATOR}"
            ) from error


def emulator(folder: Path) -> tuple[str, str]:
    """Address and first region of the emulator with its state in ``folder``; one is started if none runs."""
    needs("aws=emulator", "emulator", "moto")
    note = folder / "address.json"
    if (running := _running(note)) is not None:
        return running
    folder.mkdir(parents=True, exist_ok=True)
    log = (folder / "emulator.log").open("ab")
    command = [sys.executable, "-m", "sagemaker_emulator", "--port", "0", "--folder", str(folder)]
    command += ["--variable", "SAGEHOUND_CACHE", "--end-with-stdin"]  # however this command ends, its pipe is closed
    process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.PIPE, start_new_session=True)
    log.close()
    atexit.register(_end, process)
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if (running := _running(note)) is not None:
            _started.add(running[0])
            console.info(f"emulator: {running[0]}, state in {folder}")
            return running
        time.sleep(0.05)
    raise SagehoundError(f"the emulator did not start; {folder / 'emulator.log'} says why")


_started: set[str] = set()  # emulators of this process


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()


def _running(note: Path) -> tuple[str, str] | None:
    """Address and first region of a running emulator."""
    try:
        emulator = json.loads(note.read_text())
        os.kill(int(emulator["pid"]), 0)
        return str(emulator["url"]), str(emulator["region"])
    except (OSError, ValueError, KeyError):
        return None
