"""Where a rehearsed job keeps its things: in a bucket of the same name that is served here, or in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from inflame import store
from inflame.infra.launch import Plan
from inflame.infra.loopback.buckets import Buckets
from inflame.infra.loopback.server import Server
from inflame.records import JobSpec, dumps

ALONE = {  # nothing that a machine elsewhere wouldn't have, and no keys that could reach anything
    "AWS_ACCESS_KEY_ID": "rehearsal",
    "AWS_SECRET_ACCESS_KEY": "rehearsal",
    "AWS_SESSION_TOKEN": None,
    "AWS_PROFILE": None,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_ENDPOINT_URL_S3": None,
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
}


def kept(stack: ExitStack, plan: Plan, spec: JobSpec, folder: Path) -> tuple[str, Path]:
    """The job's place, and where that is here: a bucket of S3 or Google, served until the stack ends, or a folder."""
    scheme, url, _ = plan.place.partition("://")
    if scheme in _SERVED:
        buckets = Buckets(folder / "buckets")
        uri, root = placed(plan, spec, scheme, folder, buckets)
        if uri == plan.place:
            stack.enter_context(_SERVED[scheme](buckets, folder))
        return uri, root
    root = folder / "place"
    return root.as_uri() if url else str(root), root


def placed(plan: Plan, spec: JobSpec, scheme: str, folder: Path, buckets: Buckets) -> tuple[str, Path]:
    """Where the job's things are kept, and where that is here. A bucket keeps its name; where the data are in buckets
    too, which are not here, the services stay those of the user and the output gives way to a folder."""
    if any(f"{scheme}://" in word for word in spec.arguments):
        return (folder / "place").as_uri(), folder / "place"
    bucket, _, prefix = plan.place.partition("://")[2].partition("/")
    return plan.place, buckets.make(bucket) / prefix


@contextmanager
def _s3_here(buckets: Buckets, folder: Path) -> Iterator[None]:
    from inflame.infra.loopback.s3 import S3

    with Server(S3(buckets)) as storage:
        services = {"AWS_ENDPOINT_URL": storage.url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
        with surroundings({**ALONE, **services}):
            yield


@contextmanager
def _gcs_here(buckets: Buckets, folder: Path) -> Iterator[None]:
    """For gcsfs, and for obstore, which fetches the code of a pod."""
    from inflame.infra.loopback.gcs import Gcs

    with Server(Gcs(buckets)) as storage:
        account = {"gcs_base_url": storage.url, "disable_oauth": True}
        account |= dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        store.write(folder / "account.json", dumps(account))
        services = {"GOOGLE_SERVICE_ACCOUNT": str(folder / "account.json"), "GOOGLE_ALLOW_HTTP": "true"}
        with surroundings({**google(storage), **services}):
            yield


_SERVED: Mapping[str, Callable[[Buckets, Path], AbstractContextManager[None]]] = {"s3": _s3_here, "gs": _gcs_here}


def google(storage: Server) -> dict[str, str | None]:
    """What leads Google's own and gcsfs to a server of ours."""
    return {
        "GOOGLE_APPLICATION_CREDENTIALS": None,
        "STORAGE_EMULATOR_HOST": storage.url,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it asks Google what kind of bucket it is
        "NO_GCE_CHECK": "true",  # and whether this machine is Google's
    }


@contextmanager
def surroundings(values: Mapping[str, str | None]) -> Iterator[None]:
    """Environment variables that hold for the block; None takes one away."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
