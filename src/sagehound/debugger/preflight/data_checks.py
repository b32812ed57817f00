"""Checks of photos, labels and batches."""

from collections.abc import Iterator

import numpy as np
import torch

from sagehound.debugger.label_check import check_labels, transfer
from sagehound.debugger.preflight.setting import Setting, Unknown, finding, spread
from sagehound.debugger.rules.rule import Finding

_MIN_PHOTOS = 5  # of a class whose labels are judged
_MOST_PHOTOS = 1500  # whose features are compared; the time grows with the cube


def photos_seen(s: Setting) -> Iterator[Finding]:
    """Photos are not of one colour."""
    photos = s.photos.float()
    flat = float((photos.flatten(1).std(1) < 3).float().mean())
    if flat > 0.1:
        yield finding(
            "BlankPhotos",
            "photos",
            flat,
            0.1,
            f"{flat:.0%} of the train photos are of one colour",
            "broken files, or masks instead of photos",
        )


def own_transform(s: Setting) -> Iterator[Finding]:
    """The user's transform keeps brightness and colours."""
    if s.data.transform is None:
        return
    plain, changed = s.data.sample("train", 24), s.data.sample("train", 24, augmented=True)
    flat = float((changed.float().flatten(1).std(1) < 3).float().mean())
    if flat > 0.1:
        yield finding(
            "BlankPhotos",
            "augmented photos",
            flat,
            0.1,
            f"augment.transform makes {flat:.0%} of the photos one colour",
            "a wrong scale in the transform",
            "~augment.transform._target_",
        )
        return
    a, b = (t.float().mean((2, 3)) for t in (plain, changed))
    same, swapped = float((a - b).abs().mean()), float((a.flip(1) - b).abs().mean())
    if swapped < 0.5 * same and same > 3:
        yield finding(
            "SwappedChannels",
            "augmented photos",
            same,
            2 * swapped,
            "augment.transform swaps red and blue",
            "the transform works in BGR, as OpenCV does",
            "~augment.transform._target_",
        )
    darker = float((b.mean() + 1) / (a.mean() + 1))
    if not 0.4 < darker < 2.5:
        yield finding(
            "WrongNormalisation",
            "augmented photos",
            darker,
            0.4,
            f"augment.transform changes the mean brightness by a factor of {darker:.2g}",
            "the transform scales or normalises photos, which the model does itself",
            "~augment.transform._target_",
        )


def labels(s: Setting) -> Iterator[Finding]:
    """The labels of train and valid photos can be predicted from their features."""
    if s.data.features is None:
        raise Unknown("no cached features: labels are compared with finetune=head or gradual")
    if not s.model.pretrained:
        raise Unknown("the features of random weights say nothing about labels")
    train, valid = (s.data.photos.split(name) for name in ("train", "valid"))
    index = spread(s.data, _MOST_PHOTOS)
    x, y = s.data.features.centre["train"]([(0, i) for i in index]), np.array(s.data.photos.labels(train))[index]
    common = np.flatnonzero(np.bincount(y, minlength=s.classes) >= _MIN_PHOTOS)
    x, y = x[np.isin(y, common)], y[np.isin(y, common)]
    if len(common) < 2:
        raise Unknown(f"fewer than two classes have {_MIN_PHOTOS} train photos")
    check = check_labels(x, y, s.classes)
    if check.agreement < check.chance + 0.1 * (1 - check.chance):
        yield finding(
            "LabelNoise",
            "labels",
            check.agreement,
            check.chance + 0.1 * (1 - check.chance),
            f"only {check.agreement:.0%} of the labels follow from the photos; chance is {check.chance:.0%}",
            "labels and photos are mixed up, such as by a table in another order",
        )
        return
    if check.contradicted > 0.08:
        yield finding(
            "LabelNoise",
            "labels",
            check.contradicted,
            0.08,
            f"{check.contradicted:.0%} of the train photos look like photos of another class",
            "wrong labels, or classes that overlap",
        )
    valid_labels = s.data.photos.labels(valid)[:_MOST_PHOTOS]
    index = [i for i, label in enumerate(valid_labels) if label in common]
    if not index:
        return
    z = s.data.features.centre["valid"]([(0, i) for i in index])
    share = transfer(x, y, z, np.array(valid_labels)[index], s.classes)
    if share < 0.5 * check.agreement:
        yield finding(
            "TrainEvalGap",
            "valid labels",
            share,
            0.5 * check.agreement,
            f"{check.agreement:.0%} of the train labels follow from the photos, and {share:.0%} of the valid labels",
            "train and valid photos are labelled differently",
        )


def leaks(s: Setting) -> Iterator[Finding]:
    """Test photos have no near-duplicates in train or valid."""
    test = len(s.data.photos.split("test"))
    leaked = len(s.data.photos.leaked()) / max(test, 1)
    if leaked > 0.05:
        yield finding(
            "DataLeak",
            "test photos",
            leaked,
            0.05,
            f"{leaked:.0%} of the test photos have a copy or near-duplicate in train or valid",
            "the given splits divide photos of one scene; audit.json lists the pairs",
        )


def batches(s: Setting) -> Iterator[Finding]:
    """Batches hold mixed classes, and valid photos are the same each time they are read."""
    loader = iter(s.data.train_dataloader())
    first = next(loader)[1]
    counts = np.array(s.data.class_counts())
    if len(first) >= 8 and len(first.unique()) == 1 and (counts > 0).sum() > 1 and counts.max() < 0.8 * counts.sum():
        yield finding(
            "UnshuffledBatches",
            "labels",
            1,
            2,
            "all photos of a batch have the same label",
            "the train photos are not shuffled",
        )
    one, two = (next(iter(s.data.val_dataloader()))[0] for _ in range(2))
    if not torch.equal(one, two):
        yield finding(
            "AugmentedValidation",
            "valid photos",
            1,
            0,
            "the valid photos differ each time they are read",
            "they are augmented",
            "augment=none",
        )
