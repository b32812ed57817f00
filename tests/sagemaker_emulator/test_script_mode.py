"""Script mode: requests as SageMaker's SDKs write them run the user's script, to train and to serve."""

import importlib
import io
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError
from emulator_helpers import BUCKET, ROLE, Client, archive, channel, client, content, ended, job, log_of, members, until

from sagemaker_emulator.processes import namespaces
from sagemaker_emulator.server import Emulator
from sagemaker_emulator.settings import Settings

TRAINING = "763104351884.dkr.ecr.us-west-2.amazonaws.com/pytorch-training:2.6.0-cpu-py312"
INFERENCE = "763104351884.dkr.ecr.us-west-2.amazonaws.com/pytorch-inference:2.6.0-cpu-py312"
# as AWS's samples have it: argparse, SM_* and literal paths
SCRIPT = """
import argparse, json, os

parser = argparse.ArgumentParser()
parser.add_argument("--batch-size", type=int, default=1)
parser.add_argument("--lr", type=float)
parser.add_argument("--backbone", type=str)
parser.add_argument("--model-dir", type=str, default=os.environ["SM_MODEL_DIR"])
parser.add_argument("--data-dir", type=str, default=os.environ["SM_CHANNEL_TRAINING"])
args = parser.parse_args()
import helper
with open(os.path.join(args.model_dir, "model.json"), "w") as file:
    json.dump({"args": vars(args), "photos": sorted(os.listdir(args.data_dir)), "helper": helper.NAME,
               "env": {k: v for k, v in os.environ.items() if k.startswith("SM_")}, "cwd": os.getcwd()}, file)
print("valid loss: 0.25")
"""
DUMP = "import json, os; json.dump(dict(os.environ), open(os.environ['SM_MODEL_DIR'] + '/env.json', 'w'))"
INFER = """
import json, os

def model_fn(model_dir):
    with open(os.path.join(model_dir, "weights.json")) as file:
        return json.load(file)

def input_fn(body, content_type):
    if content_type != "application/json":
        raise ValueError("only JSON, not " + content_type)
    return json.loads(body)["x"]

def predict_fn(data, model):
    return [model["w"] * v for v in data]

def output_fn(prediction, accept):
    return json.dumps({"y": prediction, "accept": accept})
"""


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    python = {"python": [sys.executable]}
    settings = Settings(images={"pytorch-(training|inference)": python}, grace=2.0, sync=0.1)
    with Emulator(tmp_path / "emulator", settings=settings) as running:
        client(running, "s3").create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"}
        )
        yield running


def estimator(s3: Client, name: str, files: dict[str, str], program: str = "train.py", **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """The request of an estimator of SDK 2, whose hyperparameters are JSON."""
    s3.put_object(Bucket=BUCKET, Key=f"{name}/source/sourcedir.tar.gz", Body=archive(files))
    s3.put_object(Bucket=BUCKET, Key="photos/a.jpg", Body=b"x")
    values = {
        "sagemaker_program": program,
        "sagemaker_submit_directory": f"s3://{BUCKET}/{name}/source/sourcedir.tar.gz",
        "sagemaker_container_log_level": 20,
        "sagemaker_job_name": name,
        "sagemaker_region": "us-west-2",
        **more.pop("values", {"batch-size": 64, "lr": 0.001, "backbone": "resnet18"}),
    }
    request = job(
        name,
        "",
        InputDataConfig=[channel("training", f"s3://{BUCKET}/photos/")],
        algorithm={
            "TrainingImage": TRAINING,
            "MetricDefinitions": [{"Name": "valid:loss", "Regex": "valid loss: ([0-9.]+)"}],
        },
        **more,
    )
    request["HyperParameters"] = {name: json.dumps(value) for name, value in values.items()}
    return request


def test_a_script_gets_arguments_and_variables(emulator: Emulator, sm: Client, s3: Client) -> None:
    files = {"train.py": SCRIPT, "helper.py": "NAME = 'beside it'"}
    sm.create_training_job(**estimator(s3, "script", files))
    found = ended(sm, "script")
    assert found["TrainingJobStatus"] == "Completed", log_of(emulator, "script")
    assert found["FinalMetricDataList"][0]["Value"] == 0.25
    left = json.loads(members(content(s3, "out/script/output/model.tar.gz"))["model.json"])
    assert {k: left["args"][k] for k in ("batch_size", "lr", "backbone")} == {
        "batch_size": 64,
        "lr": 0.001,
        "backbone": "resnet18",
    }
    assert left["photos"] == ["a.jpg"]
    assert left["helper"] == "beside it"
    assert left["cwd"].endswith("ml/code")
    variables = left["env"]
    assert json.loads(variables["SM_HPS"]) == {"batch-size": 64, "lr": 0.001, "backbone": "resnet18"}
    assert variables["SM_HP_LR"] == "0.001"
    assert variables["SM_HP_BACKBONE"] == "resnet18"
    assert json.loads(variables["SM_USER_ARGS"]) == ["--backbone", "resnet18", "--batch-size", "64", "--lr", "0.001"]
    assert json.loads(variables["SM_HOSTS"]) == [variables["SM_CURRENT_HOST"]]
    assert json.loads(variables["SM_CHANNELS"]) == ["training"]
    assert int(variables["SM_NUM_CPUS"]) >= 1
    assert int(variables["SM_NUM_GPUS"]) >= 0
    assert variables["SM_OUTPUT_DATA_DIR"].endswith("ml/output/data")
    assert variables["SM_USER_ENTRY_POINT"] == "train.py"


def test_the_variables_are_those_of_the_training_toolkit(sm: Client, s3: Client) -> None:
    """Names and contents as sagemaker-training 5.1 sets them."""
    given = {"layers": [2, 3], "note": None, "sagemaker_torch_distributed_enabled": False}
    sm.create_training_job(**estimator(s3, "env", {"sub/train.py": DUMP}, "sub/train.py", values=given))
    assert ended(sm, "env")["TrainingJobStatus"] == "Completed"
    left = json.loads(members(content(s3, "out/env/output/model.tar.gz"))["env.json"])
    host = left["SM_CURRENT_HOST"]
    group = {"instance_group_name": "homogeneousCluster", "instance_type": "ml.m5.large", "hosts": [host]}
    expected = {
        "SM_CURRENT_INSTANCE_GROUP": "homogeneousCluster",
        "SM_CURRENT_INSTANCE_GROUP_HOSTS": [host],
        "SM_INSTANCE_GROUPS": ["homogeneousCluster"],
        "SM_INSTANCE_GROUPS_DICT": {"homogeneousCluster": group},
        "SM_DISTRIBUTION_INSTANCE_GROUPS": [],
        "SM_IS_HETERO": False,
        "SM_FRAMEWORK_MODULE": "",
        "SM_FRAMEWORK_PARAMS": {"sagemaker_torch_distributed_enabled": False},
        "SM_MODULE_NAME": "sub/train",
        "SM_USER_ENTRY_POINT": "sub/train.py",
        "SM_HPS": {"layers": [2, 3], "note": None},
        "SM_HP_LAYERS": [2, 3],
        "SM_HP_NOTE": "",
        "SM_USER_ARGS": ["--layers", "[2, 3]", "--note", ""],
        "SM_LOG_LEVEL": 20,
        "SAGEMAKER_JOB_NAME": "env",
        "SAGEMAKER_REGION": "us-west-2",
        "CURRENT_HOST": host,
    }
    assert {name: decoded(left[name]) for name in expected} == expected
    assert left["SM_INSTANCE_GROUPS"] == '["homogeneousCluster"]', "without spaces"
    training = json.loads(left["SM_TRAINING_ENV"])
    assert {name: training[name] for name in ("job_name", "is_master", "master_hostname", "is_hetero")} == {
        "job_name": "env",
        "is_master": True,
        "master_hostname": host,
        "is_hetero": False,
    }
    assert list(training["channel_input_dirs"]) == ["training"]
    assert training["additional_framework_parameters"] == {"sagemaker_torch_distributed_enabled": False}


def decoded(text: str) -> Any:  # noqa: ANN401 - JSON's
    try:
        return json.loads(text)
    except ValueError:
        return text


def test_a_shell_script_and_a_failing_one(emulator: Emulator, sm: Client, s3: Client) -> None:
    sm.create_training_job(**estimator(s3, "shell", {"go.sh": 'echo "got $@"'}, "go.sh", values={"k": "v w"}))
    assert ended(sm, "shell")["TrainingJobStatus"] == "Completed"
    assert "got -k v w" in log_of(emulator, "shell")
    broken = {"train.py": "import sys\nraise ValueError('no photos in here')"}
    sm.create_training_job(**estimator(s3, "bad", broken))
    reason = ended(sm, "bad")["FailureReason"]
    assert reason.startswith("AlgorithmError: ExecuteUserScriptError:\nExitCode 1\nErrorMessage ")
    assert "ValueError: no photos in here" in reason
    assert "train.py --backbone resnet18" in reason


@pytest.mark.parametrize(
    ("values", "files", "reason"),
    [
        ({}, {"other.py": ""}, "holds no train.py"),
        ({"sagemaker_submit_directory": f"s3://{BUCKET}/none.tar.gz"}, {"train.py": ""}, "none.tar.gz: HTTP Error 404"),
        ({"sagemaker_mpi_enabled": True}, {"train.py": ""}, "torch_distributed is"),
        ({"sagemaker_program": ""}, {"train.py": ""}, "the job names no script"),
    ],
)
def test_what_cannot_be_run_is_named(
    sm: Client, s3: Client, values: dict[str, Any], files: dict[str, str], reason: str
) -> None:
    sm.create_training_job(**estimator(s3, "wrong", files, values=values))
    assert reason in ended(sm, "wrong")["FailureReason"]


@pytest.mark.slow
def test_torchrun(emulator: Emulator, sm: Client, s3: Client) -> None:
    code = """
import torch.distributed as dist
dist.init_process_group("gloo")
print("rank", dist.get_rank(), "of", dist.get_world_size(), flush=True)
"""
    request = estimator(s3, "two", {"train.py": code}, values={"sagemaker_torch_distributed_enabled": True})
    request["ResourceConfig"]["InstanceCount"] = 2
    sm.create_training_job(**request)
    found = until(lambda: sm.describe_training_job(TrainingJobName="two"), lambda d: "TrainingEndTime" in d, 90)
    assert found["TrainingJobStatus"] == "Completed", log_of(emulator, "two")
    assert {line for line in log_of(emulator, "two") if line.startswith("rank")} == {"rank 0 of 2", "rank 1 of 2"}


def test_an_unknown_image_is_refused_with_a_hint(sm: Client, s3: Client) -> None:
    request = estimator(s3, "unknown", {"train.py": SCRIPT})
    request["AlgorithmSpecification"]["TrainingImage"] = TRAINING.replace("pytorch", "tensorflow")
    with pytest.raises(ClientError, match=r"--image 'REGEX=FOLDER', where FOLDER is a Python environment"):
        sm.create_training_job(**request)


def deploy(sm: Client, name: str, container: dict[str, Any], state: str = "InService") -> None:
    sm.create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer=container)
    variant = {"VariantName": "all", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sm.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sm.create_endpoint(EndpointName=name, EndpointConfigName=name)
    described = until(
        lambda: sm.describe_endpoint(EndpointName=name), lambda d: d["EndpointStatus"] in ("InService", "Failed")
    )
    assert described["EndpointStatus"] == state, described


def model_data(s3: Client, key: str, weight: int, script: str = INFER) -> str:
    files = {"weights.json": json.dumps({"w": weight}), "code/inference.py": script}
    s3.put_object(Bucket=BUCKET, Key=key, Body=archive(files))
    return f"s3://{BUCKET}/{key}"


def test_a_scripts_handlers_are_served(emulator: Emulator, sm: Client, s3: Client) -> None:
    environment = {"SAGEMAKER_PROGRAM": "inference.py", "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code"}
    container = {"Image": INFERENCE, "ModelDataUrl": model_data(s3, "m.tar.gz", 3), "Environment": environment}
    deploy(sm, "served", container)
    runtime = client(emulator, "sagemaker-runtime")
    given = {"EndpointName": "served", "Accept": "application/json"}
    said = runtime.invoke_endpoint(Body=b'{"x": [1, 2]}', ContentType="application/json", **given)
    assert json.loads(said["Body"].read()) == {"y": [3, 6], "accept": "application/json"}
    with pytest.raises(ClientError, match="only JSON, not text/csv"):
        runtime.invoke_endpoint(Body=b"1,2", ContentType="text/csv", **given)
    assert json.loads(
        runtime.invoke_endpoint(Body=b'{"x": [5]}', ContentType="application/json", **given)["Body"].read()
    )


DOUBLE = "class Double:\n    def predict(self, x):\n        return x * 2\n\ndef model_fn(_):\n    return Double()"
LINEAR = """
import torch

def model_fn(model_dir):
    model = torch.nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.zero_()
    return model
"""


def npy(values: list[Any], kind: str) -> bytes:
    content = io.BytesIO()
    np.save(content, np.array(values, kind))
    return content.getvalue()


def call(emulator: Emulator, name: str, body: bytes, content_type: str, accept: str) -> tuple[bytes, str]:
    runtime = client(emulator, "sagemaker-runtime")
    said = runtime.invoke_endpoint(EndpointName=name, Body=body, ContentType=content_type, Accept=accept)
    return said["Body"].read(), said["ContentType"]


def test_the_default_handlers_read_and_write_arrays(emulator: Emulator, sm: Client, s3: Client) -> None:
    """As in AWS's image of scikit-learn: numbers of JSON and CSV are float32, those of NumPy's format keep theirs."""
    deploy(sm, "defaults", {"Image": INFERENCE, "ModelDataUrl": model_data(s3, "d.tar.gz", 1, DOUBLE)})
    one = (b"[[1, 2]]", "application/json")
    for body, kind, accept, expected in (
        (*one, "application/json", b"[[2.0, 4.0]]"),
        (b"1,2", "text/csv", "text/csv", b"2.0\n4.0\n"),
        (*one, "text/csv", b"2.0,4.0\n"),
        (npy([[1, 2]], "int64"), "application/x-npy", "application/json", b"[[2, 4]]"),
        (*one, "application/x-npy", npy([[2, 4]], "float32")),
    ):
        assert call(emulator, "defaults", body, kind, accept) == (expected, accept)
    accepted = "image/png, text/csv,application/json"  # the first that can be written
    assert call(emulator, "defaults", *one, accepted) == (b"2.0,4.0\n", "text/csv")
    for body, kind, accept, problem in (
        (b"x", "image/jpeg", "application/json", "the default input_fn reads application/json, text/csv"),
        (b"[1]", "application/json; charset=utf-8", "application/json", "the default input_fn reads"),
        (*one, "text/csv;q=0.5", "the default output_fn writes application/json, text/csv"),
        (b"1,2.5", "text/csv", "text/csv", "TypeError"),  # columns of different types
    ):
        with pytest.raises(ClientError, match=problem):
            call(emulator, "defaults", body, kind, accept)


@pytest.mark.slow
def test_a_module_of_torch_gets_floats(emulator: Emulator, sm: Client, s3: Client) -> None:
    """As in AWS's image of PyTorch; NumPy's float64 become doubles, which such a model refuses."""
    deploy(sm, "linear", {"Image": INFERENCE, "ModelDataUrl": model_data(s3, "l.tar.gz", 1, LINEAR)})
    accept = "application/json"
    for body, kind in (
        (b"[[1, 2]]", "application/json"),
        (b"[[1.0, 2.0]]", "application/json"),
        (b"1,2\n", "text/csv"),
        (npy([[1, 2]], "float32"), "application/x-npy"),
    ):
        content = call(emulator, "linear", body, kind, accept)[0]
        assert json.loads(content) in ([[3.0]], [3.0]), kind
    assert call(emulator, "linear", b"[[1, 2]]", accept, "application/x-npy")[0] == npy([[3.0]], "float64")
    with pytest.raises(ClientError, match="Double"):
        call(emulator, "linear", npy([[1, 2]], "float64"), "application/x-npy", accept)


def test_a_transform_function_replaces_the_others(emulator: Emulator, sm: Client, s3: Client) -> None:
    script = "def model_fn(_):\n    return 1\n\ndef transform_fn(model, body, content_type, accept):\n"
    script += "    return type(body).__name__, 'text/plain'\n"
    deploy(sm, "transform", {"Image": INFERENCE, "ModelDataUrl": model_data(s3, "t.tar.gz", 1, script)})
    for kind, expected in (("application/json", b"str"), ("text/csv", b"str"), ("text/plain", b"bytes")):
        assert call(emulator, "transform", b"four", kind, "*/*") == (expected, "text/plain")


def test_a_transform_function_beside_the_others_is_refused(emulator: Emulator, sm: Client, s3: Client) -> None:
    script = INFER + "\ndef transform_fn(model, body, content_type, accept):\n    return 'a'\n"
    deploy(sm, "both", {"Image": INFERENCE, "ModelDataUrl": model_data(s3, "b.tar.gz", 1, script)}, "Failed")
    lines = log_of(emulator, "all", "/aws/sagemaker/Endpoints/both")
    assert any("transform_fn beside input_fn" in line for line in lines), lines


def test_a_model_without_a_script_fails_and_says_why(emulator: Emulator, sm: Client, s3: Client) -> None:
    s3.put_object(Bucket=BUCKET, Key="n.tar.gz", Body=archive({"weights.json": "{}"}))
    deploy(sm, "none", {"Image": INFERENCE, "ModelDataUrl": f"s3://{BUCKET}/n.tar.gz"}, "Failed")
    lines = log_of(emulator, "all", "/aws/sagemaker/Endpoints/none")
    assert any("model.tar.gz must hold code/inference.py" in line for line in lines), lines


def test_several_models_behind_one_endpoint(emulator: Emulator, sm: Client, s3: Client) -> None:
    for name, weight in (("a", 2), ("b", 5)):
        model_data(s3, f"many/{name}.tar.gz", weight)
    deploy(sm, "many", {"Image": INFERENCE, "Mode": "MultiModel", "ModelDataUrl": f"s3://{BUCKET}/many/"})
    runtime = client(emulator, "sagemaker-runtime")
    for name, expected in (("a", 2), ("b", 5), ("a", 2)):
        said = runtime.invoke_endpoint(
            EndpointName="many", TargetModel=f"{name}.tar.gz", Body=b'{"x": [1]}', ContentType="application/json"
        )
        assert json.loads(said["Body"].read())["y"] == [expected]


@pytest.mark.slow
def test_requirements_are_installed_beside_the_environment(emulator: Emulator, sm: Client, s3: Client) -> None:
    """What the environment has is not installed again; the rest does not change the environment."""
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("own_jokes.py", "JOKE = 'knock knock'")
        file.writestr("own_jokes-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: own-jokes\nVersion: 1.0\n")
        file.writestr("own_jokes-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("own_jokes-1.0.dist-info/RECORD", "")
    s3.put_object(Bucket=BUCKET, Key="photos/own_jokes-1.0-py3-none-any.whl", Body=wheel.getvalue())
    files = {"train.py": "import own_jokes, numpy; print(own_jokes.JOKE)"}
    request = estimator(s3, "needs", files, values={})
    request["InputDataConfig"] = [channel("wheels", f"s3://{BUCKET}/photos/")]
    folder = "/opt/ml/input/data/wheels" if not namespaces.refusal() else "../input/data/wheels"
    needs = f"--no-index\nnumpy\n{folder}/own_jokes-1.0-py3-none-any.whl\n"
    s3.put_object(
        Bucket=BUCKET,
        Key="needs/source/sourcedir.tar.gz",
        Body=archive(files | {"requirements.txt": needs}),
    )
    sm.create_training_job(**request)
    found = until(lambda: sm.describe_training_job(TrainingJobName="needs"), lambda d: "TrainingEndTime" in d, 120)
    assert found["TrainingJobStatus"] == "Completed", found.get("FailureReason")
    assert {"installing own-jokes", "knock knock"} <= set(log_of(emulator, "needs"))
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("own_jokes")


@pytest.mark.slow
def test_requirements_that_are_not_available_are_named(sm: Client, s3: Client) -> None:
    files = {"train.py": "", "requirements.txt": "--no-index\nno-such-package\n"}
    sm.create_training_job(**estimator(s3, "needs", files, values={}))
    found = until(lambda: sm.describe_training_job(TrainingJobName="needs"), lambda d: "TrainingEndTime" in d, 120)
    reason = found["FailureReason"]
    assert reason.startswith("AlgorithmError: ConfigurationError: requirements.txt cannot be installed: ")
    assert "no-such-package" in reason
