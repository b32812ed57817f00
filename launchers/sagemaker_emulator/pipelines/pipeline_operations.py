"""Operations of pipelines. ``execution_operations.py`` has those of their executions."""

import time

from sagemaker_emulator.errors import ApiError, invalid
from sagemaker_emulator.identity import Identity
from sagemaker_emulator.pipelines.definition import parse
from sagemaker_emulator.pipelines.execution import KIND as EXECUTION
from sagemaker_emulator.storage.listing import page, pick
from sagemaker_emulator.storage.records import Record, Records
from sagemaker_emulator.storage.tags import Tags
from sagemaker_emulator.storage.transfers import Transfers

PIPELINE = "pipeline"
_SUMMARY = (
    "PipelineArn",
    "PipelineName",
    "PipelineDisplayName",
    "PipelineDescription",
    "RoleArn",
    "CreationTime",
    "LastModifiedTime",
)


class Pipelines:
    """Create, Update, Describe, List and Delete."""

    def __init__(self, records: Records, identity: Identity, tags: Tags, transfers: Transfers) -> None:
        self._records, self._identity, self._tags, self._transfers = records, identity, tags, transfers

    def CreatePipeline(self, request: Record) -> Record:
        """Check a definition and store it."""
        name = request["PipelineName"]
        arn = self._identity.arn(PIPELINE, name)
        if self._records.find(PIPELINE, name):
            unique = "Pipeline names must be unique within an AWS account and region."
            raise invalid(f"{unique} Pipeline with name ({name}) already exists.")  # SDK 2 looks for the last words
        definition = self._definition(request)
        parse(definition)
        self._tags.put(arn, request.get("Tags", []))
        now = time.time()
        record = pick(request, *_SUMMARY, "ParallelismConfiguration")
        record |= {"PipelineArn": arn, "PipelineDefinition": definition, "PipelineStatus": "Active"}
        self._records.save(PIPELINE, name, record | {"CreationTime": now, "LastModifiedTime": now})
        return {"PipelineArn": arn}

    def UpdatePipeline(self, request: Record) -> Record:
        """Replace the definition or other members; executions that run keep the old one."""
        record = self.get_record(request["PipelineName"])
        changed = pick(request, "PipelineDisplayName", "PipelineDescription", "RoleArn", "ParallelismConfiguration")
        if "PipelineDefinition" in request or "PipelineDefinitionS3Location" in request:
            changed["PipelineDefinition"] = self._definition(request)
            parse(changed["PipelineDefinition"])
        self._records.change(PIPELINE, record["PipelineName"], **changed, LastModifiedTime=time.time())
        return {"PipelineArn": record["PipelineArn"]}

    def DescribePipeline(self, request: Record) -> Record:
        """The description of a pipeline."""
        return self.get_record(request["PipelineName"])

    def ListPipelines(self, request: Record) -> Record:
        """One page of pipelines, by default the newest first."""
        prefix = request.get("PipelineNamePrefix", "")
        chosen = [r for r in self._records.all(PIPELINE) if r["PipelineName"].startswith(prefix)]
        member = "PipelineName" if request.get("SortBy") == "Name" else "CreationTime"
        return page(request, "PipelineSummaries", [pick(r, *_SUMMARY) for r in ordered(request, chosen, member)])

    def DeletePipeline(self, request: Record) -> Record:
        """Delete a pipeline and the records of its executions; none may run."""
        record = self.get_record(request["PipelineName"])
        executions = [r for r in self._records.all(EXECUTION) if r["PipelineArn"] == record["PipelineArn"]]
        if any(r["PipelineExecutionStatus"] in ("Executing", "Stopping") for r in executions):
            raise ApiError("ConflictException", f"Pipeline {record['PipelineName']} has an execution that runs.")
        for execution in executions:
            self._records.remove(EXECUTION, execution["_Id"])
        self._records.remove(PIPELINE, record["PipelineName"])
        return {"PipelineArn": record["PipelineArn"]}

    def get_record(self, name: str) -> Record:
        """The record of a pipeline, by its name or ARN.

        Raises:
            ApiError: it does not exist.
        """
        record = self._records.find(PIPELINE, name.rpartition("/")[2])
        if record is None:
            raise ApiError("ResourceNotFound", f"Pipeline {self._identity.arn(PIPELINE, name)} does not exist.")
        return record

    def _definition(self, request: Record) -> str:
        if ("PipelineDefinition" in request) == ("PipelineDefinitionS3Location" in request):
            raise invalid("One of PipelineDefinition and PipelineDefinitionS3Location must be given, and not both.")
        if "PipelineDefinition" in request:
            return str(request["PipelineDefinition"])
        place = request["PipelineDefinitionS3Location"]
        path = self._transfers.path(f"s3://{place['Bucket']}/{place['ObjectKey']}")
        if path is None:
            raise invalid(f"There is no object at s3://{place['Bucket']}/{place['ObjectKey']}.")
        return path.read_text(encoding="utf-8")


def ordered(request: Record, records: list[Record], member: str) -> list[Record]:
    """Records within CreatedAfter and CreatedBefore, sorted by a member, by default the newest or greatest first."""
    descending = request.get("SortOrder", "Descending") == "Descending"
    if "CreatedAfter" in request:
        records = [r for r in records if r["CreationTime"] >= request["CreatedAfter"]]
    if "CreatedBefore" in request:
        records = [r for r in records if r["CreationTime"] <= request["CreatedBefore"]]
    return sorted(records, key=lambda r: r[member], reverse=descending)
