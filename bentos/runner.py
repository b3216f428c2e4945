"""A runner as a BentoML service: `MODEL_NAME=sd-mini bentoml serve bentos.runner:RunnerService --port 3001`.

The Bento of one model's runner names the model in `bento_model.txt`, in its root folder; MODEL_NAME overrides it.
"""

import logging
from pathlib import Path

import bentoml

from bentos.control import keep_control_inside
from bentos.framing import serve_strictly
from bentos.hosting import HostedApp, RootMiddleware
from bentos.signals import end_at_second_signal
from config.logging import configure_logging
from config.settings import Settings, load_settings

_hosted = HostedApp()
_ROOT = Path(__file__).resolve().parents[1]
_LAST_FRAMES_SECONDS = 5.0
_BUILT_FOR = _ROOT / "bento_model.txt"


def runner_settings() -> Settings:
    """The settings. If they name no model, the model is the one for which this Bento was built."""
    settings = load_settings()
    if not settings.model_name and _BUILT_FOR.exists():
        return settings.model_copy(
            update={"model_name": _BUILT_FOR.read_text().strip(), "model_cache_dir": _ROOT / "model_cache"}
        )
    return settings


def _check_folder() -> None:
    """End the process if the model's folder cannot be used. This takes a second; loading would take twenty."""
    from runners.families import UnusableModel
    from runners.model_folder import inspect

    settings = runner_settings()
    if settings.model_name:
        try:
            inspect(settings.model_cache_dir, settings.model_name)
        except UnusableModel as error:
            raise SystemExit(str(error)) from error


_check_folder()


@bentoml.service(
    name="ai-image-gen-runner",
    workers=1,
    http={"host": runner_settings().listen_host},  # BentoML's own default is every interface
    traffic={"timeout": 3600},
    metrics={"enabled": False},
    tracing={"excluded_urls": ".*"},
    logging={"access": {"enabled": False}},
)
class RunnerService:
    """One model on one device."""

    @bentoml.on_startup
    async def open(self) -> None:
        """Check the model's folder, then load it in the background. A folder that cannot be used ends the process."""
        from runners.families import UnusableModel
        from runners.model_folder import inspect
        from runners.server import build_app, die

        settings = runner_settings()
        configure_logging(settings, f"runner.{settings.model_name or 'none'}")
        if not settings.model_name:
            die("MODEL_NAME must name a folder of MODEL_CACHE_DIR.")
        logging.getLogger("runner").info("runner starts: %s", settings.model_cache_dir / settings.model_name)
        try:
            folder = inspect(settings.model_cache_dir, settings.model_name)
        except UnusableModel as error:
            die(str(error))
        app = build_app(folder, settings)
        await _hosted.open(app)
        _hosted.on_sigterm(app.state.leave, _LAST_FRAMES_SECONDS)

    @bentoml.on_shutdown
    async def close(self) -> None:
        """End the app's lifespan, which finishes or drops the running tasks."""
        await _hosted.close()


serve_strictly()
keep_control_inside()
end_at_second_signal()
RunnerService.add_asgi_middleware(RootMiddleware, hosted=_hosted)  # type: ignore[attr-defined]
