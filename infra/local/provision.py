"""`python -m infra.local.provision`: create the topics and the bucket of the settings, where missing."""

from adapters.kafka_topics import create_topics
from adapters.s3_store import create_bucket
from config.settings import load_settings


def provision() -> None:
    """Create topics and bucket; leave existing ones as they are."""
    settings = load_settings()
    create_topics(settings)
    create_bucket(settings)


if __name__ == "__main__":
    provision()
