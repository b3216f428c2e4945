"""Settings are read from an environment, and a wrong value ends the start with a sentence."""

from pathlib import Path

import pytest

from config.settings import Settings, allowed, kafka_config, load_settings

WHOLE = "a whole number"
WRONG = {
    "kafka_topic_prefix": ("two words", "1 to 200 of the characters A-Z a-z 0-9 . _ -"),
    "kafka_partitions": ("0", f"{WHOLE} from 1 to 1,000"),
    "kafka_replication": ("many", f"{WHOLE} from 1 to 9"),
    "kafka_group_protocol": ("modern", "consumer or classic"),
    "kafka_timeout": ("0.1", "a number from 0.5 to 60"),
    "lanes": ("online_task=5000", "name=weight separated by commas, each weight from 0.001 to 1,000"),
    "lane_shards": ("sd-mini=some", f"model=n separated by commas, each n {WHOLE}"),
    "s3_bucket": ("ab", "a name of 3 to 63 characters"),
    "s3_prefix": ("no-slash", "path/ of the characters A-Z a-z 0-9 . _ - /, ending with /"),
    "s3_timeout": ("nan", "a number from 0.5 to 60"),
    "aws_endpoint_url_s3": ("127.0.0.1:9000", "an address that begins with http:// or https://"),
    "model_aliases": ("flux", "name=model separated by commas"),
    "model_stand_ins": ("flux", "name=model separated by commas"),
    "runner_pixel_budget": ("-1", f"{WHOLE} from 0"),
    "runner_device": ("gpu", "auto, cpu, mps, cuda or cuda:N"),
    "runner_dtype": ("float64", "auto or float32 or float16 or bfloat16"),
    "acceleration_compile": ("perhaps", "true or false"),
    "acceleration_quantization": ("int2", "none or int8 or float8"),
    "acceleration_attention": ("Flash!", "characters a-z 0-9 _"),
    "runner_grace": ("-1", "a number from 0 to 3,600"),
    "listen_host": ("everywhere", "an IP address"),
    "public_url": ("https://images/", "an address that begins with http:// or https:// and does not end with /"),
    "max_connections": ("0", f"{WHOLE} from 1"),
    "client_timeout": ("0", "a number from 1 to 600"),
    "max_queued_tasks_per_user": ("0", f"{WHOLE} from 1"),
    "max_queued_tasks": ("1.5", f"{WHOLE} from 1"),
    "gateway_notice": ("601", "a number from 0 to 600"),
    "gateway_grace": ("soon", "a number from 0 to 3,600"),
    "body_limit": ("1", f"{WHOLE} from 1,024 to 67,108,864"),
    "record_limit": ("1", f"{WHOLE} from 4,096 to 1,048,576"),
    "wait_limit": ("0", "a number from 1 to 600"),
    "view_hours": ("0", "a number above 0 to 168"),
    "max_runtime": ("0", "a number above 0 to 86,400"),
    "consumer_grace": ("-1", "a number from 0 to 3,600"),
    "consumer_port": ("65536", f"{WHOLE} from 0 to 65,535"),
    "lambda_partial_failures": ("some", "true or false"),
    "knative_timeout": ("5", "a number from 10 to 86,400"),
    "not_understood_wait": ("-1", "a number from 0 to 604,800"),
    "max_unstored": ("0", f"{WHOLE} from 1 to 10,000"),
    "log_format": ("xml", "text or json"),
    "log_level": ("LOUD", "DEBUG or INFO or WARNING or ERROR"),
}
"""A wrong value of each setting, and what its sentence names as allowed."""
FREE = {
    "kafka_bootstrap_servers", "kafka_group", "model_cache_dir", "model_name", "runner_urls", "api_keys_file",
    "view_path", "log_dir",
}  # fmt: skip
"""Settings that may be any text: whether it is of use shows when it is used."""


def sentence(environ: dict[str, str]) -> str:
    with pytest.raises(SystemExit) as ended:
        load_settings(environ)
    return str(ended.value.code)


def test_every_setting_has_a_wrong_value_or_may_be_any_text() -> None:
    assert WRONG.keys() | FREE == Settings.model_fields.keys()
    assert not WRONG.keys() & FREE
    assert {name for name, field in Settings.model_fields.items() if not allowed(field)} == FREE


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_named_with_its_setting_and_what_is_allowed(name: str) -> None:
    value, words = WRONG[name]
    assert f"\n  {name.upper()}={value!r}: must be {words}" in sentence({name.upper(): value})


def test_all_wrong_settings_are_named_at_once_and_right_ones_are_not() -> None:
    text = sentence({"KAFKA_PARTITIONS": "x", "LOG_LEVEL": "INFO", "LANES": "a=1,b=x,c=y"})
    assert text.splitlines() == [
        "A setting is wrong.",
        "  KAFKA_PARTITIONS='x': must be a whole number from 1 to 1,000.",
        "  LANES='a=1,b=x,c=y': must be name=weight separated by commas, each weight from 0.001 to 1,000.",
    ]


def test_no_sentence_speaks_of_python() -> None:
    text = sentence({name.upper(): value for name, (value, _) in WRONG.items()})
    assert len(text.splitlines()) == 1 + len(WRONG)
    for word in ("Input", "Value error", "string", "pydantic", "type=", "tuple", "dict"):
        assert word not in text


@pytest.mark.parametrize(
    ("value", "lanes"),
    [
        ("a=1", {"a": 1.0}),
        ("a=4, b = 0.5", {"a": 4.0, "b": 0.5}),
        ("a=4,,b=1,", {"a": 4.0, "b": 1.0}),
        ("b=1,a=2", {"b": 1.0, "a": 2.0}),
    ],
)
def test_lanes_are_read_in_their_order(value: str, lanes: dict[str, float]) -> None:
    settings = load_settings({"LANES": value, "KAFKA_TOPIC_PREFIX": "p"})
    assert list(settings.lanes.items()) == list(lanes.items())
    assert settings.lane_names == tuple(f"p.{lane}" for lane in lanes)
    assert settings.lane_weights == {f"p.{lane}": weight for lane, weight in lanes.items()}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("a", "(a name or a value is missing)"),
        ("=1", "(a name or a value is missing)"),
        ("a=", "(a name or a value is missing)"),
        (",", "(no lane is named)"),
        ("a=0", "(the weight of a is 0)"),
        ("a=nan", "(the weight of a is nan)"),
        ("events=1", "(the service already has a topic named events)"),
    ],
)
def test_the_sentence_about_wrong_lanes_gives_the_reason(value: str, reason: str) -> None:
    assert sentence({"LANES": value}).endswith(f"{reason}.")


def test_names_are_read_in_any_case_and_an_empty_value_counts_as_not_set() -> None:
    settings = load_settings({"kafka_group": "g", "Model_Name": "m", "KAFKA_PARTITIONS": "", "AWS_ENDPOINT_URL_S3": ""})
    assert (settings.kafka_group, settings.model_name) == ("g", "m")
    assert settings == Settings(kafka_group="g", model_name="m")


def test_only_the_given_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_GROUP", "of-this-process")
    assert load_settings({}).kafka_group == "ai_image_gen.consumer"
    assert load_settings().kafka_group == "of-this-process"


def test_lists_pairs_paths_and_switches_are_read_from_text() -> None:
    settings = load_settings(
        {
            "RUNNER_URLS": "http://a:1, http://b:2",
            "MODEL_ALIASES": "flux-1-dev=flux-mini",
            "LANE_SHARDS": "sd-mini=4",
            "API_KEYS_FILE": "/keys",
            "ACCELERATION_COMPILE": "true",
        }
    )
    assert settings.runner_urls == ("http://a:1", "http://b:2")
    assert settings.model_aliases == {"flux-1-dev": "flux-mini"}
    assert settings.lane_shards == {"sd-mini": 4}
    assert settings.api_keys_file == Path("/keys")
    assert settings.acceleration_compile is True


def test_kafka_config_passes_every_named_setting_to_the_client() -> None:
    environ = {"KAFKA_CONFIG_SASL_MECHANISM": "PLAIN", "KAFKA_CONFIG_SSL_CA_LOCATION": "/ca", "KAFKA_GROUP": "g"}
    assert kafka_config(environ) == {"sasl.mechanism": "PLAIN", "ssl.ca.location": "/ca"}
