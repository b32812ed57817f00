"""Whether probabilities, sets of classes and the score of unknown photos keep what they promise.

python benchmarks/probabilities.py [--data PATH] [--weights FILE] [--others FOLDER] [--splits N] [--full]

Trains a model, predicts its valid and test photos, which it was not trained on, and divides them at random into two
halves: temperature and thresholds are chosen on the first and measured on the second. ``--others`` holds photos of
other animals. For unseen breeds, two breeds are left out of the mean features; with a frozen backbone this equals a
model that was trained without them. ``--full`` fine-tunes the backbone for three epochs instead of the head.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from common import SHARED, machine, metrics, parser, scratch, train
from scipy.stats import rankdata

from sagehound.artifact.archive import opened
from sagehound.data.folders import Photo
from sagehound.evaluation import thresholds_fit
from sagehound.evaluation.calibration import fit_temperature
from sagehound.evaluation.evaluate import score
from sagehound.evaluation.tables import Floats, Predictions
from sagehound.inference.preprocessing import prepare
from sagehound.inference.thresholds import Thresholds
from sagehound.monitoring.feature_network import FeatureNetwork
from sagehound.serving.predictor import Predictor
from sagehound.serving.sessions import Execution
from sagehound.storage.atomic import read_csv

Doubles = npt.NDArray[np.float64]

BREEDS = {"Beagle", "Golden_retriever"}  # of woof10, among the dogs of pets40


def auroc(known: Floats, unknown: Floats) -> float:
    """How often an unknown photo has a higher score than a known one."""
    ranks = rankdata(np.concatenate([known, unknown]))[len(known) :]
    return float((ranks.sum() - len(unknown) * (len(unknown) + 1) / 2) / (len(known) * len(unknown)))


def unit(features: Floats) -> Floats:
    """Rows divided by their length."""
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True), np.float32)


def unknown_scores(features: Floats, train_features: Floats, labels: list[str], left_out: set[str]) -> Floats:
    """The score of ``inference.network.Unknown`` without some classes, n."""
    names = np.array(labels)
    means = [unit(train_features[names == name]).mean(0) for name in sorted(set(labels) - left_out)]
    return np.asarray(1 - (unit(features) @ unit(np.stack(means)).T).max(1), np.float32)


def network_outputs(network: FeatureNetwork, files: list[Path]) -> tuple[Floats, Floats]:
    """Probabilities and features of photos."""
    rows = []
    for begun in range(0, len(files), 8):
        rows.append(network([prepare(file, network.card.preprocessing) for file in files[begun : begun + 8]]))
    probabilities, features = zip(*rows, strict=True)
    return np.concatenate(probabilities), np.concatenate(features)


def files_of(root: Path, *splits: str) -> list[Path]:
    """The photos of some splits."""
    return sorted(file for split in splits for file in (root / split).glob("*/*") if file.is_file())


def by_splits(held_out: Predictions, splits: int) -> dict[str, Doubles]:
    """Each number of ``splits`` random halves by name."""
    found: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(len(held_out.labels))
        first, second = (part_of(held_out, rows) for rows in np.array_split(order, 2))
        temperature = fit_temperature(first.logits, first.labels)
        first, second = (replace(p, temperature=temperature) for p in (first, second))
        scores = score(second)
        add("temperature", temperature)
        add("top-1", scores["top1"])
        add("ECE before", scores["ece_uncalibrated"])
        add("ECE after", scores["ece"])
        add("ECE of a calibrated model", noise_floor(second, seed))
        given = Thresholds.read(thresholds_fit.fit(first))
        for coverage in (0.9, 0.95):
            holds, size = thresholds_fit.coverage_and_size(second.probabilities, second.labels, given, coverage)
            of_label = second.probabilities[np.arange(len(second.labels)), second.labels]
            add(f"coverage {coverage:g}", holds)
            add(f"size {coverage:g}", size)
            add(f"coverage {coverage:g} without the rule", float((of_label >= given.sets[f"{coverage:g}"]).mean()))
        assert second.unknown is not None
        assert given.unknown is not None
        add("known", float(np.mean(second.unknown <= given.unknown)))
    return {name: np.array(values) for name, values in found.items()}


def noise_floor(p: Predictions, seed: int) -> float:
    """The mean ECE of labels that are drawn by the probabilities."""
    rng, confidence = np.random.default_rng(seed), p.probabilities.max(1)
    return float(np.mean([ece(confidence, rng.random(len(confidence)) < confidence) for _ in range(200)]))


def by_folds(data: Path, temporary: Path, overrides: list[str]) -> None:
    """Print the ECE of all photos, each predicted by one of five models that never saw it.

    A model is trained on three fifths, and its epoch and temperature are chosen on the fourth. 900 photos show smaller
    errors than the halves of 300.
    """
    files = files_of(data, "train", "valid", "test")
    part = np.random.default_rng(0).permutation(len(files)) % 5
    confidence, correct, temperatures = [], [], []
    for fold in range(5):
        for file, number in zip(files, (part - fold) % 5, strict=True):
            place = temporary / f"fold{fold}" / {0: "test", 1: "valid"}.get(number, "train") / file.parent.name
            place.mkdir(parents=True, exist_ok=True)
            (place / file.name).symlink_to(file)
        folder = temporary / f"run{fold}"
        train(temporary / f"fold{fold}", temporary / "cache", folder, *overrides, "results=tables", "artifact=false")
        temperatures.append(metrics(folder)["temperature"])
        rows = [row for row in read_csv(folder / "predictions.csv") if row["split"] == "test"]
        confidence += [float(row["probability"]) for row in rows]
        correct += [row["label"] == row["prediction"] for row in rows]
    p, right = np.array(confidence), np.array(correct)
    floor = np.mean([ece(p, np.random.default_rng(seed).random(len(p)) < p) for seed in range(200)])
    print(f"\n| {len(p)} photos in five folds | figure |\n|---|---|\n| top-1 | {right.mean():.3f} |")
    print(f"| temperature | {spread(np.array(temperatures))} |\n| ECE after | {ece(p, right):.3f} |")
    print(f"| ECE of a calibrated model | {floor:.3f} |")


def ece(confidence: npt.NDArray[Any], correct: npt.NDArray[Any]) -> float:
    """The expected calibration error in 15 bins."""
    bins = np.minimum((confidence * 15).astype(int), 14)
    return float(np.abs(np.bincount(bins, confidence - correct, 15)).sum() / len(bins))


def part_of(p: Predictions, rows: npt.NDArray[np.int64]) -> Predictions:
    """Some photos of predictions."""
    assert p.unknown is not None
    return Predictions([p.photos[i] for i in rows], p.labels[rows], p.logits[rows], p.temperature, p.unknown[rows])


def share_of_time(folder: Path, photo: Path, rounds: int = 200) -> tuple[float, float]:
    """Milliseconds of processor time to decode and classify a photo without the score, and with it.

    Medians of calls in turn, on one thread.
    """
    predictor = Predictor(folder, Execution(threads=1))
    graph = onnx.load(folder / "model.onnx")
    del graph.graph.output[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    plain = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    content, name = photo.read_bytes(), plain.get_inputs()[0].name

    def without() -> None:
        plain.run(None, {name: np.stack([prepare(content, predictor.card.preprocessing)])})

    def scored() -> None:
        predictor.scored([prepare(content, predictor.card.preprocessing)])

    times: dict[Callable[[], None], list[float]] = {without: [], scored: []}
    for _ in range(rounds):
        for call, seconds in times.items():
            begun = time.process_time()
            call()
            seconds.append(time.process_time() - begun)
    return 1000 * float(np.median(times[without])), 1000 * float(np.median(times[scored]))


def spread(values: Doubles) -> str:
    """Mean, least and largest value."""
    return f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})"


def main() -> None:
    """Print the tables."""
    p = parser(__doc__)
    p.add_argument("--others", type=Path, default=SHARED / "pets40")
    p.add_argument("--splits", type=int, default=20)
    p.add_argument("--full", action="store_true")
    given = p.parse_args()
    with scratch() as temporary:
        overrides = [f"backbone.name={given.backbone}", f"backbone.weights={given.weights}", "report=false"]
        overrides += ["finetune=full", "trainer.max_epochs=3"] if given.full else []
        train(given.data, temporary / "cache", temporary / "run", *overrides)
        with opened(temporary / "run") as folder:
            measure(folder, given.data, given.others, given.splits)
        by_folds(given.data, temporary, overrides)


def measure(folder: Path, data: Path, others: Path, splits: int) -> None:
    """Print the tables of an unpacked artifact."""
    network = FeatureNetwork(folder)
    card = network.card
    files, trained = files_of(data, "valid", "test"), files_of(data, "train")
    labels = [file.parent.name.split(".", 1)[-1] for file in files]
    train_labels = [file.parent.name.split(".", 1)[-1] for file in trained]
    probabilities, features = network_outputs(network, files)
    _, train_features = network_outputs(network, trained)
    _, other_features = network_outputs(network, other_files := sorted(others.iterdir()))
    logits = card.about["temperature"] * np.log(np.maximum(probabilities, 1e-30))  # up to a constant for each photo
    held_out = Predictions(
        [Photo(str(f), "test", label) for f, label in zip(files, labels, strict=True)],
        np.array([card.classes.index(label) for label in labels]),
        logits.astype(np.float32),
        unknown=unknown_scores(features, train_features, train_labels, set()),
    )
    print(f"\n{machine()}\n\n| {splits} halves of {len(files)} photos | mean (least to largest) |\n|---|---|")
    for name, values in by_splits(held_out, splits).items():
        print(f"| {name} | {spread(values)} |")
    assert held_out.unknown is not None
    is_dog = np.array([f.name[0].isupper() and not f.name.startswith("Rabbit") for f in other_files])
    of_others = unknown_scores(other_features, train_features, train_labels, set())
    is_unseen = is_dog & ~np.array([any(f.name.startswith(b) for b in BREEDS) for f in other_files])
    print("\n| unknown photos | AUROC |\n|---|---|")
    print(f"| {(~is_dog).sum()} photos of other animals | {auroc(held_out.unknown, of_others[~is_dog]):.3f} |")
    print(f"| {is_unseen.sum()} photos of other breeds | {auroc(held_out.unknown, of_others[is_unseen]):.3f} |")
    aurocs = []
    for pair in combinations(sorted(set(labels)), 2):
        scores, is_new = unknown_scores(features, train_features, train_labels, set(pair)), np.isin(labels, pair)
        aurocs.append(auroc(scores[~is_new], scores[is_new]))
    print(f"| 2 of the breeds left out, {len(aurocs)} pairs | {spread(np.array(aurocs))} |")
    without, scored = share_of_time(folder, files[0])
    print(f"\none photo: {without:.2f} ms without the score, {scored:.2f} ms with it: {scored / without - 1:+.1%}")


if __name__ == "__main__":
    main()
