"""SageMaker's training jobs on this machine, for boto3 with `endpoint_url`.

Channels come from S3 and models go there, lines of the log go to CloudWatch, by boto3 as well: `AWS_ENDPOINT_URL` leads
those to where they are (moto). Of the machine `/opt/ml` is reproduced, in a folder where there are no containers.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from inflame import plugins, store
from inflame.infra.loopback.machine import Fleet, Machine
from inflame.infra.loopback.server import Answer, Asked

LOGS = "/aws/sagemaker/TrainingJobs"
GRACE = 120.0  # seconds between SIGTERM and SIGKILL
_SAID = 1000  # letters of the reason


class _Job:
    """A training job: `about` is its description, as DescribeTrainingJob gives it."""

    def __init__(self, body: dict[str, Any], folder: Path) -> None:
        self.name: str = body["TrainingJobName"]
        self.folder = folder
        self.machines: list[Machine] = []
        self.stopped = ""  # the secondary status, when it was told to stop
        self.taken = 0  # how often its spot machines were taken away
        self.about: dict[str, Any] = {
            **body,
            "TrainingJobArn": f"arn:aws:sagemaker:loopback:000000000000:training-job/{self.name}",
            "TrainingJobStatus": "InProgress",
            "SecondaryStatus": "Starting",
            "CreationTime": time.time(),
        }

    def turn(self, second: str, **more: Any) -> None:
        self.about |= {"SecondaryStatus": second, "LastModifiedTime": time.time(), **more}

    def end(self, state: str, second: str, **more: Any) -> None:
        self.turn(second, TrainingJobStatus=state, TrainingEndTime=time.time(), **more)


class SageMaker(Fleet):
    """The control plane. `folder` holds the machines' disks. `quota`: machines of a kind that may run at once, without
    end where none is named. `images`: those that exist, where not all do."""

    STOPPED = "Stopped"

    def __init__(self, folder: Path, *, quota: dict[str, int] | None = None, images: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.jobs = dict[str, _Job]()
        self._quota = quota or {}
        self._images = images
        self._lock = threading.Lock()
        boto3 = plugins.need("boto3", "aws", "The loopback of sagemaker")
        session = boto3.session.Session()  # the default one remembers keys that were for somebody else
        self._s3, self._logs = session.client("s3"), session.client("logs")
        with suppress(self._logs.exceptions.ResourceAlreadyExistsException):
            self._logs.create_log_group(logGroupName=LOGS)

    def answer(self, asked: Asked) -> Answer:
        """One of the four calls that inflame makes, and the list of all jobs."""
        verb = asked.headers.get("x-amz-target", "").rpartition(".")[2]
        calls = {
            "CreateTrainingJob": self._create,
            "DescribeTrainingJob": self._describe,
            "StopTrainingJob": self._stop,
            "ListTrainingJobs": self._list,
        }
        if verb not in calls:
            return _error("UnknownOperationException", f"{verb} is not known here.")
        return calls[verb](asked.json())

    def refuse(self, fault: str) -> Answer:
        """In AWS's words."""
        if fault == "throttled":
            return _error("ThrottlingException", "Rate exceeded")
        if fault == "expired":
            return _error("ExpiredTokenException", "The security token included in the request is expired")
        return _error("InternalFailure", "The request failed because of an unknown error.", 500)

    def take_away(self, name: str) -> None:
        """Takes the spot machines of a job away, with the notice that AWS gives; SageMaker then begins anew."""
        job = self.jobs[name]
        job.taken += 1
        for machine in job.machines:
            machine.stop(GRACE)

    def _create(self, body: dict[str, Any]) -> Answer:
        name, kind = body["TrainingJobName"], body["ResourceConfig"]["InstanceType"]
        count = body["ResourceConfig"]["InstanceCount"]
        image = body["AlgorithmSpecification"]["TrainingImage"]
        if self._images and image not in self._images:
            return _error("ValidationException", f"Cannot find image {image}: check that it exists.")
        if not kind.startswith("ml."):
            return _error("ValidationException", f"{kind} is no instance type.")
        with self._lock:
            if name in self.jobs:
                return _error("ResourceInUse", "Training job names must be unique within an AWS account and region.")
            if count > self._quota.get(kind, count):
                limit = f"The account-level service limit '{kind} for training job usage' is {self._quota[kind]}"
                return _error("ResourceLimitExceeded", limit)
            job = self.jobs[name] = _Job(body, self.folder / name)
        threading.Thread(target=self._run, args=(job,), daemon=True).start()
        return Answer(body={"TrainingJobArn": job.about["TrainingJobArn"]})

    def _describe(self, body: dict[str, Any]) -> Answer:
        job = self.jobs.get(body["TrainingJobName"])
        return Answer(body=job.about) if job else _error("ValidationException", "Requested resource not found.")

    def _list(self, body: dict[str, Any]) -> Answer:
        found = [job.about for name, job in self.jobs.items() if body.get("NameContains", "") in name]
        return Answer(body={"TrainingJobSummaries": found})

    def _stop(self, body: dict[str, Any]) -> Answer:
        job = self.jobs.get(body["TrainingJobName"])
        if job is None:
            return _error("ValidationException", "Requested resource not found.")
        if job.about["TrainingJobStatus"] != "InProgress":
            return _error("ValidationException", "The request was rejected because the training job is not running.")
        self._halt(job, "Stopped")
        return Answer(body={})

    def _halt(self, job: _Job, second: str) -> None:
        job.stopped = second
        job.turn("Stopping", TrainingJobStatus="Stopping")
        for machine in job.machines:
            machine.stop(GRACE)

    # --- the job itself --------------------------------------------------------------------------

    def _run(self, job: _Job) -> None:
        try:
            self._attempts(job)
        except Exception as error:  # whatever it is: a job that nobody ends is asked for for ever
            job.end("Failed", "Failed", FailureReason=f"InternalServerError: {error}"[:_SAID])

    def _attempts(self, job: _Job) -> None:
        body, longest = job.about, job.about["StoppingCondition"]["MaxRuntimeInSeconds"]
        while True:
            taken = job.taken
            shutil.rmtree(job.folder, ignore_errors=True)
            job.turn("Downloading")
            folders = [self._disk(job, rank) for rank in range(body["ResourceConfig"]["InstanceCount"])]
            job.turn("Training", TrainingStartTime=time.time())
            job.machines = [self._start(job, rank, folder) for rank, folder in enumerate(folders)]
            if job.stopped:  # while the machines were being made ready
                self._halt(job, job.stopped)
            timer = threading.Timer(longest, self._halt, (job, "MaxRuntimeExceeded"))
            timer.daemon = True
            timer.start()
            codes = self._wait(job)
            timer.cancel()
            if job.taken == taken or job.stopped or not body.get("EnableManagedSpotTraining"):
                break
            job.turn("Interrupted")
        job.turn("Uploading")
        artifact = self._upload(job, folders)
        self._conclude(job, codes, artifact)

    def _wait(self, job: _Job) -> list[int]:
        """The codes of all machines. When one fails the others are ended, as SageMaker does."""
        waiting = list(job.machines)
        while waiting:
            for machine in list(waiting):
                code = machine.wait(0.05)
                if code is not None:
                    waiting.remove(machine)
                    if code and not job.stopped:
                        for other in waiting:
                            other.stop(GRACE)
        return [machine.code or 0 for machine in job.machines]

    def _conclude(self, job: _Job, codes: list[int], artifact: str) -> None:
        model = {"ModelArtifacts": {"S3ModelArtifacts": artifact}} if artifact else {}
        wrong = next((code for code in codes if code), 0)
        if job.stopped:
            job.end("Stopped", job.stopped, **model)
        elif wrong:
            reason = job.folder / f"algo-{codes.index(wrong) + 1}" / "output" / "failure"
            said = reason.read_text(errors="replace") if reason.is_file() else ""
            job.end("Failed", "Failed", FailureReason=f"AlgorithmError: {said[:_SAID]}, exit code: {wrong}", **model)
        else:
            job.end("Completed", "Completed", **model)

    def _disk(self, job: _Job, rank: int) -> Path:
        """`/opt/ml` of one machine: settings, hosts and channels, before it starts."""
        body = job.about
        folder = job.folder / f"algo-{rank + 1}"
        for name in ("input/config", "input/data", "model", "output/data", "checkpoints"):
            (folder / name).mkdir(parents=True)
        hosts = _hosts(body["ResourceConfig"]["InstanceCount"])
        channels = {one["ChannelName"]: one for one in body.get("InputDataConfig", ())}
        config = {
            "hyperparameters": body.get("HyperParameters", {}),
            "resourceconfig": {
                "current_host": hosts[rank],
                "current_instance_type": body["ResourceConfig"]["InstanceType"],
                "hosts": hosts,
                "network_interface_name": "lo",
            },
            "inputdataconfig": {name: {"TrainingInputMode": one["InputMode"]} for name, one in channels.items()},
        }
        for name, content in config.items():
            (folder / "input" / "config" / f"{name}.json").write_text(json.dumps(content))
        for name, one in channels.items():
            self._download(one["DataSource"]["S3DataSource"]["S3Uri"], folder / "input" / "data" / name)
        return folder

    def _start(self, job: _Job, rank: int, folder: Path) -> Machine:
        body = job.about
        algorithm = body["AlgorithmSpecification"]
        stream = f"{job.name}/algo-{rank + 1}-{int(time.time())}"
        with suppress(self._logs.exceptions.ResourceAlreadyExistsException):
            self._logs.create_log_stream(logGroupName=LOGS, logStreamName=stream)

        def said(line: str) -> None:
            event = {"timestamp": int(time.time() * 1000), "message": line or " "}
            self._logs.put_log_events(logGroupName=LOGS, logStreamName=stream, logEvents=[event])

        variables = {
            **body.get("Environment", {}),
            "SAGEMAKER_BASE_DIR": "/opt/ml",
            "TRAINING_JOB_NAME": job.name,
            "TRAINING_JOB_ARN": body["TrainingJobArn"],
            "AWS_REGION": self._s3.meta.region_name or "us-east-1",
        }
        return Machine(
            [*algorithm["ContainerEntrypoint"], *algorithm.get("ContainerArguments", ())],
            variables,
            {"/opt/ml": folder},
            said,
            image=algorithm["TrainingImage"],
            grace=GRACE,
        )

    def _download(self, uri: str, folder: Path) -> None:
        """All objects whose names begin so; a single one keeps its own name. A file of this machine is one as well."""
        here = store.local(uri)
        if here is not None:
            folder.mkdir(parents=True)
            shutil.copyfile(here, folder / here.name)
            return
        bucket, prefix = _split(uri)
        found = 0
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", ()):
                key = entry["Key"]
                within = key.removeprefix(prefix).lstrip("/") if key != prefix and "/" in key[len(prefix) :] else ""
                target = folder / (within or key.rpartition("/")[2])
                target.parent.mkdir(parents=True, exist_ok=True)
                self._s3.download_file(bucket, key, str(target))
                found += 1
        if not found:
            raise FileNotFoundError(f"ClientError: Data download failed: no objects at {uri}")

    def _upload(self, job: _Job, folders: list[Path]) -> str:
        """`model.tar.gz` of what the machines left in `/opt/ml/model`; empty where that is nothing."""
        if not any(path.is_file() for folder in folders for path in (folder / "model").rglob("*")):
            return ""
        packed = job.folder / "model.tar.gz"
        with tarfile.open(packed, "w:gz") as archive:
            for folder in folders:
                archive.add(folder / "model", arcname=".")
        uri = f"{job.about['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{job.name}/output/model.tar.gz"
        if store.local(uri) is not None:
            store.upload(packed, uri)
            return uri
        bucket, key = _split(uri)
        self._s3.upload_file(str(packed), bucket, key)
        return uri


def _hosts(count: int) -> list[str]:
    """Names that lead here: those of containers on this network, or of processes."""
    return [f"127.0.0.{number + 1}" for number in range(count)]


def _split(uri: str) -> tuple[str, str]:
    found = re.fullmatch(r"s3://([^/]+)/?(.*)", uri)
    if found is None:
        raise ValueError(f"ValidationException: {uri} is no place in S3")
    return found[1], found[2]


def _error(code: str, message: str, status: int = 400) -> Answer:
    return Answer(
        status=status,
        body={"__type": code, "message": message},
        headers={"Content-Type": "application/x-amz-json-1.1", "x-amzn-ErrorType": code},
    )
