"""Every setting of the service: one class, read from the environment. docs/settings.md is generated from it."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from config.kafka_config import kafka_config
from config.secret_files import WrongSecret, read_secret
from config.values import (
    Address,
    Aliases,
    Allowed,
    HostNames,
    Hosts,
    Lanes,
    Networks,
    PublicUrl,
    Secret,
    SentSecret,
    Shards,
    Url,
    Urls,
    allowed,
    check_aliases,
    check_lanes,
    is_secret,
    without_user,
)


class Settings(BaseModel):
    """All settings of all parts; each part uses those it needs. `load_settings` reads them from the environment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kafka_bootstrap_servers: str = Field("127.0.0.1:9092", description="Kafka brokers, host:port separated by commas.")
    kafka_topic_prefix: Annotated[str, Allowed("1 to 200 of the characters A-Z a-z 0-9 . _ -")] = Field(
        "ai_image_gen",
        pattern=r"^[A-Za-z0-9._-]{1,200}$",
        description="Topics are named {prefix}.{lane}, {prefix}.events, {prefix}.models, {prefix}.previews and "
        "{prefix}.dead_letter.",
    )
    kafka_partitions: int = Field(
        8, ge=1, le=1000, description="Partitions of every lane, of events and of previews, where topics are created."
    )
    kafka_replication: int = Field(1, ge=1, le=9, description="Replication factor, where topics are created.")
    kafka_group: str = Field("ai_image_gen.consumer", description="The consumers' group.")
    kafka_group_protocol: Literal["consumer", "classic"] = Field(
        "consumer", description="consumer: KIP-848 (brokers from 4.0). classic: older brokers."
    )
    kafka_timeout: float = Field(
        4.0, ge=0.5, le=60, description="Seconds a request waits for Kafka before it answers 503."
    )
    lanes: Lanes = Field(
        {"online_task": 4.0, "batch_task": 1.0},
        description="Lanes and their weights, name=weight separated by commas; the first is the default. "
        "A lane of weight 4 gets four times the GPU time of one of weight 1 when both are full.",
    )
    lane_shards: Shards = Field(
        {},
        description="model=n for a model that outgrows one consumer: its tasks are spread over n record keys.",
    )

    s3_bucket: Annotated[str, Allowed("a name of 3 to 63 characters")] = Field(
        "ai-image-gen", min_length=3, max_length=63, description="The bucket of the images."
    )
    s3_prefix: Annotated[str, Allowed("path/ of the characters A-Z a-z 0-9 . _ - /, ending with /")] = Field(
        "", pattern=r"^([A-Za-z0-9._-]+/)*$", description="Put before every object name."
    )
    s3_timeout: float = Field(4.0, ge=0.5, le=60, description="Seconds to connect to or read from S3.")
    aws_endpoint_url_s3: Url = Field(
        None,
        pattern=r"^https?://",
        description="S3 address; empty: AWS. Region and profile come by the usual AWS names.",
    )
    aws_access_key_id: Secret = Field(
        None, description="The usual AWS credentials. Unset: as AWS finds them, e.g. by profile or by role."
    )
    aws_secret_access_key: Secret = Field(None, description="See AWS_ACCESS_KEY_ID.")
    aws_session_token: Secret = Field(None, description="See AWS_ACCESS_KEY_ID; with temporary credentials only.")

    model_cache_dir: Path = Field(Path("model_cache"), description="Folder of model folders in diffusers format.")
    model_name: str = Field("", description="Runner: the folder of MODEL_CACHE_DIR that it serves.")
    model_aliases: Aliases = Field(
        {}, description="name=model separated by commas: other names of a model. No name is guessed."
    )
    model_stand_ins: Aliases = Field(
        {},
        description="name=model separated by commas: the name of a missing model, and the small model of the same "
        "family that stands in for it. The small model takes the sizes, steps and guidance of the missing model, draws "
        "at the nearest size that it can draw, and resizes the image. `make run` sets this where real weights are "
        "missing.",
    )
    runner_urls: Urls = Field(
        ("http://127.0.0.1:3001",),
        description="Consumer: addresses of the runners, separated by commas. A host name with several addresses "
        "(a headless service) counts as that many runners.",
    )
    runner_secret: SentSecret = Field(
        None,
        description="Consumer and runner: a secret that both share. With it, a runner takes tasks only of consumers "
        "that send it. `make run` makes one up at every start.",
    )
    runner_allowed_hosts: HostNames = Field(
        (),
        description="Runner: the names under which consumers call it, separated by commas. IP addresses and localhost "
        "are always allowed, and an address in RUNNER_URLS that begins with http:// is called by IP address.",
    )
    runner_pixel_budget: int = Field(
        0,
        ge=0,
        description="Runner: sum of width x height that it draws at once, at least one image of the model's default "
        "size. 0: derived from the device's memory.",
    )
    runner_device: Annotated[str, Allowed("auto, cpu, mps, cuda or cuda:N")] = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="Runner: the device that runs the model; auto: a GPU if there is one, else the CPU.",
    )
    runner_dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="Runner: number format of the weights; auto: by family and device."
    )
    acceleration_compile: bool = Field(False, description="Runner: torch.compile of the repeated blocks.")
    acceleration_quantization: Literal["none", "int8", "float8"] = Field(
        "none", description="Runner: weight quantization by optimum-quanto."
    )
    acceleration_attention: Annotated[str, Allowed("characters a-z 0-9 _")] = Field(
        "", pattern=r"^[a-z0-9_]*$", description="Runner: attention backend as diffusers names it; empty: its default."
    )
    runner_grace: float = Field(
        30.0, ge=0, le=3600, description="Runner: seconds that its tasks have to end after SIGTERM."
    )

    listen_host: Address = Field(
        "127.0.0.1",
        description="IP address each part listens on; 0.0.0.0 (in a container, say): every interface. Only the gateway "
        "asks for keys, so keep consumers and runners on a private network. `make run` uses it for the gateway alone.",
    )
    public_url: PublicUrl = Field(
        "",
        pattern=r"^(https?://.*[^/])?$",
        description="Gateway: put before the addresses in answers, e.g. https://images.example.com; empty: paths only.",
    )
    allowed_hosts: Hosts = Field(
        (),
        description="Gateway: the host names at which clients reach it, separated by commas: `images.example.com`, "
        "`*.example.com`, `10.0.0.0/8`; `*`: any. Requests with another Host get 421, except on /livez, /healthz and "
        "/readyz. Loopback addresses, `localhost`, LISTEN_HOST and the host of PUBLIC_URL are always allowed. Empty: "
        "only those while LISTEN_HOST is a loopback address, else any.",
    )
    api_keys_file: Path | None = Field(
        None,
        description="Gateway: file of API keys, read again when it changes (`python -m functions.api.keys new USER` "
        "makes a line); empty: no key is needed, and everybody may see everything.",
    )
    trusted_proxies: Networks = Field(
        (),
        description="Gateway: addresses and networks of the proxies before it, separated by commas, e.g. 10.0.0.0/8. "
        "The client's address is read from X-Forwarded-For only where such a proxy sends the request; without this "
        "setting a proxy and all its clients count as one client.",
    )
    max_connections: int = Field(
        4096,
        ge=1,
        description="Gateway: connections at once, fewer where the limit of open files is lower. A further one takes "
        "the place of the one that has been idle for longest; while none is idle, it gets 503. Health probes are "
        "always answered.",
    )
    max_connections_per_client: int = Field(
        1000,
        ge=1,
        description="Gateway: connections that one client may use at once, never more than three quarters of "
        "MAX_CONNECTIONS; more get 429. A client is an address (of IPv6: a /64 network), and also the user of an API "
        "key.",
    )
    max_streams_per_client: int = Field(
        500, ge=1, description="Gateway: event streams that one client may hold at once; more get 429."
    )
    max_waits_per_client: int = Field(
        500, ge=1, description="Gateway: requests with `Prefer: wait` that one client may hold at once; more get 429."
    )
    max_unknown_ids_per_second: int = Field(
        100,
        ge=1,
        description="Gateway: unknown task ids that one client may ask for in a second; after them it gets 429 for "
        "every id that it may not see or that the gateway must look for in the store.",
    )
    client_timeout: float = Field(
        20.0,
        ge=1,
        le=600,
        description="Gateway: seconds in which a client must send a whole request, and must read some of an answer. A "
        "slower client is disconnected, at the latest after twice this time.",
    )
    client_min_rate: int = Field(
        1000,
        ge=0,
        description="Gateway: bytes a second that a client must read on average, over CLIENT_TIMEOUT, of an answer "
        "that waits for it (on Linux).",
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
    scale_target_wait: float = Field(
        30.0,
        gt=0,
        le=86_400,
        description="Gateway: seconds within which all unfinished tasks of a model should end; `GET /scale/{model}` "
        "says how many runners that takes.",
    )
    gateway_notice: float = Field(
        5.0,
        ge=0,
        le=600,
        description="Gateway: seconds for which it goes on answering after SIGTERM while /readyz says that it ends, so "
        "that load balancers send new requests elsewhere first. Set it longer than they take to notice.",
    )
    gateway_grace: float = Field(
        10.0, ge=0, le=3600, description="Gateway: seconds that open answers have to end after GATEWAY_NOTICE."
    )
    body_limit: int = Field(256 * 1024, ge=1024, le=64 * 1024 * 1024, description="Largest request body, bytes.")
    record_limit: int = Field(64 * 1024, ge=4096, le=1024 * 1024, description="Largest task record, bytes.")
    wait_limit: float = Field(60.0, ge=1, le=600, description="Longest `Prefer: wait`, seconds.")
    view_hours: float = Field(
        24.0, gt=0, le=168, description="Gateway: hours of past events that it reads when it starts without a view."
    )
    view_path: str = Field(
        "", description="File of the local view; empty: a temporary file. A gateway with a file resumes from it."
    )
    max_runtime: float = Field(
        600.0, gt=0, le=86_400, description="Seconds that one attempt may run if the task sets no limit."
    )
    consumer_grace: float = Field(
        30.0, ge=0, le=3600, description="Consumer: seconds that running tasks have to end after SIGTERM."
    )
    consumer_port: int = Field(
        8001, ge=0, le=65535, description="Consumer: port of /livez, /readyz and /metrics; 0: any free one."
    )
    not_understood_wait: float = Field(
        600.0,
        ge=0,
        le=604_800,
        description="Consumer: seconds after its creation for which a task that only a newer version understands waits "
        "for such a consumer; then it fails.",
    )
    lambda_partial_failures: bool = Field(
        True,
        description="AWS Lambda: the event source mapping has ReportBatchItemFailures. false: the function fails while "
        "a task of the batch has no outcome, so that the whole batch is delivered again.",
    )
    knative_timeout: float = Field(
        300.0,
        ge=10,
        le=86_400,
        description="Knative: timeoutSeconds of the service. A task that has no outcome 5 seconds earlier goes back to "
        "the source, which delivers it again.",
    )
    max_unstored: int = Field(
        32,
        ge=1,
        le=10_000,
        description="Consumer: while this many finished tasks wait to be stored, it starts no further task.",
    )

    log_dir: Path = Field(Path("logs"), description="Folder of the rotating log files; `-`: standard output only.")
    log_format: Literal["text", "json"] = Field("text", description="text or json lines.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The lowest level that is logged."
    )

    @field_validator("lanes")
    @classmethod
    def _check_lanes(cls, value: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        check_lanes(value, info.data.get("kafka_topic_prefix", ""))
        return value

    @field_validator("model_aliases", "model_stand_ins")
    @classmethod
    def _check_aliases(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        check_aliases(value, info.data.get("model_name", ""), info.data.get("model_aliases", {}))
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


def load_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of the environment, in upper or lower case; an empty value counts as not set.

    A wrong value ends the process with a sentence that names the setting, the value and what is allowed. A secret is
    never shown.
    """
    named = {name.upper(): value for name, value in environ.items() if value}
    values: dict[str, str] = {}
    lines: list[str] = []
    for name, field in Settings.model_fields.items():
        try:
            value = read_secret(name.upper(), named) if is_secret(field) else named.get(name.upper())
        except WrongSecret as error:
            lines.append(str(error))
        else:
            values |= {} if value is None else {name: value}
    try:
        kafka_config(environ)
    except WrongSecret as error:
        lines.append(str(error))
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        wrong = {str(problem["loc"][0]): _reason(problem.get("ctx", {})) for problem in error.errors()}
        lines += [_sentence(name, values[name], reason) for name, reason in wrong.items()]
    if lines:
        sys.exit("A setting is wrong.\n  " + "\n  ".join(lines))
    return settings


def _sentence(name: str, value: str, reason: str) -> str:
    field = Settings.model_fields[name]
    shown = "" if is_secret(field) else f"={without_user(value)!r}"
    return f"{name.upper()}{shown}: must be {allowed(field)}{reason}."


def _reason(context: Mapping[str, Any]) -> str:
    """The reason that a validator of Settings gives, in parentheses; empty if the type or a limit is violated."""
    return f" ({context['error']})" if "error" in context else ""
