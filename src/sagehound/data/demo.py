"""Drawn dogs: a small set of photos of ten made-up breeds, for trying everything without a download.

Some breeds differ in one trait only, and the rarest has a quarter of the photos of the commonest, so that reports show
mistakes.
"""

import math
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from sagehound.storage.atomic import locked, writing_failed
from sagehound.system import console

SIZE = 256  # pixels, both sides
HELD_OUT = 10  # photos of each breed in valid, and in test

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Breed:
    """The look of a drawn breed."""

    name: str
    train: int  # photos
    coat: Colour
    mark: Colour  # of muzzle, spots or stripes
    ears: str  # pointed, hanging, round
    pattern: str  # plain, muzzle, spots, stripes, blaze


AMBER, CREAM, SOOT, TAN, SNOW, RUST, STEEL = (
    (214, 150, 62),
    (240, 214, 160),
    (38, 36, 40),
    (176, 112, 58),
    (242, 240, 236),
    (158, 70, 34),
    (122, 132, 146),
)

BREEDS = (
    Breed("Amber_hound", 40, AMBER, CREAM, "hanging", "plain"),
    Breed("Amber_spitz", 36, AMBER, CREAM, "pointed", "plain"),  # Amber_hound but for the ears
    Breed("Soot_shepherd", 34, SOOT, TAN, "pointed", "muzzle"),
    Breed("Soot_mastiff", 30, SOOT, TAN, "hanging", "muzzle"),  # Soot_shepherd but for the ears
    Breed("Snow_spitz", 28, SNOW, CREAM, "pointed", "plain"),
    Breed("Spotted_harrier", 26, SNOW, SOOT, "hanging", "spots"),
    Breed("Freckled_harrier", 20, SNOW, RUST, "hanging", "spots"),  # Spotted_harrier but for the spots' colour
    Breed("Rust_collie", 18, RUST, SNOW, "round", "blaze"),
    Breed("Steel_terrier", 14, STEEL, SNOW, "round", "muzzle"),
    Breed("Brindle_boxer", 10, TAN, SOOT, "round", "stripes"),
)


def draw(root: Path) -> None:
    """Draw the photos into ``root`` unless it exists. They are the same every time.

    Raises:
        SagehoundError: the disk is full, or the folder cannot be written.
    """
    with locked(root.with_name(f".{root.name}.lock")):
        if root.exists():
            return
        unfinished = root.with_name(f".{root.name}.drawing")
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            plan = [
                (breed, split, number, i)
                for number, breed in enumerate(BREEDS, 1)
                for split, count in (("train", breed.train), ("valid", HELD_OUT), ("test", HELD_OUT))
                for i in range(count)
            ]
            for breed, split, number, i in console.track(plan, "Drawing photos", len(plan)):
                folder = unfinished / split / f"{number:03}.{breed.name}"
                folder.mkdir(parents=True, exist_ok=True)
                photo = draw_dog(breed, random.Random(f"{breed.name}/{split}/{i}"))
                photo.save(folder / f"{breed.name}_{i:05}.jpg", quality=90)
            unfinished.rename(root)
        except OSError as error:
            raise writing_failed(root, error) from error


def draw_dog(breed: Breed, rng: random.Random) -> Image.Image:
    """One portrait of a breed, SIZE x SIZE RGB. ``rng`` chooses pose, light and background."""
    head = Image.new("RGBA", (SIZE, SIZE))
    _draw_head(ImageDraw.Draw(head), breed, rng)
    if rng.random() < 0.5:
        head = head.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side = round(SIZE * rng.uniform(0.65, 1.0))
    head = head.resize((side, side), Image.Resampling.BICUBIC).rotate(rng.uniform(-30, 30), Image.Resampling.BICUBIC)
    photo = _background(rng)
    photo.paste(head, (rng.randint(-10, SIZE - side + 10), rng.randint(-10, SIZE - side + 10)), head)
    light = np.asarray(photo, np.float32) * rng.uniform(0.6, 1.2)
    light += np.random.default_rng(rng.getrandbits(32)).standard_normal(light.shape, np.float32) * 8
    return Image.fromarray(light.clip(0, 255).astype(np.uint8))


def _background(rng: random.Random) -> Image.Image:
    """A background: two colours, one above the other, with blurred blobs."""
    top, bottom = ([rng.randint(50, 220) for _ in range(3)] for _ in range(2))
    small = SIZE // 8  # enlarging it blurs it
    ramp = np.linspace(0, 1, small)[:, None, None]
    colours = np.broadcast_to(np.array(top) * (1 - ramp) + np.array(bottom) * ramp, (small, small, 3))
    photo = Image.fromarray(colours.astype(np.uint8))
    pen = ImageDraw.Draw(photo)
    for _ in range(rng.randint(4, 12)):
        x, y, r = rng.uniform(0, small), rng.uniform(0, small), rng.uniform(1, small / 6)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tuple(rng.randint(40, 230) for _ in range(3)))
    return photo.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def _draw_head(pen: ImageDraw.ImageDraw, breed: Breed, rng: random.Random) -> None:
    """A dog's head from the front, on a square of SIZE pixels, centred."""
    coat, mark = (_shade(c, rng) for c in (breed.coat, breed.mark))
    dark = tuple(round(v * 0.75) for v in coat)
    u = SIZE / 100  # one unit is a hundredth of the side
    wide = rng.uniform(0.92, 1.08)

    def oval(x: float, y: float, rx: float, ry: float, fill: tuple[int, ...]) -> None:
        pen.ellipse(((x - rx * wide) * u, (y - ry) * u, (x + rx * wide) * u, (y + ry) * u), fill=fill)

    for side in (-1, 1):
        x = 50 + side * 24
        if breed.ears == "pointed":
            pen.polygon([(p * u, q * u) for p, q in ((x - 10, 42), (x + side * 8, 8), (x + 10, 42))], fill=dark)
        elif breed.ears == "hanging":
            oval(x + side * 6, 52, 9, 24, dark)
        else:
            oval(x, 24, 11, 11, dark)
    oval(50, 50, 29, 30, coat)
    if breed.pattern == "stripes":
        for k in range(-3, 4):
            top = 24 + 2 * abs(k)
            pen.line([((50 + k * 7) * u, top * u), ((50 + k * 8) * u, 54 * u)], fill=mark, width=round(2.5 * u))
    if breed.pattern == "spots":
        for _ in range(rng.randint(8, 14)):
            angle, far, r = rng.uniform(0, math.tau), rng.uniform(8, 26), rng.uniform(2, 4.5)
            oval(50 + far * math.cos(angle), 48 + far * math.sin(angle), r, r, mark)
    if breed.pattern == "blaze":
        oval(50, 44, 6, 24, mark)
    oval(50, 64, 15, 13, mark if breed.pattern in ("muzzle", "blaze") else coat)
    oval(50, 58, 5.5, 4, (20, 18, 20))
    pen.arc((44 * u, 58 * u, 56 * u, 72 * u), 20, 160, fill=(20, 18, 20), width=round(u))
    for side in (-1, 1):
        oval(50 + side * 12, 44, 4, 4.5, (60, 36, 20))
        oval(50 + side * 12, 43.5, 2, 2.5, (10, 8, 8))


def _shade(colour: Colour, rng: random.Random) -> Colour:
    """The colour of one dog, near its breed's."""
    r, g, b = (min(max(v + rng.randint(-14, 14), 0), 255) for v in colour)
    return r, g, b
