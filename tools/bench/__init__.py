"""Measures what the queue costs on real parts: `python -m tools.bench [NAME ...]`."""
