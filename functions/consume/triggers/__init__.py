"""Platforms that push records. Each module turns one platform's request into a Record and calls `PushConsumer.finish`;
a trigger for another platform is one more file here."""
