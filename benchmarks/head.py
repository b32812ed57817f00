"""Training a head, whole commands: the first run, the second, and a sweep of 20 trials x 5 epochs, beside plain.py.

python benchmarks/head.py [--photos 5000] [--backbone resnet34 --weights FILE] [--rounds 3]

Each round runs plain.py, `train.py` with an empty cache, `train.py` again, and `train.py -m` with an empty cache. With
--photos the folder is first multiplied by copies with other pixels; plain.py then runs one epoch on the original
folder, and its time is reckoned for the whole: so much for each photo and epoch. The plain time of the sweep is 20
times that of 5 epochs and one test. --random takes random weights: for times, not for accuracy. Further
arguments, such as artifact=false, are overrides of train.py.
"""

from pathlib import Path

from common import SHARES, Row, against, median, metrics, multiply, parser, plain, random_weights, scratch, show, train

EPOCHS, TRIALS, TRIAL_EPOCHS = 10, 20, 5
SWEEP = ["optimizer.lr=0.0003,0.001,0.003,0.01,0.03", "optimizer.weight_decay=0,0.001,0.01,0.1"]


def measure(arguments: list[str] | None = None) -> list[Row]:
    """The rows of one backbone and one folder of photos."""
    p = parser(__doc__)
    p.add_argument("--photos", type=int)
    p.add_argument("--random", action="store_true", help="random weights instead of --weights")
    p.add_argument("--no-sweep", action="store_true")
    a, overrides = p.parse_known_args(arguments)
    with scratch() as folder:
        data = multiply(a.data, folder / "photos", a.photos) if a.photos else a.data
        weights = random_weights(a.backbone, folder / "weights.safetensors") if a.random else a.weights
        return in_turn(a.data, data, weights, a.backbone, folder, a.rounds, overrides, sweep=not a.no_sweep)


def in_turn(
    small: Path,
    data: Path,
    weights: Path,
    backbone: str,
    folder: Path,
    rounds: int,
    overrides: list[str],
    *,
    sweep: bool,
) -> list[Row]:
    """Run everything in turn, several times."""
    photos = count(data, *SHARES)
    name = f"{backbone}, {photos} photos"
    promised = ((50 if backbone.startswith("mobilenet") else 15), 200) if photos >= 5000 else (10, 100)
    slow, first, again, trials, slow_trials, accuracy, plain_accuracy = ([] for _ in range(7))
    model = [f"backbone.name={backbone}", f"backbone.weights={weights}", f"trainer.max_epochs={EPOCHS}", *overrides]
    for turn in range(rounds):
        epochs = EPOCHS if small == data else 1
        found = plain(small, "--weights", weights, "--backbone", backbone, "--epochs", epochs, "--seed", turn)
        start = found["command"] - found["seconds"]
        epoch = sum(found["epochs"]) / epochs * count(data, "train", "valid") / count(small, "train", "valid")
        test = found["test_seconds"] * count(data, "test") / count(small, "test")
        slow.append(start + EPOCHS * epoch + test)
        slow_trials.append(TRIALS * (start + TRIAL_EPOCHS * epoch + test))
        plain_accuracy.append(found["test"])
        first.append(train(data, folder / f"cache{turn}", folder / f"first{turn}", *model, f"seed={turn}"))
        again.append(train(data, folder / f"cache{turn}", folder / f"again{turn}", *model, f"seed={turn}"))
        accuracy.append(metrics(folder / f"first{turn}")["test"]["top1"])
        print(f"round {turn + 1}: plain {slow[-1]:.1f} s, first {first[-1]:.1f} s, again {again[-1]:.1f} s", flush=True)
        if sweep:
            five = [*model[:2], *overrides, f"trainer.max_epochs={TRIAL_EPOCHS}", *SWEEP]
            trials.append(train(data, folder / f"sweep-cache{turn}", folder / f"sweep{turn}", "-m", *five))
            done = len(list((folder / f"sweep{turn}").glob("*/metrics.json")))
            assert done == TRIALS, f"{done} trials"
            print(f"  sweep {trials[-1]:.1f} s, plain {slow_trials[-1]:.0f} s", flush=True)
    rows = [
        against(f"head, {EPOCHS} epochs: {name}", first, slow, "s", promised[0]),
        against("the second run", again, first, "s", 3),
    ]
    rows[1].plain += " (the first)"
    if sweep:
        rows.append(against(f"{TRIALS} trials x {TRIAL_EPOCHS} epochs: {name}", trials, slow_trials, "s", promised[1]))
    if small == data:
        a, b = 100 * median(accuracy), 100 * median(plain_accuracy)
        rows.append(Row("test accuracy", f"{a:.1f} %", f"{b:.1f} %", f"{a - b:+.1f} points", ">= -1 point"))
    return rows


def count(data: Path, *splits: str) -> int:
    """Photos of some splits."""
    return sum(1 for split in splits for _ in (data / split).glob("*/*"))


if __name__ == "__main__":
    show(measure())
