"""The settings that go straight to librdkafka: the environment variables KAFKA_CONFIG_*."""

import os
from collections.abc import Mapping

from config.secret_files import is_file_of, read_secret

KAFKA_CONFIG_PREFIX = "KAFKA_CONFIG_"
KAFKA_SECRETS = frozenset(
    {
        "sasl.username",
        "sasl.password",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.assertion.private.key.passphrase",
        "sasl.oauthbearer.assertion.private.key.pem",
        "ssl.key.password",
        "ssl.key.pem",
        "ssl.keystore.password",
    }
)
"""The librdkafka settings that may be read from a file."""


def kafka_config(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The librdkafka settings in the environment: KAFKA_CONFIG_SASL_MECHANISM=PLAIN gives `sasl.mechanism`. Raises
    WrongSecret."""
    secrets = frozenset(map(_kafka_variable, KAFKA_SECRETS))
    config = {
        name.removeprefix(KAFKA_CONFIG_PREFIX).lower().replace("_", "."): value
        for name, value in environ.items()
        if name.startswith(KAFKA_CONFIG_PREFIX) and not is_file_of(name, secrets)
    }
    in_files = {name: read_secret(_kafka_variable(name), environ) for name in KAFKA_SECRETS}
    return config | {name: value for name, value in in_files.items() if value is not None}


def _kafka_variable(name: str) -> str:
    return KAFKA_CONFIG_PREFIX + name.upper().replace(".", "_")
