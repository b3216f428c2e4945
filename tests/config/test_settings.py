"""Settings are read from an environment, and a wrong value ends the start with a sentence."""

from pathlib import Path

import pytest

from config.kafka_config import KAFKA_SECRETS, kafka_config
from config.settings import Settings, load_settings
from config.values import allowed, is_secret

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
    "aws_endpoint_url_s3": (
        "127.0.0.1:9000",
        "an address that begins with http:// or https://, without a user name or password",
    ),
    "runner_urls": ("runner:3001", "addresses that begin with http:// or https://, without a user name or password"),
    "allowed_hosts": ("http://a", "host names without a port, *.domain, IP addresses and networks"),
    "model_aliases": ("flux", "name=model separated by commas"),
    "model_stand_ins": ("flux", "name=model separated by commas"),
    "runner_secret": ("two words of a secret", "16 to 200 visible ASCII characters"),
    "runner_allowed_hosts": ("runners:3001", "host names without port, separated by commas"),
    "runner_pixel_budget": ("-1", f"{WHOLE} from 0"),
    "runner_device": ("gpu", "auto, cpu, mps, cuda or cuda:N"),
    "runner_dtype": ("float64", "auto or float32 or float16 or bfloat16"),
    "acceleration_compile": ("perhaps", "true or false"),
    "acceleration_quantization": ("int2", "none or int8 or float8"),
    "acceleration_attention": ("Flash!", "characters a-z 0-9 _"),
    "runner_grace": ("-1", "a number from 0 to 3,600"),
    "listen_host": ("everywhere", "an IP address"),
    "public_url": ("https://images/", "an address that begins with http:// or https:// and does not end with /"),
    "trusted_proxies": ("10.0.0.1, ingress", "IP addresses and networks separated by commas"),
    "max_connections": ("0", f"{WHOLE} from 1"),
    "max_connections_per_client": ("0", f"{WHOLE} from 1"),
    "max_streams_per_client": ("many", f"{WHOLE} from 1"),
    "max_waits_per_client": ("-1", f"{WHOLE} from 1"),
    "max_unknown_ids_per_second": ("0", f"{WHOLE} from 1"),
    "client_min_rate": ("-1", f"{WHOLE} from 0"),
    "client_timeout": ("0", "a number from 1 to 600"),
    "max_queued_tasks_per_user": ("0", f"{WHOLE} from 1"),
    "max_queued_tasks": ("1.5", f"{WHOLE} from 1"),
    "scale_target_wait": ("0", "a number above 0 to 86,400"),
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
    "kafka_bootstrap_servers", "kafka_group", "model_cache_dir", "model_name", "api_keys_file",
    "view_path", "log_dir", "aws_access_key_id", "aws_secret_access_key", "aws_session_token",
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
    shown = "" if is_secret(Settings.model_fields[name]) else f"={value!r}"
    assert f"\n  {name.upper()}{shown}: must be {words}" in sentence({name.upper(): value})


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
        ("a=1,events=1", "(the service already has a topic named events)"),
        ("models=1", "(the service already has a topic named models)"),
        ("previews=1", "(the service already has a topic named previews)"),
        ("dead_letter=1", "(the service already has a topic named dead_letter)"),
        ("vip.batch=1", "(the lane 'vip.batch' has a character other than A-Z a-z 0-9 _ -)"),
        ("batch=1,vip.batch=1", "(the lane 'vip.batch' has a character other than A-Z a-z 0-9 _ -)"),
        (".batch=1", "(the lane '.batch' has a character other than A-Z a-z 0-9 _ -)"),
        ("a b=1", "(the lane 'a b' has a character other than A-Z a-z 0-9 _ -)"),
        ("ä=1", "(the lane 'ä' has a character other than A-Z a-z 0-9 _ -)"),
        ("a\u2028b=1", "(the lane 'a\\u2028b' has a character other than A-Z a-z 0-9 _ -)"),
        ("a=1,a=2", "(a is named twice)"),
        ("a" * 237 + "=1", f"(the topic ai_image_gen.{'a' * 237} has more than 249 characters)"),
    ],
)
def test_the_sentence_about_wrong_lanes_gives_the_reason(value: str, reason: str) -> None:
    assert sentence({"LANES": value}).endswith(f"{reason}.")


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"MODEL_ALIASES": "a=b,b=c"}, "MODEL_ALIASES='a=b,b=c': {} (b is a model)"),
        ({"MODEL_ALIASES": "a=a"}, "MODEL_ALIASES='a=a': {} (a is a model)"),
        ({"MODEL_ALIASES": "a=b,a=c"}, "MODEL_ALIASES='a=b,a=c': {} (a is named twice)"),
        ({"MODEL_ALIASES": "a=b", "MODEL_NAME": "a"}, "MODEL_ALIASES='a=b': {} (a is a model)"),
        ({"MODEL_STAND_INS": "a=b", "MODEL_NAME": "a"}, "MODEL_STAND_INS='a=b': {} (a is a model)"),
        ({"MODEL_STAND_INS": "a=b,b=c"}, "MODEL_STAND_INS='a=b,b=c': {} (b is a model)"),
        ({"MODEL_ALIASES": "a=b", "MODEL_STAND_INS": "b=c"}, "MODEL_STAND_INS='b=c': {} (b is a model)"),
        ({"MODEL_ALIASES": "b=c", "MODEL_STAND_INS": "a=b"}, "MODEL_STAND_INS='a=b': {} (b is a name of c)"),
        ({"MODEL_ALIASES": "a=b", "MODEL_STAND_INS": "a=c"}, "MODEL_STAND_INS='a=c': {} (a is a name of b)"),
        ({"LANE_SHARDS": "a=1,a=2"}, "LANE_SHARDS='a=1,a=2': must be model=n separated by commas, each n a whole"),
    ],
)
def test_an_alias_that_would_mean_two_models_is_refused_and_named(environ: dict[str, str], reason: str) -> None:
    assert reason.format("must be name=model separated by commas") in sentence(environ)


@pytest.mark.parametrize(
    "environ",
    [
        {"MODEL_ALIASES": "a=c,b=c", "MODEL_NAME": "c"},
        {"MODEL_ALIASES": "a=b", "MODEL_STAND_INS": "a=b,x=y", "MODEL_NAME": "y"},
    ],
)
def test_several_names_of_one_model_are_taken(environ: dict[str, str]) -> None:
    settings = load_settings(environ)
    assert settings.model_aliases or settings.model_stand_ins


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
            "TRUSTED_PROXIES": "10.0.0.0/8, fd00::1",
            "MODEL_ALIASES": "flux-1-dev=flux-mini",
            "LANE_SHARDS": "sd-mini=4",
            "API_KEYS_FILE": "/keys",
            "ACCELERATION_COMPILE": "true",
        }
    )
    assert settings.runner_urls == ("http://a:1", "http://b:2")
    assert settings.trusted_proxies == ("10.0.0.0/8", "fd00::1")
    assert settings.model_aliases == {"flux-1-dev": "flux-mini"}
    assert settings.lane_shards == {"sd-mini": 4}
    assert settings.api_keys_file == Path("/keys")
    assert settings.acceleration_compile is True


def test_kafka_config_passes_every_named_setting_to_the_client() -> None:
    environ = {"KAFKA_CONFIG_SASL_MECHANISM": "PLAIN", "KAFKA_CONFIG_SSL_CA_LOCATION": "/ca", "KAFKA_GROUP": "g"}
    assert kafka_config(environ) == {"sasl.mechanism": "PLAIN", "ssl.ca.location": "/ca"}


SECRETS = [
    *(name.upper() for name, field in Settings.model_fields.items() if is_secret(field)),
    *(f"KAFKA_CONFIG_{name.upper().replace('.', '_')}" for name in sorted(KAFKA_SECRETS)),
]
"""Every variable that holds a secret."""


def secret(environ: dict[str, str], name: str) -> str | None:
    """The secret as the parts get it."""
    settings = load_settings(environ)
    if name.startswith("KAFKA_CONFIG_"):
        return kafka_config(environ).get(name.removeprefix("KAFKA_CONFIG_").lower().replace("_", "."))
    value = getattr(settings, name.lower())
    return None if value is None else str(value.get_secret_value())


def test_the_credentials_of_the_store_are_secrets() -> None:
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} <= set(SECRETS)


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_a_secret_is_read_from_its_variable_or_from_the_file_of_its_name(name: str, end: str, tmp_path: Path) -> None:
    value, file = "0123456789abcdef-0123456789abcdef=,+/", tmp_path / "secret"
    file.write_bytes(f"{value}{end}".encode())
    assert secret({f"{name}_FILE": str(file)}, name) == value
    assert secret({name: value}, name) == value
    assert secret({name: "", f"{name}_FILE": str(file)}, name) == value
    assert not secret({f"{name}_FILE": ""}, name)


def test_only_the_line_breaks_at_the_end_of_a_file_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(" begins and ends\nwith a blänk \n\n", encoding="utf-8")
    for name in ("AWS_SECRET_ACCESS_KEY", "KAFKA_CONFIG_SSL_KEY_PEM"):
        assert secret({f"{name}_FILE": str(tmp_path / "secret")}, name) == " begins and ends\nwith a blänk "


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_is_set_twice_or_cannot_be_read_ends_the_start(name: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("in the file")
    variable = f"{name}_FILE"
    assert sentence({name: "in the variable", variable: str(file)}).splitlines() == [
        "A setting is wrong.",
        f"  {name} and {variable} are both set: set one of them.",
    ]
    for path, reason in (
        (tmp_path / "gone", "the file cannot be read (FileNotFoundError)"),
        (tmp_path, "the file cannot be read (IsADirectoryError)"),
    ):
        assert sentence({variable: str(path)}).endswith(f"\n  {variable}={str(path)!r}: {reason}.")
    for content, reason in ((b"\n", "the file is empty"), (b"\xff", "the file cannot be read (UnicodeDecodeError)")):
        file.write_bytes(content)
        assert sentence({variable: str(file)}).endswith(f"\n  {variable}={str(file)!r}: {reason}.")


def test_no_text_about_the_settings_shows_a_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "secret").write_text("not-to-be-seen-anywhere")
    environ = dict.fromkeys(SECRETS, "not-to-be-seen-anywhere")
    settings = load_settings(environ)
    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert "not-to-be-seen-anywhere" not in text
    assert "not-to-be-seen-anywhere" not in sentence(environ | {"KAFKA_PARTITIONS": "none"})
    in_both = {f"{name}_FILE": str(tmp_path / "secret") for name in SECRETS}
    assert "not-to-be-seen-anywhere" not in sentence(environ | in_both)


def test_any_other_variable_of_kafka_that_ends_with_file_is_one_of_the_client() -> None:
    environ = {"KAFKA_CONFIG_SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_FILE": "/key", "KAFKA_CONFIG_X_FILE": "/x"}
    assert kafka_config(environ) == {"sasl.oauthbearer.assertion.private.key.file": "/key", "x.file": "/x"}


@pytest.mark.parametrize(
    "secret", ["fifteen-letters", "x" * 201, "with a space in it", "ümlaut-in-the-secret", "line\nbreak-in-it-x"]
)
def test_a_runner_secret_that_no_header_can_carry_is_refused_and_not_shown(secret: str) -> None:
    text = sentence({"RUNNER_SECRET": secret})
    assert "RUNNER_SECRET: must be 16 to 200 visible ASCII characters" in text
    assert secret not in text


def test_the_names_of_runners_are_compared_in_small_letters() -> None:
    settings = load_settings({"RUNNER_ALLOWED_HOSTS": "Runners.example, runner_sd"})
    assert settings.runner_allowed_hosts == ("runners.example", "runner_sd")


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "PUBLIC_URL", "RUNNER_URLS"])
@pytest.mark.parametrize(
    "value",
    [
        "http://ada:hunter2@host:1",
        "https://hunter2@host",
        "http://:hunter2@host",
        "http://ada:hunter2@[::1]:1/a",
        "http://hunter2@@host",
        "http://a:1,http://ada:hunter2@b:1",
        "HTTP://ada:hunter2@host",
    ],
)
def test_an_address_with_a_password_ends_the_start_and_is_not_shown(name: str, value: str) -> None:
    text = sentence({name: value})
    assert "hunter2" not in text
    assert text.startswith(f"A setting is wrong.\n  {name}=")
    assert "without a user name or password" in text


def test_an_at_sign_elsewhere_in_an_address_is_taken() -> None:
    assert load_settings({"PUBLIC_URL": "https://host/@ada"}).public_url == "https://host/@ada"


@pytest.mark.parametrize("value", ["*", "a", "A.b-c.d_e", "*.example.com", "10.0.0.0/8", "::1", "[::1]", "a., 1.2.3.4"])
def test_hosts_are_names_domains_addresses_and_networks(value: str) -> None:
    assert load_settings({"ALLOWED_HOSTS": value}).allowed_hosts == tuple(map(str.strip, value.split(",")))


@pytest.mark.parametrize("value", ["a:8000", "http://a", "*a", "a.*", "**", "a b", "-a", "ä", "a/8", ".", "*.", "a@b"])
def test_any_other_host_is_refused(value: str) -> None:
    assert "is none of them" in sentence({"ALLOWED_HOSTS": value})
