"""Pictures of what a model looked at in single photos."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sagehound.errors import ConfigError, InputError
from sagehound.inference.decode import BadPhoto
from sagehound.inference.preprocessing import prepare
from sagehound.report.images import overlay
from sagehound.runs.trained_model import CHECKPOINT, read_checkpoint
from sagehound.storage.atomic import replacing


def write(run: Path, photos: Sequence[Path], folder: Path) -> Iterator[tuple[Path, Path | InputError]]:
    """Write a picture for each photo: the cropped photo, and a heat map of its prediction.

    Yields each photo with the picture's path, or the reason why it cannot be read. Pictures are named after the photos;
    of several photos with one name, the later ones get a number.

    Args:
        run: a run's folder with a checkpoint.
        photos: files.
        folder: for the pictures; it is created.

    Raises:
        ConfigError: the run has no checkpoint.
        InputError: the checkpoint is broken.
    """
    import numpy as np
    import torch
    from PIL import Image

    from sagehound.models.explain import heat_maps

    checkpoint = run / CHECKPOINT
    if not checkpoint.is_file():
        raise ConfigError(f"{run}: --explain needs the run's folder with {CHECKPOINT}; a model.tar.gz has no gradients")
    model = read_checkpoint(checkpoint).eval()
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for photo in photos:
        try:
            pixels = np.array(prepare(photo, model.preprocessing))  # a copy, because torch warns of read-only arrays
        except (BadPhoto, OSError) as error:
            yield photo, InputError(str(error))
            continue
        batch = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
        with torch.no_grad():
            label = model(batch).argmax(1)
        heat = heat_maps(model, batch, label)[0].numpy()
        height, width = pixels.shape[:2]
        picture = Image.new("RGB", (2 * width, height))
        picture.paste(Image.fromarray(np.ascontiguousarray(pixels)), (0, 0))
        picture.paste(overlay(pixels, heat), (width, 0))
        path = folder / f"{_unused(photo.stem, taken)}.jpg"
        with replacing(path) as temporary:
            picture.save(temporary, format="JPEG", quality=90)
        yield photo, path


def _unused(stem: str, taken: set[str]) -> str:
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    taken.add(name)
    return name
