"""`transform=local|sagemaker`: batch predictions over many photos."""

import hashlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from omegaconf import MISSING

from sagehound.config import key
from sagehound.errors import InputError, Stopped
from sagehound.system import console
from sagehound_launchers.config.stage import Stage

if TYPE_CHECKING:
    from sagehound_launchers.config import Launch


@dataclass
class Transform:
    """Batch predictions over a folder of photos, data.root, or on SageMaker also data.s3."""

    name: str = key("where they are computed", MISSING, choices=("local", "sagemaker"))
    format: str = key("format of the file", "csv", choices=("csv", "jsonl"))
    output: str | None = key("a file; null: outputs/transform/<data.root's name>-<a number>/predictions.<format>", None)
    split: str | None = key("a split of the photos; null: all of them", None, choices=("train", "valid", "test"))
    top_k: int = key("classes that are written for each photo", 5, at_least=1)
    instance_type: str = key("sagemaker: the kind of machine", "ml.m5.large")
    instance_count: int = key("sagemaker: machines, between which the photos are divided", 1, at_least=1)

    def conflicts(self, cfg: "Launch") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if self.output and Path(self.output).suffix != f".{self.format}":
            yield f"transform.output={self.output} does not end in .{self.format}: choose transform.format to fit"
        if len(cfg.models) > 1:
            yield f"transform takes one model, not {len(cfg.models)}: give model=RUN"
        if self.name == "local" and self.instance_count > 1:
            yield f"transform.instance_count={self.instance_count} is of transform=sagemaker"

    def place(self, cfg: "Launch") -> str:
        """The folder, or the address in S3, of the photos.

        Raises:
            InputError: there is no folder of the split.
        """
        source = cfg.data.s3 or str(Path(cfg.data.root or "").expanduser())
        if self.split is None or source.startswith("s3://"):
            return "/".join(filter(None, [source.rstrip("/"), self.split]))
        from sagehound.data.folders import SPLIT_NAMES

        folders = [f for f in Path(source).iterdir() if f.is_dir()] if Path(source).is_dir() else []
        found = [f for f in folders if SPLIT_NAMES.get(f.name.lower()) == self.split]
        if not found:
            raise InputError(f"transform.split={self.split}: {source} has no folder of this name")
        return str(found[0])


def transform(cfg: "Launch", own: Transform, models: Sequence[str], folder: Path) -> None:
    """Predict every photo below data.root or data.s3.

    Raises:
        InputError: a folder could not be read (other predictions are written), or no photo at all.
    """
    (model,) = models
    source = own.place(cfg)
    output = Path(own.output).expanduser() if own.output else default_output(model, source, own.format)
    if own.name == "sagemaker":
        from sagehound_launchers.sagemaker import batch_transform

        failed = batch_transform.transform(cfg, own, model, source, output)
        if cfg.dry_run:
            return
        if failed:
            console.warn(f"{failed:,} photo{'s' * (failed > 1)} without a prediction; their lines say why")
        console.info(f"predictions: {output}")
    else:
        _here(own, model, Path(source), output)
    _report(model, output)


def _here(own: Transform, model: str, root: Path, output: Path) -> None:
    from sagehound.data.folders import ignored_files
    from sagehound.serving.batch_predict import predict_folder

    signal.signal(signal.SIGTERM, _stop)
    done, left_out = predict_folder(model, root, output, own.top_k)
    if done.failed:
        console.warn(f"{done.failed:,} of {done.photos:,} photos could not be read; their lines say why")
    if left_out.ignored:
        console.warn(ignored_files(left_out.ignored))
    if done.failed == done.photos:
        raise InputError(f"data.root={root}: no photo could be read ({done.first}); {output} lists {done.photos:,}")
    if done.photos == 1:
        console.info(done.first)
    read, unread = done.photos - done.failed, f", {done.failed:,} could not be read" if done.failed else ""
    console.info(f"predictions of {read:,} photo{'' if read == 1 else 's'}{unread}: {output}")
    if left_out.folders:
        raise InputError("; ".join(map(str, left_out.folders)) + "; their photos have no line")


def _report(model: str, output: Path) -> None:
    """If photos lie in folders named after classes, write the scores of each class and the confusions."""
    from sagehound.serving.labelled import score

    scored = score(model, output)
    if scored:
        console.info(f"accuracy: {scored}; scores of each class: {scored.per_class}")
    if scored and scored.trained:
        console.warn(
            f"{scored.trained:,} of these photos lie in a folder train: transform.split=test scores new photos only"
        )


def _stop(signum: int, _: FrameType | None) -> None:
    raise Stopped("stopped by SIGTERM; the same command resumes it", signum)


def default_output(model: str, source: str, format_: str) -> Path:
    """The default output. It depends on model and photos only, so that a stopped command resumes."""
    photos = source if source.startswith("s3://") else str(Path(source).resolve())
    known = hashlib.sha256(f"{Path(model).resolve()}\n{photos}".encode()).hexdigest()[:8]
    return Path("outputs/transform", f"{Path(photos).name}-{known}", f"predictions.{format_}")


STAGE = Stage(
    "transform", Transform, 10, transform, needs_model=True, remote=frozenset({"sagemaker"}),
    extra={"sagemaker": ("sagemaker", "boto3")},
)  # fmt: skip
