"""A seven-step pipeline after the documentation of SageMaker's Python SDK 3: python pipeline3.py FOLDER

It knows nothing of an emulator. FOLDER holds source/train.py, source/inference.py, source/process.py and photos.
"""

import json
import sys
import time
from pathlib import Path

from sagemaker.core.helper.session_helper import Session, get_execution_role
from sagemaker.core.parameter import ContinuousParameter
from sagemaker.core.processing import ScriptProcessor
from sagemaker.core.shapes import ProcessingInput, ProcessingOutput, ProcessingS3Input, ProcessingS3Output
from sagemaker.core.transformer import Transformer
from sagemaker.core.workflow.conditions import ConditionGreaterThanOrEqualTo
from sagemaker.core.workflow.functions import Join, JsonGet
from sagemaker.core.workflow.parameters import ParameterFloat, ParameterInteger, ParameterString
from sagemaker.core.workflow.pipeline_context import PipelineSession
from sagemaker.core.workflow.properties import PropertyFile
from sagemaker.mlops.workflow.condition_step import ConditionStep
from sagemaker.mlops.workflow.fail_step import FailStep
from sagemaker.mlops.workflow.model_step import ModelStep
from sagemaker.mlops.workflow.pipeline import Pipeline
from sagemaker.mlops.workflow.steps import CacheConfig, ProcessingStep, TrainingStep, TransformStep, TuningStep
from sagemaker.serve.model_builder import ModelBuilder
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, SourceCode, StoppingCondition
from sagemaker.train.tuner import HyperparameterTuner

folder = Path(sys.argv[1])
session = PipelineSession()
bucket = session.default_bucket()
role = get_execution_role(Session())
photos = session.upload_data(str(folder / "photos"), bucket=bucket, key_prefix="photos")
session.upload_string_as_file_body("[[1.0, 2.0]]", bucket, "rows/input.json")
image = "763104351884.dkr.ecr.us-west-2.amazonaws.com/pytorch-training:2.6.0-cpu-py312"
inference = image.replace("training", "inference")

epochs = ParameterInteger(name="Epochs", default_value=1)
least = ParameterFloat(name="LeastPhotos", default_value=2.0)
instance = ParameterString(name="Instance", default_value="ml.m5.large")

# 1. process
processor = ScriptProcessor(
    image_uri=image,
    command=["python3"],
    role=role,
    instance_count=1,
    instance_type="ml.m5.large",
    sagemaker_session=session,
)
counted = PropertyFile(name="Counted", output_name="out", path="count.txt")
process = ProcessingStep(
    name="Process",
    step_args=processor.run(
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
    ),
    property_files=[counted],
    cache_config=CacheConfig(enable_caching=True, expire_after="p1d"),
)


# 2. train
def trainer(**hyperparameters):
    return ModelTrainer(
        training_image=image,
        source_code=SourceCode(source_dir=str(folder / "source"), entry_script="train.py"),
        compute=Compute(instance_type=instance, instance_count=1),
        stopping_condition=StoppingCondition(max_runtime_in_seconds=600),
        hyperparameters={"batch_size": 16, "depth": 1, **hyperparameters},
        base_job_name="dogs",
        role=role,
        sagemaker_session=session,
    )


inputs = [InputData(channel_name="training", data_source=photos)]
train = TrainingStep(
    name="Train", step_args=trainer(lr=0.01, epochs=epochs).train(input_data_config=inputs), depends_on=[process]
)

# 3. tune
tuner = HyperparameterTuner(
    trainer(lr=0.01, epochs=1),
    "average test loss",
    {"lr": ContinuousParameter(0.001, 0.1)},
    metric_definitions=[{"Name": "average test loss", "Regex": "Test set: Average loss: ([0-9\\.]+)"}],
    objective_type="Minimize",
    max_jobs=2,
    max_parallel_jobs=2,
)
tune = TuningStep(name="Tune", step_args=tuner.tune(inputs=inputs), depends_on=[train])

# 4. register, 5. make a model, 6. transform
builder = ModelBuilder(
    s3_model_data_url=train.properties.ModelArtifacts.S3ModelArtifacts,
    image_uri=inference,
    env_vars={
        "SAGEMAKER_PROGRAM": "inference.py",
        "SAGEMAKER_SUBMIT_DIRECTORY": f"s3://{bucket}/code/sourcedir.tar.gz",
    },
    sagemaker_session=session,
    role_arn=role,
)
make = ModelStep(name="Make", step_args=builder.build())
register = ModelStep(
    name="Register",
    step_args=builder.register(
        model_package_group_name="dogs",
        content_types=["application/json"],
        response_types=["application/json"],
        inference_instances=["ml.m5.large"],
        transform_instances=["ml.m5.large"],
        approval_status="Approved",
    ),
)
transformer = Transformer(
    model_name=make.properties.ModelName,
    instance_type="ml.m5.large",
    instance_count=1,
    output_path=f"s3://{bucket}/transformed",
    sagemaker_session=session,
)
transform = TransformStep(
    name="Transform",
    step_args=transformer.transform(data=f"s3://{bucket}/rows/", content_type="application/json"),
)

# 7. the branch for too few photos
fail = FailStep(name="TooFew", error_message=Join(on=" ", values=["there are fewer photos than", least]))
condition = ConditionStep(
    name="EnoughPhotos",
    conditions=[
        ConditionGreaterThanOrEqualTo(
            left=JsonGet(step_name=process.name, property_file=counted, json_path="$"), right=least
        )
    ],
    if_steps=[make, register, transform],
    else_steps=[fail],
    depends_on=[tune],
)
pipeline = Pipeline(
    name="dogs",
    parameters=[epochs, least, instance],
    steps=[process, train, tune, condition],
    sagemaker_session=session,
)

import tarfile

with tarfile.open(folder / "sourcedir.tar.gz", "w:gz") as tar:
    tar.add(folder / "source", ".")
session.upload_data(str(folder / "sourcedir.tar.gz"), bucket=bucket, key_prefix="code")
pipeline.upsert(role_arn=role)
began = time.monotonic()
execution = pipeline.start(parameters={"Epochs": 2})
execution.wait(delay=2, max_attempts=200)
seconds = time.monotonic() - began
done = {step["StepName"]: step["StepStatus"] for step in execution.list_steps()}
print("steps:", json.dumps(done))
assert len(done) == 7, done
assert set(done.values()) == {"Succeeded"}, done
print(f"done: seven steps in {seconds:.0f} s", flush=True)

second = pipeline.start(parameters={"LeastPhotos": 3.0})
try:
    second.wait(delay=2, max_attempts=200)
except Exception as error:  # botocore's WaiterError
    print("waited:", type(error).__name__)
steps = {step["StepName"]: step for step in second.list_steps()}
assert steps["TooFew"]["FailureReason"] == "there are fewer photos than 3.0", steps
assert "CacheHitResult" in steps["Process"]
assert "Make" not in steps
print("done: the other branch, with a cached step", flush=True)
pipeline.delete()
