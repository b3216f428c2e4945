"""A runner over HTTP."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Sequence
from urllib.parse import SplitResult, urlsplit

import aiohttp
from pydantic import ValidationError

from tasks.errors import RunnerBusy, RunnerLoading, RunnerLost, TaskError, from_code
from tasks.frames import BrokenFrame, Decoder, Frame
from tasks.run import RunnerCard, RunRequest

_CARD_SECONDS = 3.0
_ACCEPT_SECONDS = 2.0
"""A runner that is shutting down takes connections and says nothing."""
_IDLE_SECONDS = 120.0
"""Longest silence between two frames: one step of the largest picture on the slowest machine, and to spare."""
_KEEP_ALIVE_SECONDS = 4.0
"""Shorter than the server's 5 s, so that no request meets a connection that is just being closed."""


def runner_session() -> aiohttp.ClientSession:
    """The connections of one process to all its runners."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_ACCEPT_SECONDS, sock_read=_IDLE_SECONDS)
    return aiohttp.ClientSession(connector=connector, timeout=timeout)


async def resolve(urls: Sequence[str]) -> list[str]:
    """The addresses behind the urls: a host name with several addresses is that many runners. One that has none now
    is left out. An https url stays one runner: the certificate is the name's, not an address's."""
    found: list[str] = []
    for url in urls:
        parts: SplitResult = urlsplit(url)
        if parts.scheme == "https":
            found.append(url)
            continue
        try:
            infos = await asyncio.get_running_loop().getaddrinfo(
                parts.hostname, parts.port or 80, family=socket.AF_INET, type=socket.SOCK_STREAM
            )
        except OSError:
            continue
        addresses = sorted({(str(info[4][0]), int(info[4][1])) for info in infos})
        found += [parts._replace(netloc=f"{host}:{port}").geturl() for host, port in addresses]
    return found


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

    async def card(self) -> RunnerCard:
        """See RunnerClient."""
        try:
            timeout = aiohttp.ClientTimeout(total=_CARD_SECONDS)
            async with self._session.get(f"{self._url}/card", timeout=timeout) as answer:
                if answer.status != 200:
                    raise RunnerLoading
                return RunnerCard.model_validate_json(await answer.read())
        except (aiohttp.ClientError, TimeoutError, ValidationError) as error:
            raise RunnerLost(f"The runner at {self._url} does not answer: {error or type(error).__name__}") from error

    async def run(self, request: RunRequest) -> AsyncGenerator[Frame, None]:
        """See RunnerClient."""
        try:
            async with asyncio.timeout(_ACCEPT_SECONDS) as until_accepted:
                async with self._session.post(
                    f"{self._url}/run",
                    data=request.model_dump_json(),
                    headers={"Content-Type": "application/json"},
                ) as answer:
                    if answer.status != 200:
                        raise await _refusal(answer)
                    decoder = Decoder()
                    async for data in answer.content.iter_any():
                        for frame in decoder.feed(data):
                            until_accepted.reschedule(None)
                            if frame.kind == "error":
                                raise from_code(frame.header["code"], frame.header["message"])
                            yield frame
                            if frame.kind == "end":
                                return
        except (aiohttp.ClientError, TimeoutError, BrokenFrame) as error:
            raise RunnerLost(f"The runner stopped answering: {error or type(error).__name__}") from error
        raise RunnerLost("The runner's answer was cut off.")


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
