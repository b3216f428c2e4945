"""The lease of a running task: how long its owner may be silent before another owner takes the task.

Every event of a running attempt renews the lease. A consumer that owns the partition and sees the task running
elsewhere takes it once it has read no event of it for LEASE_SECONDS. It measures with its own monotonic clock from the
moment it read the last event, or found the task running when it took the partition over. It never uses the time inside
the event, because clocks of different machines cannot be compared.

An owner that could not write an event for LEASE_SECONDS must assume that the task was taken. It may still finish: the
outcome is written only once, so at most the work is wasted.
"""

LEASE_SECONDS = 10.0
PROGRESS_SECONDS = 0.25
"""Least time between two progress events of one task: at most four a second."""
HEARTBEAT_SECONDS = 2.0
"""An attempt without steps to report (loading, storing) emits a progress event this often."""
LAST_LOOK_SECONDS = 1.0
"""The last second of a lease. The next owner spends it reading the log, because newer events may wait there if its own
process was frozen."""


def lease_ends(last_event_read: float) -> float:
    """The time at which a running task may be taken, given when its last event was read; both on the reader's own
    monotonic clock, in seconds."""
    return last_event_read + LEASE_SECONDS
