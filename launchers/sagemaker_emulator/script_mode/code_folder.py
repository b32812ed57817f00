"""Brings the user's code to a folder, and installs its requirements. Standard library only, from Python 3.8 on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ML = Path(os.environ.get("SAGEMAKER_EMULATOR_OPT_ML", "/opt/ml"))

# the emulator checks no signature, but refuses requests without any
_SIGNED = "AWS4-HMAC-SHA256 Credential={}/20260101/us-west-2/s3/aws4_request"


class CodeError(Exception):
    """The code, or what it requires, is not available."""


def fetch(uri: str, folder: Path) -> Path:
    """Bring a source archive or folder to this machine; returns the folder that holds it.

    Args:
        uri: ``s3://BUCKET/KEY.tar.gz``, or a folder or archive on this machine.
        folder: for what is unpacked.

    Raises:
        CodeError: it is not there, or is no archive.
    """
    if uri.startswith("s3://"):
        bucket, _, key = uri[len("s3://") :].partition("/")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        address = f"{endpoint}/{bucket}/{urllib.parse.quote(key)}"
        key_id = os.environ.get("AWS_ACCESS_KEY_ID", "emulator")
        signed = {"Authorization": f"{_SIGNED.format(key_id)}, SignedHeaders=host, Signature=0"}
        request = urllib.request.Request(address, headers=signed)
        with tempfile.TemporaryDirectory() as scratch:
            archive = Path(scratch, "source.tar.gz")
            try:
                with urllib.request.urlopen(request, timeout=300) as response:
                    archive.write_bytes(response.read())
            except (OSError, ValueError) as error:
                raise CodeError(f"{uri}: {error}") from error
            _unpack(archive, folder, uri)
        return folder
    path = Path(uri[len("file://") :] if uri.startswith("file://") else uri)
    if path.is_file():
        _unpack(path, folder, uri)
        return folder
    if not path.is_dir():
        raise CodeError(f"{uri}: there is no such folder")
    return path


def _unpack(archive: Path, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive) as tar:
            if hasattr(tarfile, "data_filter"):  # not in the first releases of 3.8 to 3.11
                tar.extractall(folder, filter="data")
            else:
                tar.extractall(folder)
    except (tarfile.TarError, OSError) as error:
        raise CodeError(f"{name} is no readable tar archive: {error}") from error


def install(requirements: Path) -> str:
    """Install what a requirements.txt names and this environment lacks; returns a folder for PYTHONPATH, or "".

    The environment itself is not changed.

    Raises:
        CodeError: pip is missing, or fails.
    """
    if not requirements.is_file():
        return ""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--quiet",
        "--root-user-action=ignore",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.json")
        _run([*pip, "--dry-run", "--report", str(report), "-r", str(requirements)], requirements)
        missing = json.loads(report.read_text(encoding="utf-8"))["install"]
    if not missing:
        return ""
    print(f"installing {' '.join(one['metadata']['name'] for one in missing)}", flush=True)
    folder = tempfile.mkdtemp(prefix="requirements-", dir=ML)  # removed with the folder of the container
    _run([*pip, "--no-deps", "--target", folder, *(one["download_info"]["url"] for one in missing)], requirements)
    return folder


def _run(command: list[str], requirements: Path) -> None:
    done = subprocess.run(command, cwd=requirements.parent, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["pip failed"]
        raise CodeError(f"{requirements.name} cannot be installed: {lines[-1]}")
