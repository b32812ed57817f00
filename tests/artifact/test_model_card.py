"""MODEL_CARD.md in the archive."""

import json
from pathlib import Path

import numpy as np
import pytest

from sagehound.artifact import model_card
from sagehound.artifact.archive import opened
from sagehound.data.folders import Photo
from sagehound.data.photo_set import PhotoSet
from sagehound.evaluation.tables import Predictions


def test_the_card_of_a_run_has_its_figures_and_no_path(run: Path) -> None:
    with opened(run) as folder:
        card = (folder / "MODEL_CARD.md").read_text()
    metrics = json.loads((run / "metrics.json").read_text())
    top1, (low, high) = metrics["test"]["top1"], metrics["test"]["top1_interval"]
    assert f"{100 * top1:.1f} ({100 * low:.1f} to {100 * high:.1f}), of 12 test photos" in card
    for section in ("Intended use", "Photos", "Metrics", "Classes", "Limits", "Licences"):
        assert f"\n## {section}\n" in card
    for row in (run / "per_class.csv").read_text().splitlines()[1:]:
        name, train, valid, test, *_ = row.split(",")
        assert f"| {name} | {train} | {valid} | {test} | " in card
    assert "pretrained weights: test\\_resnet.safetensors | not known to Sagehound |" in card
    assert "Fewer than 10 test photos" in card
    assert str(run) not in card


def photo_set(classes: list[str], counts: dict[str, int], **audit: object) -> PhotoSet:
    photos = [Photo(f"{s}/{c}/{i}", s, c) for s, n in counts.items() for c in classes for i in range(n)]
    return PhotoSet(Path("/photos"), classes, photos, dict(audit), {p.file: p.file for p in photos})


def card_of(photos: PhotoSet, right: list[bool], **changes: object) -> str:
    test = photos.split("test")
    labels = np.array(photos.labels(test))
    predicted = np.where(right, labels, (labels + 1) % len(photos.classes))
    split = {"top1": float(np.mean(right)), "top1_interval": [0.1, 0.9], "photos": len(test)}
    card = {
        "classes": photos.classes,
        "backbone": "resnet18",
        "preprocessing": {"size": [224, 224]},
        "training": {"finetune": {"name": "head"}},
        "metrics": {"train": {"top1": 1.0}, "valid": {"photos": 0}, "test": split},
        "data": {"fingerprint": "f" * 64, "photos": {"train": 4, "valid": 0, "test": len(test)}},
        "versions": {"sagehound": "0.1.0"},
        "weights": {"source": "timm: x", "licence": "cc-by-nc-4.0"},
    }
    logits = np.eye(len(photos.classes), dtype=np.float32)[predicted]
    return model_card.text(card | changes, photos, Predictions(test, labels, logits))


def test_limits_findings_and_licences_are_named() -> None:
    photos = photo_set(["Boxer", "Dingo"], {"train": 2, "test": 10}, imbalance_ratio=2.5, unreadable=["x"] * 3)
    card = card_of(photos, [True] * 10 + [False] * 7 + [True] * 3)
    assert "less than 50% of their test photos: Dingo." in card
    assert "Fewer than 10" not in card
    assert "higher by 35.0 points" in card
    assert "| files that are not readable, left out | 3 |" in card
    assert "2.5 times the train photos" in card
    assert "| Dingo | Boxer | 7 |" in card
    assert "forbids commercial use" in card
    assert "it names one of its classes for every photo" in card
    assert "marks most of them" in card_of(photos, [True] * 20, unknown={"threshold": 1, "known": 0.95})
    assert "| top-1 accuracy, % |  | 100.0 (10.0 to 90.0) |" in card_of(photos, [True] * 20)


@pytest.mark.parametrize("name", ["a|b", "<script>x</script>", "[x](http://x)", "two\nlines", "\udce9", "`#*_~"])
def test_names_of_classes_are_only_text(name: str) -> None:
    card = card_of(photo_set([name, "plain"], {"train": 2, "test": 1}), [True, True])
    (row,) = [line for line in card.splitlines() if line.endswith("| 1 | 100.0 (20.7 to 100.0) | 100.0 | 100.0 |")][:1]
    assert row.replace(r"\|", "").count("|") == 8
    assert "<" not in row
    assert "](" not in row.replace("\\]", "")
    assert card.encode(errors="backslashreplace")
