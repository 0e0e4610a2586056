"""AWS as boto3 asks it, as whom and where the settings of SageMaker say; and its refusals in our words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from inflame import plugins
from inflame.errors import InflameError, NetworkError, RunError, UserError, did_you_mean
from inflame.infra import machines
from inflame.infra.places import Setting

NAME = "sagemaker"
SETTINGS = (
    Setting(
        name="role",
        help="the ARN of the role that the job has",
        variables=("INFLAME_SAGEMAKER_ROLE", "SAGEMAKER_ROLE_ARN"),
        example="arn:aws:iam::123456789012:role/inflame",
        required=True,
    ),
    Setting(
        name="region",
        help="where the job runs",
        variables=("AWS_REGION", "AWS_DEFAULT_REGION"),
        example="us-east-1",
        required=True,
    ),
    Setting(name="image", help="the container image", example="….dkr.ecr.us-east-1.amazonaws.com/mine:1"),
    Setting(name="volume", help="disk of each machine, in GB", default="50"),
    Setting(name="subnets", help="subnets of your own network, with commas between them"),
    Setting(name="security_groups", help="security groups there, with commas between them"),
    Setting(name="endpoint", help="another address of the service", variables=("AWS_ENDPOINT_URL_SAGEMAKER",)),
)
_IMAGE = "763104351884.dkr.ecr.{region}.amazonaws.com/pytorch-training:{tag}-ubuntu22.04-sagemaker"
_TAGS = {False: "2.6.0-cpu-py312", True: "2.6.0-gpu-py312-cu126"}

# What AWS calls it, what that means, and the way out.
_REFUSALS = (
    ("NoCredentials|PartialCredentials|NoAuthToken|UnauthorizedSSO|SSOToken|TokenRetrieval",
     "AWS has no credentials of yours",
     "Type   aws configure   or   aws sso login, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."),
    ("ExpiredToken|RequestExpired", "Your AWS token has expired",
     "Log in again (aws sso login), or set fresh AWS_* keys."),
    ("UnrecognizedClient|InvalidClientTokenId|InvalidSignature|SignatureDoesNotMatch|IncompleteSignature",
     "AWS doesn't know these credentials",
     "Set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for temporary ones, AWS_SESSION_TOKEN anew."),
    ("ResourceLimitExceeded", "Your quota doesn't allow this machine",
     "Ask for more under Service Quotas > SageMaker, or take another --machine or region."),
    ("AccessDenied|NotAuthorized|Unauthorized|OptInRequired", "AWS refuses you this right",
     "Give yourself the rights that inflame doctor --on sagemaker prints."),
    ("Connect|Timeout|HTTPClient|UnknownEndpoint|InvalidRegion|Throttling|Internal|Unavailable|RequestLimitExceeded",
     "SageMaker can't be reached", "Check the region and the network, then give the same command again."),
)  # fmt: skip


class Account:
    """The account in which jobs run, in the region of the settings."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.settings = settings
        self._clients: dict[str, Any] = {}

    def client(self, service: str = NAME) -> Any:
        """boto3's client of a service, which tries again by itself, later and later: throttled, 500s, cut off."""
        if service not in self._clients:
            boto3 = plugins.need("boto3", "aws", "The place sagemaker")
            config = plugins.need("botocore.config", "aws").Config(
                retries={"mode": "standard", "total_max_attempts": 6}, connect_timeout=10, read_timeout=30
            )
            region, endpoint = self.settings["region"], self.settings["endpoint"] if service == NAME else ""
            with border(f"reach {service}"):
                session = boto3.session.Session(region_name=region or None)
                known = session.get_available_regions(NAME)
                if region and region not in known and not endpoint:
                    raise UserError(
                        f'SageMaker has no region "{region}".{did_you_mean(region, known)}',
                        where=f"region below [on.{NAME}]",
                        remedy=f"Use one of {', '.join(known)}.",
                    )
                self._clients[service] = session.client(service, endpoint_url=endpoint or None, config=config)
        return self._clients[service]

    def image(self, machine: machines.Machine) -> str:
        """AWS's own image of PyTorch."""
        gpu = bool(machine.gpus) if machine.gpus is not None else re.match(r"ml\.(g|p)\d", machine.native) is not None
        return _IMAGE.format(region=self.settings["region"], tag=_TAGS[gpu])


def explain(error: Exception, doing: str) -> InflameError:
    """Our error for one of AWS's."""
    said = f"{type(error).__name__} {code_of(error)}"
    for pattern, what, remedy in _REFUSALS:
        if re.search(pattern, said):
            kind = NetworkError if "reached" in what else UserError
            return kind(f"{what}: it was asked to {doing}. {error}", where=NAME, remedy=remedy)
    if type(error).__name__ == "ParamValidationError" or code_of(error) == "ValidationException":
        return UserError(
            f"SageMaker refuses to {doing}: {error}",
            where=NAME,
            remedy="Correct what it names: role, image, bucket or machine. See: inflame doctor --on sagemaker",
        )
    return RunError(f"SageMaker could not {doing}: {error}", where=NAME, remedy="Give the same command again.")


@contextmanager
def border(doing: str) -> Iterator[None]:
    """Turns what boto3 raises into our errors."""
    try:
        yield
    except InflameError:
        raise
    except Exception as error:  # botocore makes its classes on the fly
        if not type(error).__module__.startswith(("botocore", "boto3", "s3transfer", "urllib3")):
            raise
        raise explain(error, doing) from error


def code_of(error: Exception) -> str:
    """What AWS calls it, empty where it says nothing."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
