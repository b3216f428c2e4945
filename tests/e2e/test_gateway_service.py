"""The gateway as a process: what its callers get when it shuts down."""

import asyncio
import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from adapters.kafka_log import KafkaLog
from config.settings import Settings
from tests.support.stack import Api, Stack, until
from tests.support.world import card


async def _publish(stack: Stack, model: str) -> None:
    log = KafkaLog(Settings(kafka_bootstrap_servers=stack.bootstrap, kafka_topic_prefix=stack.prefix))
    await log.append_card(card(model))
    await log.close()


def test_a_gateway_that_shuts_down_answers_waiting_callers_and_ends_soon(stack: Stack):
    asyncio.run(_publish(stack, "model-without-a-runner"))
    gateway = stack.gateway(GATEWAY_NOTICE="1").wait_until_ready()
    api = Api(gateway.url)
    until(lambda: "model-without-a-runner" in httpx.get(f"{gateway.url}/models").text, what="the model known")
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(api.post, {"model_name": "model-without-a-runner", "prompt": "a ring"}, Prefer="wait=60")
        until(
            lambda: "ai_image_gen_waiting_callers 1.0" in httpx.get(f"{gateway.url}/metrics").text,
            what="a waiting caller",
        )
        began = time.monotonic()
        gateway.terminate(15)
        answer = request.result(1)
    assert time.monotonic() - began < 10
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")


def test_a_second_signal_ends_a_gateway_at_once_and_its_worker_with_it(stack: Stack):
    asyncio.run(_publish(stack, "model-without-a-runner"))  # a gateway that knows no model is not ready
    gateway = stack.gateway(GATEWAY_NOTICE="300").wait_until_ready()
    processes = gateway.processes()
    gateway.ask_to_end()
    until(lambda: httpx.get(f"{gateway.url}/readyz").status_code == 503, what="it is not ready")
    assert httpx.get(f"{gateway.url}/livez").headers["connection"] == "close"
    assert gateway.terminate(10) != 0
    assert not any(process.is_running() and process.status() != "zombie" for process in processes)


def test_one_client_cannot_keep_the_others_out_of_a_gateway(stack: Stack):
    asyncio.run(_publish(stack, "model-without-a-runner"))
    gateway = stack.gateway(MAX_CONNECTIONS="30", MAX_UNKNOWN_IDS_PER_SECOND="1").wait_until_ready()
    port = int(gateway.url.rpartition(":")[2])
    with contextlib.ExitStack() as idle:
        for _ in range(30):
            line = idle.enter_context(socket.create_connection(("127.0.0.1", port), 10, ("127.0.0.2", 0)))
            line.sendall(b"GET /models HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 200 " in line.recv(65536)
        for path in ("/livez", "/models", "/readyz"):
            assert httpx.get(gateway.url + path).status_code == 200
        # No proxy is trusted, so another X-Forwarded-For does not make another client.
        answers = [
            httpx.get(f"{gateway.url}/check_status/{n:032x}", headers={"X-Forwarded-For": f"203.0.113.{n}"})
            for n in range(5)
        ]
    assert 429 in [answer.status_code for answer in answers]
