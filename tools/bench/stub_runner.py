"""A runner without a model: `python -m tools.bench.stub_runner PORT` records when each request arrived.

It speaks the real wire protocol and answers at once, so the rest of a task's time is spent in the queue.
"""

import io
import sys
import time

import PIL.Image
from aiohttp import web

from tasks.capabilities import ServedModel
from tasks.runner_api import Accepted, End, Image, RunRequest, Started, Step, encode

MODEL = "stub"
SERVED_MODEL = ServedModel(
    model=MODEL,
    family="stable_diffusion",
    width=64,
    height=64,
    size_multiple=8,
    min_side=8,
    max_side=128,
    max_pixels=64 * 64,
    steps=1,
    max_steps=10,
    guidance_scale=5.0,
    schedulers=("ddim",),
    default_scheduler="ddim",
    max_prompt_length=2000,
    pixel_budget=4 * 64 * 64,
    seconds_per_megapixel_step=0.001,
    instance="stub",
)


def _png() -> bytes:
    out = io.BytesIO()
    PIL.Image.new("RGB", (64, 64)).save(out, "PNG")
    return out.getvalue()


def main() -> None:
    """Serve until killed."""
    arrived: dict[str, float] = {}
    png = _png()

    async def run(request: web.Request) -> web.StreamResponse:
        at = time.time()
        run_request = RunRequest.model_validate_json(await request.read())
        arrived[run_request.task_id] = at
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(encode(Accepted()))
        await answer.write(encode(Started()))
        await answer.write(encode(Step(step=1, steps=1)))
        await answer.write(
            encode(Image(index=0, content_type="image/png", width=64, height=64, seed=run_request.seed, payload=png))
        )
        await answer.write(encode(End(seconds_loading=0.0, seconds_generating=0.0, images=1)))
        return answer

    async def card(_: web.Request) -> web.Response:
        return web.Response(text=SERVED_MODEL.model_dump_json(), content_type="application/json")

    async def ready(_: web.Request) -> web.Response:
        return web.json_response({})

    async def times(_: web.Request) -> web.Response:
        return web.json_response(arrived)

    app = web.Application()
    app.add_routes([web.post("/run", run), web.get("/card", card), web.get("/readyz", ready), web.get("/times", times)])
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[-1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
