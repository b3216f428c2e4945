"""A second Ctrl-C ends a BentoML server at once.

BentoML starts its workers with circus. On SIGTERM or SIGINT circus stops them one after the other, waits up to a day
for each, and ignores every further signal meanwhile.
"""

import contextlib
import os
import signal
from typing import Any

from circus.sighandler import SysHandler


def end_at_second_signal() -> None:
    """Let a second SIGTERM or SIGINT kill the server of this process and its workers. To be called before the server
    starts: it replaces circus' own handler."""
    quit_in_order = SysHandler.quit

    def quit_now(handler: Any) -> None:
        for watcher in handler.controller.arbiter.watchers:
            for pid in watcher.processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        os._exit(128 + signal.SIGTERM)

    def quit_(handler: Any) -> None:
        handler.quit = lambda: quit_now(handler)
        quit_in_order(handler)

    SysHandler.quit = quit_
