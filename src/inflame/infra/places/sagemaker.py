"""Amazon SageMaker as a place to train: one training job through boto3, with our own command in the container.

The code is the channel `code`, so the image needs nothing of SageMaker's toolkit. What SageMaker itself says (status,
log in CloudWatch) is asked for; how the job ended is also in its output, where the bootstrap has written it.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from inflame import store
from inflame.errors import RunError, UserError
from inflame.infra import machines, places
from inflame.infra.command import PREEMPTED, VARIABLE, command, variables
from inflame.infra.launcher import ENDED, Finding, app
from inflame.infra.places import Place, sagemaker_look
from inflame.infra.places.sagemaker_api import NAME, SETTINGS, Account, border, code_of
from inflame.records import Job, JobSpec, Package

LOGS = "/aws/sagemaker/TrainingJobs"
CODE = "/opt/ml/input/data/code"
_DAY = 24 * 3600
_LONGEST = 28 * _DAY
_VALUE, _WORD, _HYPER = 512, 256, 2500  # longest environment variable, word of the command, hyperparameter
_STATES = {"Completed": "done", "Failed": "failed", "Stopped": "stopped", "Stopping": "running"}
_STARTING = ("Starting", "LaunchingMLInstances", "PreparingTrainingStack", "Downloading", "Restarting", "Interrupted")


class SageMaker(Place):
    """Training jobs of Amazon SageMaker."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.settings = places.settings(NAME, SETTINGS, settings)
        self.account = Account(self.settings)

    def request(self, spec: JobSpec, package: Package | None = None) -> dict[str, Any]:
        """The arguments of boto3's `create_training_job`, which the command line of AWS takes as they are."""
        app(spec)
        places.demand(NAME, self.settings, SETTINGS)
        places.demand_output(NAME, spec, ("s3",), self.settings)
        machine = machines.find(spec.machine, NAME)
        words = _entry(command(f"{CODE}/{package.archive.rpartition('/')[2]}")) if package else ["true"]
        told = variables(spec, package, price=machines.price(spec, NAME))
        longest = int(min(spec.max_time + places.AFTER if spec.max_time else _DAY, _LONGEST))
        body: dict[str, Any] = {
            "TrainingJobName": places.name(NAME, spec, package),
            "AlgorithmSpecification": {
                "TrainingImage": spec.image or self.settings["image"] or self.account.image(machine),
                "TrainingInputMode": "File",
                "ContainerEntrypoint": words,
            },
            "RoleArn": self.settings["role"],
            "InputDataConfig": _channels(spec, package),
            "OutputDataConfig": {"S3OutputPath": store.join(spec.output, "sagemaker")},
            "ResourceConfig": {
                "InstanceType": machine.native,
                "InstanceCount": spec.count,
                "VolumeSizeInGB": int(self.settings["volume"]),
            },
            "StoppingCondition": {"MaxRuntimeInSeconds": longest},
            "EnableManagedSpotTraining": spec.spot,
            "HyperParameters": _shown(spec),
            "Environment": {**_pieces(told[VARIABLE]), **_inputs(spec), **places.placeholders(spec.environment)},
            "Tags": [{"Key": "inflame", "Value": package.tree[:40] if package else "none"}],
        }
        if spec.spot:  # waiting for a machine counts as well
            body["StoppingCondition"]["MaxWaitTimeInSeconds"] = min(longest + _DAY, _LONGEST)
        if self.settings["subnets"]:
            body["VpcConfig"] = {
                "Subnets": _listed(self.settings["subnets"]),
                "SecurityGroupIds": _listed(self.settings["security_groups"]),
            }
        return {
            "backend": NAME,
            "region": self.settings["region"],
            "environment": list(spec.environment),
            "output": spec.output,
            "body": {key: value for key, value in body.items() if value not in ([], {})},
        }

    def send(self, request: dict[str, Any]) -> Job:
        """Creates the job, once: sent again while it is under way, it is the same job."""
        body = places.filled(request["body"], request["environment"])
        _demand_short(body["Environment"])

        def job(name: str) -> Job:
            return Job(id=name, backend=NAME, status="queued", output=request["output"])

        def look(name: str) -> Job | None:
            about = self._about(name)
            return None if about is None else _now(job(name), about)

        def create(name: str) -> Job | None:
            with border(f"create the job {name}"):
                try:
                    self.account.client().create_training_job(**{**body, "TrainingJobName": name})
                except self.account.client().exceptions.ResourceInUse:
                    return None
            return job(name)

        return places.send_once(body["TrainingJobName"], look, create)

    def status(self, job: Job) -> Job:
        """As SageMaker has it. A spot machine that was taken away is `starting`: SageMaker finds another by itself."""
        about = self._about(job.id)
        return places.vanished(job) if about is None else _now(job, about)

    def logs(self, job: Job) -> Iterator[str]:
        """The lines in CloudWatch, machine by machine; none before the first machine is there."""
        client = self.account.client("logs")
        with border(f"read the log of {job.id}"):
            try:
                pages = client.get_paginator("describe_log_streams").paginate(
                    logGroupName=LOGS, logStreamNamePrefix=f"{job.id}/"
                )
                streams = [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
            except client.exceptions.ResourceNotFoundException:
                return
            for stream in streams:
                events = client.get_paginator("filter_log_events").paginate(logGroupName=LOGS, logStreamNames=[stream])
                for page in events:
                    yield from (event["message"].rstrip("\n") for event in page["events"])

    def cancel(self, job: Job) -> Job:
        """SIGTERM to the job, which has two minutes to save."""
        now = self.status(job)
        if now.status not in (*ENDED, "preempted"):
            with border(f"stop {job.id}"):
                try:
                    self.account.client().stop_training_job(TrainingJobName=job.id)
                except self.account.client().exceptions.ResourceNotFound:
                    return places.vanished(job)
        return now

    def check(self, spec: JobSpec) -> list[Finding]:
        """Credentials, region, role, quota, bucket and image."""
        return sagemaker_look.look(self.account, spec)

    def rights(self, spec: JobSpec) -> dict[str, Any]:
        """The policies of who sends the job and of the job's role, and who may take that role."""
        return sagemaker_look.rights(spec, self.settings["role"])

    def _about(self, name: str) -> dict[str, Any] | None:
        """What SageMaker says of a job; None where there is none."""
        with border(f"describe {name}"):
            client = self.account.client()
            try:
                found: dict[str, Any] = client.describe_training_job(TrainingJobName=name)
            except (client.exceptions.ResourceNotFound, client.exceptions.ClientError) as error:
                if code_of(error) == "ResourceNotFound" or "not found" in str(error).lower():
                    return None
                raise
        return found


def _now(job: Job, about: dict[str, Any]) -> Job:
    """The job as SageMaker describes it."""
    state, second = about["TrainingJobStatus"], about.get("SecondaryStatus", "")
    reason = about.get("FailureReason", "")
    if state in ("Completed", "Failed", "Stopped"):
        found = re.search(r"exit ?code:? ?(\d+)", reason, re.IGNORECASE)
        code = {"Completed": 0, "Stopped": places.STOPPED}.get(state, int(found[1]) if found else 1)
        if second in ("MaxRuntimeExceeded", "MaxWaitTimeExceeded"):
            reason = f"SageMaker ended it: {second}."
        status = "preempted" if state == "Failed" and code == PREEMPTED else _STATES[state]
        return replace(job, status=status, code=code, reason=reason)
    if second == "Pending":
        return replace(job, status="queued", reason="SageMaker waits for a free machine.")
    if second in ("Interrupted", "Restarting"):
        reason = "Its spot machine was taken away; SageMaker starts it again on another."
    return replace(job, status="starting" if second in _STARTING else "running", reason=reason)


def _channels(spec: JobSpec, package: Package | None) -> list[dict[str, Any]]:
    """The code, and the inputs in buckets, which are read as they are needed."""

    def channel(name: str, uri: str, mode: str) -> dict[str, Any]:
        source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
        return {"ChannelName": name, "InputMode": mode, "DataSource": {"S3DataSource": source}}

    code = [channel("code", package.archive, "File")] if package else []
    return code + [
        channel(f"input{number}", uri, "FastFile") for number, uri in enumerate(spec.inputs) if uri.startswith("s3://")
    ]


def _inputs(spec: JobSpec) -> dict[str, str]:
    """Where the job finds its inputs: `INFLAME_INPUT_0`, …"""
    return {
        f"INFLAME_INPUT_{number}": f"/opt/ml/input/data/input{number}" if uri.startswith("s3://") else uri
        for number, uri in enumerate(spec.inputs)
    }


def _entry(words: list[str]) -> list[str]:
    """The command, after its variable was put together: a value of SageMaker's may have 512 letters only."""
    pieces = "".join(f"${VARIABLE}_{number}" for number in range(8))
    entry = ["sh", "-c", f'export {VARIABLE}="{pieces}"; exec "$@"', "sh", *words]
    if any(len(word) > _WORD for word in entry):
        raise RunError(
            f"SageMaker takes words of {_WORD} letters, and the command has a longer one.",
            remedy="Give the archive of the code a shorter name.",
        )
    return entry


def _pieces(text: str) -> dict[str, str]:
    if len(text) > 8 * _VALUE:
        raise UserError(
            f"SageMaker takes {8 * _VALUE} letters of arguments, and the job has {len(text)}.",
            remedy="Put settings into the model's model-config.toml, or the variables into its code.",
        )
    return {
        f"{VARIABLE}_{number}": text[start : start + _VALUE] for number, start in enumerate(range(0, len(text), _VALUE))
    }


def _shown(spec: JobSpec) -> dict[str, str]:
    """For people who look at the job in the console; the job itself is told by its environment."""
    said = {"model": spec.model, "arguments": shlex.join(spec.arguments), "output": spec.output}
    return {key: json.dumps(value, ensure_ascii=False)[1:-1][:_HYPER] for key, value in said.items() if value}


def _demand_short(environment: dict[str, str]) -> None:
    for name, value in environment.items():
        if len(value) > _VALUE:
            raise UserError(
                f"SageMaker takes {_VALUE} letters in a variable, and {name} has {len(value)}.",
                where=f"--env {name}",
                remedy="Keep it in Secrets Manager or in the bucket, and let the code read it there.",
            )


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
