"""Keys of AWS and SageMaker."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import MISSING

from sagehound.config import Data, Trainer, key

if TYPE_CHECKING:
    from sagehound_launchers.config.launch_keys import Launch

# instances with local disks, which take no key: AWS's SDK (sagemaker 3.27, common_utils.instance_supports_kms)
_LOCAL_DISKS = re.compile(r"ml\.([^.]*d|g5|g6|g7e|p5|p6-b200|trn1|trn2)")


@dataclass
class LaunchTrainer(Trainer):
    """The machine and the training loop; the machine may be SageMaker's."""

    name: str = key("where training runs", MISSING, choices=("local", "sagemaker"))


@dataclass
class LaunchData(Data):
    """Where the photos are and how they are read; a job on SageMaker also reads them from S3."""

    s3: str | None = key("photos that are in S3 already, s3://BUCKET/PREFIX; null: data.root is sent there", None)

    @property
    def is_remote(self) -> bool:
        """Whether the photos are in S3, so that data.root may be missing."""
        return self.s3 is not None


@dataclass
class Aws:
    """The AWS account, and what a job on SageMaker is given."""

    name: str = key("an account, or the emulator of this machine", MISSING, choices=("account", "emulator"))
    folder: str = key("emulator: folder of its buckets, jobs and logs", ".emulator")
    profile: str | None = key("profile of ~/.aws; null: AWS_PROFILE, or the default one", None)
    region: str | None = key("AWS region; null: AWS_DEFAULT_REGION, or the profile's", None)
    role: str | None = key("the execution role's name or ARN; null: this notebook's own on SageMaker", None)
    bucket: str | None = key("S3 bucket; null: SageMaker's own, sagemaker-REGION-ACCOUNT, made if missing", None)
    prefix: str = key("prefix of everything that is put into the bucket", "sagehound")
    image: str | None = key("image with `train` and `serve` on its PATH; null: the account's sagehound:latest", None)
    instance_type: str = key("the kind of machine", "ml.g4dn.xlarge")
    instance_count: int = key("machines that train one model together (DDP)", 1, at_least=1)
    volume_gb: int = key("disk of each machine, 2^30 bytes", 50, at_least=1)
    max_hours: float = key("hours of a job's training; it is stopped then", 24.0, above=0, at_most=28 * 24)
    spot: bool = key(
        "spare capacity at a lower price, which may be interrupted; training continues from a checkpoint", False
    )
    max_wait_hours: float | None = key("spot: training and waiting together; null: twice max_hours", None, above=0)
    input_mode: str = key("copy the photos first, or read them as they are used", "File", choices=("File", "FastFile"))
    max_parallel_jobs: int = key("jobs of a sweep that run at a time", 1, at_least=1)
    wait_for_quota_minutes: float = key(
        "minutes that a job waits while others use the account's quota", 60.0, at_least=0
    )
    patience_minutes: float = key("minutes without a response before a job is given up", 10.0, at_least=0)
    stop_on_interrupt: bool = key("Ctrl-C stops the jobs as well; false: they continue", False)
    tags: dict[str, str] = key("tags of every job", {})
    subnets: list[str] = key("subnets of a VPC; with security_groups", [])
    security_groups: list[str] = key("security groups of a VPC; with subnets", [])
    kms_key: str | None = key("encrypts results in S3 and the machines' disks", None)
    environment: dict[str, str] = key("variables of the container", {})

    @property
    def disk_key(self) -> str | None:
        """The key of the machines' disks; None if their disks are local, for which AWS refuses a key."""
        from sagemaker_emulator.volume_keys import has_local_disks

        return None if has_local_disks(self.instance_type) else self.kms_key

    def conflicts(self, cfg: "Launch") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if cfg.is_remote and cfg.data.table:
            yield (
                "data.table is for training on this machine: a job on SageMaker takes folders, so give data.root=FOLDER"
            )
        if cfg.is_remote and cfg.data.exclude:
            yield (
                "data.exclude is for training on this machine: a job on SageMaker takes folders, so move or remove the "
                "photos it lists"
            )
        if "sagehound" in self.tags:
            yield "aws.tags.sagehound is Sagehound's own tag: give yours another name"
        sends = cfg.is_remote or any(stage.sends(own) for stage, own in cfg.stages)
        if cfg.data.s3 and not sends:
            yield f"data.s3={cfg.data.s3} is of jobs on SageMaker: choose trainer=sagemaker or transform=sagemaker"
        if bool(self.subnets) != bool(self.security_groups):
            yield "aws.subnets and aws.security_groups belong together: give both, or neither"
        if self.disk_key and "alias/" in self.disk_key and cfg.is_remote:
            yield (
                f"aws.kms_key={self.kms_key} is an alias, and the disks of {self.instance_type} take none: give the "
                "key's ID or ARN"
            )
        if self.max_wait_hours and not self.spot:
            yield f"aws.max_wait_hours={self.max_wait_hours:g} is of spot instances: add aws.spot=true"
        if self.max_wait_hours and self.max_wait_hours < self.max_hours:
            yield f"aws.max_wait_hours holds training as well: it must be {self.max_hours:g} or more"
        if cfg.dry_run and not sends:
            yield "dry_run=true writes requests to AWS: choose trainer=sagemaker, hpo=sagemaker or a stage there"
