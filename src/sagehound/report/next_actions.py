"""What to do next after a run: each action is a command, and why it is worth its time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sagehound.config.overrides import override_key
from sagehound.report.contents import Contents
from sagehound.system.program import command, words

MOST = 3  # actions in a report
REVIEWED = "without_suspicious.csv"  # the photos without those with a suspicious label
_STEEP = 0.01  # accuracy gained by twice as many photos that is worth collecting them
_GAP = 0.1  # train top-1 minus valid top-1, above which more varied photos help
_HEAD_EPOCHS = 3  # of finetune=gradual by default, before the backbone is trained
_MISCALIBRATED = 0.05  # expected calibration error beyond its noise
_PLACES = ("hydra.run.dir", "hydra.sweep.dir", "overwrite", "resume", "best")  # of one command only


@dataclass(frozen=True)
class Action:
    """A recommendation of the report.

    Attributes:
        title: the recommendation in a few words, as an imperative.
        why: the measurement behind it, and the expected gain.
        command: a command that carries it out.
    """

    title: str
    why: str
    command: str


def next_actions(run: Contents) -> list[Action]:
    """The most valuable actions, at most three, the best first.

    Faults come first, because they make every other number doubtful; then what the run itself measured (labels, an
    unfinished training, the learning curve); then what usually helps.
    """
    return [action for make in _MAKERS for action in make(run)][:MOST]


def repeat(run: Contents, *changes: str, program: str = "train") -> str:
    """The command of a run with changed overrides."""
    changed = {override_key(one) for one in changes}
    replaced = changed & {"augment", "finetune", "loss", "optimizer", "schedule"}  # options, with their keys
    unchanged = [
        one
        for one in run.overrides
        if not {override_key(one), override_key(one).partition(".")[0] if replaced else ""}
        & (changed | replaced | set(_PLACES))
        and one != "trainer=sagemaker"
    ]
    return command([*unchanged, *changes], words(program))


def _faults(run: Contents) -> Iterator[Action]:
    for finding in run.findings:
        if finding.get("override"):
            title = f"Cure {finding['rule']}: {finding['override']}"
            why = f"The debugger found that {finding['meaning']}. Likely cause: {finding['cause']}."
            yield Action(title, why, repeat(run, str(finding["override"])))
            return


def _labels(run: Contents) -> Iterator[Action]:
    suspicious = run.insights.get("suspicious_labels", [])
    if len(suspicious) >= 2 and (run.folder / REVIEWED).exists():
        why = (
            f"{len(suspicious)} train photos look like another class than their label; they are shown below. Correct "
            "their folders, or compare with a training that leaves them out."
        )
        photos = [f"data.root='{run.audit.get('root')}'", f"data.table='{run.folder.resolve() / REVIEWED}'"]
        kind = [] if run.setting("data.name") == "folder" else ["data=folder"]
        yield Action("Review the suspicious labels", why, repeat(run, *kind, *photos))


def _unfinished(run: Contents) -> Iterator[Action]:
    epochs, best = len(run.history), run.metrics.get("best_epoch")
    if best != epochs or epochs < 2:
        return
    before, last = (row.get("valid_loss", 0.0) for row in run.history[-2:])
    if before - last > 0.02 * before:
        why = (
            f"The last epoch was the best one, and its valid loss fell from {before:.3g} to {last:.3g}: the training "
            "had not ended."
        )
        yield Action("Train for more epochs", why, repeat(run, f"trainer.max_epochs={2 * epochs}"))


def _more_photos(run: Contents) -> Iterator[Action]:
    curve = run.insights.get("learning_curve", [])
    if len(curve) < 2 or curve[-1]["top1"] - curve[-2]["top1"] < _STEEP:
        return
    half, full = curve[-2:]
    weakest = sorted((row for row in run.by_class if row["accuracy"]), key=lambda row: float(row["accuracy"]))[:3]
    names = ", ".join(row["class"] for row in weakest)
    sentence = run.insights.get("more_photos", {}).get("sentence")
    expected = f" ({sentence})" if sentence else ""
    why = (
        f"From {half['photos']} to {full['photos']} train photos, the leave-one-out accuracy of a head on the features "
        f"rose from {half['top1']:.1%} to {full['top1']:.1%}, so more photos probably help{expected}. The classes with "
        f"the lowest test accuracy: {names}. Add photos to their train folders, then train again."
    )
    yield Action("Collect more photos of the weakest classes", why, repeat(run))


def _overfitted(run: Contents) -> Iterator[Action]:
    train, valid = (run.metrics.get(split, {}).get("top1", 0.0) for split in ("train", "valid"))
    if train - valid < _GAP:
        return
    why = f"Train photos are right in {train:.1%}, valid photos in {valid:.1%}: varied train photos reduce the gap."
    head = run.setting("finetune.name") == "head"
    if head and run.setting("finetune.solver"):
        return  # a solved head takes no augmented photos
    changes = ["augment=light", "features.views=5"] if head else ["augment=strong"]
    yield Action("Augment the train photos", why, repeat(run, *changes))


def _fine_tuning(run: Contents) -> Iterator[Action]:
    valid = run.metrics.get("valid", {}).get("top1", 1.0)
    if run.setting("finetune.name") == "head" and valid < 0.9:
        why = (
            f"The backbone was frozen, and {valid:.1%} of the valid photos are right. Photos unlike ImageNet's need a "
            "backbone that is trained as well. It takes longer; the head is kept if that is not better on valid photos."
        )
        epochs = run.setting("trainer.max_epochs") or 10
        few = [f"trainer.max_epochs={max(epochs, 2)}", "finetune.head_epochs=1"] if epochs <= _HEAD_EPOCHS else []
        yield Action("Fine-tune the backbone", why, repeat(run, "finetune=gradual", *few))


def _calibration(run: Contents) -> Iterator[Action]:
    test = run.metrics.get("test", {})
    ece, photos = test.get("ece", 0.0), test.get("photos", 0)
    if photos >= 100 and ece > _MISCALIBRATED and not run.setting("augment.label_smoothing"):
        why = f"Probabilities are off by {ece:.1%} on average, so the model is too sure of itself, or not enough."
        setting = "calibrate=true" if run.setting("calibrate") is False else "augment.label_smoothing=0.1"
        yield Action("Calibrate the probabilities", why, repeat(run, setting))


def _tuning(run: Contents) -> Iterator[Action]:
    tuned = any(override_key(one) in ("best", "optimizer.lr") for one in run.overrides)
    tuned = tuned or run.setting("finetune.solver") or run.metrics.get("valid", {}).get("top1") == 1
    if run.setting("finetune.name") == "head" and not tuned:
        why = "The learning rate is the default. With cached features, a trial takes seconds."
        search = repeat(run, "-m", "hpo=optuna", "hpo.max_jobs=20", program="launch")
        yield Action("Search the learning rate", why, search)


_MAKERS: tuple[Callable[[Contents], Iterator[Action]], ...] = (
    _faults,
    _labels,
    _unfinished,
    _more_photos,
    _overfitted,
    _fine_tuning,
    _calibration,
    _tuning,
)


def caveats(run: Contents) -> list[str]:
    """What not to trust in the numbers of a run, a sentence each."""
    test = run.metrics["test"]
    low, high = test.get("top1_interval", (0, 1))
    sentences = []
    if high - low > 0.05:
        sentences.append(
            f"{test.get('photos')} test photos give a wide interval: the accuracy on many photos of this kind is "
            f"probably between {low:.1%} and {high:.1%}. More test photos make it narrower."
        )
    if leaks := run.metrics.get("test_without_leaks"):
        rest = f" Without them it is {leaks['top1']:.1%}." if "top1" in leaks else ""
        sentences.append(
            f"Test photos with a copy, near-duplicate or photo of their group in train or valid: {leaks['leaked']}. "
            f"So the accuracy is too high.{rest}"
        )
    few = [row["class"] for row in run.by_class if int(row["test"] or 0) < 10]
    if few:
        which = (
            "every class has" if len(few) == len(run.by_class) else f"{len(few)} of {len(run.by_class)} classes have"
        )
        sentences.append(f"The accuracy of a single class is vague where {which} fewer than ten test photos.")
    if test.get("ece", 0) > _MISCALIBRATED:
        sentences.append(f"Probabilities are off by {test['ece']:.1%} on average; see Calibration.")
    if run.findings:
        sentences.append("The debugger found faults; see Debugger.")
    return sentences
