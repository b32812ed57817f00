"""The sections of a run's report."""

from typing import TYPE_CHECKING, Any

from sagehound.evaluation import plots, tables
from sagehound.evaluation.tables import ClassScore, describe_interval
from sagehound.report import bias_section, charts, mistakes
from sagehound.report.contents import Contents
from sagehound.report.images import tiles
from sagehound.report.next_actions import caveats, next_actions, repeat
from sagehound.report.page import Part, Section, render

if TYPE_CHECKING:
    from sagehound.models.classifier import Classifier

_FEW = 20  # classes; the confusion of more is drawn as pixels
_PAIRS = 12  # most confused
_SAMPLES = 12  # photos
_SUSPICIOUS = 12
_OUTLIERS = 6


def page(run: Contents, model: "Classifier | None" = None) -> str:
    """The report of a run as HTML.

    Args:
        run: its files.
        model: the trained model, for heat maps; without it they are left out.
    """
    sections = (
        _answer(run),
        _data(run),
        _curves(run),
        _confusion(run),
        _classes(run),
        _calibration(run),
        _mistakes(run, model),
        bias_section.section(run.bias),
        _debugger(run),
        _profile(run),
        _provenance(run),
    )
    return render(f"Report of {run.name}", _subtitle(run), sections)


def _subtitle(run: Contents) -> str:
    parts = [run.metrics.get("backbone", ""), f"finetune={run.setting('finetune.name')}"]
    return f"{', '.join(parts)}; {run.metrics.get('classes')} classes"


def _answer(run: Contents) -> Section:
    section, test = Section("Result"), run.metrics["test"]
    interval = describe_interval(test["top1_interval"])
    section.parts.append(Part("answer", f"Test accuracy {test['top1']:.1%}"))
    top5 = f" For {test.get('top5', 0):.1%} of them, one of the five most probable classes is right."
    section.text(
        f"95 % interval {interval} %, {test['photos']} photos that were not used in training."
        f"{top5 if run.metrics.get('classes', 0) > 5 else ''}"
    )
    if actions := next_actions(run):
        section.text("What to do next, the most valuable first:")
        section.parts.append(Part("actions", items_=actions))
    if sentences := caveats(run):
        section.text("What not to trust:")
        section.parts.append(Part("list", items_=sentences))
    return section


def _data(run: Contents) -> Section:
    section, audit = Section("Photos"), run.audit
    if not audit:
        return section
    counts = audit["photos"]
    section.text(", ".join(f"{counts[split]:,} {split}" for split in counts) + f" photos in {audit['root']}.")
    findings = {
        "unreadable photos that were left out": audit.get("unreadable", []),
        "photos that are in more than one split": audit.get("duplicates_across_splits", []),
        "groups of near-duplicates in more than one split": audit.get("near_duplicates_across_splits", []),
        "groups of near-duplicates in one split": audit.get("near_duplicates_within_split", []),
        "photos that are in more than one class": audit.get("duplicates_with_different_labels", []),
    }
    if lines := [f"{len(found)} {meaning}" for meaning, found in findings.items() if found]:
        section.parts.append(Part("list", items_=lines))
    train = run.of_split("train")
    some = [train[i * len(train) // _SAMPLES] for i in range(min(_SAMPLES, len(train)))]
    if run.photos:
        section.tiles(tiles(run.photos, [(row["file"], [row["label"]]) for row in some]))
        if across := findings["groups of near-duplicates in more than one split"]:
            section.text("Near-duplicates in more than one split:")
            pairs = [
                (one["file"], [f"{one['split']}, {one['label']}", one["file"]])
                for group in across[:3]
                for one in _of_two_splits(group)
            ]
            section.tiles(tiles(run.photos, pairs))
    _insights(run, section)
    return section


def _of_two_splits(group: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A group's first photo, and its first photo of another split."""
    return [group[0], *[one for one in group if one["split"] != group[0]["split"]][:1]]


def _insights(run: Contents, section: Section) -> None:
    suspicious = run.insights.get("suspicious_labels", [])
    if suspicious:
        section.text(
            f"{len(suspicious)} train photos whose label does not follow from the photo, by a leave-one-out prediction "
            "from the cached features. Some of them may be right."
        )
        shown = [(one["file"], [one["label"], f"looks like {one['suggested']}"]) for one in suspicious[:_SUSPICIOUS]]
        section.tiles(tiles(run.photos, shown))
    curve = run.insights.get("learning_curve", [])
    if len(curve) > 1:
        text = "; ".join(f"{p['photos']} photos {p['top1']:.1%}" for p in curve)
        section.picture(
            charts.vector(charts.learning_curve(curve), f"Leave-one-out accuracy by number of train photos: {text}")
        )
    if sentence := run.insights.get("more_photos", {}).get("sentence"):
        section.text(f"{sentence}, if the learning curve continues.")
    _odd_photos(run, section)


def _odd_photos(run: Contents, section: Section) -> None:
    """Classes that cannot be told apart, and photos unlike all others."""
    alike = [
        f"{' and '.join(pair['classes'])}: {pair['error']:.0%} of {pair['photos']} train photos resemble the other"
        for pair in run.insights.get("inseparable_classes", [])[:_PAIRS]
    ]
    if alike:
        section.text("Classes that the features cannot tell apart:")
        section.parts.append(Part("list", items_=alike))
    if odd := run.insights.get("outliers", []):
        section.text(f"Train photos unlike all others: {len(odd)}. The most foreign first:")
        section.tiles(tiles(run.photos, [(one["file"], [one["label"]]) for one in odd[:_OUTLIERS]]))


def _curves(run: Contents) -> Section:
    section = Section("Training")
    if run.history:
        best = int(run.metrics["best_epoch"])
        last = run.history[-1]
        which = f"; epoch {best} was the best" if best else ""
        alt = (
            f"Loss and accuracy over {len(run.history)} epochs{which}. Last valid loss "
            f"{last.get('valid_loss', float('nan')):.3g}, last train loss {last.get('train_loss', float('nan')):.3g}"
        )
        section.picture(charts.vector(plots.curves(run.history, best), alt))
    if choice := run.metrics.get("finetune_choice"):
        kept, winner = (tables.describe_weights(choice[name], choice["epoch"]) for name in ("kept", "best"))
        section.text(
            f"The weights that were kept: {kept}. The best {choice['by']} of the others has {winner}; it is better "
            f"than the solved head in {choice['certainty']:.1%} of the bootstrap's draws of valid photos."
        )
        rows = [
            [tables.describe_weights(one["alpha"], choice["epoch"]), f"{one['loss']:.4g}", f"{one['top1']:.1%}"]
            for one in choice["candidates"]
        ]
        section.table("Scores of the valid photos", ["weights", "loss", "top-1"], rows)
    return section


def _confusion(run: Contents) -> Section:
    section = Section("Confusion")
    if not run.by_class or not run.of_split("test"):
        return section
    counts, classes = run.confusion(), run.classes
    pairs = tables.most_confused(counts)[:_PAIRS]
    alt = "Confusion matrix of the test photos. " + (
        f"Most confused: {classes[pairs[0][0]]}, predicted as {classes[pairs[0][1]]}" if pairs else "No mistakes"
    )
    figure = plots.confusion_matrix(counts, classes)
    section.picture(charts.vector(figure, alt) if len(classes) <= _FEW else charts.raster(figure, alt))
    if pairs:
        rows = [(classes[i], classes[j], int(counts[i, j]), f"{counts[i, j] / counts[i].sum():.0%}") for i, j in pairs]
        section.table("Most confused pairs", ["label", "predicted as", "photos", "of the class"], rows)
    return section


def _classes(run: Contents) -> Section:
    section = Section("Classes")
    if not run.by_class:
        return section
    predicted = [row["prediction"] for row in run.of_split("test")]
    scores = [
        ClassScore(
            row["class"],
            {split: int(row[split]) for split in ("train", "valid", "test")},
            int(row["correct"]),
            predicted.count(row["class"]),
        )
        for row in run.by_class
    ]
    alt = f"Test accuracy of {len(scores)} classes against their number of train photos"
    section.picture(charts.vector(plots.accuracy_by_class_size(scores), alt))
    rows = [
        [r["class"], r["train"], r["test"], r["correct"], _percent(r["accuracy"]), _percent(r["precision"]), r["f1"]]
        for r in run.by_class
    ]
    columns = ["class", "train photos", "test photos", "right", "accuracy", "precision", "F1"]
    section.table("Test scores of each class; press a heading to sort", columns, rows, sortable=True)
    return section


def _percent(share: str) -> str:
    return f"{100 * float(share):.1f} %" if share else ""


def _calibration(run: Contents) -> Section:
    section, rows = Section("Calibration"), run.of_split("test")
    if rows:
        test = run.metrics["test"]
        ece, before = test.get("ece", float("nan")), test.get("ece_uncalibrated")
        section.text(f"Expected calibration error {ece:.3f}: the mean distance of probability and accuracy in 15 bins.")
        temperature = run.metrics.get("temperature", 1)
        if before is not None and temperature != 1:
            section.text(
                f"It was {before:.3f} before the logits were divided by the temperature {temperature:.2f}, which was "
                "fitted on the valid photos."
            )
        figure = charts.reliability(
            [float(row["probability"]) for row in rows], [row["label"] == row["prediction"] for row in rows]
        )
        section.picture(charts.vector(figure, f"Accuracy by probability in ten bins; calibration error {ece:.3f}"))
    return section


def _mistakes(run: Contents, model: "Classifier | None") -> Section:
    section, shown = Section("Mistakes"), mistakes.tiles(run, model)
    if shown:
        heat = " The second picture is the model's crop; red parts support its prediction." if model else ""
        section.text(f"The test photos that were most confidently mistaken.{heat}")
        section.tiles(shown)
    elif run.of_split("test"):
        section.text("Every test photo was classified correctly.")
    return section


def _debugger(run: Contents) -> Section:
    section = Section("Debugger")
    if run.findings:
        rows = [
            [f["rule"], "before the first" if f["step"] is None else f["step"], f["meaning"], f["cause"], f["override"]]
            for f in run.findings
        ]
        section.table("Findings in the order of time", ["rule", "step", "meaning", "likely cause", "setting"], rows)
    elif run.setting("debugger.name") == "local":
        section.text("The rules found no fault.")
    if any(run.losses.values()):
        marks: dict[float, str] = {}
        for finding in run.findings:
            if finding["step"] is not None:
                marks[finding["step"]] = ", ".join(filter(None, (marks.get(finding["step"]), finding["rule"])))
        last = ", ".join(f"{name} {points[-1][1]:.3g}" for name, points in run.losses.items() if points)
        marked = "; ".join(f"{rule} at step {step}" for step, rule in marks.items())
        alt = f"Loss of the saved tensors by train step. Last: {last}.{f' Findings: {marked}.' if marked else ''}"
        section.picture(
            charts.vector(charts.lines(run.losses, "Loss of the saved tensors", "step", "loss", marks), alt)
        )
    return section


def _profile(run: Contents) -> Section:
    section = Section("Time")
    seconds = run.metrics.get("seconds", {})
    if seconds:
        alt = "Seconds of each phase: " + ", ".join(f"{name} {s:.1f}" for name, s in seconds.items())
        section.picture(charts.vector(charts.bars(seconds, "Time of the run", "seconds"), alt))
    if steps := run.profile.get("steps"):
        alt = "Milliseconds of a train step: " + ", ".join(f"{name} {ms:.2f}" for name, ms in steps.items())
        section.picture(charts.vector(charts.bars(steps, "Mean train step", "milliseconds"), alt))
    if use := run.profile.get("system"):
        section.table("Use of the machine while training", ["of", "median", "95th percentile"], use)
    if findings := run.profile.get("findings"):
        rows = [[f["rule"], f["meaning"], f["cause"], f["override"]] for f in findings]
        section.table("What the profiler found", ["rule", "meaning", "likely cause", "setting"], rows)
    return section


def _provenance(run: Contents) -> Section:
    section = Section("Provenance")
    section.text(f"Folder: {run.folder.resolve()}")
    section.text("This command repeats the run:")
    section.parts.append(Part("code", repeat(run)))
    keys = ["backbone.name", "finetune.name", "optimizer.name", "optimizer.lr", "trainer.max_epochs", "seed"]
    section.table("Settings", ["key", "value"], [(key, run.setting(key)) for key in keys if run.config])
    return section
