"""The local Kafka and S3 servers have the features that the project needs."""

import uuid
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from confluent_kafka.admin import AdminClient, NewTopic


def test_the_broker_creates_topics(kafka: Any) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    name = f"t{uuid.uuid4().hex[:8]}"
    admin.create_topics([NewTopic(name, num_partitions=3, replication_factor=1)])[name].result(10)
    assert len(admin.list_topics(name, timeout=10).topics[name].partitions) == 3


def test_the_store_honours_if_none_match(s3: Any) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint_url,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
        region_name="us-east-1",
    )
    bucket = f"t{uuid.uuid4().hex[:8]}"
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="once", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket=bucket, Key="once", Body=b"second", IfNoneMatch="*")
    assert client.get_object(Bucket=bucket, Key="once")["Body"].read() == b"first"
