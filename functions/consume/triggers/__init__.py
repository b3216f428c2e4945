"""Platforms that push records. Each module turns one platform's request into a Record and calls `PushConsumer.finish`;
another platform is one more file like these two."""
