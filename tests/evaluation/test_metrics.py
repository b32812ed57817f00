import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from sagehound import metrics


@pytest.mark.parametrize("classes", [3, 40])
def test_each_metric_is_what_torchmetrics_computes(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(501, classes, generator=generator)
    labels = torch.randint(classes, (501,), generator=generator)
    expected = {
        "top1": multiclass_accuracy(logits, labels, classes, average="micro"),
        "top5": multiclass_accuracy(logits, labels, classes, average="micro", top_k=min(5, classes)),
        "macro_f1": multiclass_f1_score(logits, labels, classes, average="macro"),
        "loss": F.cross_entropy(logits, labels),
        "ece": multiclass_calibration_error(logits.softmax(1), labels, classes, n_bins=15, norm="l1"),
    }
    assert metrics.final(logits, labels) == {name: round(float(value), 6) for name, value in expected.items()}


def test_an_epoch_of_batches_is_scored_as_a_whole() -> None:
    logits, labels = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 3
    scores = metrics.collection(3, "valid")
    for part in (slice(0, 7), slice(7, 10)):
        metrics.update(scores, F.cross_entropy(logits[part], labels[part]), logits[part], labels[part])
    found = {name: round(float(value), 5) for name, value in scores.compute().items()}
    whole = metrics.final(logits, labels)
    assert found == {f"valid/{name}": round(whole[name], 5) for name in ("loss", "top1", "macro_f1")}


def test_names() -> None:
    assert metrics.of_epoch() == ["valid.loss", "valid.top1", "valid.macro_f1", "train.loss", "train.top1"]
    assert metrics.objectives()["valid.top5"] == "maximize"
    assert metrics.objectives()["train.ece"] == "minimize"
    assert not any(name.startswith("test") for name in metrics.objectives()), "nothing is chosen by the test photos"


def test_the_names_are_read_without_torch() -> None:
    code = "import sys, sagehound.metrics as m; m.of_epoch(); m.objectives(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
