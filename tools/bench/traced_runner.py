"""The real runner of sd-mini, which also records when its forwards, encodings and decodes ran: GET /trace."""

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
from runners.metrics import RunnerMetrics
from runners.model_folder import inspect


def main() -> None:
    """Serve until killed."""
    ticks: list[tuple[float, float]] = []
    spans: dict[str, list[tuple[float, float]]] = {"decode": [], "encode": []}
    tick = RunnerMetrics.tick

    @functools.wraps(tick)
    def timed_tick(self: RunnerMetrics, rows: int, seconds: float) -> None:
        ended = time.monotonic()
        ticks.append((ended - seconds, ended))
        tick(self, rows, seconds)

    def timed(name: str) -> None:
        call = getattr(StableDiffusion, name)

        @functools.wraps(call)
        def measured(self: StableDiffusion, argument: Any) -> Any:
            began = time.monotonic()
            result = call(self, argument)
            spans[name].append((began, time.monotonic()))
            return result

        setattr(StableDiffusion, name, measured)

    async def trace(_: Request) -> JSONResponse:
        return JSONResponse({"ticks": ticks, **spans})

    RunnerMetrics.tick = timed_tick  # type: ignore[method-assign]
    for name in spans:
        timed(name)
    settings = load_settings()
    app = server.build_app(inspect(settings.model_cache_dir, settings.model_name), settings)
    app.add_route("/trace", trace, methods=["GET"])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[-1]), log_level="warning")


if __name__ == "__main__":
    main()
