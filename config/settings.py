"""Every setting: one class, each documented, read from the environment (docs/settings.md is generated from it)."""

import ipaddress
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Names = Annotated[tuple[str, ...], NoDecode]
Pairs = Annotated[dict[str, str], NoDecode]
Weights = Annotated[dict[str, float], NoDecode]

KAFKA_CONFIG_PREFIX = "KAFKA_CONFIG_"


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _pairs(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in _split(value)]
    if any(not key.strip() or not equals or not item.strip() for key, equals, item in pairs):
        raise ValueError("must be written as name=value,name=value")
    return {key.strip(): item.strip() for key, _, item in pairs}


class Settings(BaseSettings):
    """All settings of all parts; each part uses those it needs."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=False, env_ignore_empty=True)

    kafka_bootstrap_servers: str = Field(
        "127.0.0.1:9092", min_length=1, description="Kafka brokers, host:port separated by commas."
    )
    kafka_topic_prefix: str = Field(
        "ai_image_gen",
        pattern=r"^[A-Za-z0-9._-]{1,200}$",
        description="Topics are named {prefix}.{lane}, {prefix}.events, {prefix}.models, {prefix}.previews and "
        "{prefix}.dead_letter.",
    )
    kafka_partitions: int = Field(
        8, ge=1, le=1000, description="Partitions of every lane, of events and of previews, where topics are created."
    )
    kafka_replication: int = Field(1, ge=1, le=9, description="Replication factor, where topics are created.")
    kafka_group: str = Field("ai_image_gen.consumer", min_length=1, description="The consumers' group.")
    kafka_group_protocol: Literal["consumer", "classic"] = Field(
        "consumer", description="consumer: KIP-848 (brokers from 4.0). classic: older brokers."
    )
    kafka_timeout: float = Field(
        4.0, ge=0.5, le=60, description="Seconds a request waits for Kafka before it answers 503."
    )
    lanes: Weights = Field(
        {"online_task": 4.0, "batch_task": 1.0},
        validate_default=True,
        description="Lanes and their weights, name=weight separated by commas; the first is the default. "
        "A lane of weight 4 gets four times the GPU time of one of weight 1 when both are full.",
    )
    lane_shards: Annotated[dict[str, int], NoDecode] = Field(
        {},
        description="model=n for a model that outgrows one consumer: its tasks are spread over n record keys.",
    )

    s3_bucket: str = Field("ai-image-gen", min_length=3, max_length=63, description="The bucket of the pictures.")
    s3_prefix: str = Field("", pattern=r"^([A-Za-z0-9._-]+/)*$", description="Put before every object name.")
    s3_timeout: float = Field(4.0, ge=0.5, le=60, description="Seconds to connect to or read from S3.")
    aws_endpoint_url_s3: str | None = Field(
        None,
        pattern=r"^https?://",
        description="S3 address; empty: AWS. Credentials, region and profile come by the usual AWS names.",
    )

    model_cache_dir: Path = Field(Path("model_cache"), description="Folder of model folders in diffusers format.")
    model_name: str = Field("", description="Runner: which folder of MODEL_CACHE_DIR it serves.")
    model_aliases: Pairs = Field(
        {}, description="name=model separated by commas: other names a model answers to. Never guessed."
    )
    model_stand_ins: Pairs = Field(
        {},
        description="name=model separated by commas: models that are not there and for which a small one of the same "
        "family stands in. It takes the sizes, steps and guidance of the missing model, draws at the nearest size it "
        "knows, and resizes the image. `make run` sets it where real weights are missing.",
    )
    runner_urls: Names = Field(
        ("http://127.0.0.1:3001",),
        description="Consumer: addresses of the runners, separated by commas. A host name with several addresses "
        "(a headless service) counts as that many runners.",
    )
    runner_pixel_budget: int = Field(
        0,
        ge=0,
        description="Runner: sum of width x height it makes at once, at least one picture of the model's default size. "
        "0: derived from the device's memory.",
    )
    runner_device: str = Field(
        "auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="Runner: auto, cpu, mps, cuda or cuda:N."
    )
    runner_dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="Runner: number format of the weights; auto: by family and device."
    )
    acceleration_compile: bool = Field(False, description="Runner: torch.compile of the repeated blocks.")
    acceleration_quantization: Literal["none", "int8", "float8"] = Field(
        "none", description="Runner: weight quantization by optimum-quanto."
    )
    acceleration_attention: str = Field(
        "", pattern=r"^[a-z0-9_]*$", description="Runner: attention backend as diffusers names it; empty: its default."
    )
    runner_grace: float = Field(30.0, ge=0, le=3600, description="Runner: seconds its tasks get to end on SIGTERM.")

    listen_host: str = Field(
        "127.0.0.1",
        description="IP address each part listens on; 0.0.0.0 (in a container, say): every interface. Only the gateway "
        "asks for keys, so keep consumers and runners on a private network. `make run` moves the gateway alone.",
    )
    public_url: str = Field(
        "",
        pattern=r"^(https?://.*[^/])?$",
        description="Gateway: put before the addresses in answers, e.g. https://images.example.com; empty: paths only.",
    )
    api_keys_file: Path | None = Field(
        None,
        description="Gateway: file of API keys, read again when it changes (`python -m functions.api.keys new USER` "
        "makes a line); empty: no key is needed, and everybody may see everything.",
    )
    max_connections: int = Field(
        4096,
        ge=1,
        description="Gateway: clients connected at once, fewer where the limit of open files is lower; more get 503.",
    )
    client_timeout: float = Field(
        20.0,
        ge=1,
        le=600,
        description="Gateway: seconds a client has to send a whole request, and to take something of an answer. It is "
        "cut off after that, or at most as long again later.",
    )
    max_queued_tasks_per_user: int = Field(
        10_000, ge=1, description="Gateway: tasks one user may have queued; more are refused with 429."
    )
    max_queued_tasks: int = Field(
        100_000,
        ge=1,
        description="Gateway: tasks that may be queued in all; more are refused with 429. 100,000 take 60 MiB of a "
        "gateway, 100 MiB of a consumer.",
    )
    gateway_notice: float = Field(
        5.0,
        ge=0,
        le=600,
        description="Gateway: seconds it goes on answering after SIGTERM while it says that it is not ready, so that "
        "load balancers send new requests elsewhere first. Longer than they take to notice.",
    )
    gateway_grace: float = Field(
        10.0, ge=0, le=3600, description="Gateway: seconds answers under way get to end after that."
    )
    body_limit: int = Field(256 * 1024, ge=1024, le=64 * 1024 * 1024, description="Largest request body, bytes.")
    record_limit: int = Field(64 * 1024, ge=4096, le=1024 * 1024, description="Largest task record, bytes.")
    wait_limit: float = Field(60.0, ge=1, le=600, description="Longest `Prefer: wait`, seconds.")
    view_hours: float = Field(24.0, gt=0, le=168, description="How far back a fresh gateway reads events.")
    view_path: str = Field(
        "", description="File of the local view; empty: a temporary file. A gateway with a file resumes from it."
    )
    max_runtime: float = Field(
        600.0, gt=0, le=86_400, description="Seconds one attempt may run where the task does not say."
    )
    consumer_grace: float = Field(
        30.0, ge=0, le=3600, description="Consumer: seconds running tasks get to end on SIGTERM."
    )
    consumer_port: int = Field(
        8001, ge=0, le=65535, description="Consumer: port of /livez, /readyz and /metrics; 0: any free one."
    )
    max_unstored: int = Field(
        32, ge=1, le=10_000, description="Consumer: finished, not yet stored tasks at which it stops handing out more."
    )

    log_dir: Path = Field(Path("logs"), description="Folder of the rotating log files; `-`: standard output only.")
    log_format: Literal["text", "json"] = Field("text", description="text or json lines.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level logged.")

    @field_validator("lanes", "lane_shards", "model_aliases", "model_stand_ins", mode="before")
    @classmethod
    def _read_pairs(cls, value: Any) -> Any:
        return _pairs(value)

    @field_validator("runner_urls", mode="before")
    @classmethod
    def _read_names(cls, value: Any) -> Any:
        return _split(value)

    @field_validator("listen_host")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        return str(ipaddress.ip_address(value))

    @field_validator("lanes")
    @classmethod
    def _lanes_are_sound(cls, value: dict[str, float]) -> dict[str, float]:
        if not value:
            raise ValueError("at least one lane is needed")
        for lane, weight in value.items():
            if not 0.001 <= weight <= 1000:
                raise ValueError(f"the weight of {lane} must lie between 0.001 and 1000")
            if lane in {"events", "models", "previews", "dead_letter"}:
                raise ValueError(f"{lane} is reserved for a topic of the service, so it cannot be a lane")
        return value

    @property
    def lane_names(self) -> tuple[str, ...]:
        """The lanes' full topic names; the first is the default."""
        return tuple(f"{self.kafka_topic_prefix}.{lane}" for lane in self.lanes)

    @property
    def lane_weights(self) -> dict[str, float]:
        """Weight by full topic name."""
        return {f"{self.kafka_topic_prefix}.{lane}": weight for lane, weight in self.lanes.items()}

    def topic(self, name: str) -> str:
        """The full name of a topic that is not a lane: events, models, previews or dead_letter."""
        return f"{self.kafka_topic_prefix}.{name}"


def kafka_config(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """librdkafka settings passed through: KAFKA_CONFIG_SASL_MECHANISM=PLAIN gives `sasl.mechanism`."""
    return {
        name.removeprefix(KAFKA_CONFIG_PREFIX).lower().replace("_", "."): value
        for name, value in environ.items()
        if name.startswith(KAFKA_CONFIG_PREFIX)
    }


def load_settings() -> Settings:
    """The settings; a wrong value ends the process with its name, the value and what is allowed."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"{str(problem['loc'][0]).upper()}={problem['input']!r}: {problem['msg']}" for problem in error.errors()
        ]
        sys.exit("A setting is wrong.\n  " + "\n  ".join(lines))
