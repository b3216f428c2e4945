"""The worlds to explore: the number of tasks and how often each fault may happen. Two owners, two attempts each."""

from tests.proofs.protocol.state import Faults

QUICK: dict[str, tuple[int, Faults]] = {
    "nothing goes wrong": (2, Faults()),
    "a process is killed": (2, Faults(crashes=1)),
    "a process is killed, and the next one": (1, Faults(crashes=2, errors=1, cancels=1)),
    "a process is killed while another is stopped": (1, Faults(crashes=1, stops=1)),
    "a process is stopped and attempts fail": (1, Faults(stops=1, errors=1)),
    "a process is stopped and the partition moves": (1, Faults(stops=1, rebalances=1)),
    "an owner is cut off and goes on": (1, Faults(cuts=1)),
    "attempts fail": (2, Faults(errors=2)),
    "the partition moves": (2, Faults(rebalances=1, errors=1)),
    "the partition moves to and fro, events are written again": (1, Faults(rebalances=2, errors=1, repeats=1)),
    "starts are lost": (1, Faults(rebalances=1, errors=1, losses=1)),
    "clocks are wrong by an hour": (1, Faults(jumps=1, rebalances=1, crashes=1)),
    "tasks come too late and are canceled": (1, Faults(expiries=1, cancels=1, crashes=1, rebalances=1)),
}
"""Explored in every run of the tests."""
FULL: dict[str, tuple[int, Faults]] = {
    "an owner is stopped, and the next one": (1, Faults(stops=2)),
    "an owner is cut off, a task canceled": (1, Faults(cuts=1, cancels=1)),
    "a process is killed, tasks are canceled, the partition moves": (2, Faults(crashes=1, cancels=1, rebalances=1)),
    "a process is stopped": (2, Faults(stops=1)),
    "a process is cut off and goes on": (2, Faults(cuts=1)),
    "a process is killed while another is stopped or cut off": (1, Faults(crashes=1, stops=1, cuts=1)),
    "a stopped process, a failing attempt, a cancel": (1, Faults(stops=1, errors=1, cancels=1)),
    "a stopped process whose events come late and twice": (1, Faults(stops=1, rebalances=1, repeats=1)),
    "a stopped process whose start is lost": (1, Faults(stops=1, rebalances=1, losses=1)),
    "a stopped process whose clock is wrong": (1, Faults(stops=1, jumps=1)),
}
"""Explored by `python -m tests.proofs.protocol` too: minutes of CPU and some GB. Two tasks with a stop or a cut need `--most`."""
