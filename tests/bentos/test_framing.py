"""Requests whose end two servers could see at different places: each is refused, and its connection is closed."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from bentos.framing import StrictConnection
from bentos.slow_clients import Connection

CONNECTIONS = {"gateway": Connection, "runner": StrictConnection}

POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LENGTH = b"Content-Length: 5\r\n"
EMPTY = b"0\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

REFUSED = {
    "a length and chunks": POST + LENGTH + CHUNKED + b"\r\n" + EMPTY,
    "chunks and a length": POST + CHUNKED + LENGTH + b"\r\n" + EMPTY,
    "chunks and a length of zero": POST + CHUNKED + b"Content-Length: 0\r\n\r\n" + EMPTY,
    "chunks and the same length twice": POST + LENGTH + LENGTH + CHUNKED + b"\r\n" + EMPTY,
    "both in small letters": POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n" + EMPTY,
    "both in capitals": POST + b"CONTENT-LENGTH: 5\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n" + EMPTY,
    "both, one of them in two lines": POST + LENGTH + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + EMPTY,
    "both, with tabs": POST + b"Content-Length:\t5\t\r\nTransfer-Encoding:\tchunked\t\r\n\r\n" + EMPTY,
    "both, in lines that end with LF alone": POST + b"Content-Length: 5\nTransfer-Encoding: chunked\r\n\r\n" + EMPTY,
    "both, in a GET": b"GET / HTTP/1.1\r\nHost: x\r\n" + LENGTH + CHUNKED + b"\r\n" + EMPTY,
    "both, with Connection: keep-alive": POST + b"Connection: keep-alive\r\n" + LENGTH + CHUNKED + b"\r\n" + EMPTY,
    "both, in HTTP/1.0": POST.replace(b"1.1", b"1.0") + LENGTH + CHUNKED + b"\r\n" + EMPTY,
    "chunks in HTTP/1.0": POST.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n" + EMPTY,
    "two lengths": POST + b"Content-Length: 0\r\n" + LENGTH + b"\r\n",
    "two lengths in a line": POST + b"Content-Length: 0, 5\r\n\r\n",
    "a length in two lines": POST + b"Content-Length: 0\r\n 5\r\n\r\n",
    "identity, chunked": POST + b"Transfer-Encoding: identity, chunked\r\n\r\n" + EMPTY,
    "chunked, identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + EMPTY,
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "an empty transfer encoding": POST + LENGTH + b"Transfer-Encoding:\r\n\r\n",
    "chunked in a second header": POST + b"Transfer-Encoding: identity\r\n" + CHUNKED + b"\r\n" + EMPTY,
    "xchunked": POST + LENGTH + b"Transfer-Encoding: xchunked\r\n\r\n",
    "a vertical tab before chunked": POST + LENGTH + b"Transfer-Encoding: \x0bchunked\r\n\r\n",
    "a space before the colon": POST + LENGTH + b"Transfer-Encoding : chunked\r\n\r\n",
    "a header that begins with a space": POST.replace(b"\r\nHost", b"\r\n Transfer-Encoding: chunked\r\nHost")
    + b"\r\n",
}


class Served:
    """A server on a port, whose app writes down the path of each request and answers without reading its body."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.port = 0

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def answer_to(self, data: bytes) -> bytes:
        """All that the server answers until it closes the connection, which stays open on this side."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        with contextlib.closing(writer):
            writer.write(data)
            async with asyncio.timeout(10):
                return await reader.read()


@pytest.fixture(params=["gateway", "runner"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """A server with the connections of this part."""
    served = Served()
    config = uvicorn.Config(
        served.app, port=0, http=CONNECTIONS[request.param], lifespan="off", interface="asgi3", log_config=None
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    served.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        await server.shutdown()


@pytest.mark.parametrize("what", REFUSED)
async def test_an_ambiguous_request_gets_one_refusal_and_the_connection_ends(served: Served, what: str) -> None:
    answer = await served.answer_to(REFUSED[what] + SMUGGLED)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert served.paths == []


@pytest.mark.parametrize("body", [LENGTH + b"\r\n12345", CHUNKED + b"\r\n5\r\n12345\r\n" + EMPTY, b"\r\n"])
async def test_a_connection_whose_requests_have_one_end_serves_them_all(served: Served, body: bytes) -> None:
    end = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = await served.answer_to(POST + body + POST + body + end)
    assert answer.count(b"HTTP/1.1 200 ") == 3
    assert served.paths == ["/", "/", "/last"]


async def test_an_ambiguous_request_behind_a_sound_one_is_refused_alone(served: Served) -> None:
    answer = await served.answer_to(POST + b"\r\n" + REFUSED["a length and chunks"] + SMUGGLED)
    assert [line[9:12] for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")] == [b"200", b"400"]
    assert served.paths == ["/"]


async def test_a_chunk_that_breaks_after_the_answer_ends_the_connection(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    with contextlib.closing(writer):
        writer.write(POST + CHUNKED + b"\r\n1\r\nx\r\n")
        async with asyncio.timeout(10):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"zz\r\n" + SMUGGLED)
            assert await reader.read() == b""
    assert served.paths == ["/"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
