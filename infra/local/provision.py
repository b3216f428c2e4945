"""`python -m infra.local.provision`: make the topics and the bucket that the settings name, where they are missing."""

from adapters.kafka_topics import create_topics
from adapters.s3_store import create_bucket
from config.settings import load_settings


def provision() -> None:
    """Create topics and bucket. What exists is left as it is."""
    settings = load_settings()
    create_topics(settings)
    create_bucket(settings)


if __name__ == "__main__":
    provision()
