"""The addresses of the broker and the store of the test suite."""

from dataclasses import dataclass

from infra.local.servers import REGION


@dataclass(frozen=True)
class KafkaServer:
    """The broker of the suite."""

    bootstrap: str


@dataclass(frozen=True)
class S3Server:
    """The store of the suite."""

    endpoint_url: str
    access_key: str
    secret_key: str

    @property
    def env(self) -> dict[str, str]:
        """The environment of a client, with the usual names of AWS."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }
