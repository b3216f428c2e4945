"""What the queue costs, measured on the real parts: `python -m tools.bench [NAME ...]`."""
