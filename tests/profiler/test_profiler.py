"""profiler=local: what it measures, what it finds, and that its overrides help."""

import csv
import gzip
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Command, Compose, small_all
from PIL import Image
from run_helpers import same

from sagehound.data.sources import Files
from sagehound.profiler.operators import table_of
from sagehound.profiler.profile_rules import Profile, evaluate
from sagehound.profiler.sampler import Sample
from sagehound.system.machine import cores
from sagehound.training.train import train

LOCAL = ["profiler=local", "profiler.interval=0.05"]
SLOW = '''
import time


class Slow:
    """Takes 60 ms a photo, and changes nothing."""

    def __call__(self, photo):
        time.sleep(0.06)
        return photo
'''


def profile(run: Path, name: str = "summary.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "profile" / name).read_text())
    return content


def findings(run: Path) -> dict[str, str]:
    return {finding["rule"]: finding["override"] for finding in profile(run)["findings"]}


@pytest.mark.slow
def test_a_run_leaves_its_profile_and_is_otherwise_the_same(config: Compose, tmp_path: Path) -> None:
    given = ["finetune=full", "trainer.max_epochs=4"]
    plain = train(config(*given), tmp_path / "plain")
    run = train(config(*given, *LOCAL, "report=true", "results=all"), tmp_path / "run")
    assert same(plain, run)
    summary = profile(run.folder)
    assert set(summary["phases"]) == {"model", "data", "features", "train", "evaluate"}
    assert {"data", "forward", "backward", "optimizer", "validation", "checkpoint"} <= set(summary["steps"])
    assert summary["start_to_first_step"] > 0
    steps = 4 * 5
    training = sum(summary["steps"].values()) * steps / 1000
    assert 0.3 * summary["phases"]["train"] < training <= 1.05 * summary["phases"]["train"]
    samples = list(csv.DictReader((run.folder / "profile/samples.csv").open()))
    assert {"train"} <= {sample["phase"] for sample in samples}
    assert all(0 <= float(sample["cpu"]) <= 100 and float(sample["rss_mb"]) > 100 for sample in samples)
    with gzip.open(run.folder / "profile/trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    assert any(event.get("name") == "aten::convolution" for event in events)
    assert any(row["calls"] for row in summary["operators"])
    assert "LowGPUUtilization" not in findings(run.folder)
    assert summary["not_evaluated"]["low_gpu_utilization"] == "it needs samples of a GPU"
    html = (run.folder / "report.html").read_text()
    assert "Milliseconds of a train step" in html
    assert "Use of the machine while training" in html


@pytest.mark.slow
def test_a_slow_disk_is_named_and_its_override_helps(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = Files.__call__

    def slowly(files: Files, index: int) -> Image.Image:
        time.sleep(0.06)
        return read(files, index)

    monkeypatch.setattr(Files, "__call__", slowly)
    given = [*LOCAL, "finetune=full", "trainer.max_epochs=2"]
    run = train(config(*given, "data.workers=1"), tmp_path / "run")
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "warning: profiler: DataBound: " in printed.out
    override = findings(run.folder)["DataBound"]
    assert override.startswith("data.workers=")
    better = train(config(*given, override), tmp_path / "better")
    waits = [profile(r.folder)["steps"]["data"] for r in (run, better)]
    assert waits[1] < 0.6 * waits[0], waits


@pytest.mark.slow
def test_a_slow_transform_of_your_own_is_named(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_photos.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    slow = ["+augment.transform._target_=slow_photos.Slow", "augment=light"]
    run = train(config(*LOCAL, *slow, "finetune=full", "trainer.max_epochs=2"), tmp_path / "run")
    (finding,) = [one for one in profile(run.folder)["findings"] if one["rule"] == "DataBound"]
    assert "augment.transform takes long" in finding["cause"]


@pytest.mark.slow
def test_a_batch_of_one_is_named_and_its_override_helps(config: Compose, tmp_path: Path) -> None:
    run = train(config(*LOCAL, "data.batch_size=1"), tmp_path / "run")
    override = findings(run.folder)["BatchSize"]
    assert override == "data.batch_size=32"
    better = train(config(*LOCAL, override), tmp_path / "better")
    assert "BatchSize" not in findings(better.folder)
    seconds = [profile(r.folder)["phases"]["train"] for r in (run, better)]
    assert seconds[1] < seconds[0]


@pytest.mark.slow
def test_one_thread_is_named_and_its_override_helps(
    photos: Path, weights: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if cores() < 2:
        pytest.skip("one core")
    given = [*small_all(photos, weights), *LOCAL, "finetune=full", "trainer.max_epochs=4"]
    run = command(*given, "hydra.run.dir=run")
    assert run.returncode == 0, run.stderr
    override = findings(tmp_path / "run")["FewThreads"]
    assert override == f"trainer.threads={cores()}"
    better = command(*given, "hydra.run.dir=better", override)
    assert better.returncode == 0, better.stderr
    assert "FewThreads" not in findings(tmp_path / "better")


def samples(count: int = 40, **columns: float | list[float] | None) -> list[Sample]:
    """Samples of the training; a list alternates, and None drops a column."""
    usual: dict[str, float | list[float] | None] = {"cpu": 50, "iowait": 0, "gpu0": 95, "gpu0_memory": 80}
    values = usual | columns
    return [
        {
            "phase": "train",
            "time": i,
            **{k: v[i * len(v) // count] if isinstance(v, list) else v for k, v in values.items() if v is not None},
        }
        for i in range(count)
    ]


HEALTHY: dict[str, Any] = {
    "parts": {"data": 1.0, "forward": 50, "backward": 100, "optimizer": 5, "other": 5},
    "started": 30.0,
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a busy GPU": ({}, {}, ""),
    "an idle GPU": ({"gpu0": 40}, {}, "LowGPUUtilization"),
    "a fluctuating GPU": ({"gpu0": [5, 95, 5, 95] * 5}, {}, "LowGPUUtilization"),
    "decoding takes all cores": ({"gpu0": 5, "cpu": 98}, {}, "CPUBottleneck"),
    "a slow disk": ({"gpu0": 5, "iowait": 70}, {}, "IOBottleneck"),
    "nothing is used": ({"gpu0": 60, "cpu": 30, "gpu0_memory": 10}, {}, "BatchSize"),
    "one thread": (
        {"gpu0": None, "gpu0_memory": None, "process_cpu": 30},
        {"threads": 1, "cores": 4},
        "FewThreads",
    ),
    "memory grows": ({"gpu0_memory": [50, 55, 60, 65, 70, 75, 80, 85]}, {}, "GPUMemoryIncrease"),
    "one of two GPUs works": ({"gpu1": 5, "gpu1_memory": 80}, {}, "LoadBalancing"),
    "ten slow steps": ({}, {"steps": [0.1] * 500 + [2.0] * 11}, "StepOutlier"),
    "a late first step": ({}, {"started": 1500.0}, "MaxInitializationTime"),
    "waiting for photos": ({}, {"parts": {"data": 60, "forward": 30, "backward": 60, "optimizer": 5}}, "DataBound"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_rule_by_awss_definition(case: str) -> None:
    columns, changes, rule = CASES[case]
    given = {"steps": [0.1] * 500} | HEALTHY | changes
    made, _ = evaluate(Profile(samples(**columns), workers=2, **given))
    assert rule in [finding.rule for finding in made] if rule else not made


def test_the_time_of_an_operator_is_without_those_that_it_calls() -> None:
    """Against torch's own table."""
    recorded = torch.autograd.profiler.profile(use_kineto=False)
    with tempfile.TemporaryDirectory() as folder:
        recorded.__enter__()
        layer = torch.nn.Conv2d(3, 8, 3)
        for _ in range(3):
            layer(torch.randn(2, 3, 32, 32)).relu().sum().backward()
        recorded.__exit__(None, None, None)
        recorded.export_chrome_trace(f"{folder}/trace.json")
        rows = {row["operator"]: row for row in table_of(json.loads(Path(folder, "trace.json").read_text()))}
    theirs = {event.key: event for event in recorded.key_averages()}
    assert len(rows.keys() & theirs.keys()) >= 10
    for name in (rows.keys() & theirs.keys()) - {"aten::sum"}:  # of which torch counts an inner one with the outer
        row = rows[name]
        assert row["calls"] == theirs[name].count
        assert row["cpu_ms"] == pytest.approx(theirs[name].self_cpu_time_total / 1000, rel=0.05, abs=0.02)


def test_without_a_gpu_its_rules_are_not_evaluated() -> None:
    plain = [{k: v for k, v in sample.items() if not k.startswith("gpu")} for sample in samples()]
    made, missing = evaluate(Profile(plain, workers=2, **HEALTHY))
    assert not made
    assert {"low_gpu_utilization", "cpu_bottleneck", "io_bottleneck", "gpu_memory_increase"} <= set(missing)
