"""A public-style program after the documentation of SageMaker's Python SDK 3: python sdk3.py FOLDER

It knows nothing of an emulator. FOLDER holds source/train.py, source/inference.py and photos.
"""

import json
import sys
from pathlib import Path

from sagemaker.core.helper.session_helper import Session, get_execution_role
from sagemaker.core.parameter import CategoricalParameter, ContinuousParameter, IntegerParameter
from sagemaker.core.processing import ScriptProcessor
from sagemaker.core.remote_function import remote
from sagemaker.core.resources import (
    Endpoint,
    EndpointConfig,
    HyperParameterTuningJob,
    Model,
    TrainingJob,
    TransformJob,
)
from sagemaker.core.shapes import (
    ContainerDefinition,
    ProcessingInput,
    ProcessingOutput,
    ProcessingS3Input,
    ProcessingS3Output,
    ProductionVariant,
    TransformDataSource,
    TransformInput,
    TransformOutput,
    TransformResources,
    TransformS3DataSource,
)
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, SourceCode, StoppingCondition
from sagemaker.train.tuner import HyperparameterTuner

folder = Path(sys.argv[1])
session = Session()
bucket = session.default_bucket()
role = get_execution_role(session)
print("role", role, "bucket", bucket)
photos = session.upload_data(str(folder / "photos"), bucket=bucket, key_prefix="photos")
image = "763104351884.dkr.ecr.us-west-2.amazonaws.com/pytorch-training:2.6.0-cpu-py312"


def trainer(**hyperparameters):
    return ModelTrainer(
        training_image=image,
        source_code=SourceCode(source_dir=str(folder / "source"), entry_script="train.py"),
        compute=Compute(instance_type="ml.m5.large", instance_count=1),
        stopping_condition=StoppingCondition(max_runtime_in_seconds=600),
        hyperparameters=hyperparameters,
        base_job_name="dogs",
        role=role,
    )


def done(what):
    print("done:", what, flush=True)


# training
first = trainer(lr=0.01, batch_size=16, depth=2)
first.train(input_data_config=[InputData(channel_name="training", data_source=photos)], wait=True)
job = TrainingJob.get(first._latest_training_job.training_job_name)
assert job.training_job_status == "Completed"
artifact = job.model_artifacts.s3_model_artifacts
assert job.training_job_name in [one.training_job_name for one in TrainingJob.get_all()]
done("training")

# tuning
tuner = HyperparameterTuner(
    trainer(lr=0.01, batch_size=16, depth=1, epochs=1),
    "average test loss",
    {
        "lr": ContinuousParameter(0.001, 0.1),
        "batch_size": CategoricalParameter([16, 32]),
        "depth": IntegerParameter(1, 3),
    },
    [{"Name": "average test loss", "Regex": "Test set: Average loss: ([0-9.]+)"}],
    strategy="Random",
    objective_type="Minimize",
    max_jobs=3,
    max_parallel_jobs=2,
)
tuner.tune(inputs=[InputData(channel_name="training", data_source=photos)], wait=True)
tuning = HyperParameterTuningJob.get(tuner.latest_tuning_job.hyper_parameter_tuning_job_name)
assert tuning.hyper_parameter_tuning_job_status == "Completed"
print("best", tuning.best_training_job.tuned_hyper_parameters)
done("tuning")


# a function of one's own as a job
@remote(
    instance_type="ml.m5.large",
    image_uri=image,
    role=role,
    keep_alive_period_in_seconds=0,
    s3_root_uri=f"s3://{bucket}/remote",
)
def add(a, b):
    return a + b


if "--no-remote" not in sys.argv:
    assert add(2, 3) == 5
    done("remote function")

# an endpoint
environment = {
    "SAGEMAKER_PROGRAM": "inference.py",
    "SAGEMAKER_SUBMIT_DIRECTORY": f"s3://{bucket}/code/sourcedir.tar.gz",
}
import tarfile

with tarfile.open(folder / "sourcedir.tar.gz", "w:gz") as tar:
    tar.add(folder / "source", ".")
session.upload_data(str(folder / "sourcedir.tar.gz"), bucket=bucket, key_prefix="code")
name = job.training_job_name
container = ContainerDefinition(
    image=image.replace("training", "inference"), model_data_url=artifact, environment=environment
)
model = Model.create(model_name=name, primary_container=container, execution_role_arn=role)
config = EndpointConfig.create(
    endpoint_config_name=name,
    production_variants=[
        ProductionVariant(variant_name="all", model_name=name, instance_type="ml.m5.large", initial_instance_count=1)
    ],
)
endpoint = Endpoint.create(endpoint_name=name, endpoint_config_name=name)
endpoint.wait_for_status("InService", poll=1)
answer = endpoint.invoke(body=json.dumps([[1.0, 2.0]]), content_type="application/json", accept="application/json")
assert json.loads(answer.body.read())["labels"] == [1]
done("endpoint")

# batch transform
session.upload_string_as_file_body("\n".join(["[[1.0, 2.0]]"] * 3), bucket, "rows/input.jsonl")
transform = TransformJob.create(
    transform_job_name=name,
    model_name=name,
    transform_input=TransformInput(
        data_source=TransformDataSource(
            s3_data_source=TransformS3DataSource(s3_data_type="S3Prefix", s3_uri=f"s3://{bucket}/rows/")
        ),
        content_type="application/json",
        split_type="Line",
    ),
    transform_output=TransformOutput(s3_output_path=f"s3://{bucket}/transformed", assemble_with="Line"),
    transform_resources=TransformResources(instance_type="ml.m5.large", instance_count=1),
    batch_strategy="SingleRecord",
)
transform.wait(poll=1)
assert len(session.read_s3_file(bucket, "transformed/input.jsonl.out").splitlines()) == 3
done("batch transform")
endpoint.delete()
config.delete()
model.delete()

# processing
processor = ScriptProcessor(
    image_uri=image, command=["python3"], role=role, instance_count=1, instance_type="ml.m5.large"
)
processor.run(
    code=str(folder / "source" / "process.py"),
    inputs=[
        ProcessingInput(
            input_name="photos",
            s3_input=ProcessingS3Input(
                s3_uri=photos,
                s3_data_type="S3Prefix",
                s3_input_mode="File",
                local_path="/opt/ml/processing/photos",
            ),
        )
    ],
    outputs=[
        ProcessingOutput(
            output_name="out",
            s3_output=ProcessingS3Output(
                s3_uri=f"s3://{bucket}/counted", local_path="/opt/ml/processing/output", s3_upload_mode="EndOfJob"
            ),
        )
    ],
    arguments=["--count", "1"],
)
assert session.read_s3_file(bucket, "counted/count.txt") == "2"
done("processing")
