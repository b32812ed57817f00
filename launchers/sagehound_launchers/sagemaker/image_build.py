"""`image=ecr`: builds the Dockerfile and pushes the image to the account's registry."""

import base64
import os
import shutil
import subprocess
from typing import Any

from sagehound.errors import ConfigError, SagehoundError
from sagehound.system import console, project
from sagehound_launchers.config import Aws
from sagehound_launchers.sagemaker import account
from sagehound_launchers.sagemaker.aws_errors import aws_errors, code_of

_PLATFORM = "linux/amd64"  # platform of SageMaker's usual instances


def push(aws: Aws, repository: str, tag: str) -> str:
    """Create the repository if it is missing, log in, build and push.

    Returns:
        the image's URI, for aws.image.

    Raises:
        ConfigError: no docker client, or no credentials.
        SagehoundError: docker failed; its output is printed above.
    """
    if shutil.which("docker") is None:
        raise ConfigError(
            "image=ecr needs the docker client, which is not on the PATH: install it, or run this where it is; "
            "aws=emulator needs no image"
        )
    reach = account.open_session(aws)
    ecr = reach.client("ecr")
    with aws_errors(f"preparing the repository {repository}"):
        address = f"{_repository(ecr, repository)}:{tag}"
        login = ecr.get_authorization_token()["authorizationData"][0]
    user, _, password = base64.b64decode(login["authorizationToken"]).decode().partition(":")
    registry = address.partition("/")[0]
    _docker(["login", "--username", user, "--password-stdin", registry], password)
    with project.folder() as context:
        _docker(["build", "--platform", _PLATFORM, "--tag", address, str(context)])
    _docker(["push", address])
    console.info(f"image: {address}")
    return address


def _repository(ecr: Any, name: str) -> str:  # noqa: ANN401 - boto3 ships no types
    from botocore.exceptions import ClientError

    try:
        repository = ecr.describe_repositories(repositoryNames=[name])["repositories"][0]
    except ClientError as error:
        if code_of(error) != "RepositoryNotFoundException":
            raise
        repository = ecr.create_repository(repositoryName=name)["repository"]
        console.info(f"made the repository {name}")
    return str(repository["repositoryUri"])


def _docker(arguments: list[str], given: str | None = None) -> None:
    """Run docker; secrets are passed on its standard input."""
    # with attestations the image would be an index of images, which SageMaker refuses
    environment = os.environ | {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    done = subprocess.run(["docker", *arguments], input=given, text=True, check=False, env=environment)
    if done.returncode:
        raise SagehoundError(f"docker {arguments[0]} failed with exit code {done.returncode}; its output is above")
