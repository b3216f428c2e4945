"""Images over HTTP: as a file that never changes, in ranges, or the error that says why there is none."""

import random

import pytest

from functions.api.image_pieces import PIECE_BYTES
from tests.support.gateway_world import BODY, PICTURE, is_problem, world


async def test_an_image_is_served_as_a_file_that_never_changes():
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        outcome = await w.end(task)
        url = f"/get_image/{task.task_id}"
        whole = await client.get(url)
        assert (whole.status_code, whole.content) == (200, PICTURE)
        assert whole.headers["content-type"] == "image/png"
        assert whole.headers["etag"] == f'"{outcome.images[0].sha256}"'
        assert "immutable" in whole.headers["cache-control"]
        head = await client.head(url)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(PICTURE)))
        for tags in (whole.headers["etag"], "*", f'"a", W/{whole.headers["etag"]}'):
            same = await client.get(url, headers={"If-None-Match": tags})
            assert (same.status_code, same.content) == (304, b"")


async def test_head_of_an_image_reads_nothing_from_the_store():
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        await w.end(task)
        w.store.down = True
        url = f"/get_image/{task.task_id}"
        head = await client.head(url)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(PICTURE)))
        part = await client.head(url, headers={"Range": "bytes=5-9"})
        assert (part.status_code, part.headers["content-length"]) == (206, "5")
        assert part.headers["content-range"] == f"bytes 5-9/{len(PICTURE)}"
        is_problem(await client.get(url), 503, "store_unavailable")


@pytest.mark.parametrize("size", [1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
async def test_an_image_of_any_size_is_served_whole_and_in_ranges(size: int):
    picture = random.Random(size).randbytes(size)
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        await w.end(task, picture=picture)
        url = f"/get_image/{task.task_id}"
        whole = await client.get(url)
        assert (whole.content, whole.headers["content-length"]) == (picture, str(size))
        part = await client.get(url, headers={"Range": f"bytes={size // 3}-"})
        assert (part.status_code, part.content) == (206, picture[size // 3 :])


async def test_an_object_that_is_shorter_than_its_image_is_never_served_as_a_whole():
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        outcome = await w.end(task)
        w.store.objects[outcome.images[0].key] = PICTURE[:-1]
        is_problem(await client.get(f"/get_image/{task.task_id}"), 410, "untrusted_outcome")


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [
        ("bytes=0-9", 206, 0, 9),
        ("bytes=190-", 206, 190, 199),
        ("bytes=-10", 206, 190, 199),
        ("bytes=-999", 206, 0, 199),
        ("bytes=0-9999", 206, 0, 199),
        ("bytes=5-2", 200, 0, 199),
        ("bytes=a-b", 200, 0, 199),
        ("bytes=0-1,5-6", 200, 0, 199),
        ("lines=0-9", 200, 0, 199),
        ("bytes=200-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
    ],
)
async def test_a_range_of_an_image_is_served_or_refused_as_outside(asked: str, status: int, first: int, last: int):
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        await w.end(task)
        answer = await client.get(f"/get_image/{task.task_id}", headers={"Range": asked})
        if status == 416:
            is_problem(answer, 416, "range_not_satisfiable")
            assert answer.headers["content-range"] == f"bytes */{len(PICTURE)}"
            return
        assert (answer.status_code, answer.content) == (status, PICTURE[first : last + 1])
        if status == 206:
            assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(PICTURE)}"


async def test_a_range_of_another_version_gets_the_whole_image():
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        await w.end(task)
        headers = {"Range": "bytes=0-9", "If-Range": '"other"'}
        assert (await client.get(f"/get_image/{task.task_id}", headers=headers)).status_code == 200


async def test_a_missing_image_is_answered_by_whether_there_will_be_one():
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        url = f"/get_image/{task.task_id}"
        assert "queued" in is_problem(await client.get(url), 409, "image_not_ready")["detail"]
        await w.end(task)
        is_problem(await client.get(url, params={"index": 1}), 404, "unknown_image")
        for index in ("-1", "x", "1e3", "9" * 5000, "²"):
            is_problem(await client.get(url, params={"index": index}), 422, "invalid_request")
        await client.post("/generate_image", json=BODY)
        failed = w.tasks()[1]
        await w.end(failed, "failed", "generation_failed")
        is_problem(await client.get(f"/get_image/{failed.task_id}"), 410, "no_image")
