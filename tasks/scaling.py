"""How many runners a model needs. Pure: what is asked for follows from the tasks in the log, never from consumer lag.

A consumer reads ahead, and commits a task only when it has ended, so the lag of its group counts neither the queued nor
the running tasks.
"""

from math import ceil


def runners_wanted(tasks: int, gpu_seconds: float, target_wait: float, runners: int, loading: int) -> int:
    """How many runners are needed so that `tasks` unfinished tasks, which take `gpu_seconds` on one runner, end within
    `target_wait` seconds.

    0 without tasks, at least 1 with one, and never more than there are tasks. While runners load, no further one is
    asked for: the tasks that pile up meanwhile are the cost of the start, and another runner would load for as long.
    """
    if not tasks:
        return 0
    wanted = min(tasks, max(1, ceil(gpu_seconds / target_wait)))
    return min(wanted, runners + loading) if loading else wanted
