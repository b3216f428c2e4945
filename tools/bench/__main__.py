"""`python -m tools.bench` runs the usual measurements; `python -m tools.bench NAME ...` runs those named."""

import importlib
import os
import signal
import sys

NAMES = ("latency", "gap", "throughput", "backlog", "engine")
MORE = ("recovery", "crowd")


def main() -> None:
    """Run the measurements that the command line names."""
    os.environ["OMP_NUM_THREADS"] = "1"  # set before torch is imported; on few cores more threads slow each other down
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # runs every `finally`, which ends the parts
    names = sys.argv[1:] or NAMES
    unknown = set(names) - {*NAMES, *MORE}
    if unknown:
        sys.exit(f"{', '.join(sorted(unknown))}: the measurements are {', '.join((*NAMES, *MORE))}.")
    for name in names:
        importlib.import_module(f"tools.bench.{name}").measure()


if __name__ == "__main__":
    main()
