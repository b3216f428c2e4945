"""The handler path that functions deployed on AWS Lambda name: `functions.consume.lambda_.handler`."""

from functions.consume.triggers.aws_lambda import handler

__all__ = ["handler"]
