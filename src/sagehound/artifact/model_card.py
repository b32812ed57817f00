"""MODEL_CARD.md: what the model is for, its photos, scores, limits and licences, for people.

The sections follow Mitchell et al., "Model cards for model reporting", FAT* 2019. It holds no time and no path, so the
same run gives the same text.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sagehound.data.folders import SPLITS
from sagehound.data.photo_set import PhotoSet
from sagehound.evaluation.evaluate import without_leaks
from sagehound.evaluation.tables import ClassScore, Predictions, confusion, describe_interval, most_confused

_FEW = 10  # test photos; of fewer, a class's accuracy has an interval of 50 % and more
_WEAK = 0.5  # a class whose accuracy is lower is named
_GAP = 0.1  # between the accuracy on train and test photos, from which it is named
_PAIRS = 10  # confused pairs that are listed
_NAMED = 20  # classes that are named in one sentence
_FINDINGS = {  # entries of audit.json, and what they count
    "unreadable": "files that are not readable, left out",
    "truncated": "files that end too early, left out",
    "duplicates_within_split": "groups of files with the same content in one split",
    "duplicates_across_splits": "groups of files with the same content in several splits",
    "duplicates_with_different_labels": "groups of files with the same content and different labels",
    "near_duplicates_within_split": "groups of near-duplicates in one split",
    "near_duplicates_across_splits": "groups of near-duplicates in several splits",
    "groups_across_splits": "groups of photos (`data.group`) in several splits",
    "greyscale": "photos in shades of grey",
    "cmyk": "photos in CMYK",
    "sixteen_bit": "photos with 16 bits for each colour",
    "exif_rotated": "photos that are stored rotated, and were turned upright",
}
_METRICS = {  # in percent, except loss
    "top1": "top-1 accuracy, %",
    "top5": "top-5 accuracy, %",
    "macro_f1": "mean F1 of the classes, %",
    "ece": "calibration error, %",
    "loss": "cross entropy, before calibration",
}


def text(card: Mapping[str, Any], photos: PhotoSet, test: Predictions) -> str:
    """The card of a model, in Markdown.

    Args:
        card: the content of model.json.
        photos: of the training.
        test: the model's predictions of the test photos.
    """
    scores = _by_class(photos, test)
    sections = (
        _head(card),
        _use(card),
        _data(card, photos),
        _metrics(card["metrics"], without_leaks(photos, test)),
        _classes(photos.classes, scores, test),
        _limits(card, scores),
        _licences(card["weights"]),
    )
    return "\n".join(line for section in sections for line in (*section, ""))


def _by_class(photos: PhotoSet, test: Predictions) -> list[ClassScore]:
    counts = Counter((p.split, p.label) for p in photos.photos)
    correct, predicted = Counter(test.labels[test.correct].tolist()), Counter(test.predicted.tolist())
    return [
        ClassScore(name, {s: counts[s, name] for s in SPLITS}, correct[i], predicted[i])
        for i, name in enumerate(photos.classes)
    ]


def _head(card: Mapping[str, Any]) -> Iterator[str]:
    height, width = card["preprocessing"]["size"]
    yield "# Model card"
    yield ""
    yield f"A classifier of photos with {len(card['classes'])} classes, trained with Sagehound."
    yield ""
    test = card["metrics"]["test"]
    yield from _table(
        ["", ""],
        [
            ["backbone", f"`{card['backbone']}`, `finetune={card['training']['finetune']['name']}`"],
            ["input", f"one RGB photo; the model sees {height} x {width} pixels of it"],
            ["output", "a probability for each class"],
            ["top-1 accuracy, %", f"{_with_interval(test, 'top1')}, of {test['photos']:,} test photos"],
            *_precision(card.get("precision")),
            ["fingerprint of the photos", f"`{card['data']['fingerprint']}`"],
            ["Sagehound", card["versions"]["sagehound"]],
        ],
    )


def _precision(precision: Mapping[str, Any] | None) -> Iterator[list[str]]:
    """A row about the network that is served, if a precision was asked for."""
    if precision is None:
        return
    own = precision["int8"]
    same = f"{100 * own['agreement']:.4g} % of {own['photos']:,} {own['split']} photos get the trained model's class"
    figures = f"{same}, top-1 {100 * own['top1']:.1f} %, {own['speedup']:.2f} times as fast where it was trained"
    if precision["served"] == "fp32":
        yield ["precision", f"fp32; int8 was not good enough: {figures}"]
        return
    yield ["precision", f"`model.onnx` is in int8, `model.safetensors` in fp32; int8: {figures}"]
    yield ["all other figures", "of the trained model in fp32"]


def _use(card: Mapping[str, Any]) -> Iterator[str]:
    yield "## Intended use"
    yield ""
    yield "It names the class of a photo that shows one of its classes, and is like the photos of the training:"
    yield "of the same kind of camera, view and light. Test it on photos of your own before you rely on it."
    yield ""
    yield "It is not made for"
    yield ""
    if "unknown" in card:
        yield "* photos of something else, unless you ask for `unknown=1`, which marks most of them,"
    else:
        yield "* photos of something else: it names one of its classes for every photo,"
    yield "* photos that show several classes, or the place of a thing in the photo,"
    yield "* decisions about people, or about health and safety, that nobody checks."


def _data(card: Mapping[str, Any], photos: PhotoSet) -> Iterator[str]:
    yield "## Photos"
    yield ""
    yield from _table(["split", "photos"], [[s, f"{n:,}"] for s, n in card["data"]["photos"].items()])
    if number := card.get("samples"):
        split = "test" if card["data"]["photos"]["test"] else "valid"
        yield ""
        yield f"`samples/` in this archive has small copies of {number} {split} photos, which the server's page shows."
    ratio = photos.audit.get("imbalance_ratio")
    if ratio and ratio > 1:
        yield ""
        yield f"The largest class has {ratio:.3g} times the train photos of the smallest one."
    found = [[what, f"{len(photos.audit[key]):,}"] for key, what in _FINDINGS.items() if photos.audit.get(key)]
    yield ""
    if not found:
        yield "The audit found no broken files and no duplicates."
        return
    yield "Findings of the audit, over all files:"
    yield ""
    yield from _table(["finding", "count"], found)


def _metrics(metrics: Mapping[str, Any], clean: Mapping[str, Any]) -> Iterator[str]:
    yield "## Metrics"
    yield ""
    yield "With 95 % intervals. The best epoch, the calibration and all thresholds were chosen on the valid photos."
    yield ""
    splits = ("valid", "test")
    rows = [[what, *(_with_interval(metrics[s], key) for s in splits)] for key, what in _METRICS.items()]
    yield from _table(["metric", *splits], rows)
    if clean:
        others = f"{clean['leaked']:,} test photos have a copy, a near-duplicate or a photo of their group in train or"
        without = f"without them it is {_with_interval(clean, 'top1')} %" if "top1" in clean else "no other is left"
        yield ""
        yield f"{others} valid, so the test accuracy is too high; {without}."


def _classes(classes: Sequence[str], scores: Sequence[ClassScore], test: Predictions) -> Iterator[str]:
    yield "## Classes"
    yield ""
    columns = ["class", "train", "valid", "test", "accuracy, % (95 % interval)", "precision, %", "F1, %"]
    rows = []
    for s in scores:
        accuracy = "" if s.accuracy is None else f"{100 * s.accuracy:.1f} ({describe_interval(s.interval)})"
        shares = ["" if share is None else f"{100 * share:.1f}" for share in (s.precision, s.f1)]
        rows.append([_plain(s.name), *(f"{s.counts[split]:,}" for split in SPLITS), accuracy, *shares])
    yield from _table(columns, rows)
    counts = confusion(test)
    if pairs := most_confused(counts)[:_PAIRS]:
        yield ""
        yield "Most frequent confusions of test photos:"
        yield ""
        named = [[_plain(classes[i]), _plain(classes[j]), f"{counts[i, j]:,}"] for i, j in pairs]
        yield from _table(["class", "predicted as", "photos"], named)


def _limits(card: Mapping[str, Any], scores: Sequence[ClassScore]) -> Iterator[str]:
    metrics = card["metrics"]
    yield "## Limits"
    yield ""
    yield f"* The figures are of {metrics['test']['photos']:,} test photos, and hold for photos like these only."
    few = [s for s in scores if s.counts["test"] < _FEW]
    if few:
        yield f"* Fewer than {_FEW} test photos, so that their accuracy says little: {_names(few)}."
    weak = [s for s in scores if s.accuracy is not None and s.accuracy < _WEAK]
    if weak:
        yield f"* Classified correctly in less than {_WEAK:.0%} of their test photos: {_names(weak)}."
    gap = metrics["train"]["top1"] - metrics["test"]["top1"]
    if gap > _GAP:
        more = f"The accuracy on the train photos is higher by {100 * gap:.1f} points"
        yield f"* {more}: the model may have memorized some, or the shares of the classes differ."
    if "unknown" in card:
        known = card["unknown"]["known"]
        yield f"* `unknown=1` also marks about {1 - known:.0%} of the photos of its classes."
    yield "* Photos change with time and place. `monitor=local` compares those of a server with the training's."
    yield "* Whether it treats groups of photos alike, such as of two regions, was not examined: `bias=local` does so."


def _licences(weights: Mapping[str, Any]) -> Iterator[str]:
    licence = weights.get("licence")
    yield "## Licences"
    yield ""
    source, stated = _plain(weights["source"]), _plain(licence) if licence else "not known to Sagehound"
    yield from _table(
        ["part", "licence"],
        [
            [f"pretrained weights: {source}", stated],
            ["train photos", "that of their source"],
            ["this model", "none is set; whoever trained it chooses one that fits the rows above"],
            ["`code/`, from Sagehound", "Apache-2.0"],
        ],
    )
    if licence and re.search(r"\bnc\b|non-?commercial", licence, re.IGNORECASE):
        yield ""
        yield "The licence of the pretrained weights forbids commercial use. It may cover this model, too."


def _with_interval(scores: Mapping[str, Any], key: str) -> str:
    """A score and its interval, in percent except for loss; empty if the split has no photos."""
    if key not in scores:
        return ""
    if key == "loss":
        interval = scores.get("loss_interval")
        return f"{scores[key]:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")
    interval = scores.get(f"{key}_interval")
    return f"{100 * scores[key]:.1f}" + (f" ({describe_interval(interval)})" if interval else "")


def _names(scores: Sequence[ClassScore]) -> str:
    named = ", ".join(_plain(s.name) for s in scores[:_NAMED])
    return named + (f" and {len(scores) - _NAMED:,} more" if len(scores) > _NAMED else "")


def _plain(name: str) -> str:
    """A name as text of Markdown, whatever its characters mean there."""
    line = " ".join(html.escape(name, quote=False).split())
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", line)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (columns, ["---"] * len(columns), *rows):
        yield f"| {' | '.join(row)} |"
