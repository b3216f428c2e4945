"""The store on S3: pictures, and outcomes that are written once."""

import asyncio
import contextlib
import functools
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from config.settings import Settings
from tasks.errors import RangeNotSatisfiable, StoreUnavailable, UnknownImage
from tasks.events import Outcome
from tasks.outcome_json import outcome_key, read_outcome

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS = 16
_RETRY_AFTER = 2.0
_RACES, _RACE_SECONDS = 10, 0.1
"""How often, and after what pause, a write that met another one of the same name is made again."""
_PROBE_KEY = "system/probe"
"""Nothing is stored here: that it is missing shows that bucket and credentials work."""
_MISSING = {"NoSuchKey", "404", "NotFound"}
_TAKEN = {"PreconditionFailed", "412"}
_RACING = {"ConditionalRequestConflict", "409", "OperationAborted"}
_BAD_RANGE = {"InvalidRange", "416"}


def s3_client(settings: Settings) -> "S3Client":
    """A client with short patience; address and credentials come by the usual AWS names."""
    return boto3.client(
        "s3",
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


def create_bucket(settings: Settings) -> None:
    """Make the bucket if it is missing."""
    client = s3_client(settings)
    try:
        client.head_bucket(Bucket=settings.s3_bucket)
    except ClientError as error:
        if _code(error) not in _MISSING | {"NoSuchBucket"}:
            raise
        client.create_bucket(Bucket=settings.s3_bucket)


class S3Store:
    """See ImageStore. boto3 blocks, so it works in a small pool of threads."""

    def __init__(self, settings: Settings) -> None:
        """Connects at the first call."""
        self._bucket = settings.s3_bucket
        self._prefix = settings.s3_prefix
        self._patience = settings.s3_timeout
        self._client = s3_client(settings)
        self._threads = ThreadPoolExecutor(_THREADS, "s3")
        self._away = ""
        self._asking = 0

    async def check(self) -> None:
        """Exit with a sentence where the store does not honour `If-None-Match`, on which "one outcome a task" rests.

        Raises StoreUnavailable where it cannot be reached.
        """
        key = f"system/check-{secrets.token_hex(8)}"
        if await self.put_once(key, b"1") != b"1" or await self.put_once(key, b"2") != b"1":
            raise SystemExit(
                "The store ignores `If-None-Match: *`, so it cannot promise one outcome a task. Use a store with "
                "conditional writes: AWS S3, MinIO, Ceph RGW 18 or later, S3Proxy."
            )
        await self._call(lambda: self._client.delete_object(**self._at(key)))

    async def put_image(self, key: str, data: bytes, content_type: str) -> None:
        """See ImageStore."""
        await self._call(lambda: self._client.put_object(**self._at(key), Body=data, ContentType=content_type))

    async def get_image(self, key: str, byte_range: tuple[int, int | None] | None = None) -> bytes:
        """See ImageStore."""
        more: dict[str, Any] = {}
        if byte_range is not None:
            first, last = byte_range
            more["Range"] = f"bytes={first}-{'' if last is None else last}"
        return await self._get(key, **more)

    async def put_outcome(self, outcome: Outcome) -> Outcome:
        """See ImageStore."""
        stands = await self.put_once(outcome_key(outcome.task_id), outcome.model_dump_json().encode())
        return _read_outcome(outcome.task_id, stands)

    async def get_outcome(self, task_id: str) -> Outcome | None:
        """See ImageStore."""
        try:
            async with self._soon():
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
        async with self._soon():
            for _ in range(_RACES):
                try:
                    await self._call(put, _TAKEN | _RACING)
                    return data
                except ClientError as error:
                    if _code(error) in _TAKEN:
                        return await self._get(key)
                    await asyncio.sleep(_RACE_SECONDS)
            raise StoreUnavailable(f"Others go on writing {key}.", retry_after=_RETRY_AFTER)

    async def check_reachable(self) -> None:
        """See ImageStore."""
        # A GET, because the answer to HEAD has no body and so cannot tell a missing bucket from a missing object.
        with contextlib.suppress(UnknownImage):
            await self._get(_PROBE_KEY)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _at(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    async def _get(self, key: str, **more: Any) -> bytes:
        try:
            return await self._call(
                lambda: self._client.get_object(**self._at(key), **more)["Body"].read(), _MISSING | _BAD_RANGE
            )
        except ClientError as error:
            raise (RangeNotSatisfiable if _code(error) in _BAD_RANGE else UnknownImage) from error

    async def _call(self, call: Callable[[], T], expected: Collection[str] = ()) -> T:
        """What the call gives, or the ClientError of an expected code; anything else counts as the store being away.

        While it is away one caller at a time finds out whether it is back; the others are told at once.
        """
        asks_whether_back = bool(self._away)
        if asks_whether_back and self._asking:
            raise self._unavailable()

        def ask() -> T:
            if self._away and not asks_whether_back:
                raise self._unavailable()  # it went away while this one waited for a thread
            return call()

        self._asking += 1
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        except BotoCoreError as error:
            raise self._gone(f"The picture store does not answer: {error}") from error
        except ClientError as error:
            if _code(error) not in expected:
                # A wrong bucket or credential is mended by people, and until then nothing may be lost.
                raise self._gone(f"The picture store refuses: {_code(error)}.") from error
            self._works()
            raise
        finally:
            self._asking -= 1
        self._works()
        return answer

    @contextlib.asynccontextmanager
    async def _soon(self) -> AsyncIterator[None]:
        # A hung store costs a call two time limits, one for each of its attempts: too long for what is so small.
        try:
            async with asyncio.timeout(self._patience):
                yield
        except TimeoutError as error:
            raise self._gone("The picture store does not answer in time.") from error

    def _gone(self, why: str) -> StoreUnavailable:
        if not self._away:
            log.warning("the store is away: %s", why)
        self._away = why
        return self._unavailable()

    def _unavailable(self) -> StoreUnavailable:
        return StoreUnavailable(self._away, retry_after=_RETRY_AFTER)

    def _works(self) -> None:
        if self._away:
            log.info("the store is back")
        self._away = ""


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _read_outcome(task_id: str, data: bytes) -> Outcome:
    try:
        return read_outcome(task_id, data)
    except StoreUnavailable:
        _log_unreadable(task_id)
        raise


@functools.lru_cache(1000)
def _log_unreadable(task_id: str) -> None:
    """Log it once a task: its owner asks again every few seconds."""
    log.error("this version cannot read the stored outcome of a task", extra={"task_id": task_id})
