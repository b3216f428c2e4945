"""No other process can give commands to a BentoML server.

BentoML starts its workers with circus, whose arbiter takes commands without a password on one TCP port of the loopback
interface and announces events on another. `add` runs any program as the user of the server, and `options` returns its
environment with every secret in it, so each of the two would let any user of the machine in.
"""

import functools
import itertools
import sys
from typing import Any

from circus.arbiter import Arbiter

_numbers = itertools.count()


def keep_control_inside() -> None:
    """Let the arbiter of this process open no port: nothing outside the process can then reach it. To be called before
    the server starts, in the module of the service, which every command of BentoML imports first."""
    create = Arbiter.__init__

    @functools.wraps(create)
    def create_inside(arbiter: Any, watchers: Any, endpoint: str, pubsub_endpoint: str, **options: Any) -> None:
        if options.get("plugins"):
            sys.exit("--reload needs ports that let every user of this machine control the server. Restart it instead.")
        number = next(_numbers)
        create(arbiter, watchers, f"inproc://control-{number}", f"inproc://events-{number}", **options)

    Arbiter.__init__ = create_inside
