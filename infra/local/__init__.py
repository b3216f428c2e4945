"""The whole service on one machine, with a real Kafka and a real S3 server: `python -m infra.local`."""
