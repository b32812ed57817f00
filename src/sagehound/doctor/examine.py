"""`sagehound doctor`: examines a set of photos and writes what is probably wrong with it. It changes no photo."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from sagehound import config
from sagehound.config import Train
from sagehound.data.aligned_copies import by_alignment
from sagehound.data.duplicates import MOST_PHOTOS, by_features
from sagehound.data.photo_set import PhotoSet
from sagehound.data.photos import find_photos, own_source
from sagehound.doctor import doctor_page, photo_quality
from sagehound.doctor.suspects import COLUMNS, Suspect, counts, suspects
from sagehound.doctor.suspects import NAME as SUSPECTS
from sagehound.errors import ConfigError, SagehoundError
from sagehound.inference.decode import read_photo
from sagehound.inference.preprocessing import Preprocessing
from sagehound.models import features
from sagehound.report import insights
from sagehound.runs import run_folder
from sagehound.storage.atomic import write_csv, write_json, write_text
from sagehound.system import console, hardware
from sagehound.training import from_config

RESULTS, PAGE = "doctor.json", "doctor.html"

Array = np.ndarray[Any, Any]


def examine(cfg: Train, folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Write doctor.json, suspects.csv, doctor.html, audit.json and splits.csv into ``folder``; returns doctor.json.

    Features are read from the cache, or computed and cached.

    Args:
        cfg: the composed config, as of a training.
        folder: of the results.
        overrides: the command line's, for overrides.yaml.

    Raises:
        ConfigError: the config breaks a rule, or the folder holds a run.
        InputError: the photos or the weights cannot be used.
        SagehoundError: the cache or a file cannot be written.
    """
    config.check(cfg)
    if cfg.resume:
        raise ConfigError("the doctor trains nothing, so there is nothing to resume: drop resume=")
    with run_folder.opened(folder, cfg) as opened, hardware.threads(cfg.trainer.threads):
        model, source = from_config.classifier(cfg), own_source(cfg.data)
        photos = find_photos(cfg.data, Path(cfg.cache.dir).expanduser(), None, source)
        opened.begin(overrides)
        x = _features(cfg, photos, model.backbone, model.preprocessing)
        if not cfg.backbone.pretrained:
            console.warn("backbone.pretrained=false: the features of random weights say little about labels")
        photos = _with_near_duplicates(photos, x)
        photos.write(folder)
        about = insights.of_features(
            x, np.array(photos.labels(photos.photos)), [p.file for p in photos.photos], photos.classes, photos.scenes()
        )
        quality = _quality(cfg, photos, model.preprocessing)
        listed = suspects(photos, about, quality)
        results = {"photos": len(photos.photos), "suspects": len(listed), "problems": counts(listed)} | about
        results |= {"quality": quality, "unreadable": photos.audit["skipped"]}
        write_json(folder / RESULTS, results)
        write_csv(folder / SUSPECTS, COLUMNS, [one.row for one in listed])
        write_text(folder / PAGE, doctor_page.page(photos, listed, results))
    _report(listed, results, folder)
    return results


def _features(cfg: Train, photos: PhotoSet, backbone: nn.Module, preprocessing: Preprocessing) -> Array:
    """The features of each photo, n x f."""
    plain = replace(cfg, features=replace(cfg.features, views=0))
    cached = features.prepare(backbone, photos, preprocessing, hardware.choose(cfg.trainer, cfg.finetune), plain)
    if cached is None:
        raise SagehoundError("the doctor needs cached features: give a cache.dir=FOLDER that can be written")
    return features.of_all(photos, cached)


def _with_near_duplicates(photos: PhotoSet, x: Array) -> PhotoSet:
    """The set with near-duplicates by features, and with crops and mirror images."""
    if len(photos.photos) > MOST_PHOTOS:
        return photos
    prints = photos.prints()
    more = by_features(x, prints)
    aligned = by_alignment(x, prints, lambda i: read_photo(photos.root / photos.photos[i].file, short_side=64))
    return photos.with_pairs([*more, *aligned])


def _quality(cfg: Train, photos: PhotoSet, preprocessing: Preprocessing) -> dict[str, dict[str, str]]:
    """For each problem of quality the files that have it. A problem of more than half of the photos is the set's."""
    by_problem: defaultdict[str, dict[str, str]] = defaultdict(dict)
    measured = photo_quality.measure_all(photos, preprocessing, cfg.cache)
    for photo, measures in zip(photos.photos, measured, strict=True):
        if measures is not None:
            for problem, measure in photo_quality.problems(measures, preprocessing.size).items():
                by_problem[problem][photo.file] = measure
    for problem, files in by_problem.items():
        if 2 * len(files) > len(photos.photos):
            console.info(f"doctor: {len(files)} of {len(photos.photos)} photos are {problem}, so none is listed for it")
    return {problem: files for problem, files in by_problem.items() if 2 * len(files) <= len(photos.photos)}


def _report(listed: Sequence[Suspect], results: dict[str, Any], folder: Path) -> None:
    """Print the findings."""
    each = ", ".join(f"{problem} {number}" for problem, number in results["problems"].items())
    console.info(f"doctor: {len(listed)} of {results['photos']} photos are suspicious" + (f" ({each})" if each else ""))
    for pair in results["inseparable_classes"]:
        console.info(f"doctor: {' and '.join(pair['classes'])} cannot be told apart ({pair['error']:.0%} are wrong)")
    if sentence := results["more_photos"]["sentence"]:
        console.info(f"doctor: {sentence}")
    console.info(f"results: {folder}; open {folder / PAGE}, choose, and train with data.exclude=suspects.csv")
