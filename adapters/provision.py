"""`python -m adapters.provision`: create the missing topics and the bucket that the settings name."""

from adapters.kafka_topics import create_topics
from adapters.s3_store import create_bucket
from config.settings import load_settings


def provision() -> None:
    """Create the missing topics and the bucket. Existing ones are not changed."""
    settings = load_settings()
    create_topics(settings)
    create_bucket(settings)


if __name__ == "__main__":
    provision()
