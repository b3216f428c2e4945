"""The object store on S3: images, and outcomes that are written once."""

import asyncio
import contextlib
import functools
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from config.settings import Settings
from tasks.errors import RangeNotSatisfiable, StoreUnavailable, UnknownImage, UntrustedOutcome
from tasks.events import Outcome
from tasks.object_keys import is_plain, outcome_key
from tasks.outcome_json import read_outcome

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

logger = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS = 16
_RETRY_AFTER = 2.0
_CONFLICT_TRIES, _CONFLICT_PAUSE_SECONDS = 10, 0.1
"""How often a conditional write is tried while other writes of the same name are in progress, and the pause between."""
_PROBE_KEY = "system/probe"
"""No object has this key. The answer that it is missing shows that the bucket and the credentials work."""
_REFUSAL_SECONDS = 60.0
"""A refusal with the same code is logged at most once in so many seconds."""
_NO_ANSWER = (BotoCoreError, ResponseParserError, HTTPError)
"""What botocore raises where S3 gives no whole answer. It hands on urllib3's error where an answer ends early."""
_MISSING = {"NoSuchKey", "404", "NotFound"}
_EXISTS = {"PreconditionFailed", "412"}
_CONFLICT = {"ConditionalRequestConflict", "409", "OperationAborted"}
_BAD_RANGE = {"InvalidRange", "416"}


def s3_client(settings: Settings) -> "S3Client":
    """A client with short timeouts. Region and profile come from the usual AWS environment variables, and so do the
    credentials where the settings have none."""
    return boto3.client(
        "s3",
        **_credentials(settings),
        endpoint_url=settings.aws_endpoint_url_s3,
        config=Config(
            connect_timeout=settings.s3_timeout,
            read_timeout=settings.s3_timeout,
            retries={"mode": "standard", "total_max_attempts": 2},
            max_pool_connections=_THREADS,
            s3={"addressing_style": "path" if settings.aws_endpoint_url_s3 else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _credentials(settings: Settings) -> dict[str, Any]:
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    values = {name: secret.get_secret_value() for name in names if (secret := getattr(settings, name)) is not None}
    # Half of them would keep boto3 from looking for credentials anywhere else.
    return values if {"aws_access_key_id", "aws_secret_access_key"} <= values.keys() else {}


def create_bucket(settings: Settings) -> None:
    """Create the bucket if it is missing."""
    client = s3_client(settings)
    try:
        client.head_bucket(Bucket=settings.s3_bucket)
    except ClientError as error:
        if _code(error) not in _MISSING | {"NoSuchBucket"}:
            raise
        client.create_bucket(Bucket=settings.s3_bucket)


class S3Store:
    """See ImageStore. boto3 blocks, so the calls run in a small pool of threads."""

    def __init__(self, settings: Settings) -> None:
        """Connects at the first call."""
        self._bucket = settings.s3_bucket
        self._prefix = settings.s3_prefix
        self._timeout = settings.s3_timeout
        self._client = s3_client(settings)
        self._threads = ThreadPoolExecutor(_THREADS, "s3")
        self._problem = ""
        self._calls = 0
        self._refusals: dict[str, float] = {}

    async def check(self) -> None:
        """Exit with a sentence if the store ignores `If-None-Match`, because then a task could get two outcomes.

        Raises StoreUnavailable if the store does not answer.
        """
        key = f"system/check-{secrets.token_hex(8)}"
        if await self.put_once(key, b"1") != b"1" or await self.put_once(key, b"2") != b"1":
            raise SystemExit(
                "The store ignores `If-None-Match: *`, so a task could get two outcomes. Use a store with "
                "conditional writes: AWS S3, MinIO, Ceph RGW 18 or later, S3Proxy."
            )
        await self._call(lambda: self._client.delete_object(**self._at(key)))

    async def put_image(self, key: str, data: bytes, content_type: str) -> None:
        """See ImageStore."""
        await self._call(lambda: self._client.put_object(**self._at(key), Body=data, ContentType=content_type))

    async def get_image(self, key: str, byte_range: tuple[int, int | None] | None = None) -> bytes:
        """See ImageStore."""
        range_header: dict[str, Any] = {}
        if byte_range is not None:
            first, last = byte_range
            range_header["Range"] = f"bytes={first}-{'' if last is None else last}"
        return await self._get(key, **range_header)

    async def put_outcome(self, outcome: Outcome) -> Outcome:
        """See ImageStore."""
        stored = await self.put_once(outcome_key(outcome.task_id), outcome.model_dump_json().encode())
        return _read_outcome(outcome.task_id, stored)

    async def get_outcome(self, task_id: str) -> Outcome | None:
        """See ImageStore."""
        try:
            async with self._within_timeout():
                return _read_outcome(task_id, await self._get(outcome_key(task_id)))
        except UnknownImage:
            return None

    async def delete_images(self, keys: Sequence[str]) -> None:
        """See ImageStore."""
        for key in keys:
            await self._call(functools.partial(self._client.delete_object, **self._at(key)))

    async def put_once(self, key: str, data: bytes) -> bytes:
        """See ImageStore."""
        put = functools.partial(self._client.put_object, **self._at(key), Body=data, IfNoneMatch="*")
        async with self._within_timeout():
            for _ in range(_CONFLICT_TRIES):
                try:
                    await self._call(put, _EXISTS | _CONFLICT)
                    return data
                except ClientError as error:
                    if _code(error) in _EXISTS:
                        return await self._get(key)
                    await asyncio.sleep(_CONFLICT_PAUSE_SECONDS)
            logger.warning("other writes of an object are in progress", extra={"key": key})
            raise StoreUnavailable(retry_after=_RETRY_AFTER)

    async def check_reachable(self) -> None:
        """See ImageStore."""
        # A GET, because the answer to HEAD has no body and so cannot tell a missing bucket from a missing object.
        with contextlib.suppress(UnknownImage):
            await self._get(_PROBE_KEY)

    def close(self) -> None:
        """End the threads. Calls that have not started are cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _at(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    async def _get(self, key: str, **headers: Any) -> bytes:
        if not is_plain(key):
            raise UnknownImage
        try:
            return await self._call(
                lambda: self._client.get_object(**self._at(key), **headers)["Body"].read(), _MISSING | _BAD_RANGE
            )
        except ClientError as error:
            raise (RangeNotSatisfiable if _code(error) in _BAD_RANGE else UnknownImage) from error

    async def _call(self, call: Callable[[], T], expected: Collection[str] = ()) -> T:
        """The result of the call. A ClientError with an expected code is raised as it is; every other failure is raised
        as StoreUnavailable. What failed is in the log alone: it names addresses.

        While S3 does not answer, one call at a time tests whether it is available again. The other calls fail at once:
        otherwise they would fill the threads with calls that wait for a timeout.
        """
        is_probe = bool(self._problem)
        if is_probe and self._calls:
            raise self._unavailable()

        def run() -> T:
            if self._problem and not is_probe:
                raise self._unavailable()  # S3 became unavailable while this call waited for a thread
            return call()

        self._calls += 1
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._threads, run)
        except _NO_ANSWER as error:
            raise self._failed(str(error) or type(error).__name__) from error
        except ClientError as error:
            # S3 answers, so this is no outage: the refusal may concern this object alone. Where the bucket or the
            # credentials are wrong, every call is refused, and every task waits until a person corrects them.
            self._succeeded()
            if _code(error) not in expected:
                raise self._refused(error) from error
            raise
        finally:
            self._calls -= 1
        self._succeeded()
        return result

    @contextlib.asynccontextmanager
    async def _within_timeout(self) -> AsyncIterator[None]:
        """Limit small requests to one S3_TIMEOUT. boto3 tries twice, so a store that hangs would take two."""
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except TimeoutError as error:
            raise self._failed(f"no answer within {self._timeout:g} s") from error

    def _failed(self, problem: str) -> StoreUnavailable:
        if not self._problem:
            logger.warning("S3 is unavailable: %s", problem)
        self._problem = problem
        return self._unavailable()

    def _refused(self, error: ClientError) -> StoreUnavailable:
        now, code = time.monotonic(), _code(error)
        if now - self._refusals.get(code, float("-inf")) >= _REFUSAL_SECONDS:
            self._refusals[code] = now
            logger.warning("S3 refuses a call: %s", error, extra={"bucket": self._bucket})
        return self._unavailable()

    def _unavailable(self) -> StoreUnavailable:
        return StoreUnavailable(retry_after=_RETRY_AFTER)

    def _succeeded(self) -> None:
        if self._problem:
            logger.info("S3 is available again")
        self._problem = ""


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _read_outcome(task_id: str, data: bytes) -> Outcome:
    try:
        return read_outcome(task_id, data)
    except (StoreUnavailable, UntrustedOutcome) as error:
        _log_unreadable(task_id, error.code())
        raise


@functools.lru_cache(1000)
def _log_unreadable(task_id: str, code: str) -> None:
    """Log it once for each task, because the owner of the task asks again every few seconds."""
    logger.error("the stored outcome of a task cannot be used", extra={"task_id": task_id, "code": code})
