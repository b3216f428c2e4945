"""Explore every world, or the named ones, and print the result: `python -m tests.proofs.protocol [NAME ...]`."""

import argparse
import sys

from tests.proofs.protocol.explore import explore
from tests.proofs.protocol.model import Model
from tests.proofs.protocol.state import ended, first
from tests.proofs.protocol.worlds import FULL, QUICK

worlds = QUICK | FULL
parser = argparse.ArgumentParser(description="Explore every world of the protocol's model.")
parser.add_argument("names", nargs="*", default=list(worlds), help="which ones; default: all")
parser.add_argument("--most", type=int, default=10_000_000, help="states of one world; beyond, ends are not checked")
arguments = parser.parse_args()
broken = 0
for name in arguments.names:
    tasks, faults = worlds[name]
    explored = explore(first(2, tasks, faults), Model().steps, ended, arguments.most)
    broken += bool(explored.broken)
    print(f"{name} (tasks: {tasks}): {explored}", flush=True)
sys.exit(broken)
