"""A place to send jobs to, for several modules of tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inflame.infra.loopback.server import Server


@pytest.fixture
def sagemaker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """SageMaker here, with moto's S3 and CloudWatch, as the environment of our commands says."""
    pytest.importorskip("moto")
    import boto3
    from moto.server import ThreadedMotoServer

    from inflame.infra.loopback.sagemaker import SageMaker

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    moto.start()
    host, port = moto.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "INFLAME_SAGEMAKER_ROLE": "arn:aws:iam::123456789012:role/inflame",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    boto3.client("s3").create_bucket(Bucket="bucket")
    with Server(SageMaker(tmp_path / "machines")) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", server.url)
        yield server
    moto.stop()
