"""Slow, silent and vanished clients on real sockets: they block no other client, and their connections are closed."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import uvicorn

from bentos.slow_clients import Connection
from functions.api.app import GatewayApp
from tests.support.gateway_world import BODY, GatewayWorld, world

PATIENCE = 1.0
SUBMIT = b"POST /generate_image HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


class Hasty(Connection):
    """A connection with short limits."""

    patience = PATIENCE
    most = 60


class Serving:
    """A gateway on a port."""

    def __init__(self, gateway: GatewayApp, server: uvicorn.Server) -> None:
        """Take over a server that already listens."""
        self.gateway = gateway
        self.server = server
        self.port: int = server.servers[0].sockets[0].getsockname()[1]
        self.held: list[Any] = []
        """The writers are kept, because a writer that is garbage-collected closes its connection."""
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self.server.server_state.connections)

    def holds(self, writer: Any) -> bool:
        """Whether the server still has this client's connection."""
        me = writer.get_extra_info("sockname")
        connections = self.server.server_state.connections
        return any(connection.transport.get_extra_info("peername") == me for connection in connections)

    async def connect(self, data: bytes = b"") -> tuple[asyncio.StreamReader, Any]:
        """A client with a small receive buffer that has sent this."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1)
        writer.write(data)
        self.held.append(writer)
        return reader, writer


@contextlib.asynccontextmanager
async def serving(w: GatewayWorld) -> AsyncIterator[Serving]:
    """A gateway of the world behind the server it really has."""
    _, gateway = await w.gateway()
    config = uvicorn.Config(
        gateway.app, port=0, http=Hasty, lifespan="off", log_config=None, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    for listening in server.servers[0].sockets:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
    serving = Serving(gateway, server)
    try:
        yield serving
    finally:
        await serving.client.aclose()
        for writer in serving.held:
            writer.close()
        await server.shutdown()


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Poll until it holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def ended(reader: asyncio.StreamReader) -> bytes:
    """All bytes that arrive until the server closes the connection."""
    try:
        async with asyncio.timeout(30):
            return await reader.read()
    except ConnectionResetError:
        return b""


async def test_a_client_that_sends_nothing_or_never_ends_its_headers_is_cut_off() -> None:
    async with world() as w, serving(w) as s:
        silent, _ = await s.connect()
        halfway, _ = await s.connect(SUBMIT)
        dripping, drip = await s.connect(b"GET /mod")

        async def trickle() -> None:
            with contextlib.suppress(OSError):
                while not dripping.at_eof():
                    drip.write(b"e")
                    await asyncio.sleep(PATIENCE / 10)

        trickling = asyncio.ensure_future(trickle())
        assert [await ended(reader) for reader in (silent, halfway, dripping)] == [b"", b"", b""]
        await trickling
        await until(lambda: s.connections == 0)


async def test_a_body_that_comes_too_slowly_is_cut_off_whether_it_is_awaited_or_not() -> None:
    async with world() as w, serving(w) as s:
        awaited, _ = await s.connect(SUBMIT + b'Content-Length: 900\r\n\r\n{"model')
        too_large, _ = await s.connect(SUBMIT + b"Content-Length: 9000000\r\n\r\n{")
        unasked, _ = await s.connect(b"GET /models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n")
        assert await ended(awaited) == b""
        assert b" 413 " in await ended(too_large)
        assert b" 200 " in await ended(unasked)
        await until(lambda: s.connections == 0)
        assert w.tasks() == []


async def test_clients_that_hold_their_requests_back_do_not_hold_up_the_others() -> None:
    async with world() as w, serving(w) as s:
        slow = [await s.connect(SUBMIT) for _ in range(50)]
        assert (await s.client.post("/generate_image", json=BODY)).status_code == 202
        for _, writer in slow:
            writer.close()


async def test_a_head_larger_than_the_limit_ends_its_connection() -> None:
    async with world() as w, serving(w) as s:
        reader, _ = await s.connect(b"GET /models HTTP/1.1\r\nX: " + b"x" * 70_000)
        await ended(reader)
        await until(lambda: s.connections == 0)


async def test_a_client_that_reads_no_image_is_cut_off_and_a_slow_reader_gets_it_whole() -> None:
    picture = bytes(range(256)) * 40_000
    async with world() as w, serving(w) as s:
        await s.client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        await w.end(task, picture=picture)
        get = f"GET /get_image/{task.task_id} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        _, never = await s.connect(get)
        never.transport.pause_reading()
        slowly, _ = await s.connect(get)
        got = bytearray()
        began = asyncio.get_running_loop().time()
        while piece := await slowly.read(1 << 16):
            got += piece
            if len(got) < len(picture) // 4:
                await asyncio.sleep(PATIENCE / 15)
        assert asyncio.get_running_loop().time() - began > 2 * PATIENCE, "it was not slow"
        assert bytes(got).endswith(picture)
        await until(lambda: not s.holds(never))
        never.close()


async def test_a_reader_of_events_that_stops_reading_is_cut_off_and_costs_a_bounded_buffer() -> None:
    async with world() as w, serving(w) as s:
        await s.client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        _, never = await s.connect(f"GET /events/{task.task_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        me = never.get_extra_info("sockname")
        never.transport.pause_reading()
        await until(lambda: s.gateway.index.waiting == 1)
        stuck = next(c for c in s.server.server_state.connections if c.transport.get_extra_info("peername") == me)
        most = 0
        steps = itertools.count(1)
        async with asyncio.timeout(60):
            while stuck in s.server.server_state.connections:
                for _ in range(50):
                    await w.preview(task, next(steps), image=bytes(8000))
                most = max(most, stuck.transport.get_write_buffer_size())
        await until(lambda: s.gateway.index.waiting == 0)
        assert most < 200_000
        never.close()


async def test_a_wait_ends_when_its_client_hangs_up_and_the_task_stays() -> None:
    async with world() as w, serving(w) as s:
        task_id = (await s.client.post("/generate_image", json=BODY)).json()["task_id"]
        status = f"GET /check_status/{task_id} HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=60\r\n\r\n".encode()
        body = b'{"model_name":"sd-mini","prompt":"x"}'
        submit = SUBMIT + b"Prefer: wait=60\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        for request in (status, submit):
            _, writer = await s.connect(request)
            await until(lambda: s.gateway.index.waiting == 1)
            writer.close()
            await until(lambda: s.gateway.index.waiting == 0)


async def test_a_client_that_waits_patiently_is_not_cut_off() -> None:
    async with world() as w, serving(w) as s:
        waiting = asyncio.ensure_future(s.client.post("/generate_image", json=BODY, headers={"Prefer": "wait=60"}))
        await until(lambda: bool(w.tasks()))
        await asyncio.sleep(4 * PATIENCE)
        await w.end(w.tasks()[0])
        assert (await waiting).json()["status"] == "completed"


async def test_one_connection_too_many_is_answered_503() -> None:
    async with world() as w, serving(w) as s:
        clients = [await s.connect() for _ in range(Hasty.most)]
        await until(lambda: s.connections == Hasty.most)
        reader, _ = await s.connect()
        answer = await ended(reader)
        assert b" 503 " in answer
        assert b"Retry-After" in answer
        for _, writer in clients:
            writer.close()


async def test_head_of_a_stream_of_events_ends_at_once() -> None:
    async with world() as w, serving(w) as s:
        task_id = (await s.client.post("/generate_image", json=BODY)).json()["task_id"]
        answer = await s.client.head(f"/events/{task_id}")
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"].startswith("text/event-stream")
