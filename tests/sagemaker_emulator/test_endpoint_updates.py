"""Updates of endpoints by a policy: canary, linear, rolling; alarms that roll them back; weights and capacities."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from emulator_helpers import BUCKET, Client, client, processes, until
from hosting_helpers import hosting, invoke, make_config, make_endpoint, make_model, settled, variant

from sagemaker_emulator.hosting import endpoint_updates
from sagemaker_emulator.server import Emulator


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    with hosting(tmp_path / "emulator") as running:
        yield running


def alarm(emulator: Emulator, name: str = "errors", **more: object) -> Client:
    """An alarm on responses with 5XX of the endpoint e."""
    cloudwatch = client(emulator, "cloudwatch")
    dimensions = {"EndpointName": "e", "VariantName": "AllTraffic"} | more.pop("dimensions", {})  # type: ignore[dict-item]
    cloudwatch.put_metric_alarm(
        **{
            "AlarmName": name,
            "Namespace": "AWS/SageMaker",
            "MetricName": "Invocation5XXErrors",
            "Dimensions": [{"Name": k, "Value": v} for k, v in dimensions.items()],
            "Statistic": "Sum",
            "Period": 60,
            "EvaluationPeriods": 1,
            "Threshold": 0,
            "ComparisonOperator": "GreaterThanThreshold",
            "TreatMissingData": "notBreaching",
        }
        | more
    )
    return cloudwatch


def state(cloudwatch: Client, name: str = "errors") -> str:
    return str(cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"])


def policy(kind: str, wait: int = 1, bake: int = 0, alarms: tuple[str, ...] = (), **size: int) -> dict[str, Any]:
    """A DeploymentConfig; ``size`` is a percentage by the member's name."""
    routing: dict[str, Any] = {"Type": kind, "WaitIntervalInSeconds": wait}
    routing |= {member: {"Type": "CAPACITY_PERCENT", "Value": value} for member, value in size.items()}
    config: dict[str, Any] = {
        "BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing, "TerminationWaitInSeconds": bake}
    }
    return config | ({"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": a} for a in alarms]}} if alarms else {})


def stage(described: dict[str, Any]) -> dict[str, Any]:
    """The pending variant of an update, with its stage."""
    variants = described.get("PendingDeploymentSummary", {}).get("ProductionVariants", [{}])
    found: dict[str, Any] = variants[0] | variants[0].get("VariantStatus", [{}])[0]
    return found


@contextmanager
def load(emulator: Emulator, clients: int = 8) -> Iterator[list[str]]:
    """Invoke the endpoint e from clients at once, until the end; the models that responded, or errors."""
    answers: list[str] = []
    ended = Event()

    def ask() -> None:
        while not ended.is_set():
            try:
                answers.append(invoke(emulator, "e", b"sleep 0.1")["model"])
            except Exception as error:
                answers.append(f"{type(error).__name__}: {error}")

    with ThreadPoolExecutor(clients) as threads:
        asked = [threads.submit(ask) for _ in range(clients)]
        try:
            yield answers
        finally:
            ended.set()
    for future in asked:
        future.result()


@pytest.fixture
def models(emulator: Emulator) -> Emulator:
    """The models old, new and bad, and an endpoint e with the old one."""
    make_model(emulator, "old")
    make_model(emulator, "new")
    make_model(emulator, "bad", STATUS="500", MARK="bad-of-" + emulator.url)
    make_endpoint(emulator, "e", variant("old", InitialInstanceCount=4))
    for name in ("new", "bad"):
        make_config(emulator, name, variant(name, InitialInstanceCount=4))
    return emulator


@pytest.mark.slow  # it waits for baking periods
@pytest.mark.parametrize(
    "config",
    [
        policy("ALL_AT_ONCE", bake=1, alarms=("errors",)),
        policy("CANARY", bake=1, alarms=("errors",), CanarySize=25),
        policy("LINEAR", alarms=("errors",), LinearStepSize=50),
        {
            "RollingUpdatePolicy": {
                "MaximumBatchSize": {"Type": "INSTANCE_COUNT", "Value": 2},
                "WaitIntervalInSeconds": 1,
            }
        },
        policy("ALL_AT_ONCE", wait=0),
    ],
    ids=["all at once", "canary", "linear", "rolling", "without baking"],
)
def test_no_request_fails_during_an_update_under_load(models: Emulator, sm: Client, config: dict[str, Any]) -> None:
    alarm(models)
    with load(models) as answers:
        until(lambda: len(answers), lambda count: count > 20)
        sm.update_endpoint(EndpointName="e", EndpointConfigName="new", DeploymentConfig=config)
        found = settled(sm, "e")
        count = len(answers)
        until(lambda: len(answers), lambda now: now > count + 20)
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", "new"), found
    assert found["LastDeploymentConfig"] == config
    assert "PendingDeploymentSummary" not in found
    assert set(answers) == {"old", "new"}, Counter(answers)
    assert answers[0] == "old"
    assert answers[count:].count("old") <= 8, "of each client the call in progress"


@pytest.mark.slow  # it waits for baking periods
def test_a_bad_model_is_rolled_back_by_its_alarm_and_the_old_one_continues(models: Emulator, sm: Client) -> None:
    cloudwatch = alarm(models, dimensions={"EndpointConfigName": "bad"})
    config = policy("CANARY", wait=60, bake=60, alarms=("errors",), CanarySize=50)
    with load(models) as answers:
        sm.update_endpoint(EndpointName="e", EndpointConfigName="bad", DeploymentConfig=config)
        found = settled(sm, "e")
        before = len(answers)
        until(lambda: len(answers), lambda count: count > before + 30)
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", "e")
    assert found["FailureReason"] == "One or more configured alarm(s) went into ALARM state: [errors]"
    assert "PendingDeploymentSummary" not in found
    assert state(cloudwatch) == "ALARM"
    assert any("(500)" in answer for answer in answers), "the canary got requests"
    assert all(answer == "old" or "(500)" in answer for answer in answers), Counter(answers)
    assert sum(answer != "old" for answer in answers[before:]) <= 8, "of each client the call in progress"
    assert processes("bad-of-" + models.url) == []
    assert len(list((models.folder / "endpoints/e").iterdir())) == 1
    sm.update_endpoint(EndpointName="e", EndpointConfigName="new")
    assert "FailureReason" not in settled(sm, "e")
    assert invoke(models, "e")["model"] == "new"


def test_a_canary_gets_its_share_and_is_rolled_back_by_any_alarm(models: Emulator, sm: Client) -> None:
    cloudwatch = alarm(models, Namespace="mine", MetricName="bill", dimensions={})
    config = policy("CANARY", wait=60, alarms=("errors",), CanarySize=50)
    sm.update_endpoint(EndpointName="e", EndpointConfigName="new", DeploymentConfig=config)
    during = until(lambda: sm.describe_endpoint(EndpointName="e"), lambda d: stage(d)["Status"] == "Baking")
    assert (during["EndpointStatus"], during["EndpointConfigName"]) == ("Updating", "e")
    pending = stage(during)
    assert (pending["CurrentInstanceCount"], pending["DesiredInstanceCount"]) == (2, 4)
    assert pending["InstanceType"] == "ml.m5.large"
    assert pending["StatusMessage"] == (
        "Baking for 60 seconds (WaitIntervalInSeconds) with traffic enabled on canary capacity of 2 instance(s)."
    )
    answers = Counter(invoke(models, "e")["model"] for _ in range(60))
    assert min(answers["old"], answers["new"]) > 10, answers  # by chance once in 10 million
    cloudwatch.set_alarm_state(AlarmName="errors", StateValue="ALARM", StateReason="a test")
    found = settled(sm, "e")
    assert "[errors]" in found["FailureReason"]
    assert found["EndpointConfigName"] == "e"
    assert {invoke(models, "e")["model"] for _ in range(10)} == {"old"}
    assert state(cloudwatch) == "ALARM", "the state that was set lasts"


def test_an_alarm_trips_while_all_requests_go_to_the_new_model(models: Emulator, sm: Client) -> None:
    alarm(models)
    config = policy("ALL_AT_ONCE", bake=60, alarms=("errors",))
    sm.update_endpoint(EndpointName="e", EndpointConfigName="bad", DeploymentConfig=config)
    during = until(lambda: sm.describe_endpoint(EndpointName="e"), lambda d: stage(d)["Status"] == "Baking")
    assert "full capacity of 4 instance(s)" in stage(during)["StatusMessage"]
    with pytest.raises(ClientError, match="this model is bad"):
        invoke(models, "e")
    assert "went into ALARM" in settled(sm, "e")["FailureReason"]
    assert invoke(models, "e")["model"] == "old"


def test_an_update_that_exceeds_its_time_limit_is_rolled_back(
    models: Emulator, sm: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = [0.0]  # seconds
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + later[0], time=time.time)
    monkeypatch.setattr(endpoint_updates, "time", clock)  # the limit is at least ten minutes
    config = policy("ALL_AT_ONCE", bake=590)
    config["BlueGreenUpdatePolicy"]["MaximumExecutionTimeoutInSeconds"] = 600
    sm.update_endpoint(EndpointName="e", EndpointConfigName="new", DeploymentConfig=config)
    until(lambda: sm.describe_endpoint(EndpointName="e"), lambda d: stage(d)["Status"] == "Baking")
    later[0] = 700.0
    assert "MaximumExecutionTimeoutInSeconds" in settled(sm, "e")["FailureReason"]
    assert invoke(models, "e")["model"] == "old"


@pytest.mark.slow
def test_a_rolling_update_ends_the_old_instances_batch_by_batch(models: Emulator, sm: Client) -> None:
    batch = {"Type": "INSTANCE_COUNT", "Value": 1}
    config = {"RollingUpdatePolicy": {"MaximumBatchSize": batch, "WaitIntervalInSeconds": 1}}
    sm.update_endpoint(EndpointName="e", EndpointConfigName="new", DeploymentConfig=config)
    seen = []

    def described() -> dict[str, Any]:
        found: dict[str, Any] = sm.describe_endpoint(EndpointName="e")
        if stage(found).get("Status") == "Baking":
            seen.append((found["ProductionVariants"][0]["CurrentInstanceCount"], stage(found)["CurrentInstanceCount"]))
        return found

    until(described, lambda d: d["EndpointStatus"] == "InService")
    assert sorted(set(seen), reverse=True) == [(3, 1), (2, 2), (1, 3), (0, 4)]


def test_an_update_with_a_policy_that_the_emulator_ends_is_undone(tmp_path: Path) -> None:
    with hosting(tmp_path / "emulator") as emulator:
        for name in ("old", "new"):
            make_model(emulator, name, MARK=f"{name}-of-{tmp_path}")
        make_endpoint(emulator, "e", variant("old"))
        make_config(emulator, "new", variant("new"))
        sm = client(emulator, "sagemaker")
        config = policy("ALL_AT_ONCE", bake=60)
        sm.update_endpoint(EndpointName="e", EndpointConfigName="new", DeploymentConfig=config)
        until(lambda: sm.describe_endpoint(EndpointName="e"), lambda d: stage(d)["Status"] == "Baking")
        assert invoke(emulator, "e")["model"] == "new"
    assert processes(f"new-of-{tmp_path}") == []
    with hosting(tmp_path / "emulator") as emulator:
        found = settled(client(emulator, "sagemaker"), "e")
        assert (found["EndpointConfigName"], found["FailureReason"]) == ("e", "the emulator was stopped")
        assert invoke(emulator, "e")["model"] == "old"


def test_a_policy_and_properties_of_variants_are_retained_if_wanted(models: Emulator, sm: Client) -> None:
    given = policy("ALL_AT_ONCE", wait=0)
    sm.create_endpoint(EndpointName="f", EndpointConfigName="e", DeploymentConfig=given)
    assert settled(sm, "f")["LastDeploymentConfig"] == given
    weights = [{"VariantName": "AllTraffic", "DesiredWeight": 0.5, "DesiredInstanceCount": 3}]
    sm.update_endpoint_weights_and_capacities(EndpointName="f", DesiredWeightsAndCapacities=weights)
    settled(sm, "f")
    for excluded, expected in (
        ([], (0.5, 3)),
        (["DesiredWeight"], (1.0, 3)),
        (["DesiredInstanceCount"], (1.0, 4)),
    ):
        sm.update_endpoint(
            EndpointName="f",
            EndpointConfigName="new",
            RetainAllVariantProperties=True,
            ExcludeRetainedVariantProperties=[{"VariantPropertyType": name} for name in excluded],
            RetainDeploymentConfig=True,
        )
        found = settled(sm, "f")
        described = found["ProductionVariants"][0]
        assert (described["CurrentWeight"], described["CurrentInstanceCount"]) == expected
        assert found["LastDeploymentConfig"] == given


@pytest.mark.slow
def test_an_asynchronous_call_ends_on_the_old_containers(tmp_path: Path) -> None:
    with hosting(tmp_path / "emulator", response=0.2) as emulator:
        sm, s3 = client(emulator, "sagemaker"), client(emulator, "s3")
        output = {"OutputConfig": {"S3OutputPath": f"s3://{BUCKET}/out", "S3FailurePath": f"s3://{BUCKET}/failed"}}
        for name in ("old", "new"):
            make_model(emulator, name)
        make_endpoint(emulator, "e", variant("old"), AsyncInferenceConfig=output)
        make_config(emulator, "new", variant("new"), AsyncInferenceConfig=output)
        s3.put_object(Bucket=BUCKET, Key="in", Body=b"sleep 2")
        client(emulator, "sagemaker-runtime").invoke_endpoint_async(
            EndpointName="e", InputLocation=f"s3://{BUCKET}/in", Filename="answer"
        )
        time.sleep(0.5)  # the call is with the container
        sm.update_endpoint(EndpointName="e", EndpointConfigName="new")
        assert settled(sm, "e")["EndpointConfigName"] == "new"

        def written() -> list[str]:
            return [o["Key"] for o in s3.list_objects_v2(Bucket=BUCKET).get("Contents", []) if o["Key"][:3] != "in"]

        found = until(written, lambda keys: any(key.startswith(("out/", "failed/")) for key in keys))
        assert "out/answer" in found


def test_weights_and_capacities_are_shown_while_they_change(models: Emulator, sm: Client) -> None:
    wanted = [{"VariantName": "AllTraffic", "DesiredInstanceCount": 6}]
    sm.update_endpoint_weights_and_capacities(EndpointName="e", DesiredWeightsAndCapacities=wanted)
    found = settled(sm, "e")["ProductionVariants"][0]
    assert (found["CurrentInstanceCount"], found["DesiredInstanceCount"]) == (6, 6)
    serverless = {"MemorySizeInMB": 1024, "MaxConcurrency": 2}
    make_endpoint(models, "less", {"VariantName": "a", "ModelName": "old", "ServerlessConfig": serverless})
    update = [{"VariantName": "a", "ServerlessUpdateConfig": {"MaxConcurrency": 7}}]
    sm.update_endpoint_weights_and_capacities(EndpointName="less", DesiredWeightsAndCapacities=update)
    found = settled(sm, "less")["ProductionVariants"][0]
    assert found["CurrentServerlessConfig"] == {"MemorySizeInMB": 1024, "MaxConcurrency": 7}
