"""The most confident mistakes of a run, with what the model looked at."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sagehound.inference.decode import BadPhoto
from sagehound.inference.preprocessing import Pixels, prepare
from sagehound.report.contents import Contents, Row
from sagehound.report.images import SIDE, Tile, overlay, thumbnail, uri

if TYPE_CHECKING:
    from sagehound.models.classifier import Classifier

MOST = 12


def worst(run: Contents) -> list[Row]:
    """The test photos with the most confident wrong predictions, in order of falling probability."""
    wrong = [row for row in run.of_split("test") if row["label"] != row["prediction"]]
    return sorted(wrong, key=lambda row: -float(row["probability"]))[:MOST]


def tiles(run: Contents, model: "Classifier | None") -> list[Tile]:
    """A tile for each of the worst mistakes; with heat maps if there is a model."""
    rows, root = worst(run), run.photos
    heats = _heats(rows, root, model, run.classes) if model is not None and root is not None else {}
    return [
        Tile(
            thumbnail(root / row["file"]) if root else "",
            [
                row["label"],
                f"predicted as {row['prediction']}, {float(row['probability']):.0%}",
                Path(row["file"]).name,
            ],
            f"{row['label']}, predicted as {row['prediction']} with {float(row['probability']):.0%}",
            heats.get(row["file"], ""),
        )
        for row in rows
    ]


def _heats(rows: Sequence[Row], root: Path, model: "Classifier", classes: list[str]) -> dict[str, str]:
    """The photos as the model gets them, with heat maps of the predicted class, by file."""
    import torch

    from sagehound.models.explain import heat_maps

    photos: dict[str, Pixels] = {}
    for row in rows:
        with suppress(BadPhoto, OSError):
            photos[row["file"]] = prepare(root / row["file"], model.preprocessing)
    if not photos:
        return {}
    device = next(model.parameters()).device
    batch = torch.from_numpy(np.stack(list(photos.values()))).permute(0, 3, 1, 2).to(device)
    numbers = [classes.index(row["prediction"]) for row in rows if row["file"] in photos]
    maps = heat_maps(model, batch, torch.tensor(numbers, device=device)).cpu().numpy()
    shown = {}
    for (file, pixels), heat in zip(photos.items(), maps, strict=True):
        picture = overlay(pixels, heat)
        picture.thumbnail((SIDE, SIDE))
        shown[file] = uri(picture)
    return shown
