"""Operations of executions. ``execution.py`` runs their steps."""

import json
import secrets
import string
import time

from sagemaker_emulator.errors import ApiError, invalid
from sagemaker_emulator.hosting.model_registry import ModelRegistry
from sagemaker_emulator.hosting.models import Models
from sagemaker_emulator.jobs.processing_jobs import ProcessingJobs
from sagemaker_emulator.jobs.training_jobs import TrainingJobs
from sagemaker_emulator.jobs.transform_jobs import TransformJobs
from sagemaker_emulator.jobs.tuning_jobs import TuningJobs
from sagemaker_emulator.pipelines.definition import parse, values
from sagemaker_emulator.pipelines.execution import KIND as EXECUTION
from sagemaker_emulator.pipelines.execution import ExecutionRun
from sagemaker_emulator.pipelines.pipeline_operations import PIPELINE, Pipelines, ordered
from sagemaker_emulator.pipelines.step_images import check_images
from sagemaker_emulator.pipelines.step_jobs import StepJobs
from sagemaker_emulator.processes.containers import Containers
from sagemaker_emulator.processes.tasks import Tasks
from sagemaker_emulator.storage.listing import page, pick
from sagemaker_emulator.storage.records import Record, Records
from sagemaker_emulator.storage.transfers import Transfers

_STEP = (
    "StepName",
    "StepDisplayName",
    "StepDescription",
    "StartTime",
    "EndTime",
    "StepStatus",
    "CacheHitResult",
    "FailureReason",
    "Metadata",
    "AttemptCount",
    "SelectiveExecutionResult",
)


class PipelineExecutions:
    """Start, Stop, Retry, Update, Describe and List."""

    def __init__(
        self,
        records: Records,
        pipelines: Pipelines,
        tasks: Tasks,
        transfers: Transfers,
        containers: Containers,
        training: TrainingJobs,
        tuning: TuningJobs,
        processing: ProcessingJobs,
        transform: TransformJobs,
        models: Models,
        registry: ModelRegistry,
    ) -> None:
        self._records, self._pipelines, self._tasks, self._transfers = records, pipelines, tasks, transfers
        self._images = containers.images
        self._jobs = StepJobs(records, training, tuning, processing, transform, models, registry)
        self._runs: dict[str, ExecutionRun] = {}

    def recover(self) -> None:
        """Continue the executions that ran when the emulator ended."""
        for record in self._records.all(EXECUTION):
            if record["PipelineExecutionStatus"] in ("Executing", "Stopping"):
                try:
                    self._run(record)
                except ApiError as error:  # an earlier version checked its definition less strictly
                    reason = f"ClientError: {error.message}"
                    self._records.change(
                        EXECUTION, record["_Id"], PipelineExecutionStatus="Failed", FailureReason=reason
                    )

    def close(self) -> None:
        """Wait until the threads of the executions have ended; ``tasks.stopping`` is set."""
        for run in self._runs.values():
            run.ended.wait(30)

    def StartPipelineExecution(self, request: Record) -> Record:
        """Start an execution. The same ClientRequestToken starts it once."""
        pipeline = self._pipelines.get_record(request["PipelineName"])
        for record in self._records.all(EXECUTION):
            if record["PipelineArn"] == pipeline["PipelineArn"] and record["_Token"] == request["ClientRequestToken"]:
                return {"PipelineExecutionArn": record["PipelineExecutionArn"]}
        definition = parse(pipeline["PipelineDefinition"])
        number = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(12))
        now = time.time()
        record = {
            "PipelineArn": pipeline["PipelineArn"],
            "PipelineExecutionArn": f"{pipeline['PipelineArn']}/execution/{number}",
            "PipelineExecutionDisplayName": f"execution-{int(now * 1000)}",
            "PipelineExecutionStatus": "Executing",
            "CreationTime": now,
            "LastModifiedTime": now,
            **pick(pipeline, "ParallelismConfiguration"),
            **pick(
                request,
                "PipelineExecutionDisplayName",
                "PipelineExecutionDescription",
                "ParallelismConfiguration",
                "SelectiveExecutionConfig",
            ),
            "_Id": number,
            "_Token": request["ClientRequestToken"],
            "_Definition": pipeline["PipelineDefinition"],
            "_Given": request.get("PipelineParameters", []),
            "_Parameters": values(definition, request.get("PipelineParameters", [])),
            "_Attempts": {},
            "_Steps": self._selected(request, set(definition.steps)),
        }
        check_images(definition, record["_Parameters"], set(record["_Steps"]), self._images)
        self._records.save(EXECUTION, number, record)
        self._records.change(PIPELINE, pipeline["PipelineName"], LastRunTime=now)
        self._run(record)
        return {"PipelineExecutionArn": record["PipelineExecutionArn"]}

    def StopPipelineExecution(self, request: Record) -> Record:
        """Stop an execution and its jobs."""
        record = self._execution(request)
        if record["PipelineExecutionStatus"] != "Executing":
            raise invalid(f"The execution is {record['PipelineExecutionStatus']}, so it cannot be stopped.")
        self._records.change(EXECUTION, record["_Id"], PipelineExecutionStatus="Stopping")
        return pick(record, "PipelineExecutionArn")

    def RetryPipelineExecution(self, request: Record) -> Record:
        """Run the steps of a failed or stopped execution that have not succeeded once more."""
        record = self._execution(request)
        if record["PipelineExecutionStatus"] not in ("Failed", "Stopped"):
            raise invalid(f"The execution is {record['PipelineExecutionStatus']}, so it cannot be retried.")
        steps = {
            name: state
            for name, state in record["_Steps"].items()
            if state["StepStatus"] == "Succeeded" or "SelectiveExecutionResult" in state
        }
        more = pick(request, "ParallelismConfiguration")
        self._runs[record["_Id"]].ended.wait(5) if record["_Id"] in self._runs else None
        self._records.change(
            EXECUTION, record["_Id"], PipelineExecutionStatus="Executing", FailureReason=None, _Steps=steps, **more
        )
        self._run(record)
        return pick(record, "PipelineExecutionArn")

    def UpdatePipelineExecution(self, request: Record) -> Record:
        """Change an execution's name, description or parallelism."""
        record = self._execution(request)
        changed = pick(
            request, "PipelineExecutionDescription", "PipelineExecutionDisplayName", "ParallelismConfiguration"
        )
        self._records.change(EXECUTION, record["_Id"], **changed)
        return pick(record, "PipelineExecutionArn")

    def DescribePipelineExecution(self, request: Record) -> Record:
        """The description of an execution."""
        return self._execution(request)

    def DescribePipelineDefinitionForExecution(self, request: Record) -> Record:
        """The definition that an execution runs."""
        record = self._execution(request)
        return {"PipelineDefinition": record["_Definition"], "CreationTime": record["CreationTime"]}

    def ListPipelineExecutions(self, request: Record) -> Record:
        """One page of a pipeline's executions, by default the newest first."""
        arn = self._pipelines.get_record(request["PipelineName"])["PipelineArn"]
        chosen = [r for r in self._records.all(EXECUTION) if r["PipelineArn"] == arn]
        members = ("PipelineExecutionArn", "PipelineExecutionStatus", "PipelineExecutionDescription")
        summaries = [
            pick(r, *members, "PipelineExecutionDisplayName")
            | {"StartTime": r["CreationTime"]}
            | ({"PipelineExecutionFailureReason": r["FailureReason"]} if "FailureReason" in r else {})
            for r in ordered(request, chosen, request.get("SortBy", "CreationTime"))
        ]
        return page(request, "PipelineExecutionSummaries", summaries)

    def ListPipelineExecutionSteps(self, request: Record) -> Record:
        """One page of the steps that have begun, by default the newest first; branches not taken are left out."""
        if "PipelineExecutionArn" not in request:
            raise invalid("PipelineExecutionArn must be given.")
        record = self._execution(request)
        names = {s["Name"]: s for s in _all_steps(json.loads(record["_Definition"])["Steps"])}
        steps = [s for s in record["_Steps"].values() if s["StepStatus"] != "Skipped"]
        about = [_about(names[s["StepName"]]) | pick(s, *_STEP) for s in ordered(request, steps, "StartTime")]
        return page(request, "PipelineExecutionSteps", about)

    def ListPipelineParametersForExecution(self, request: Record) -> Record:
        """One page of an execution's parameters."""
        parameters = self._execution(request)["_Parameters"]
        shown = [{"Name": k, "Value": str(v).lower() if isinstance(v, bool) else str(v)} for k, v in parameters.items()]
        return page(request, "PipelineParameters", shown)

    def _run(self, record: Record) -> None:
        run = ExecutionRun(self._records, self._tasks, self._transfers, self._jobs, record)
        self._runs[record["_Id"]] = run
        self._tasks.background(run.run)

    def _selected(self, request: Record, names: set[str]) -> Record:
        """The states of steps that a selective execution takes from an earlier one."""
        config = request.get("SelectiveExecutionConfig")
        if not config:
            return {}
        selected = {s["StepName"] for s in config["SelectedSteps"]}
        if unknown := selected - names:
            raise invalid(f"SelectedSteps: {', '.join(sorted(unknown))} is no step of the pipeline.")
        if "SourcePipelineExecutionArn" not in config:
            raise invalid("SelectiveExecutionConfig: the emulator needs SourcePipelineExecutionArn.")
        source = self._execution({"PipelineExecutionArn": config["SourcePipelineExecutionArn"]})
        if source["PipelineExecutionStatus"] not in ("Succeeded", "Failed"):
            status = source["PipelineExecutionStatus"]
            raise invalid(f"SourcePipelineExecutionArn: the execution is {status}, and must be Succeeded or Failed.")
        result = {"SelectiveExecutionResult": {"SourcePipelineExecutionArn": source["PipelineExecutionArn"]}}
        nothing = {"StepStatus": "Skipped"}
        return {
            name: {"StepName": name} | source["_Steps"].get(name, nothing) | result for name in sorted(names - selected)
        }

    def _execution(self, request: Record) -> Record:
        arn = request["PipelineExecutionArn"]
        record = self._records.find(EXECUTION, arn.rpartition("/")[2])
        if record is None or record["PipelineExecutionArn"] != arn:
            raise ApiError("ResourceNotFound", f"Pipeline execution {arn} does not exist.")
        return record


def _all_steps(steps: list[Record]) -> list[Record]:
    inner = [s for step in steps for key in ("IfSteps", "ElseSteps") for s in step.get("Arguments", {}).get(key, [])]
    return [*steps, *(_all_steps(inner) if inner else [])]


def _about(step: Record) -> Record:
    return {f"Step{k}": step[k] for k in ("DisplayName", "Description") if k in step}
