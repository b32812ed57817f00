"""DebugRuleConfigurations of a request are evaluated while the job runs, over tensors of a script that uses smdebug."""

import time
from pathlib import Path
from typing import Any

import pytest
from emulator_helpers import BUCKET, Client, content, ended, job, keys, until

from sagemaker_emulator.server import Emulator

pytest.importorskip("smdebug", reason="needs the extra debugger")
RULES_IMAGE = "895741380848.dkr.ecr.us-west-2.amazonaws.com/sagemaker-debugger-rules:latest"
# a script of somebody else: smdebug in a plain loop. Its loss rises, and it waits at the end until it is stopped
CODE = """
import torch, smdebug.pytorch as smd
from torch import nn
torch.manual_seed(0)
model, loss = nn.Linear(4, 2), nn.CrossEntropyLoss()
hook = smd.Hook(str(ml / "output/tensors"), save_config=smd.SaveConfig(save_interval=1),
                include_collections=["losses", "gradients", "weights"])
hook.register_module(model); hook.register_loss(loss)
optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
for step in range(40):
    x = torch.randn(16, 4); y = (x[:, 0] > 0).long()
    optimizer.zero_grad(); value = loss(model(x), y); value.backward(); optimizer.step()
hook.close()
print("trained")
WAIT
"""


def request(name: str, rate: float, rules: dict[str, dict[str, str]], wait: str = "") -> dict[str, Any]:
    return job(name, CODE.replace("RATE", str(rate)).replace("WAIT", wait)) | {
        "DebugHookConfig": {"S3OutputPath": f"s3://{BUCKET}/debug"},
        "DebugRuleConfigurations": [
            {
                "RuleConfigurationName": rule,
                "RuleEvaluatorImage": RULES_IMAGE,
                "RuleParameters": {"rule_to_invoke": rule, **parameters},
            }
            for rule, parameters in rules.items()
        ],
    }


def statuses(description: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {
        s["RuleConfigurationName"]: (s["RuleEvaluationStatus"], s.get("StatusDetails", ""))
        for s in description["DebugRuleEvaluationStatuses"]
    }


@pytest.mark.slow
def test_rules_are_evaluated_over_a_jobs_tensors(emulator: Emulator, sm: Client) -> None:
    rules = {
        "ExplodingTensor": {"tensor_regex": ".*"},
        "LossNotDecreasing": {"num_steps": "5", "increase_threshold_percent": "5"},
        "DeadRelu": {},
        "Confusion": {},
    }
    sm.create_training_job(**request("rising", 100.0, rules))
    description = ended(sm, "rising")
    assert description["TrainingJobStatus"] == "Completed", description
    result = statuses(description)
    assert result["LossNotDecreasing"][0] == "IssuesFound"
    assert "Likely cause" in result["LossNotDecreasing"][1]
    assert "Evaluated by Sagehound's open rule of this name" in result["LossNotDecreasing"][1]
    assert result["ExplodingTensor"][0] == "NoIssuesFound"
    assert "Not used: tensor_regex." in result["ExplodingTensor"][1]
    assert result["DeadRelu"][0] == "Error"
    assert "no tensors of relu_input" in result["DeadRelu"][1]
    assert result["Confusion"][0] == "Error"
    assert "Sagehound has no rule Confusion; it has AllZero" in result["Confusion"][1]


@pytest.mark.slow
def test_stop_training_stops_the_job(emulator: Emulator, sm: Client) -> None:
    from smdebug_rulesconfig import StopTraining

    action = {"action_json": StopTraining("rising").serialize()}
    rules = {"LossNotDecreasing": {"num_steps": "5", "increase_threshold_percent": "5", **action}}
    sm.create_training_job(**request("stopped", 100.0, rules, wait="time.sleep(60)"))
    until(lambda: sm.describe_training_job(TrainingJobName="stopped"), lambda d: "Stopp" in d["TrainingJobStatus"], 60)
    description = ended(sm, "stopped")
    assert (description["TrainingJobStatus"], description["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert statuses(description)["LossNotDecreasing"][0] == "IssuesFound"


def test_a_job_that_writes_no_tensors(emulator: Emulator, sm: Client) -> None:
    sm.create_training_job(**request("none", 0.1, {"Overfit": {}}) | {"HyperParameters": {"code": "print(1)"}})
    result = statuses(ended(sm, "none"))
    assert result["Overfit"][0] == "Error"
    assert "no tensors of losses" in result["Overfit"][1]


@pytest.mark.slow
def test_system_metrics_are_those_that_smdebug_reads(
    emulator: Emulator, sm: Client, s3: Client, tmp_path: Path
) -> None:
    from smdebug.profiler.system_metrics_reader import LocalSystemMetricsReader

    config = {"S3OutputPath": f"s3://{BUCKET}/profile", "ProfilingIntervalInMilliseconds": 100}
    sm.create_training_job(**job("sampled", "time.sleep(1)") | {"ProfilerConfig": config})
    assert ended(sm, "sampled")["TrainingJobStatus"] == "Completed"
    for key in keys(s3, "profile/sampled/profiler-output/system/"):
        file = tmp_path / key.removeprefix("profile/sampled/profiler-output/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content(s3, key))
    reader = LocalSystemMetricsReader(str(tmp_path))
    now = time.time() * 1e6
    events = reader.get_events(now - 120e6, now + 60e6)
    assert {"CPUUtilization", "MemoryUtilization", "IOThroughput"} <= {event.dimension for event in events}
    assert all(0 <= event.value <= 100 for event in events if event.dimension == "CPUUtilization")
    sm.create_training_job(**job("plain", "time.sleep(0.3)"))
    assert ended(sm, "plain")["TrainingJobStatus"] == "Completed"
    assert not keys(s3, "profile/plain")
