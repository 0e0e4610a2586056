"""What a job needs of AWS, looked at one by one, and the least rights that it takes."""

from __future__ import annotations

import re
from typing import Any

from inflame import remote
from inflame.errors import InflameError, MissingExtra
from inflame.infra import machines, places
from inflame.infra.launcher import NOT_OK, OK, UNKNOWN, Finding
from inflame.infra.places.sagemaker_api import NAME, SETTINGS, Account, explain
from inflame.records import JobSpec

_DOCTOR = "Give yourself the rights that inflame doctor --on sagemaker prints."
_BUCKET = re.compile(r"s3://([^/]+)/?(.*)")


def look(account: Account, spec: JobSpec) -> list[Finding]:
    """Settings, credentials, role, quota, bucket and image; the first two hide the others."""
    try:
        places.demand(NAME, account.settings, SETTINGS)
        who = account.client("sts").get_caller_identity()["Arn"]
    except MissingExtra as error:
        return [_bad("SDK", error)]
    except InflameError as error:
        return [_bad("settings", error)]
    except Exception as error:
        return [_bad("credentials", explain(error, "say who you are"))]
    found = [Finding(what="credentials", state=OK, text=f"You are {who}.")]
    for what, ask in (("role", _role), ("quota", _quota), ("bucket", _bucket), ("image", _image)):
        try:
            found.append(ask(account, spec))
        except Exception as error:
            found.append(_unsure(what, error))
    return found


def rights(spec: JobSpec, role: str) -> dict[str, Any]:
    """Policies: `you` for who sends the job, `job` for its role, `trust` for who may take that role."""
    found = _BUCKET.match(spec.output)
    bucket, prefix = (found[1], found[2].strip("/")) if found else ("MY-BUCKET", "inflame")
    role = role or "arn:aws:iam::123456789012:role/inflame"
    account = role.split(":")[4]
    below = f"arn:aws:s3:::{bucket}/{prefix}/*".replace("//", "/")
    objects = [
        _allow(["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"], below),
        _allow(["s3:ListBucket"], f"arn:aws:s3:::{bucket}"),
    ]
    logs = f"arn:aws:logs:*:{account}:log-group:/aws/sagemaker/TrainingJobs*"
    passed = {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
    verbs = [f"sagemaker:{verb}" for verb in ("CreateTrainingJob", "DescribeTrainingJob", "StopTrainingJob", "AddTags")]
    pull = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability"]
    return {
        "you": _policy(
            _allow(verbs, f"arn:aws:sagemaker:*:{account}:training-job/inflame-*"),
            {**_allow(["iam:PassRole"], role), "Condition": passed},
            _allow(["iam:GetRole"], role),
            _allow(["logs:DescribeLogStreams", "logs:FilterLogEvents"], logs),
            _allow(["servicequotas:ListServiceQuotas", "ecr:DescribeImages"], "*"),
            *objects,
        ),
        "job": _policy(
            *objects,
            _allow(
                ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"], logs
            ),
            _allow(["ecr:GetAuthorizationToken", *pull], "*"),
            _allow(["cloudwatch:PutMetricData"], "*"),
        ),
        "trust": _policy(
            {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ),
    }


def _policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _allow(actions: list[str], resource: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resource}


def _role(account: Account, spec: JobSpec) -> Finding:
    arn = account.settings["role"]
    client = account.client("iam")
    try:
        role = client.get_role(RoleName=arn.rpartition("/")[2])["Role"]
    except client.exceptions.NoSuchEntityException:
        return Finding(
            what="role",
            state=NOT_OK,
            text=f"There is no role {arn}.",
            remedy="Make it, with the policies job and trust that inflame doctor --on sagemaker prints.",
        )
    if "sagemaker.amazonaws.com" not in str(role.get("AssumeRolePolicyDocument")):
        return Finding(
            what="role",
            state=NOT_OK,
            text=f"SageMaker may not take the role {arn}.",
            remedy="Give it the trust policy that inflame doctor --on sagemaker prints.",
        )
    return Finding(what="role", state=OK, text=f"{arn} is there, and SageMaker may take it.")


def _quota(account: Account, spec: JobSpec) -> Finding:
    kind = machines.find(spec.machine, NAME).native
    name = f"{kind} for {'spot training' if spec.spot else 'training'} job usage"
    pages = account.client("service-quotas").get_paginator("list_service_quotas").paginate(ServiceCode=NAME)
    values = {quota["QuotaName"]: quota["Value"] for page in pages for quota in page["Quotas"]}
    if name not in values:
        return Finding(
            what="quota",
            state=UNKNOWN,
            text=f'AWS lists no quota "{name}".',
            remedy="Look under Service Quotas > SageMaker whether the machine exists in this region.",
        )
    if values[name] < spec.count:
        return Finding(
            what="quota",
            state=NOT_OK,
            text=f"Your quota for {name} is {values[name]:g}, and the job needs {spec.count}.",
            remedy=f'Ask for more: Service Quotas > Amazon SageMaker > "{name}". It takes hours to days.',
        )
    return Finding(what="quota", state=OK, text=f"{values[name]:g} {name}.")


def _bucket(account: Account, spec: JobSpec) -> Finding:
    found = _BUCKET.match(spec.output)
    if not found:
        text = f"{remote.shown(spec.output) or 'No output'} is not in a bucket of S3."
        return Finding(what="bucket", state=NOT_OK, text=text, remedy="Name one: --output s3://my-bucket/inflame")
    bucket, key = found[1], f"{found[2].strip('/')}/.inflame-check".lstrip("/")
    client = account.client("s3")
    try:
        client.put_object(Bucket=bucket, Key=key, Body=b"")
        client.delete_object(Bucket=bucket, Key=key)
    except client.exceptions.NoSuchBucket:
        remedy = f"aws s3 mb s3://{bucket} --region {account.settings['region']}"
        return Finding(what="bucket", state=NOT_OK, text=f"There is no bucket {bucket}.", remedy=remedy)
    except client.exceptions.ClientError as error:
        text = f"s3://{bucket} can't be written: {error}"
        return Finding(what="bucket", state=NOT_OK, text=text, remedy=_DOCTOR)
    return Finding(what="bucket", state=OK, text=f"s3://{bucket} can be written.")


def _image(account: Account, spec: JobSpec) -> Finding:
    image = spec.image or account.settings["image"] or account.image(machines.find(spec.machine, NAME))
    found = re.match(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com/([^:@]+)(?::([^@]+))?", image)
    if not found:
        return Finding(
            what="image",
            state=NOT_OK,
            text=f"{image} is not in a registry of AWS's, and SageMaker takes no other.",
            remedy="Push it to ECR, or leave the image out: AWS's own image of PyTorch is taken.",
        )
    if found[2] != account.settings["region"]:
        return Finding(
            what="image",
            state=NOT_OK,
            text=f"The image is in {found[2]}, and the job runs in {account.settings['region']}.",
            remedy="Push it to the job's region.",
        )
    client = account.client("ecr")
    wanted = [{"imageTag": found[4] or "latest"}]
    try:
        client.describe_images(registryId=found[1], repositoryName=found[3], imageIds=wanted)
    except (client.exceptions.ImageNotFoundException, client.exceptions.RepositoryNotFoundException):
        return Finding(
            what="image", state=NOT_OK, text=f"{image} doesn't exist.", remedy="Push it, or correct its name and tag."
        )
    return Finding(what="image", state=OK, text=f"{image} exists.")


def _bad(what: str, error: InflameError) -> Finding:
    return Finding(what=what, state=NOT_OK, text=error.message, remedy=error.remedy)


def _unsure(what: str, error: Exception) -> Finding:
    """Many may start jobs who may not look: that is no fault."""
    return Finding(what=what, state=UNKNOWN, text=f"AWS doesn't say: {error}", remedy=_DOCTOR)
