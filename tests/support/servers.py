"""Where the suite's broker and store answer."""

from dataclasses import dataclass

from infra.local.servers import ACCESS_KEY, REGION, SECRET_KEY


@dataclass(frozen=True)
class KafkaServer:
    """The suite's broker."""

    bootstrap: str


@dataclass(frozen=True)
class S3Server:
    """The suite's store."""

    endpoint_url: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    @property
    def env(self) -> dict[str, str]:
        """What a client needs to know, by the usual AWS names."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }
