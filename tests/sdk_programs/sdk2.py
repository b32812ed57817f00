"""A public-style program after the documentation of SageMaker's Python SDK 2: python sdk2.py FOLDER

It knows nothing of an emulator. FOLDER holds train.py, inference.py and photos.
"""

import json
import sys
from pathlib import Path

import numpy as np
import sagemaker
from sagemaker.async_inference import AsyncInferenceConfig, WaiterConfig
from sagemaker.analytics import HyperparameterTuningJobAnalytics, TrainingJobAnalytics
from sagemaker.debugger import DebuggerHookConfig, ProfilerConfig, Rule, rule_configs
from sagemaker.deserializers import JSONDeserializer
from sagemaker.inputs import TrainingInput
from sagemaker.multidatamodel import MultiDataModel
from sagemaker.processing import ProcessingInput, ProcessingOutput, ScriptProcessor
from sagemaker.pytorch import PyTorch, PyTorchModel
from sagemaker.serializers import JSONSerializer
from sagemaker.serverless import ServerlessInferenceConfig
from sagemaker.tuner import CategoricalParameter, ContinuousParameter, HyperparameterTuner, IntegerParameter
from sagemaker.workflow.fail_step import FailStep
from sagemaker.workflow.pipeline import Pipeline

folder = Path(sys.argv[1])
session = sagemaker.Session()
bucket = session.default_bucket()
role = sagemaker.get_execution_role()
print("role", role, "bucket", bucket)
photos = session.upload_data(str(folder / "photos"), bucket=bucket, key_prefix="photos")

metrics = [{"Name": "average test loss", "Regex": "Test set: Average loss: ([0-9.]+)"}]
shared = {
    "entry_point": "train.py",
    "source_dir": str(folder / "source"),
    "role": role,
    "framework_version": "1.13.1",
    "py_version": "py39",
    "instance_count": 1,
    "instance_type": "ml.m5.large",
    "metric_definitions": metrics,
}

# a tuning job, as the first notebook of every course
tuner = HyperparameterTuner(
    PyTorch(**shared, hyperparameters={"epochs": 1}),
    "average test loss",
    {
        "lr": ContinuousParameter(0.001, 0.1),
        "batch-size": CategoricalParameter([16, 32]),
        "depth": IntegerParameter(1, 3),
    },
    metrics,
    max_jobs=3,
    max_parallel_jobs=2,
    objective_type="Minimize",
)
tuner.fit({"training": photos}, wait=True)
frame = HyperparameterTuningJobAnalytics(tuner.latest_tuning_job.name).dataframe()
assert len(frame) == 3, frame
best = tuner.best_estimator()
values = best.hyperparameters()
print("best", values)
assert 0.001 <= float(values["lr"]) <= 0.1
attached = HyperparameterTuner.attach(tuner.latest_tuning_job.name)
assert attached.best_training_job() == tuner.best_training_job()

# training with debugger and profiler
estimator = PyTorch(
    **shared,
    hyperparameters={"lr": 0.01, "batch-size": 16, "depth": 2, "epochs": 1},
    rules=[Rule.sagemaker(rule_configs.loss_not_decreasing())],
    debugger_hook_config=DebuggerHookConfig(hook_parameters={"train.save_interval": "10"}),
    profiler_config=ProfilerConfig(system_monitor_interval_millis=500),
)
estimator.fit({"training": TrainingInput(photos, content_type="image/jpeg")}, logs="All")
again = PyTorch.attach(estimator.latest_training_job.name)
assert again.model_data == estimator.model_data
losses = TrainingJobAnalytics(estimator.latest_training_job.name, ["average test loss"]).dataframe()
print("losses", losses.to_dict())
print("rules", estimator.latest_training_job.rule_job_summary())

# an endpoint
model = PyTorchModel(
    model_data=estimator.model_data,
    role=role,
    entry_point="inference.py",
    source_dir=str(folder / "source"),
    framework_version="1.13.1",
    py_version="py39",
)
predictor = model.deploy(1, "ml.m5.large", serializer=JSONSerializer(), deserializer=JSONDeserializer())
answer = predictor.predict([[1.0, 2.0]])
print("answer", answer)
assert answer["labels"] == [1]

# the same model behind an asynchronous and a serverless endpoint
later = model.deploy(
    1,
    "ml.m5.large",
    endpoint_name="later",
    serializer=JSONSerializer(),
    deserializer=JSONDeserializer(),
    async_inference_config=AsyncInferenceConfig(output_path=f"s3://{bucket}/answers"),
)
response = later.predict_async(data=[[1.0, 2.0]], input_path=f"s3://{bucket}/questions/1.json")
assert response.get_result(WaiterConfig(max_attempts=60, delay=1))["labels"] == [1]
later.delete_endpoint()
less = model.deploy(
    endpoint_name="less",
    serializer=JSONSerializer(),
    deserializer=JSONDeserializer(),
    serverless_inference_config=ServerlessInferenceConfig(memory_size_in_mb=2048, max_concurrency=2),
)
assert less.predict([[1.0, 2.0]])["labels"] == [1]
less.delete_endpoint()

# the same model by batch transform
rows = "\n".join("[[1.0, 2.0]]" for _ in range(3))
source = session.upload_string_as_file_body(rows, bucket, "rows/input.jsonl")
transformer = model.transformer(1, "ml.m5.large", strategy="SingleRecord", assemble_with="Line")
transformer.transform("s3://" + bucket + "/rows", content_type="application/json", split_type="Line", wait=True)
result = session.read_s3_file(bucket, transformer.output_path.split(bucket + "/")[1] + "/input.jsonl.out")
assert len(result.splitlines()) == 3, result
predictor.delete_model()
predictor.delete_endpoint()

# several models behind one endpoint
many = MultiDataModel(
    name="many-" + estimator.latest_training_job.name[-12:],
    model_data_prefix=f"s3://{bucket}/many/",
    model=model,
    sagemaker_session=session,
)
predictor = many.deploy(1, "ml.m5.large", serializer=JSONSerializer(), deserializer=JSONDeserializer())
assert list(many.list_models()) == []
many.add_model(model_data_source=model.repacked_model_data or estimator.model_data, model_data_path="first.tar.gz")
print("models", list(many.list_models()))
assert predictor.predict([[1.0, 2.0]], target_model="first.tar.gz")["labels"] == [1]
predictor.delete_endpoint()

# a processing job
processor = ScriptProcessor(
    image_uri=estimator.training_image_uri(),
    command=["python3"],
    role=role,
    instance_count=1,
    instance_type="ml.m5.large",
)
processor.run(
    code=str(folder / "source" / "process.py"),
    inputs=[ProcessingInput(source=photos, destination="/opt/ml/processing/photos")],
    outputs=[ProcessingOutput(source="/opt/ml/processing/output", output_name="out")],
    arguments=["--count", "1"],
)
place = processor.latest_job.outputs[0].destination
count = session.read_s3_file(bucket, place.split(bucket + "/")[1] + "/count.txt")
assert count == "2", count

# the registry
group = "dogs-" + estimator.latest_training_job.name[-12:]
package = model.register(
    content_types=["application/json"],
    response_types=["application/json"],
    inference_instances=["ml.m5.large"],
    transform_instances=["ml.m5.large"],
    model_package_group_name=group,
    approval_status="Approved",
)
print("package", package.model_package_arn)

# a pipeline that is made, then changed
pipeline = Pipeline("dogs", steps=[FailStep("End", error_message="no photos")], sagemaker_session=session)
for text in ("first", "second"):
    pipeline.upsert(role_arn=role, description=text)
assert pipeline.describe()["PipelineDescription"] == "second"
assert np.all(np.isfinite(list(map(float, losses["value"]))))
print(json.dumps({"done": True}))
