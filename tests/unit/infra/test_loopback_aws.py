"""S3 and CloudWatch on this machine, as boto3 and s3fs see them: the files of a rehearsal are kept there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inflame import store
from inflame.infra.loopback.aws import Aws
from inflame.infra.loopback.server import Server

boto3: Any = pytest.importorskip("boto3")
pytest.importorskip("s3fs")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*")


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    import s3fs

    control = Aws(tmp_path / "buckets")
    with Server(control) as server:
        for name, value in {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()  # those of earlier tests go elsewhere
        control.buckets.make("bucket")
        yield control
    s3fs.S3FileSystem.clear_instance_cache()


def test_large_files_go_in_parts(aws: Aws, tmp_path: Path) -> None:
    data = bytes(range(256)) * (80 * 2**10)  # 20 MB
    (tmp_path / "large").write_bytes(data)
    client = boto3.session.Session().client("s3")
    client.upload_file(str(tmp_path / "large"), "bucket", "large")
    client.download_file("bucket", "large", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data
    assert store.read_bytes("s3://bucket/large") == data
    client.copy_object(Bucket="bucket", Key="again", CopySource="bucket/large")
    assert client.head_object(Bucket="bucket", Key="again")["ContentLength"] == len(data)


def test_lists_have_pages_and_what_is_deleted_is_gone(aws: Aws) -> None:
    client = boto3.session.Session().client("s3")
    for number in range(5):
        client.put_object(Bucket="bucket", Key=f"many/{number}/x", Body=b"x")
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket="bucket", Prefix="many/", PaginationConfig={"PageSize": 2}
    )
    assert [len(page["Contents"]) for page in pages] == [2, 2, 1]
    told = client.list_objects_v2(Bucket="bucket", Prefix="many/", Delimiter="/", MaxKeys=3)
    assert [one["Prefix"] for one in told["CommonPrefixes"]] == ["many/0/", "many/1/", "many/2/"]
    assert told["IsTruncated"]
    client.delete_objects(Bucket="bucket", Delete={"Objects": [{"Key": f"many/{number}/x"} for number in range(4)]})
    client.delete_object(Bucket="bucket", Key="many/4/x")
    assert client.list_objects_v2(Bucket="bucket")["KeyCount"] == 0


def test_lines_of_a_log_are_read_back(aws: Aws) -> None:
    client = boto3.session.Session().client("logs")
    client.create_log_group(logGroupName="g")
    client.create_log_stream(logGroupName="g", logStreamName="job/algo-1")
    client.put_log_events(
        logGroupName="g", logStreamName="job/algo-1", logEvents=[{"timestamp": 1, "message": "Grüße"}]
    )
    (stream,) = client.describe_log_streams(logGroupName="g", logStreamNamePrefix="job/")["logStreams"]
    told = client.filter_log_events(logGroupName="g", logStreamNames=[stream["logStreamName"]])
    assert [event["message"] for event in told["events"]] == ["Grüße"]
    with pytest.raises(client.exceptions.ClientError, match="not known here"):
        client.delete_log_group(logGroupName="g")
