"""The whole service on one machine: a real Kafka, a real S3 server and every part of ours (`python -m infra.local`)."""
