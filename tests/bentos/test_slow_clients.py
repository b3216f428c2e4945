"""Slow, silent, vanished and too many clients on real sockets: they block no other client, and their connections are
closed."""

import asyncio
import contextlib
import itertools
import resource
import socket
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import uvicorn

from bentos import slow_clients
from bentos.slow_clients import Connection, Crowd, limit_connections, serve_with_patience
from config.settings import Settings
from functions.api.app import GatewayApp
from functions.api.limits import Proxies, largest_share
from tests.support.gateway_world import BODY, GatewayWorld, world

PATIENCE = 1.0
KEPT = b"GET /models HTTP/1.1\r\nHost: localhost\r\n\r\n"
SUBMIT = b"POST /generate_image HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


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

    async def connect(self, data: bytes = b"", address: str = "127.0.0.1") -> tuple[asyncio.StreamReader, Any]:
        """A client of this address with a small receive buffer that has sent this."""
        sock = socket.socket()
        sock.bind((address, 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1)
        writer.write(data)
        self.held.append(writer)
        return reader, writer

    async def kept(self, address: str = "127.0.0.1") -> tuple[asyncio.StreamReader, Any]:
        """A client of this address that has read an answer and keeps its connection."""
        reader, writer = await self.connect(KEPT, address)
        assert b" 200 " in await answer(reader)
        return reader, writer


@contextlib.asynccontextmanager
async def serving(w: GatewayWorld, min_rate: int = 1000) -> AsyncIterator[Serving]:
    """A gateway of the world behind the server it really has, whose connections are checked every second."""
    _, gateway = await w.gateway()
    crowd = Crowd(w.settings.max_connections, largest_share(w.settings), Proxies(w.settings.trusted_proxies))
    hasty = type("Hasty", (Connection,), {"patience": PATIENCE, "min_rate": min_rate, "crowd": crowd})
    config = uvicorn.Config(
        gateway.app,
        port=0,
        http=hasty,
        lifespan="off",
        log_config=None,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
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


async def answer(reader: asyncio.StreamReader) -> bytes:
    """The head and the JSON body of an answer."""
    got = b""
    async with asyncio.timeout(30):
        while not got.endswith(b"}"):
            piece = await reader.read(1 << 16)
            assert piece, f"the connection was closed after {got!r}"
            got += piece
    return got


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
        await s.client.post("/generate_image", json={**BODY, "previews": True})
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


async def test_a_newcomer_takes_the_place_of_the_connection_that_is_idle_for_longest() -> None:
    async with world(max_connections=4) as w, serving(w) as s:
        idle = [await s.kept("127.0.0.2") for _ in range(3)]
        again, used = idle.pop(0)
        used.write(KEPT)
        await answer(again)
        idle.append(await s.connect(b"GET /mod", "127.0.0.3"))
        await until(lambda: s.connections == 4)
        for reader, _ in idle[:2]:
            await s.kept("127.0.0.4")
            assert await ended(reader) == b""
        assert s.holds(used)
        assert s.holds(idle[2][1])
        await s.kept("127.0.0.4")
        assert not s.holds(used)


async def test_idle_connections_of_one_client_keep_nobody_out() -> None:
    async with world(max_connections=30) as w, serving(w) as s:
        for _ in range(30):
            await s.kept()
        for path in ("/livez", "/models", "/models"):
            reader, _ = await s.connect(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), "127.0.0.2")
            assert b" 200 " in await answer(reader)


async def test_a_client_with_its_share_of_connections_takes_none_of_another_client() -> None:
    async with world(max_connections=12, max_connections_per_client=3) as w, serving(w) as s:
        _, writer = await s.kept("127.0.0.2")
        for _ in range(40):
            await s.kept()
        await until(lambda: s.connections <= 4)
        assert s.holds(writer)


async def test_a_trusted_proxy_may_hold_every_connection() -> None:
    proxies = {"trusted_proxies": ("127.0.0.1",), "max_connections_per_client": 3}
    async with world(max_connections=12, **proxies) as w, serving(w) as s:
        for _ in range(12):
            await s.kept()
        assert s.connections == 12


async def test_while_every_connection_is_in_use_only_health_probes_are_answered() -> None:
    async with world(max_connections=8) as w, serving(w) as s:
        task_id = (await s.client.post("/generate_image", json=BODY)).json()["task_id"]
        await s.client.aclose()
        listen = f"GET /events/{task_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        for address in ("127.0.0.2", "127.0.0.3"):
            for _ in range(4):
                await s.connect(listen, address)
        await until(lambda: s.gateway.index.waiting == 8)
        for _ in range(200):
            await s.connect(b"GET /liv", "127.0.0.2")
        for address in ("127.0.0.2", "127.0.0.4"):
            for path in ("/livez", "/healthz", "/readyz"):
                reader, _ = await s.connect(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), address)
                assert b" 200 " in await answer(reader), path
        reader, _ = await s.connect(KEPT, "127.0.0.4")
        refusal = await answer(reader)
        assert b" 503 " in refusal
        assert b"retry-after" in refusal.lower()
        assert b"gateway_full" in refusal
        assert s.gateway.index.waiting == 8


async def test_unread_images_are_not_held_in_memory() -> None:
    picture = bytes(range(256)) * 20_000
    async with world() as w, serving(w) as s:
        await s.client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        await w.end(task, picture=picture)
        tracemalloc.start()
        try:
            for _ in range(30):
                _, writer = await s.connect(
                    f"GET /get_image/{task.task_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
                )
                writer.transport.pause_reading()
            await until(lambda: sum(c.flow.write_paused for c in s.server.server_state.connections) == 30)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 30 * 400_000


async def test_a_client_that_reads_a_little_now_and_then_is_cut_off() -> None:
    async with world() as w, serving(w, min_rate=500_000) as s:
        await s.client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        await w.end(task, picture=bytes(10_000_000))
        reader, writer = await s.connect(f"GET /get_image/{task.task_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

        async def sip() -> None:
            with contextlib.suppress(OSError):
                while await reader.read(12_000):
                    await asyncio.sleep(PATIENCE / 20)

        sipping = asyncio.ensure_future(sip())
        await until(lambda: not s.holds(writer))
        sipping.cancel()


async def test_a_quiet_stream_of_events_is_not_taken_for_a_slow_reader() -> None:
    async with world() as w, serving(w, min_rate=500_000) as s:
        await s.client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        _, writer = await s.connect(f"GET /events/{task.task_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        for step in range(1, 30):
            await w.run(task, step)
            await asyncio.sleep(PATIENCE / 10)
        assert s.holds(writer)


def test_uvicorn_believes_no_forwarded_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_clients, "HTTP_PROTOCOLS", {})
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    serve_with_patience()
    assert uvicorn.Config("app").forwarded_allow_ips == ""


def test_open_files_limit_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("patience", "min_rate", "crowd"):
        monkeypatch.setattr(Connection, name, getattr(Connection, name))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert limit_connections(Settings()).max_connections == 760
    assert limit_connections(Settings(max_connections=30)).max_connections == 30


async def test_head_of_a_stream_of_events_ends_at_once() -> None:
    async with world() as w, serving(w) as s:
        task_id = (await s.client.post("/generate_image", json=BODY)).json()["task_id"]
        answer = await s.client.head(f"/events/{task_id}")
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"].startswith("text/event-stream")
