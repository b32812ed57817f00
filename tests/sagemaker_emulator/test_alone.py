"""The emulator without Sagehound: in a process in which importing it fails, and from the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from emulator_helpers import BUCKET, ROLE

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("sagehound", "sagehound_launchers", "torch", "hydra", "omegaconf"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
"""
JOB = f"""
import sys, time, boto3
url, name = sys.argv[1:]
keys = dict(endpoint_url=url, region_name="us-west-2", aws_access_key_id="x", aws_secret_access_key="x")
s3, sm = boto3.client("s3", **keys), boto3.client("sagemaker", **keys)
s3.create_bucket(Bucket="{BUCKET}", CreateBucketConfiguration={{"LocationConstraint": "us-west-2"}})
s3.put_object(Bucket="{BUCKET}", Key="in/a.txt", Body=b"hello")
source = {{"S3DataType": "S3Prefix", "S3Uri": "s3://{BUCKET}/in"}}
sm.create_training_job(
    TrainingJobName=name, RoleArn="{ROLE}",
    AlgorithmSpecification={{"TrainingImage": "mine:1", "TrainingInputMode": "File"}},
    InputDataConfig=[{{"ChannelName": "words", "DataSource": {{"S3DataSource": source}}}}],
    OutputDataConfig={{"S3OutputPath": "s3://{BUCKET}/out"}},
    ResourceConfig={{"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1}},
    StoppingCondition={{"MaxRuntimeInSeconds": 60}},
    DebugHookConfig={{"S3OutputPath": "s3://{BUCKET}/debug"}},
    DebugRuleConfigurations=[{{"RuleConfigurationName": "Overfit", "RuleEvaluatorImage": "rules"}}],
)
sm.get_waiter("training_job_completed_or_stopped").wait(
    TrainingJobName=name, WaiterConfig={{"Delay": 1, "MaxAttempts": 60}}
)
job = sm.describe_training_job(TrainingJobName=name)
print(job["TrainingJobStatus"], job.get("FailureReason", ""))
print(job["DebugRuleEvaluationStatuses"][0]["RuleEvaluationStatus"])
print(s3.get_object(Bucket="{BUCKET}", Key=f"out/{{name}}/output/model.tar.gz")["ContentLength"] > 0)
"""


def image(folder: Path) -> Path:
    """An environment with a program called train, as an image of the user's has it."""
    program = folder / "bin/train"
    program.parent.mkdir(parents=True)
    program.write_text(
        "#!/bin/sh\nset -e\ncp $SAGEMAKER_EMULATOR_OPT_ML/input/data/words/a.txt $SAGEMAKER_EMULATOR_OPT_ML/model/\n"
    )
    program.chmod(0o755)
    return folder


@pytest.mark.slow
def test_a_job_runs_in_a_process_that_cannot_import_sagehound(tmp_path: Path) -> None:
    program = image(tmp_path / "mine") / "bin/train"
    code = f"""{BLOCK}
from pathlib import Path
from sagemaker_emulator.server import Emulator
from sagemaker_emulator.settings import Settings
with Emulator(Path("state"), settings=Settings(images={{"^mine:": {{"train": [{str(program)!r}]}}}})) as emulator:
    sys.argv[1:] = [emulator.url, "alone"]
    exec({JOB!r})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.returncode) == (["Completed", "Stopped", "True"], 0), done.stderr


@pytest.mark.slow
def test_the_command_runs_an_environments_train_for_an_image(tmp_path: Path) -> None:
    folder = image(tmp_path / "mine")
    start = f"{BLOCK}\nfrom sagemaker_emulator.__main__ import main\nmain()"
    process = subprocess.Popen(
        [sys.executable, "-c", start, "--folder", "state", "--image", f"^mine:={folder}"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1].rstrip(",")
        done = subprocess.run(
            [sys.executable, "-c", JOB, url, "command"], capture_output=True, text=True, check=False, env=os.environ
        )
        assert done.stdout.split() == ["Completed", "Stopped", "True"], done.stderr
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
def test_an_image_that_nothing_is_known_about_is_refused_with_the_option(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from sagemaker_emulator.server import Emulator
with Emulator(Path("state")) as emulator:
    import sys
    sys.argv[1:] = [emulator.url, "unknown"]
    exec({JOB!r})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no command to train with the image mine:1: start it with --image 'REGEX=FOLDER'" in done.stderr
