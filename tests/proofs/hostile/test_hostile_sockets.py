"""Bytes on a gateway's socket that are not HTTP or are ambiguous HTTP: nothing breaks, and no other client waits."""

import re
import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.proofs.hostile.served import ServedService

GET = b"GET /models HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /generate_image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
BODY = b'{"model_name":"sd-mini","prompt":"a"}'
END = b"Connection: close\r\n\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
SMUGGLED = b"0\r\n\r\nGET /models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

REFUSED = {
    "two lengths": POST + LENGTH + b"Content-Length: 5\r\n" + END + BODY,
    "two lengths in a line": POST + b"Content-Length: 37, 5\r\n" + END + BODY,
    "a negative length": POST + b"Content-Length: -1\r\n" + END + BODY,
    "a length in words": POST + b"Content-Length: many\r\n" + END + BODY,
    "a length of 5000 digits": POST + b"Content-Length: " + b"9" * 5000 + b"\r\n" + END + BODY,
    "a length with a sign": POST + b"Content-Length: +37\r\n" + END + BODY,
    "an unknown transfer encoding": POST + b"Transfer-Encoding: gzip, chunked\r\n" + END + SMUGGLED,
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" + END + SMUGGLED,
    "a chunk size that is not a number": POST + b"Transfer-Encoding: chunked\r\n" + END + b"zz\r\n",
    "a chunk size without end": POST + b"Transfer-Encoding: chunked\r\n" + END + b"f" * 5000 + b"\r\n",
    "a header of 200 kB": GET + b"X-Long: " + b"a" * 200_000 + b"\r\n" + END,
    "20,000 headers": GET + b"".join(b"X-%d: a\r\n" % n for n in range(20_000)) + END,
    "an address of 200 kB": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n" + END,
    "a NUL in a header": GET + b"X-Nul: a\x00b\r\n" + END,
    "a header without a name": GET + b": a\r\n" + END,
    "a space before the colon": GET + b"Content-Length : 5\r\n" + END,
    "no host": b"GET /models HTTP/1.1\r\n" + END,
    "two hosts": GET + b"Host: y\r\n" + END,
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500 + b"\r\n\r\n",
    "HTTP/2 by guess": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a space in the address": b"GET /a b HTTP/1.1\r\nHost: 127.0.0.1\r\n" + END,
    "a body that is JSON in UTF-16": POST + b"Content-Length: 4\r\n" + END + b"\xff\xfe{\x00",
    "a body that claims a gigabyte": POST + b"Content-Length: 1073741824\r\n" + END + b"x" * 1000,
    "a chunked body without end": POST + b"Transfer-Encoding: chunked\r\n" + END + b"10000\r\n" + b" " * 65536 + b"\r\n"
    + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 5,
    "a content type of bytes": b"POST /generate_image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: \xff\xfe\r\n" + LENGTH + END + BODY,
    "no content type": b"POST /generate_image HTTP/1.1\r\nHost: 127.0.0.1\r\n" + LENGTH + END + BODY,
    "a websocket": GET + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    "the proxy's method": b"CONNECT x:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n" + END,
    "a path out of the documentation's folder": b"GET /static-offline-docs/..%2f..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: 127.0.0.1\r\n" + END,
    "a path with plain dots": b"GET /docs/../../../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n" + END,
    "a path in place of a task id": b"GET /get_image/..%2f..%2fsystem%2fid_secret HTTP/1.1\r\nHost: 127.0.0.1\r\n" + END,
    "a NUL in a task id": b"GET /check_status/%00%00 HTTP/1.1\r\nHost: 127.0.0.1\r\n" + END,
    "bytes that are not UTF-8 in a task id": b"GET /check_status/%ff%c0%af HTTP/1.1\r\nHost: 127.0.0.1\r\n" + END,
    "an invalid host": b"GET /models HTTP/1.1\r\nHost: [\r\n" + END,
    "an address with an invalid host in it": b"GET http://[/models HTTP/1.1\r\nHost: 127.0.0.1\r\n" + END,
    "an address with another host in it": b"GET http://evil.example/models HTTP/1.1\r\nHost: 127.0.0.1\r\n" + END,
    "no host in an older version": b"GET /models HTTP/1.0\r\n" + END,
    "an empty host": b"GET /models HTTP/1.1\r\nHost:\r\n" + END,
    "an invalid host and an unknown path": b"GET /nothing HTTP/1.1\r\nHost: [\r\n" + END,
    "two Idempotency-Keys": POST + b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n" + LENGTH + END + BODY,
    "a zipped body": POST + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n" + END + b"\x1f\x8b\x08\x00",
}  # fmt: skip
ANSWERED = {
    "HTTP/9.9": b"GET /models HTTP/9.9\r\nHost: 127.0.0.1\r\n" + END,
    "a host in upper case": b"GET /models HTTP/1.1\r\nHost: LOCALHOST:80\r\n" + END,
    "an address with a host in it": b"GET http://127.0.0.1/models HTTP/1.1\r\nHost: evil.example\r\n" + END,
    "Last-Event-ID junk": GET + b"Last-Event-ID: \xff\xfe,-1,../../x\r\n" + END,
    "a thousand Prefer lines": GET + b"Prefer: wait=0\r\n" * 1000 + END,
    "a header in two lines": GET + b"X-Fold: a\r\n b\r\n" + END,
    "Expect": POST + b"Expect: 100-continue\r\n" + LENGTH + END + BODY,
}


@pytest.fixture(scope="module")
def served() -> Iterator[ServedService]:
    with ServedService().running() as running:
        yield running


def exchange(served: ServedService, data: bytes, *, hang_up: bool) -> bytes:
    """Send the data and return everything that the server answers. `hang_up`: close the sending side after the data."""
    answer = b""
    with socket.create_connection(served.address, timeout=30) as line:
        try:
            line.sendall(data)
            if hang_up:
                line.shutdown(socket.SHUT_WR)
            while piece := line.recv(65536):
                answer += piece
        except TimeoutError:
            raise
        except OSError:
            # The server closed the connection before all data was sent.
            return answer
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"^HTTP/1\.1 (\d{3}) ", answer, re.MULTILINE) if code != b"100"]


@pytest.mark.parametrize("what", REFUSED)
def test_a_hostile_request_is_refused_and_the_next_one_is_answered(served: ServedService, what: str) -> None:
    answer = exchange(served, REFUSED[what], hang_up=True)
    codes = statuses(answer)
    assert len(codes) <= 1, answer
    assert all(400 <= code < 500 for code in codes), answer
    assert b"root:" not in answer
    assert httpx.get(f"{served.url}/models", timeout=30).status_code == 200


@pytest.mark.parametrize("what", ANSWERED)
def test_an_odd_but_valid_request_is_answered(served: ServedService, what: str) -> None:
    (code,) = statuses(exchange(served, ANSWERED[what], hang_up=False))
    assert code < 500
    assert httpx.get(f"{served.url}/models", timeout=30).status_code == 200


def test_a_client_that_hangs_up_within_a_body_is_not_counted_as_an_internal_error(
    served: ServedService, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        with socket.create_connection(served.address, timeout=30) as line:
            line.sendall(POST + b"Content-Length: 1000\r\n\r\n" + BODY)
    assert httpx.get(f"{served.url}/models", timeout=30).status_code == 200
    assert "a request failed" not in caplog.text
    assert 'status="500"' not in httpx.get(f"{served.url}/metrics", timeout=30).text
