"""The client of a runner over HTTP."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Sequence
from urllib.parse import SplitResult, urlsplit

import aiohttp
from pydantic import SecretStr, ValidationError

from tasks.capabilities import RunnerDescription, ServedModel
from tasks.errors import (
    CallerRefused,
    RunnerBusy,
    RunnerLoading,
    RunnerLost,
    RunnerUnavailable,
    TaskError,
    from_code,
)
from tasks.runner_api import (
    FRAMES,
    JSON,
    BrokenFrame,
    Decoder,
    End,
    Error,
    Frame,
    Input,
    Request,
    RunRequest,
    authorization,
    encode,
)

_DESCRIBE_SECONDS = 3.0
_ACCEPT_SECONDS = 2.0
"""A runner that is shutting down may accept the connection and never answer."""
_UPLOAD_BYTES_A_SECOND = 10_000_000
"""The slowest upload of inputs that the wait for Accepted allows for: 80 Mbit/s."""
_IDLE_SECONDS = 120.0
"""Longest time between two frames: more than one step of the largest image takes on the slowest machine."""
_KEEP_ALIVE_SECONDS = 4.0
"""Shorter than the server's 5 s, so that no request uses a connection that the server is closing."""


def runner_session(secret: SecretStr | None = None) -> aiohttp.ClientSession:
    """The connections of one process to all its runners. `secret`: what the runners ask of their consumers."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_ACCEPT_SECONDS, sock_read=_IDLE_SECONDS)
    headers = {"Authorization": authorization(secret.get_secret_value())} if secret else None
    return aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers)


async def resolve(urls: Sequence[str]) -> list[str]:
    """The addresses behind the urls. A host name with several addresses stands for that many runners; a host name
    without an address is left out. An https url stays one runner, because its certificate names the host."""
    resolved: list[str] = []
    for url in urls:
        parts: SplitResult = urlsplit(url)
        if parts.scheme == "https":
            resolved.append(url)
            continue
        try:
            infos = await asyncio.get_running_loop().getaddrinfo(
                parts.hostname, parts.port or 80, family=socket.AF_INET, type=socket.SOCK_STREAM
            )
        except OSError:
            continue
        addresses = sorted({(str(info[4][0]), int(info[4][1])) for info in infos})
        resolved += [parts._replace(netloc=f"{host}:{port}").geturl() for host, port in addresses]
    return resolved


class HttpRunner:
    """See RunnerClient."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        """Connects at the first call."""
        self._url = url
        self._session = session

    @property
    def url(self) -> str:
        """See RunnerClient."""
        return self._url

    async def describe(self) -> RunnerDescription:
        """See RunnerClient. An older runner has no `/models`, so its card is read instead."""
        try:
            status, body = await self._get("/models")
            if status == 404:
                status, body = await self._get("/card")
                if status == 200:
                    return RunnerDescription.of_served(ServedModel.model_validate_json(body))
            if status == CallerRefused.status:
                raise self._refused(body)
            if status != 200:
                raise RunnerLoading
            return RunnerDescription.model_validate_json(body)
        except (aiohttp.ClientError, TimeoutError, ValidationError) as error:
            raise RunnerLost(f"The runner at {self._url} does not answer: {error or type(error).__name__}") from error

    async def _get(self, path: str) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=_DESCRIBE_SECONDS)
        # A runner never redirects, and another server must not get the secret.
        async with self._session.get(f"{self._url}{path}", timeout=timeout, allow_redirects=False) as answer:
            return answer.status, await answer.read()

    def _refused(self, body: bytes) -> RunnerUnavailable:
        try:
            detail = json.loads(body)["detail"]
        except (ValueError, KeyError, TypeError):
            detail = CallerRefused.title()
        return RunnerUnavailable(f"The runner at {self._url} refuses this consumer: {detail}")

    async def run(self, request: RunRequest, inputs: Sequence[Input] = ()) -> AsyncGenerator[Frame, None]:
        """See RunnerClient."""
        content_type, body = _body(request, inputs)
        patience = _ACCEPT_SECONDS + sum(map(len, body)) / _UPLOAD_BYTES_A_SECOND
        try:
            async with asyncio.timeout(patience) as until_accepted:
                async with self._session.post(
                    f"{self._url}/run",
                    data=b"".join(body),
                    headers={"Content-Type": content_type},
                    allow_redirects=False,
                ) as answer:
                    if answer.status == CallerRefused.status:
                        raise self._refused(await answer.read())
                    if answer.status != 200:
                        raise await _refusal(answer)
                    decoder = Decoder()
                    async for data in answer.content.iter_any():
                        for frame in decoder.feed(data):
                            until_accepted.reschedule(None)
                            if isinstance(frame, Error):
                                raise from_code(frame.code, frame.message)
                            yield frame
                            if isinstance(frame, End):
                                return
        except (aiohttp.ClientError, TimeoutError, BrokenFrame) as error:
            raise RunnerLost(f"The runner stopped answering: {error or type(error).__name__}") from error
        raise RunnerLost("The runner's answer was cut off.")


def _body(request: RunRequest, inputs: Sequence[Input]) -> tuple[str, list[bytes]]:
    """The content type and the pieces of the body: plain JSON, or frames where inputs follow the request."""
    fields = request.model_dump_json().encode()
    if not inputs:
        return JSON, [fields]
    return FRAMES, [encode(Request(payload=fields)), *map(encode, inputs)]


async def _refusal(answer: aiohttp.ClientResponse) -> TaskError:
    match answer.status:
        case 429:
            return RunnerBusy()
        case 503:
            return RunnerLoading()
    try:
        problem = await answer.json(content_type=None)
        return from_code(problem["code"], problem["detail"])
    except (ValueError, KeyError, TypeError):
        return RunnerLost(f"The runner answered {answer.status}.")
