"""Records as AWS Lambda and a Knative KafkaSource deliver them, in the shapes that both document."""

import base64
from datetime import UTC, datetime
from typing import Any

from tasks.log import Record


def kafka_event(*records: Record, source: str = "aws:kafka") -> dict[str, Any]:
    """What Lambda is called with: keys and values in base64, the bytes of headers as Java's signed ones."""
    batches: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        place = record.place
        headers = dict(record.headers) or {"content-type": b"application/json", "mark": "é".encode()}
        batches.setdefault(f"{place.topic}-{place.partition}", []).append(
            {
                "topic": place.topic,
                "partition": place.partition,
                "offset": place.offset,
                "timestamp": int(record.timestamp * 1000),
                "timestampType": "CREATE_TIME",
                "key": base64.b64encode(record.key.encode()).decode(),
                "value": base64.b64encode(record.value).decode(),
                "headers": [{name: [byte - 256 * (byte > 127) for byte in value]} for name, value in headers.items()],
            }
        )
    return {
        "eventSource": source,
        "eventSourceArn": "arn:aws:kafka:eu-west-1:123456789012:cluster/images/0b1c",
        "bootstrapServers": "b-2.images.kafka.eu-west-1.amazonaws.com:9092,b-1.images.kafka.eu-west-1.amazonaws.com:9092",
        "records": batches,
    }


def cloud_event(record: Record) -> dict[str, str]:
    """The headers that a KafkaSource sends, in binary mode."""
    place = record.place
    return {
        "ce-specversion": "1.0",
        "ce-type": "dev.knative.kafka.event",
        "ce-source": f"/apis/v1/namespaces/images/kafkasources/tasks#{place.topic}",
        "ce-subject": f"partition:{place.partition}#{place.offset}",
        "ce-id": f"partition:{place.partition}/offset:{place.offset}",
        "ce-time": datetime.fromtimestamp(record.timestamp, UTC).isoformat(),
        "ce-key": record.key,
        "ce-kafkaheadertraceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "content-type": "application/json",
    }
