"""The environment is what the locked requirements say, whatever order they were installed in."""

import importlib.metadata
from collections import defaultdict


def test_no_two_distributions_install_the_same_module() -> None:
    owners = defaultdict(set)
    for distribution in importlib.metadata.distributions():
        for file in distribution.files or ():
            if file.suffix == ".py":
                owners[str(file)].add(distribution.name)
    assert {file: names for file, names in owners.items() if len(names) > 1} == {}
