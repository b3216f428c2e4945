"""A web page that reaches the S3 server of `make run` can neither write, read nor list anything."""

import base64
import datetime
import hashlib
import hmac
import json
import uuid
from typing import Any

import boto3
import httpx
import pytest

KNOWN_KEY, KNOWN_SECRET = "local-access-key", "local-secret-key"
"""The credentials that every `make run` had in an older version, and that everybody can read in its source."""
KEY = "system/id_secret"
BUCKET = f"t{uuid.uuid4().hex[:8]}"
POLICY = base64.b64encode(
    json.dumps(
        {"expiration": "2099-01-01T00:00:00Z", "conditions": [{"bucket": BUCKET}, ["starts-with", "$key", ""]]}
    ).encode()
).decode()


def digest(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def old_form(secret: str) -> dict[str, str]:
    """A browser form signed with version 2."""
    signature = hmac.new(secret.encode(), POLICY.encode(), hashlib.sha1).digest()
    return {"AWSAccessKeyId": KNOWN_KEY, "policy": POLICY, "signature": base64.b64encode(signature).decode()}


def new_form(secret: str) -> dict[str, str]:
    """A browser form signed with version 4."""
    now = datetime.datetime.now(datetime.UTC)
    key = f"AWS4{secret}".encode()
    for word in (f"{now:%Y%m%d}", "us-east-1", "s3", "aws4_request"):
        key = digest(key, word)
    return {
        "policy": POLICY,
        "x-amz-algorithm": "AWS4-HMAC-SHA256",
        "x-amz-credential": f"{KNOWN_KEY}/{now:%Y%m%d}/us-east-1/s3/aws4_request",
        "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}",
        "x-amz-signature": digest(key, POLICY).hex(),
    }


@pytest.fixture(scope="module")
def bucket(s3: Any) -> Any:
    """A bucket with an object that an attacker would like to replace."""
    owner = boto3.resource(
        "s3",
        endpoint_url=s3.endpoint_url,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
        region_name="us-east-1",
    )
    bucket = owner.create_bucket(Bucket=BUCKET)
    bucket.put_object(Key=KEY, Body=b"secret")
    return bucket


def client(s3: Any, secret: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=s3.endpoint_url,
        aws_access_key_id=KNOWN_KEY,
        aws_secret_access_key=secret,
        region_name="us-east-1",
    )


@pytest.mark.parametrize("fields", [{}, old_form(KNOWN_SECRET), new_form(KNOWN_SECRET), old_form(""), new_form("")])
def test_a_form_of_another_site_replaces_nothing(s3: Any, bucket: Any, fields: dict[str, str]) -> None:
    answer = httpx.post(
        f"{s3.endpoint_url}/{bucket.name}",
        data={"key": KEY, **fields},
        files={"file": ("a.html", b"<script>")},
        headers={"Origin": "http://attacker.example"},
    )
    assert answer.status_code == 403, answer.text
    assert bucket.Object(KEY).get()["Body"].read() == b"secret"


@pytest.mark.parametrize("host", ["attacker.example", "bucket.attacker.example", "127.0.0.1.nip.io:9000"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST", "HEAD"])
def test_a_page_whose_name_points_to_this_machine_gets_nothing(s3: Any, bucket: Any, method: str, host: str) -> None:
    for path in ("", f"/{bucket.name}", f"/{bucket.name}/{KEY}", f"/{bucket.name}/new"):
        answer = httpx.request(method, f"{s3.endpoint_url}{path}", headers={"Host": host})
        assert answer.status_code >= 400, (path, answer.text)
        assert not answer.headers.keys() & {"access-control-allow-origin", "etag"}
    assert [entry.key for entry in bucket.objects.all()] == [KEY]


@pytest.mark.parametrize("secret", [KNOWN_SECRET, "x"])
def test_an_address_signed_with_the_known_credentials_is_refused(s3: Any, bucket: Any, secret: str) -> None:
    for method in ("get_object", "put_object", "delete_object"):
        signed = client(s3, secret).generate_presigned_url(method, {"Bucket": bucket.name, "Key": KEY})
        verb = method.partition("_")[0].upper()
        assert httpx.request(verb, signed).status_code == 403
    assert bucket.Object(KEY).get()["Body"].read() == b"secret"
