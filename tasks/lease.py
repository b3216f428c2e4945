"""Whose a running task is: its events are its lease, and the one who waits measures with its own clock.

A task that is running under another owner may be taken once none of its events has been read for LEASE_SECONDS.
An owner that has not managed to write an event for that long must assume the task was taken; it may still finish,
because the outcome is written only once.
"""

LEASE_SECONDS = 10.0
PROGRESS_SECONDS = 0.25
"""At most four progress events a second for one task."""
HEARTBEAT_SECONDS = 2.0
"""A running task without steps to report (loading, storing) still says it is alive this often."""
LAST_LOOK_SECONDS = 1.0
"""For so long before it takes a task the one who waits must have been running: one that was stopped itself reads first
what was written meanwhile."""


def lease_ends(last_event_read: float) -> float:
    """When, on the reader's own monotonic clock, a task whose last event was read then is free to be taken."""
    return last_event_read + LEASE_SECONDS
