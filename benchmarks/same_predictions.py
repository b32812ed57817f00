"""Whether photos get the same predictions by every way: here, by a batch transform job, an endpoint and Python.

python benchmarks/same_predictions.py [--data PATH] [--weights FILE]

Trains a head, and predicts all photos by transform=local, and by the others with the emulator. Prints the number of
photos with the same label as transform=local, and the largest difference of a probability that both ways return.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeAlias

from common import ROOT, machine, parser, scratch, train

import sagehound

Answers: TypeAlias = dict[str, dict[str, Any]]  # the response of each photo, by its path below the data


def main() -> None:
    """Train, predict, and print the table."""
    a = parser(__doc__).parse_args()
    data = (a.data if a.data.is_absolute() else ROOT / a.data).resolve()
    with scratch() as folder:
        given = [f"backbone.name={a.backbone}", f"backbone.weights={a.weights}", "finetune=head", "report=false"]
        train(data, folder / "cache", folder / "run", *given, "trainer.max_epochs=2")
        ways = answers(folder, data)
    first = ways.pop("transform=local")
    print(f"\n{machine()}\n\n| way | photos | same label | largest difference |\n|---|---|---|---|")
    for way, others in ways.items():
        same = sum(first[file]["label"] == others[file]["label"] for file in first)
        largest = max(difference(first[file], others[file]) for file in first)
        print(f"| {way} | {len(others):,} | {same:,} | {largest:.1g} |")


def answers(folder: Path, data: Path) -> dict[str, Answers]:
    """The predictions by each way."""
    photos = ["model=run", "data=folder", f"data.root={data}", "transform.format=jsonl"]
    call(folder, "launch", "transform=local", *photos, "transform.output=here.jsonl")
    call(folder, "launch", "transform=sagemaker", *photos, "aws=emulator", "transform.output=job.jsonl")
    call(folder, "launch", "deploy=sagemaker", "model=run", "data=demo", "aws=emulator", "deploy.endpoint=same")
    for target, name in (("same", "endpoint"), ("run", "command")):
        options = ["--emulator", "--top-k", "5", "--format", "jsonl", "--output", f"{name}.jsonl"]
        call(folder, "predict", target, str(data), *options)
    found = {name: read(folder / f"{name}.jsonl", data) for name in ("here", "job", "endpoint", "command")}
    names = sorted(found["here"])
    python = sagehound.load(folder / "run").predict([data / name for name in names], top_k=5)
    return {
        "transform=local": found["here"],
        "transform=sagemaker": found["job"],
        "deploy=sagemaker, sagehound predict": found["endpoint"],
        "sagehound predict RUN": found["command"],
        "sagehound.load(RUN).predict": {
            name: {"label": p.label, "top": [{"label": label, "probability": q} for label, q in p.top]}
            for name, p in zip(names, python, strict=True)
        },
    }


def call(folder: Path, *arguments: str) -> None:
    """Run `sagehound ...` in a folder."""
    environment = os.environ | {"SAGEHOUND_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "sagehound.cli", *arguments]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


def read(path: Path, data: Path) -> Answers:
    """The lines of a file of JSON Lines."""
    lines = map(json.loads, path.read_text().splitlines())
    return {line["file"].removeprefix(f"{data}/"): line for line in lines}


def difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    """The largest difference of a probability that both responses have."""
    first, second = ({best["label"]: float(best["probability"]) for best in response["top"]} for response in (a, b))
    return max(abs(first[label] - second[label]) for label in first.keys() & second.keys())


if __name__ == "__main__":
    main()
