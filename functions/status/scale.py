"""What a scaler reads about a model: the document of `GET /scale/{model}`."""

from pydantic import BaseModel, Field

from tasks.capabilities import ServedModel
from tasks.queues import Queues
from tasks.scaling import runners_wanted


class ModelScale(BaseModel):
    """The unfinished tasks of one model, all users together, and how many runners they need."""

    model_name: str = Field(description="The model. An alias is answered with the model that serves it.")
    tasks: int = Field(description="Unfinished tasks: queued and running.")
    queued: int = Field(description="Tasks that wait.")
    running: int = Field(description="Tasks that run.")
    gpu_seconds: float = Field(
        description="Estimated GPU seconds of all of them, the running ones in full. 0 until a runner of the model has "
        "measured its speed for the first time."
    )
    runners: int = Field(description="Runners of the model that answered last.")
    loading: int = Field(description="Runners that are loading the model.")
    target_wait: float = Field(description="SCALE_TARGET_WAIT: seconds within which these tasks should end.")
    runners_wanted: int = Field(
        description="Runners that this takes: 0 without tasks, and never more than tasks. While runners load, no "
        "further one is wanted."
    )


def scale_of(model: ServedModel, queues: Queues, target_wait: float) -> ModelScale:
    """The document of this model."""
    work = queues.work(model.model)
    tasks = work.queued + work.running
    gpu_seconds = round(work.pixel_steps / 1e6 * model.seconds_per_megapixel_step, 3)
    return ModelScale(
        model_name=model.model,
        tasks=tasks,
        queued=work.queued,
        running=work.running,
        gpu_seconds=gpu_seconds,
        runners=model.runners,
        loading=model.loading,
        target_wait=target_wait,
        runners_wanted=runners_wanted(tasks, gpu_seconds, target_wait, model.runners, model.loading),
    )
