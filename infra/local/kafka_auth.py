"""The user and password that clients of the local broker need when LOCAL_KAFKA_AUTH is 1."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from config.kafka_config import KAFKA_CONFIG_PREFIX
from infra.local.private import write_private

SETTING = "LOCAL_KAFKA_AUTH"
ALLOWED = "0 or 1"
_ITERATIONS = 4096
_SECONDS = 30

_SERVER = """\
listener.security.protocol.map=PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT
sasl.mechanism.inter.broker.protocol={mechanism}
listener.name.plaintext.sasl.enabled.mechanisms={mechanism}
listener.name.plaintext.{lower}.sasl.jaas.config={module} required username="{user}" password="{password}"{users};
# The broker alone uses the controller. Its port would otherwise let anybody add users.
sasl.mechanism.controller.protocol=PLAIN
listener.name.controller.sasl.enabled.mechanisms=PLAIN
listener.name.controller.plain.sasl.jaas.config={plain} required username="broker" password="{own}" user_broker="{own}";
"""
_MODULES = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}


def wanted() -> bool:
    """Whether the environment asks for a broker with a password. Raises ValueError with a sentence."""
    value = os.environ.get(SETTING) or "0"
    if value not in ("0", "1"):
        raise ValueError(f"{SETTING} must be {ALLOWED}, not {value!r}.")
    return value == "1"


@dataclass(frozen=True)
class Login:
    """A user of the broker.

    `PLAIN`: the broker reads the password from its settings. `SCRAM-SHA-512`: it keeps a salted hash of the password
    with its data, and neither side sends the password.
    """

    mechanism: Literal["PLAIN", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    user: str = "ai-image-gen"
    password: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)

    @property
    def client(self) -> dict[str, str]:
        """The librdkafka settings of a client."""
        return {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": self.mechanism,
            "sasl.username": self.user,
            "sasl.password": self.password,
        }

    @property
    def env(self) -> dict[str, str]:
        """The same settings as environment variables of a part."""
        return {KAFKA_CONFIG_PREFIX + name.upper().replace(".", "_"): value for name, value in self.client.items()}

    def server(self) -> str:
        """The broker's settings that let in this user and no other client."""
        return _SERVER.format(
            mechanism=self.mechanism,
            lower=self.mechanism.lower(),
            module=_MODULES[self.mechanism],
            user=self.user,
            password=self.password,
            users=f' user_{self.user}="{self.password}"' if self.mechanism == "PLAIN" else "",
            plain=_MODULES["PLAIN"],
            own=secrets.token_hex(32),
        )

    def add_to(self, bootstrap: str, admin: Mapping[str, str]) -> None:
        """Let the broker at this address know the user and the hash of the password. Raises KafkaException."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, _ITERATIONS)
        change = UserScramCredentialUpsertion(self.user, info, self.password.encode())
        client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, **admin})
        client.alter_user_scram_credentials([change], request_timeout=_SECONDS)[self.user].result(_SECONDS)

    def save(self, file: Path) -> None:
        """Write the client's settings as librdkafka reads them."""
        write_private(file, "".join(f"{name}={value}\n" for name, value in self.client.items()))


def saved_login(file: Path) -> Login | None:
    """The login that the file holds; None if there is no file. Raises RuntimeError if the file holds none."""
    if not file.exists():
        return None
    settings = dict(line.split("=", 1) for line in file.read_text(encoding="utf-8").splitlines() if "=" in line)
    try:
        return Login(user=settings["sasl.username"], password=settings["sasl.password"])
    except KeyError as error:
        raise RuntimeError(f"{file} does not name {error}. Remove it; the next start writes it anew.") from None
