"""Tuning jobs of the emulator: what they propose, what they stop, and what they answer."""

import math
from typing import Any

import pytest
from botocore.exceptions import ClientError
from emulator_helpers import BUCKET, IMAGE, ROLE, Client, ended, job, log_of, until

from sagemaker_emulator.jobs.early_stopping import out_of_the_third, worse_than_median
from sagemaker_emulator.jobs.sampling import Sampler, grid, numbers
from sagemaker_emulator.server import Emulator

LR = {"Name": "lr", "MinValue": "0.001", "MaxValue": "1", "ScalingType": "Logarithmic"}
SIZE = {"Name": "size", "Values": ["8", "16"]}
BOTH = {"ContinuousParameterRanges": [LR], "CategoricalParameterRanges": [SIZE]}
SCORE = "lr = float(hyperparameters['lr']); print('loss=%.6f' % abs(lr - 0.1))"


def tuning(name: str, code: str = SCORE, *, most: int | None = 4, parallel: int = 1, **more: Client) -> dict[str, Any]:
    config = {
        "Strategy": "Random",
        "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "loss"},
        "ResourceLimits": {"MaxParallelTrainingJobs": parallel} | ({"MaxNumberOfTrainingJobs": most} if most else {}),
        "ParameterRanges": BOTH,
    }
    definition = {
        "StaticHyperParameters": {"code": code},
        "AlgorithmSpecification": {
            "TrainingImage": IMAGE,
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": "loss", "Regex": "loss=([0-9.]+)"}],
        },
        "RoleArn": ROLE,
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/out"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
    }
    return {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": config | more.pop("config", {}),
        "TrainingJobDefinition": definition | more.pop("definition", {}),
        **more,
    }


def finished(sm: Client, name: str) -> dict[str, Any]:
    return until(
        lambda: sm.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name),
        lambda d: d["HyperParameterTuningJobStatus"] in ("Completed", "Failed", "Stopped"),
        seconds=60,
    )


def jobs_of(sm: Client, name: str, **more: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sm.list_training_jobs_for_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name, **({"MaxResults": 100} | more)
    )["TrainingJobSummaries"]
    return found


@pytest.mark.slow
def test_a_random_search_finds_the_best_of_its_jobs(emulator: Emulator, sm: Client) -> None:
    code = SCORE + "; print(json.dumps(hyperparameters))"
    sm.create_hyper_parameter_tuning_job(**tuning("search", code, most=12, parallel=3))
    found = finished(sm, "search")
    assert found["HyperParameterTuningJobStatus"] == "Completed"
    assert found["TrainingJobStatusCounters"] == {
        "Completed": 12,
        "InProgress": 0,
        "RetryableError": 0,
        "NonRetryableError": 0,
        "Stopped": 0,
    }
    assert found["ObjectiveStatusCounters"] == {"Succeeded": 12, "Pending": 0, "Failed": 0}
    listed = sm.list_training_jobs_for_hyper_parameter_tuning_job(HyperParameterTuningJobName="search")
    assert (len(listed["TrainingJobSummaries"]), "NextToken" in listed) == (10, True), "AWS's page"
    jobs = jobs_of(sm, "search", SortBy="FinalObjectiveMetricValue", SortOrder="Ascending")
    values = [j["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for j in jobs]
    assert values == sorted(values)
    best = found["BestTrainingJob"]
    assert best["TrainingJobName"] == jobs[0]["TrainingJobName"]
    tuned = best["TunedHyperParameters"]
    assert set(tuned) == {"lr", "size"}
    assert 0.001 <= float(tuned["lr"]) <= 1
    assert tuned["size"] in ("8", "16")
    assert values[0] == pytest.approx(abs(float(tuned["lr"]) - 0.1), abs=1e-5)
    record = sm.describe_training_job(TrainingJobName=best["TrainingJobName"])
    assert record["TuningJobArn"] == found["HyperParameterTuningJobArn"]
    assert record["HyperParameters"] == {"code": code, **tuned, "_tuning_objective_metric": "loss"}
    assert str(record["HyperParameters"]["lr"]) in log_of(emulator, best["TrainingJobName"])[1]


def test_jobs_really_run_at_the_same_time(emulator: Emulator, sm: Client) -> None:
    code = f"""
here = Path({str(emulator.folder)!r}); mine = here / ("at-" + os.environ["TRAINING_JOB_NAME"]); mine.touch()
for _ in range(400):
    if len(list(here.glob("at-*"))) == 2: break
    time.sleep(0.05)
else: sys.exit(1)
print("loss=1")
"""
    sm.create_hyper_parameter_tuning_job(**tuning("both", code, most=2, parallel=2))
    assert finished(sm, "both")["TrainingJobStatusCounters"]["Completed"] == 2


@pytest.mark.slow
def test_the_same_seed_proposes_the_same(emulator: Emulator, sm: Client) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        config = {"Strategy": "Bayesian", "RandomSeed": seed}
        sm.create_hyper_parameter_tuning_job(**tuning(name, most=6, config=config))
    points = {n: [j["TunedHyperParameters"] for j in (finished(sm, n), jobs_of(sm, n))[1]] for n in "abc"}
    assert points["a"] == points["b"] != points["c"]


def test_a_grid_tries_every_combination(emulator: Emulator, sm: Client) -> None:
    ranges = {"CategoricalParameterRanges": [{"Name": "lr", "Values": ["0.1", "0.2", "0.3"]}, SIZE]}
    config = {"Strategy": "Grid", "ParameterRanges": ranges}
    sm.create_hyper_parameter_tuning_job(**tuning("grid", most=None, parallel=2, config=config))
    found = finished(sm, "grid")
    tried = {(j["TunedHyperParameters"]["lr"], j["TunedHyperParameters"]["size"]) for j in jobs_of(sm, "grid")}
    assert tried == {(a, b) for a in ("0.1", "0.2", "0.3") for b in ("8", "16")}
    assert found["BestTrainingJob"]["TunedHyperParameters"]["lr"] == "0.1"


@pytest.mark.slow
def test_a_warm_start_begins_near_what_its_parent_found(emulator: Emulator, sm: Client) -> None:
    ranges = {"CategoricalParameterRanges": [{"Name": "lr", "Values": ["0.1", "0.5", "0.9", "0.7"]}]}
    grid_ = {"Strategy": "Grid", "ParameterRanges": ranges}
    sm.create_hyper_parameter_tuning_job(**tuning("parent", most=None, config=grid_))
    finished(sm, "parent")
    warm = {
        "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "parent"}],
        "WarmStartType": "TransferLearning",
    }
    config = {"Strategy": "Bayesian", "RandomSeed": 1, "ParameterRanges": {"ContinuousParameterRanges": [LR]}}
    sm.create_hyper_parameter_tuning_job(**tuning("child", most=4, config=config, WarmStartConfig=warm))
    sm.create_hyper_parameter_tuning_job(**tuning("alone", most=4, config=config))
    off = [_off(finished(sm, n) and jobs_of(sm, n)) for n in ("child", "alone")]
    assert off[0] < off[1]
    gone = warm | {"ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "gone"}]}
    with pytest.raises(ClientError, match="Parent tuning job gone does not exist"):
        sm.create_hyper_parameter_tuning_job(**tuning("orphan", WarmStartConfig=gone))
    same = warm | {"WarmStartType": "IdenticalDataAndAlgorithm"}
    other = tuning("other", WarmStartConfig=same)
    other["TrainingJobDefinition"]["AlgorithmSpecification"]["TrainingImage"] += "2"
    with pytest.raises(ClientError, match="AlgorithmSpecification differs from the parent's"):
        sm.create_hyper_parameter_tuning_job(**other)


def _off(jobs: list[dict[str, Any]]) -> float:
    """How many powers of ten the jobs' rates are away from 0.1."""
    return sum(abs(math.log10(float(j["TunedHyperParameters"]["lr"])) + 1) for j in jobs)


def test_jobs_without_an_objective_count_as_failed_and_five_of_them_end_the_search(
    emulator: Emulator, sm: Client
) -> None:
    sm.create_hyper_parameter_tuning_job(**tuning("silent", "pass", most=9))
    found = finished(sm, "silent")
    assert found["HyperParameterTuningJobStatus"] == "Failed"
    assert found["FailureReason"].startswith("No training job succeeded after 5 attempts.")
    assert found["ObjectiveStatusCounters"] == {"Succeeded": 0, "Pending": 0, "Failed": 5}
    assert "BestTrainingJob" not in found


def test_early_stopping_ends_a_job_that_is_worse_than_the_median(emulator: Emulator, sm: Client) -> None:
    # the second job is bad from its first epoch on, and would run for a minute
    code = """
number = int(os.environ["TRAINING_JOB_NAME"].split("-")[1])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
for epoch in range(3 if number == 1 else 600):
    print("loss=%d" % number); time.sleep(0.1)
"""
    config = {"TrainingJobEarlyStoppingType": "Auto"}
    sm.create_hyper_parameter_tuning_job(**tuning("early", code, most=2, config=config))
    found = finished(sm, "early")
    assert [j["TrainingJobStatus"] for j in jobs_of(sm, "early")] == ["Completed", "Stopped"]
    assert found["ObjectiveStatusCounters"]["Succeeded"] == 2
    assert found["BestTrainingJob"]["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] == 1


@pytest.mark.slow
def test_hyperband_gives_the_best_third_more_epochs(emulator: Emulator, sm: Client) -> None:
    code = """
number = int(os.environ["TRAINING_JOB_NAME"].split("-")[1])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
for epoch in range(600):
    print("epoch", epoch, "loss=%d" % number); time.sleep(0.2)
"""
    config = {
        "Strategy": "Hyperband",
        "StrategyConfig": {"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": 5}},
    }
    sm.create_hyper_parameter_tuning_job(**tuning("band", code, most=3, config=config))
    assert finished(sm, "band")["HyperParameterTuningJobStatus"] == "Completed"
    jobs = jobs_of(sm, "band")
    epochs = [len(log_of(emulator, j["TrainingJobName"])) for j in jobs]
    assert epochs[0] >= 5
    assert max(epochs[1:]) < 5


@pytest.mark.slow
def test_a_search_can_be_stopped(emulator: Emulator, sm: Client) -> None:
    sm.create_hyper_parameter_tuning_job(**tuning("long", "print('loss=1'); time.sleep(600)", most=4, parallel=2))
    until(lambda: jobs_of(sm, "long"), lambda jobs: len(jobs) == 2)
    sm.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName="long")
    found = finished(sm, "long")
    assert found["HyperParameterTuningJobStatus"] == "Stopped"
    assert found["TrainingJobStatusCounters"]["Stopped"] == 2
    with pytest.raises(ClientError, match="the hyperparameter tuning job is Stopped"):
        sm.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName="long")


def test_a_search_ends_when_its_target_is_met_or_nothing_gets_better(emulator: Emulator, sm: Client) -> None:
    met = {"TuningJobCompletionCriteria": {"TargetObjectiveMetricValue": 5}}
    sm.create_hyper_parameter_tuning_job(**tuning("met", most=50, config=met))
    assert finished(sm, "met")["TrainingJobStatusCounters"]["Completed"] == 1
    criterion = {"BestObjectiveNotImproving": {"MaxNumberOfTrainingJobsNotImproving": 3}}
    same = {"TuningJobCompletionCriteria": criterion}
    sm.create_hyper_parameter_tuning_job(**tuning("same", "print('loss=1')", most=50, config=same))
    assert finished(sm, "same")["TrainingJobStatusCounters"]["Completed"] == 4


def test_tuning_jobs_are_listed(emulator: Emulator, sm: Client) -> None:
    for name in ("b", "a"):
        sm.create_hyper_parameter_tuning_job(**tuning(name, most=1))
        finished(sm, name)
    found = sm.list_hyper_parameter_tuning_jobs()["HyperParameterTuningJobSummaries"]
    assert [j["HyperParameterTuningJobName"] for j in found] == ["a", "b"]
    assert found[0]["ResourceLimits"]["MaxNumberOfTrainingJobs"] == 1
    assert found[0]["ObjectiveStatusCounters"]["Succeeded"] == 1


def test_a_tuned_job_is_like_any_other(emulator: Emulator, sm: Client) -> None:
    sm.create_training_job(**job("plain", ""))
    ended(sm, "plain")
    sm.create_hyper_parameter_tuning_job(**tuning("mixed", most=1))
    finished(sm, "mixed")
    names = [j["TrainingJobName"] for j in sm.list_training_jobs()["TrainingJobSummaries"]]
    assert names[0] == "plain"
    assert names[1].startswith("mixed-001-")


def ranges(kind: str, low: str, high: str, scale: str = "Auto") -> dict[str, Any]:
    return {
        "ParameterRanges": {
            f"{kind}ParameterRanges": [{"Name": "lr", "MinValue": low, "MaxValue": high, "ScalingType": scale}]
        }
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "x"}}, "must be among the Metric"),
        ({"Strategy": "Grid"}, "Grid search takes only CategoricalParameterRanges"),
        (
            {"Strategy": "Grid", "ParameterRanges": {"CategoricalParameterRanges": [SIZE]}},
            "must be equal to the number of combinations of the categorical values, 2",
        ),
        ({"Strategy": "Hyperband"}, "needs HyperbandStrategyConfig with 1 <= MinResource"),
        (
            {
                "Strategy": "Hyperband",
                "TrainingJobEarlyStoppingType": "Auto",
                "StrategyConfig": {"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": 5}},
            },
            "TrainingJobEarlyStoppingType must be Off",
        ),
        (ranges("Continuous", "2", "1"), "MinValue must be less than or equal to MaxValue"),
        (ranges("Integer", "1.5", "2"), "must be numbers of its kind"),
        (ranges("Continuous", "0", "1", "Logarithmic"), "only values greater than 0"),
        (ranges("Continuous", "0", "1", "ReverseLogarithmic"), "only values within 0 <= x < 1.0"),
        ({"ParameterRanges": {"CategoricalParameterRanges": [SIZE, SIZE]}}, "must be unique across"),
        (
            {"ParameterRanges": {"CategoricalParameterRanges": [{"Name": "code", "Values": ["1"]}]}},
            "must not overlap: ['code']",
        ),
        ({"ResourceLimits": {"MaxParallelTrainingJobs": 1}}, "MaxNumberOfTrainingJobs is required"),
        ({"Strategy": "Magic"}, "is none of AWS's values"),
    ],
)
def test_what_aws_refuses_of_a_search_is_refused(
    emulator: Emulator, sm: Client, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ClientError) as refused:
        sm.create_hyper_parameter_tuning_job(**tuning("refused", config=change))
    assert refused.value.response["Error"]["Code"] == "ValidationException"
    assert message in refused.value.response["Error"]["Message"]


def test_a_grid_without_end_is_refused_at_once(sm: Client) -> None:
    many = [{"Name": f"p{i}", "Values": [str(v) for v in range(30)]} for i in range(20)]
    request = tuning("endless", most=None)
    request["HyperParameterTuningJobConfig"] |= {
        "Strategy": "Grid", "ParameterRanges": {"CategoricalParameterRanges": many},
    }  # fmt: skip
    with pytest.raises(ClientError, match=f"The grid has {30**20} points"):
        sm.create_hyper_parameter_tuning_job(**request)


def test_a_search_with_a_role_that_is_not_there_is_refused(emulator: Emulator, sm: Client) -> None:
    with pytest.raises(ClientError, match="Could not assume role"):
        sm.create_hyper_parameter_tuning_job(**tuning("refused", definition={"RoleArn": ROLE + "x"}))


def test_a_search_of_too_many_hyperparameters_is_refused(emulator: Emulator, sm: Client) -> None:
    static = {f"h{i}": "1" for i in range(98)}  # with the two ranges and the objective's name, one too many
    with pytest.raises(ClientError, match="TrainingJobDefinition: HyperParameters: 101 entries, at most 100"):
        sm.create_hyper_parameter_tuning_job(**tuning("many", definition={"StaticHyperParameters": static}))


@pytest.mark.parametrize(
    ("given", "at_half"),
    [
        ({"MinValue": "0", "MaxValue": "1", "ScalingType": "Linear"}, 0.5),
        ({"MinValue": "0.01", "MaxValue": "1", "ScalingType": "Logarithmic"}, 0.1),
        ({"MinValue": "0", "MaxValue": "0.99", "ScalingType": "ReverseLogarithmic"}, 0.9),
        ({"MinValue": "0.0001", "MaxValue": "1", "ScalingType": "Auto"}, 0.01),
        ({"MinValue": "1", "MaxValue": "3"}, 2),
    ],
)
def test_scales_are_used(given: dict[str, str], at_half: float) -> None:
    found = numbers({"ContinuousParameterRanges": [{"Name": "x", **given}]})["x"]
    assert float(found.at(0.5)) == pytest.approx(at_half)
    assert found.share(found.at(0.3)) == pytest.approx(0.3)
    assert (float(found.at(0)), float(found.at(1))) == pytest.approx(
        (float(given["MinValue"]), float(given["MaxValue"]))
    )


def test_whole_numbers_are_as_likely_at_the_ends() -> None:
    sampler = Sampler(
        {"IntegerParameterRanges": [{"Name": "n", "MinValue": "1", "MaxValue": "4"}]}, seed=0, guided=False
    )
    drawn = [sampler.propose([])["n"] for _ in range(4000)]
    assert all(900 < drawn.count(n) < 1100 for n in ("1", "2", "3", "4"))


def test_a_guided_search_comes_near_the_optimum() -> None:
    found = {"ContinuousParameterRanges": [LR]}

    def error(guided: bool, seed: int) -> float:
        sampler, known = Sampler(found, seed, guided=guided), []
        for _ in range(25):
            point = sampler.propose(known)
            known.append((point, abs(float(point["lr"]) - 0.1)))
        return sum(value for _, value in known[10:])

    assert sum(error(True, s) for s in range(20)) < 0.5 * sum(error(False, s) for s in range(20))


def test_a_grid_of_nothing_is_one_point() -> None:
    assert grid({}) == [{}]


def test_the_median_rule_is_aws_s() -> None:
    earlier = [[1.0, 1.0, 1.0], [2.0, 2.0], [3.0, 5.0, 7.0]]  # running averages at epoch 2: 1, 2, 4
    assert worse_than_median([9.0, 2.1], earlier)
    assert not worse_than_median([9.0, 2.0], earlier)
    assert not worse_than_median([9.0, 9.0, 9.0, 9.0], earlier), "no job came so far"


def test_thirds_are_compared_at_the_same_epoch() -> None:
    series = {"a": [1.0], "b": [2.0], "c": [3.0], "d": [0.5, 9.0, 9.0]}
    assert [out_of_the_third(n, series, 1, 9) for n in "abcd"] == [False, True, True, False]
    assert not out_of_the_third("x", {"x": [5.0, 5.0]}, 1, 9), "no rung at 2"
    assert out_of_the_third("x", {"x": [5.0, 5.0]}, 1, 2), "MaxResource is the end"


def test_several_definitions_are_searched_side_by_side(sm: Client) -> None:
    request = tuning("two", most=4, parallel=2)
    config, definition = request["HyperParameterTuningJobConfig"], request.pop("TrainingJobDefinition")
    objective, ranges = config.pop("HyperParameterTuningJobObjective"), config.pop("ParameterRanges")
    far = {"ContinuousParameterRanges": [{"Name": "lr", "MinValue": "5", "MaxValue": "9"}]}
    definitions = [
        definition | {"DefinitionName": name, "TuningObjective": objective, "HyperParameterRanges": own}
        for name, own in (("near", ranges), ("far", far))
    ]
    with pytest.raises(ClientError, match="needs a DefinitionName of its own"):
        sm.create_hyper_parameter_tuning_job(**request, TrainingJobDefinitions=[definitions[0]] * 2)
    both = request | {"HyperParameterTuningJobConfig": config | {"ParameterRanges": ranges}}
    with pytest.raises(ClientError, match="give HyperParameterRanges and TuningObjective in each of them"):
        sm.create_hyper_parameter_tuning_job(**both, TrainingJobDefinitions=definitions)
    sm.create_hyper_parameter_tuning_job(**request, TrainingJobDefinitions=definitions)
    described = finished(sm, "two")
    assert described["HyperParameterTuningJobStatus"] == "Completed"
    jobs = jobs_of(sm, "two")
    assert sorted(j["TrainingJobDefinitionName"] for j in jobs) == ["far", "far", "near", "near"]
    assert all((float(j["TunedHyperParameters"]["lr"]) >= 5) == (j["TrainingJobDefinitionName"] == "far") for j in jobs)
    assert described["BestTrainingJob"]["TrainingJobDefinitionName"] == "near"
    assert [d["DefinitionName"] for d in described["TrainingJobDefinitions"]] == ["near", "far"]
