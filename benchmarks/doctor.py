"""What `sagehound doctor` finds: wrong labels beside cleanlab, changed copies, other subjects, poor photos.

python benchmarks/doctor.py [--data PATH] [--weights FILE] [--others PATH] [--cleanlab PYTHON]

Five percent of the labels are replaced at random, eight times. The precision at k counts the wrong labels among the k
most suspicious photos, where k is the number of wrong labels. PYTHON is an interpreter with cleanlab, which gets the
same leave-one-out predictions. The set of 40 classes has each breed in four renderings: as it is, inverted, in blue,
and turned by 90 degrees.
"""

import io
import json
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import timm
from common import machine, parser, scratch
from duplicates import CHANGES, features_of
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from sagehound.data.aligned_copies import by_alignment
from sagehound.data.duplicates import Fingerprints, Pair, by_features, by_hash, fingerprint
from sagehound.diagnosis.class_pairs import inseparable_classes
from sagehound.diagnosis.learning_curve import MORE, learning_curve
from sagehound.diagnosis.leave_one_out import leave_one_out
from sagehound.diagnosis.outliers import outliers
from sagehound.diagnosis.suspicious_labels import ranking, suspicious_labels
from sagehound.doctor.photo_quality import problems
from sagehound.inference.decode import read_photo
from sagehound.inference.preprocessing import Preprocessing
from sagehound.monitoring.photo_measures import measure

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Change = Callable[[Image.Image], Image.Image]

DRAWS = 8
WRONG = 0.05
RENDERINGS: list[Change] = [
    lambda photo: photo,
    ImageOps.invert,
    lambda photo: Image.blend(photo, Image.new("RGB", photo.size, (0, 0, 255)), 0.5),
    lambda photo: photo.transpose(Image.Transpose.ROTATE_90),
]
SAME = ("half the size", "brighter by 30 %", "cropped to 90 %", "mirrored", "cropped to 90 % and mirrored")
POOR: dict[str, tuple[str, Change]] = {
    "blurred with a radius of 3 pixels": ("blurred", lambda i: i.filter(ImageFilter.GaussianBlur(3))),
    "a tenth of the brightness": ("dark", lambda i: ImageEnhance.Brightness(i).enhance(0.1)),
    "a fifth of each side": ("small", lambda i: i.resize((i.width // 5, i.height // 5))),
}
CLEANLAB = """
import json, sys
import numpy as np
from cleanlab.rank import get_label_quality_scores
given, found = np.load(sys.argv[1]), {}
for method in ("self_confidence", "normalized_margin"):
    found[method] = np.argsort(get_label_quality_scores(given["labels"], given["p"], method=method)).tolist()
print(json.dumps(found))
"""


def recompressed(photo: Image.Image, _: random.Random) -> Image.Image:
    """The photo as a JPEG file of quality 40."""
    content = io.BytesIO()
    photo.save(content, "JPEG", quality=40)
    return Image.open(content).convert("RGB")


COPIES = {"recompressed": recompressed} | {name: CHANGES[name] for name in SAME}


def flipped(labels: Labels, classes: int, seed: int) -> tuple[Labels, npt.NDArray[np.bool_]]:
    """Labels of which 5 % are another class, n, and which these are, n."""
    rng = np.random.default_rng(seed)
    wrong = np.zeros(len(labels), bool)
    wrong[rng.choice(len(labels), round(WRONG * len(labels)), replace=False)] = True
    return np.where(wrong, (labels + rng.integers(1, classes, len(labels))) % classes, labels), wrong


def probabilities(scores: Floats, labels: Labels) -> Floats:
    """Softmax of the scores, n x c, with the temperature that makes the labels most likely."""
    tried = []
    for scale in (2, 4, 6, 8, 12, 16, 24):
        p = np.exp(scale * (scores - scores.max(1, keepdims=True)))
        p /= p.sum(1, keepdims=True)
        tried.append((float(np.log(p[np.arange(len(labels)), labels]).mean()), p))
    best: Floats = max(tried, key=lambda one: one[0])[1]
    return best


def cleanlab(python: Path, scores: Floats, labels: Labels) -> dict[str, list[int]]:
    """The photos in cleanlab's order, by each of its methods."""
    with scratch() as folder:
        np.savez(folder / "given.npz", p=probabilities(scores, labels), labels=labels)
        done = subprocess.run(
            [python, "-c", CLEANLAB, folder / "given.npz"], capture_output=True, text=True, check=True
        )
    order: dict[str, list[int]] = json.loads(done.stdout)
    return order


def labels_found(x: Floats, y: Labels, scenes: list[int], python: Path | None) -> dict[str, float]:
    """Precision at k of both, and precision and recall of the doctor's list; means of the draws."""
    classes, rows = int(y.max()) + 1, []
    for seed in range(DRAWS):
        labels, wrong = flipped(y, classes, seed)
        scores = leave_one_out(x, labels, classes, scenes=scenes)
        order = {"doctor": ranking(scores, labels).tolist()}
        order |= cleanlab(python, scores, labels) if python else {}
        listed = [one.photo for one in suspicious_labels(scores, labels)]
        row = {name: float(wrong[places[: wrong.sum()]].mean()) for name, places in order.items()}
        rows.append(row | {"precision": float(wrong[listed].mean()), "recall": wrong[listed].sum() / wrong.sum()})
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def main() -> None:
    """Print the tables."""
    p = parser(__doc__)
    p.add_argument("--others", type=Path, help="photos of other subjects, which are outliers; names start with other_")
    p.add_argument("--cleanlab", type=Path, metavar="PYTHON")
    a = p.parse_args()
    files = sorted(f for f in Path(a.data).rglob("*") if f.suffix.lower() in (".jpg", ".jpeg"))
    names, y = np.unique([f.parent.name for f in files], return_inverse=True)
    photos = [read_photo(file, 256) for file in files]
    net = timm.create_model(
        a.backbone, pretrained=True, num_classes=0, pretrained_cfg_overlay={"file": a.weights}
    ).eval()
    preprocessing = Preprocessing.of_weights(timm.data.resolve_data_config({}, model=net))

    def features(of: list[Image.Image]) -> Floats:
        return features_of(net, preprocessing, of)

    x = features(photos)
    print(f"{machine()}; {len(files)} photos of {len(names)} classes, {a.backbone}\n", flush=True)
    show_classes(x, y)
    show_copies(photos, x, features)
    show_poor(files, preprocessing)
    if a.others:
        others = sorted(f for f in a.others.iterdir() if f.is_file())
        found = {one.photo for one in outliers(np.concatenate([x, features([read_photo(f, 256) for f in others])]))}
        listed = sum(i >= len(x) for i in found)
        print(
            f"\noutliers: {listed} of {len(others)} other subjects, {len(found) - listed} of {len(x)} photos",
            flush=True,
        )
    show_labels("10 classes", x, y, list(range(len(x))), a.cleanlab)
    rendered = [features([change(photo) for photo in photos]) for change in RENDERINGS[1:]]
    forty = np.concatenate([y + len(names) * i for i in range(len(RENDERINGS))])
    show_labels("40 classes", np.concatenate([x, *rendered]), forty, [*range(len(x))] * len(RENDERINGS), a.cleanlab)
    show_time()


def show_labels(name: str, x: Floats, y: Labels, scenes: list[int], python: Path | None) -> None:
    """Print what is found of wrong labels."""
    accuracy = (leave_one_out(x, y, int(y.max()) + 1, scenes=scenes).argmax(1) == y).mean()
    found = ", ".join(f"{name} {share:.1%}" for name, share in labels_found(x, y, scenes, python).items())
    print(f"\nwrong labels, {name}, {len(x)} photos, leave-one-out accuracy {accuracy:.1%}: {found}", flush=True)


def show_classes(x: Floats, y: Labels) -> None:
    """Print whether halves of one class are inseparable, and how good the forecast of more photos is."""
    classes = int(y.max()) + 1
    pairs = inseparable_classes(leave_one_out(x, y, classes), y)
    halves = 2 * y + np.random.default_rng(0).integers(0, 2, len(y))
    split = inseparable_classes(leave_one_out(x, halves, 2 * classes), halves)
    right = sum(pair.a // 2 == pair.b // 2 for pair in split)
    print(
        f"inseparable classes: {len(pairs)}; each class under two names: {right} of {classes} pairs, "
        f"{len(split) - right} wrong ones"
    )
    for few in (20, 40, 60):
        some = np.concatenate([np.flatnonzero(y == c)[:few] for c in range(classes)])
        more = np.concatenate([np.flatnonzero(y == c)[: few + MORE] for c in range(classes)])
        before, after = (float((leave_one_out(x[i], y[i], classes).argmax(1) == y[i]).mean()) for i in (some, more))
        sentence = learning_curve(x[some], y[some], classes).sentence
        print(f"{few} photos a class: {sentence}; measured {100 * (after - before):+.1f}")


def show_copies(photos: list[Image.Image], x: Floats, features: Callable[[list[Image.Image]], Floats]) -> None:
    """Print how many changed copies are found among all photos, and how many pairs are wrong."""
    prints, n = [fingerprint(photo) for photo in photos], len(photos)
    some = list(range(0, n, 5))

    def found(rows: Floats, texts: list[str], all_photos: list[Image.Image]) -> list[Pair]:
        known = Fingerprints(texts)
        return [*by_hash(known), *by_features(rows, known), *by_alignment(rows, known, all_photos.__getitem__)]

    before = {(pair.a, pair.b) for pair in found(x, prints, photos)}
    print(f"\nnear-duplicates among the photos as they are: {len(before)} pairs\n")
    print("| changed copy | found | photos in a wrong pair |\n|---|---|---|")
    source = [*range(n), *some]  # of each photo and each copy
    for name, change in COPIES.items():
        copies = [change(photos[i], random.Random(i)) for i in some]
        pairs = found(np.concatenate([x, features(copies)]), [*prints, *map(fingerprint, copies)], [*photos, *copies])
        of = [(min(source[p.a], source[p.b]), max(source[p.a], source[p.b]), p.b) for p in pairs]
        right = {b for one, other, b in of if one == other}
        wrong = {b for one, other, b in of if one != other and (one, other) not in before}
        print(f"| {name} | {len(right) / len(some):.1%} | {len(wrong) / len(source):.2%} |", flush=True)


def show_poor(files: list[Path], preprocessing: Preprocessing) -> None:
    """Print how many poor photos are recognised, and how many photos as they are."""
    counts: dict[str, int] = {}
    for file in files:
        for problem in problems(measure(file.read_bytes(), preprocessing)[1], preprocessing.size):
            counts[problem] = counts.get(problem, 0) + 1
    print(f"\npoor photos among the {len(files)} as they are: {counts}")
    some = files[::10]
    for name, (problem, change) in POOR.items():
        found = 0
        for file in some:
            content = io.BytesIO()
            change(Image.open(file).convert("RGB")).save(content, "JPEG", quality=90)
            found += problem in problems(measure(content.getvalue(), preprocessing)[1], preprocessing.size)
        print(f"{name}: {problem} {found / len(some):.0%}", flush=True)


def show_time() -> None:
    """Print the time of 10,000 photos with 1,280 random features and 40 classes."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10_000, 1280)).astype(np.float32), rng.integers(0, 40, 10_000)
    start, cpu = time.perf_counter(), time.process_time()
    leave_one_out(x, y, 40)
    seconds = time.perf_counter() - start
    print(f"\nleave-one-out of 10,000 photos: {seconds:.1f} s, processor {time.process_time() - cpu:.1f} s")


if __name__ == "__main__":
    main()
