"""The real runner of sd-mini, which also tells when each of its forwards and decodes ran: GET /trace."""

import functools
import sys
import time
from typing import Any

import uvicorn
from fastapi import Request
from fastapi.responses import JSONResponse

from config.settings import load_settings
from runners import server
from runners.families.stable_diffusion import StableDiffusion
from runners.model_folder import inspect


def main() -> None:
    """Serve until killed."""
    ticks: list[tuple[float, float]] = []
    decodes: list[tuple[float, float]] = []
    tick, decode = server.RunnerMetrics.tick, StableDiffusion.decode

    @functools.wraps(tick)
    def timed_tick(self: server.RunnerMetrics, rows: int, seconds: float) -> None:
        ended = time.monotonic()
        ticks.append((ended - seconds, ended))
        tick(self, rows, seconds)

    @functools.wraps(decode)
    def timed_decode(self: StableDiffusion, sample: Any) -> Any:
        began = time.monotonic()
        picture = decode(self, sample)
        decodes.append((began, time.monotonic()))
        return picture

    async def trace(_: Request) -> JSONResponse:
        return JSONResponse({"ticks": ticks, "decodes": decodes})

    server.RunnerMetrics.tick = timed_tick  # type: ignore[method-assign]
    StableDiffusion.decode = timed_decode  # type: ignore[method-assign]
    settings = load_settings()
    app = server.build_app(inspect(settings.model_cache_dir, settings.model_name), settings)
    app.add_route("/trace", trace, methods=["GET"])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[-1]), log_level="warning")


if __name__ == "__main__":
    main()
