"""How many changed copies are found as near-duplicates, and how many different photos are taken for some.

python benchmarks/duplicates.py [--data PATH] [--weights FILE]

Every fifth photo is changed in each way and compared with itself; features are those of the frozen backbone.
"""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import timm
import torch
from common import parser
from PIL import Image, ImageEnhance, ImageOps

from sagehound.data.duplicates import Fingerprints, Pair, by_features, by_hash, fingerprint
from sagehound.inference.decode import read_photo
from sagehound.inference.network import Normalise
from sagehound.inference.preprocessing import Preprocessing, centre

Change = Callable[[Image.Image, random.Random], Image.Image]


def crop(image: Image.Image, share: float, rng: random.Random) -> Image.Image:
    """A part of a photo at a random place, ``share`` of each side."""
    w, h = round(image.width * share), round(image.height * share)
    left, top = rng.randint(0, image.width - w), rng.randint(0, image.height - h)
    return image.crop((left, top, left + w, top + h))


def moved(image: Image.Image, share: float, degrees: float, rng: random.Random) -> Image.Image:
    """The scene a moment later: moved, turned, in other light, with noise."""
    turned = image.rotate(rng.uniform(-degrees, degrees), Image.Resampling.BICUBIC)
    frame = crop(turned, 1 - 2 * share, rng).resize(image.size, Image.Resampling.BICUBIC)
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, 4, (*image.size[::-1], 3))
    return Image.fromarray((np.asarray(frame) * rng.uniform(0.93, 1.07) + noise).clip(0, 255).astype(np.uint8))


CHANGES: dict[str, Change] = {
    "half the size": lambda i, _: i.resize((i.width // 2, i.height // 2)),
    "brighter by 30 %": lambda i, _: ImageEnhance.Brightness(i).enhance(1.3),
    "mirrored": lambda i, _: ImageOps.mirror(i),
    "cropped to 95 % of each side": lambda i, rng: crop(i, 0.95, rng),
    "cropped to 90 %": lambda i, rng: crop(i, 0.9, rng),
    "cropped to 90 % and mirrored": lambda i, rng: ImageOps.mirror(crop(i, 0.9, rng)),
    "cropped to 80 %": lambda i, rng: crop(i, 0.8, rng),
    "burst, 1 % and 0.5 degrees": lambda i, rng: moved(i, 0.01, 0.5, rng),
    "burst, 2 % and 1 degree": lambda i, rng: moved(i, 0.02, 1, rng),
    "burst, 4 % and 2 degrees": lambda i, rng: moved(i, 0.04, 2, rng),
}


@torch.inference_mode()
def features_of(
    net: torch.nn.Module, preprocessing: Preprocessing, photos: list[Image.Image]
) -> npt.NDArray[np.float32]:
    """Features, n x f, of RGB photos."""
    normalise, rows = Normalise(preprocessing, channels_last=True), []
    for start in range(0, len(photos), 32):
        pixels = np.stack([np.asarray(centre(p, preprocessing)) for p in photos[start : start + 32]])
        rows.append(net(normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2))).numpy())
    return np.concatenate(rows)


def main() -> None:
    """Print the table."""
    a = parser(__doc__).parse_args()
    files = sorted(p for p in Path(a.data).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    photos = [read_photo(file, 256) for file in files]
    net = timm.create_model(
        a.backbone, pretrained=True, num_classes=0, pretrained_cfg_overlay={"file": a.weights}
    ).eval()
    preprocessing = Preprocessing.of_weights(timm.data.resolve_data_config({}, model=net))
    prints, features = [fingerprint(p) for p in photos], features_of(net, preprocessing, photos)
    known = Fingerprints(prints)
    for by, pairs in (("hash", by_hash(known)), ("features", by_features(features, known))):
        print(f"\nalike among {len(files)} photos as they are, by {by}: {len(pairs)} pairs; look at them")
        for p in pairs:
            print(f"  {p.distance:.3f}  {files[p.a].name}  {files[p.b].name}")
    print("\n| changed copy | found by hash | by features | by either |\n|---|---|---|---|")
    some = range(0, len(photos), 5)
    for name, change in CHANGES.items():
        copies = [change(photos[i], random.Random(i)) for i in some]
        together = Fingerprints([*(prints[i] for i in some), *map(fingerprint, copies)])
        rows = np.concatenate([features[some], features_of(net, preprocessing, copies)])
        hashed, seen = found(by_hash(together), len(some)), found(by_features(rows, together), len(some))
        shares = (f"{len(photos_found) / len(some):.0%}" for photos_found in (hashed, seen, hashed | seen))
        print(f"| {name} | {' | '.join(shares)} |")


def found(pairs: list[Pair], n: int) -> set[int]:
    """The photos, of n, that were found with their copy, which stands n places further."""
    return {p.a for p in pairs if p.b == p.a + n}


if __name__ == "__main__":
    main()
