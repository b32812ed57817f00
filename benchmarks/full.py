"""Full fine-tuning, the same number of epochs, beside plain.py: photos a second while training, and test accuracy.

python benchmarks/full.py [--backbone resnet34 --random] [--epochs 3] [--cache none|jpeg|memmap] [--rounds 3]

A photo counts once for every epoch in which it is trained on or validated. --random takes random weights: for times,
not for accuracy.
"""

from common import Row, against, median, metrics, parser, plain, random_weights, scratch, show, train


def measure(arguments: list[str] | None = None) -> list[Row]:
    """The rows of this benchmark."""
    p = parser(__doc__)
    p.add_argument("--epochs", type=int, default=3)
    p.add_argument("--random", action="store_true")
    p.add_argument("--cache", default="none")
    a = p.parse_args(arguments)
    count = sum(len(list((a.data / split).glob("*/*"))) for split in ("train", "valid")) * a.epochs
    speed, plain_speed, accuracy, plain_accuracy = ([] for _ in range(4))
    with scratch() as folder:
        weights = random_weights(a.backbone, folder / "weights.safetensors") if a.random else a.weights
        model = [f"backbone.name={a.backbone}", f"backbone.weights={weights}", "finetune=full", f"data.cache={a.cache}"]
        for turn in range(a.rounds):
            found = plain(
                a.data,
                *("--weights", weights, "--backbone", a.backbone, "--finetune", "full"),
                *("--epochs", a.epochs, "--seed", turn),
            )
            plain_speed.append(count / sum(found["epochs"]))
            plain_accuracy.append(found["test"])
            run = folder / f"run{turn}"
            train(a.data, folder / f"cache{turn}", run, *model, f"trainer.max_epochs={a.epochs}", f"seed={turn}")
            speed.append(count / metrics(run)["seconds"]["train"])
            accuracy.append(metrics(run)["test"]["top1"])
            print(
                f"round {turn + 1}: plain {plain_speed[-1]:.1f}/s {plain_accuracy[-1]:.3f}, "
                f"ours {speed[-1]:.1f}/s {accuracy[-1]:.3f}",
                flush=True,
            )
    rows = [
        against(
            f"full fine-tuning, {a.backbone}, {a.epochs} epochs, data.cache={a.cache}",
            speed,
            plain_speed,
            "/s",
            1.8,
            more=True,
        )
    ]
    if not a.random:
        x, y = 100 * median(accuracy), 100 * median(plain_accuracy)
        rows.append(Row("test accuracy", f"{x:.1f} %", f"{y:.1f} %", f"{x - y:+.1f} points", "equal"))
    return rows


if __name__ == "__main__":
    show(measure())
