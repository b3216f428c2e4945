"""`python -m functions.consume.publish_models FILE ...`: publish what models can do before any runner runs.

Each file is what `python -m runners.describe` printed about one model; `-` is standard input. With it the gateway
accepts tasks of the model, and an autoscaler can start the first runner for them.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

from pydantic import ValidationError

from adapters.kafka_log import KafkaLog
from config.settings import load_settings
from tasks.capabilities import ServedModel
from tasks.errors import QueueUnavailable
from tasks.ports import LogReader, TaskLog
from tasks.reading import CardRead, read_record

_WAIT_SECONDS = 60.0
"""How long to wait for Kafka."""


async def published_models(task_log: LogReader) -> dict[str, ServedModel]:
    """The models by name, as the log holds them now."""
    models: dict[str, ServedModel] = {}
    async with aclosing(task_log.follow({})) as batches:
        async for batch in batches:
            for record in batch.records:
                read = read_record(record, {}, ()) if record.kind == "card" else None
                if isinstance(read, CardRead):
                    models[read.card.model] = read.card
            if batch.starts:
                break
    return models


def to_publish(described: ServedModel, published: ServedModel | None) -> ServedModel | None:
    """What to publish about a model whose folder says `described`. None: runners serve it, and they know better.

    No image is larger than the pixel budget. The speed that runners have measured is kept, and while the folder is the
    same also their pixel budget, so that what was possible yesterday is possible before the first runner of today.
    """
    if published is None:
        return _limited(described, described.pixel_budget)
    if published.runners:
        return None
    same = published.version == described.version
    measured = {
        "seconds_per_megapixel_step": published.seconds_per_megapixel_step,
        "acceleration": published.acceleration,
        "loading": published.loading,
    }
    budget = max(described.pixel_budget, published.pixel_budget if same else 0)
    return _limited(described.model_copy(update=measured), budget)


def _limited(model: ServedModel, budget: int) -> ServedModel:
    return model.model_copy(update={"pixel_budget": budget, "max_pixels": min(model.max_pixels, budget)})


async def publish(task_log: TaskLog, described: Sequence[ServedModel]) -> Mapping[str, bool]:
    """Publish these models. Returns by name whether it was published; False: runners serve it. Raises
    QueueUnavailable."""
    published = await published_models(task_log)
    done: dict[str, bool] = {}
    for model in described:
        card = to_publish(model, published.get(model.model))
        if card is not None:
            await task_log.append_card(card)
        done[model.model] = card is not None
    return done


def read_descriptions(files: Sequence[str]) -> list[ServedModel]:
    """The models that these files describe. Ends the process with a sentence that names the file that is wrong."""
    models = []
    for name in files:
        try:
            text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
            models.append(ServedModel.model_validate_json(text))
        except (OSError, UnicodeDecodeError) as error:
            sys.exit(f"{name} cannot be read: {error}")
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            sys.exit(f"{name} is not what `python -m runners.describe` prints: {place}: {first['msg']}")
    return models


async def _run(files: Sequence[str]) -> None:
    models, settings = read_descriptions(files), load_settings()
    task_log = KafkaLog(settings)
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            done = await publish(task_log, models)
    except (QueueUnavailable, TimeoutError) as error:
        sys.exit(f"Kafka at {settings.kafka_bootstrap_servers} does not answer: {error or 'timeout'}")
    finally:
        await task_log.close()
    for name, was_published in done.items():
        print(f"{name}: {'published' if was_published else 'left alone, because runners of it answer'}")


def main(files: Sequence[str]) -> None:
    """Publish the models of these files."""
    if not files:
        sys.exit("usage: python -m functions.consume.publish_models FILE ...")
    asyncio.run(_run(files))


if __name__ == "__main__":
    main(sys.argv[1:])
