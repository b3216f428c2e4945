"""How many runners a model needs. A pure function of its unfinished tasks.

The lag of the consumer group is no measure for this: it adds up the tasks of all models, says nothing of their cost,
and counts finished tasks that lie behind an unfinished one.
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
    # The smaller one is rounded: a broken speed may make the cost infinite.
    wanted = max(1, ceil(min(tasks, gpu_seconds / target_wait)))
    return min(wanted, runners + loading) if loading else wanted
