"""`python -m tools.bench` measures what the queue costs; `python -m tools.bench NAME ...` these."""

import importlib
import os
import signal
import sys

NAMES = ("latency", "gap", "throughput", "backlog", "engine")
MORE = ("recovery",)


def main() -> None:
    """Run what was asked for."""
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: on few cores more threads only get in the way
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # by way of every `finally`: no part is left behind
    asked = sys.argv[1:] or NAMES
    unknown = set(asked) - {*NAMES, *MORE}
    if unknown:
        sys.exit(f"{', '.join(sorted(unknown))}: there are {', '.join((*NAMES, *MORE))}.")
    for name in asked:
        importlib.import_module(f"tools.bench.{name}").measure()


if __name__ == "__main__":
    main()
