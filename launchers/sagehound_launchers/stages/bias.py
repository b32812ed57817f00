"""`bias=local|sagemaker`: measures of bias between classes and between groups of photos."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from sagehound.config import key
from sagehound_launchers.config.stage import Stage

if TYPE_CHECKING:
    from sagehound_launchers.config import Launch


@dataclass
class Bias:
    """Measures of bias between classes and groups of photos, with SageMaker Clarify's names and formulas."""

    name: str = key("where they are computed", MISSING, choices=("local", "sagemaker"))
    split: str = key("photos whose predictions are measured", "test", choices=("train", "valid", "test"))
    facets: str | None = key(
        "CSV with a column `file` and columns that put photos into groups, such as camera; null: the photo table's",
        None,
    )
    columns: list[str] = key("columns of it that are groups; []: all with 2 to 20 values", [])
    group_by: str | None = key("column within whose values CDDL and CDDPL of each class compare", None)
    label: str | None = key(
        "sagemaker: the class that is compared with the rest; null: whether photos are recognised", None
    )
    instance_type: str = key("sagemaker: the machine of the job", "ml.m5.xlarge")
    max_minutes: float = key("sagemaker: the job is stopped then", 60.0, at_least=1, at_most=7 * 24 * 60)

    def conflicts(self, cfg: "Launch") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if len(cfg.models) > 1:
            yield f"bias takes one model, not {len(cfg.models)}: give model=RUN"
        if (self.columns or self.group_by) and not (self.facets or cfg.data.table or cfg.models):
            yield "bias.columns and bias.group_by name columns: give bias.facets=FILE or data.table=FILE"
        if self.columns and self.group_by and self.group_by not in self.columns:
            yield f"bias.group_by={self.group_by} is not among bias.columns: add it"
        if self.label and self.name == "local":
            yield "bias.label is of bias=sagemaker: bias=local compares every class with the rest"


def measure(cfg: "Launch", own: Bias, models: Sequence[str], folder: Path) -> None:
    """Measure bias, and write bias.json and bias.csv to the run's folder."""
    from sagehound_launchers.bias_analysis import measure

    measure(cfg, own, models[0], folder)


STAGE = Stage(
    "bias", Bias, 30, measure, needs_model=True, extra={"sagemaker": ("sagemaker", "boto3", "sagemaker")},
    remote=frozenset({"sagemaker"}),
)  # fmt: skip
