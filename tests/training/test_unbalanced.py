"""Few photos of some classes: what balances them predicts rare classes better."""

import csv
from pathlib import Path

import numpy as np
import pytest
from helpers import Compose

from sagehound.training.train import train


def long_tail(source: Path, table: Path) -> Path:
    """Write a table of woof10's photos, with 60, 41, 28, ... 2 train photos of the classes by name."""
    rows = []
    for split in ("train", "valid", "test"):
        classes = sorted((source / split).iterdir())
        for folder, wanted in zip(classes, np.geomspace(60, 2, len(classes)).round().astype(int), strict=True):
            files = sorted(folder.iterdir())[: wanted if split == "train" else None]
            rows += [[str(file.relative_to(source)), folder.name, split] for file in files]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["file", "label", "split"], *rows])
    return table


@pytest.mark.slow
def test_each_method_raises_macro_f1_of_a_long_tail(config: Compose, real_data: Path, tmp_path: Path) -> None:
    table, weights = long_tail(real_data / "woof10", tmp_path / "photos.csv"), real_data / "weights"
    given = [f"data.table={table}", f"data.root={real_data / 'woof10'}", "backbone.name=mobilenetv2_100"]
    given += [f"backbone.weights={weights / 'mobilenetv2_100.safetensors'}", "data.batch_size=64", "results=scores"]

    def macro_f1(*overrides: str) -> float:
        run = train(config(*given, "trainer.max_epochs=10", *overrides), tmp_path / "-".join(["run", *overrides]))
        return float(run.metrics["test"]["macro_f1"])

    plain = macro_f1()
    for method in ("loss.class_weights=balanced", "data.sampling=balanced", "loss.logit_adjustment=1"):
        assert macro_f1(method) > plain + 0.03, method
