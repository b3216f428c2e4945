"""The locks fit every supported Python and system, and the environment is the same in any order of installation."""

import csv
import importlib.metadata
import itertools
import re
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tools.licences import PYTHONS, environments

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {"gateway": (), "runner": ("runner",), "dev": ("runner", "local", "dev")}
LOCKS = [*EXTRAS, "uv"]


def entries(lock: str) -> list[str]:
    """The requirements of a lock, each with its hashes, as pip joins the lines."""
    return (ROOT / f"requirements/{lock}.txt").read_text().replace("\\\n", " ").splitlines()


def locked(lock: str) -> list[Requirement]:
    return [Requirement(entry.partition(" --hash=")[0]) for entry in entries(lock)]


def installed(lock: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The version of each package that a lock installs in an environment."""
    applicable = [entry for entry in locked(lock) if entry.marker is None or entry.marker.evaluate(dict(environment))]
    versions = {entry.name: str(entry.specifier).removeprefix("==") for entry in applicable}
    assert len(versions) == len(applicable), "a package is named twice"
    return versions


def test_no_two_distributions_install_the_same_module() -> None:
    owners = defaultdict(set)
    for distribution in importlib.metadata.distributions():
        for file, *_ in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
            if file.endswith(".py"):
                owners[file].add(distribution.name)
    assert {file: names for file, names in owners.items() if len(names) > 1} == {}


def test_requires_python_names_the_pythons_that_the_locks_are_tested_for() -> None:
    supported = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(20) if supported.contains(f"3.{minor}.1")] == list(PYTHONS)


@pytest.mark.parametrize("lock", LOCKS)
def test_each_line_of_a_lock_is_an_exact_version_with_hashes_and_no_address(lock: str) -> None:
    for entry in entries(lock):
        assert re.fullmatch(r"[a-z0-9-]+==[^\s;]+( ; [^@]+?)?( +--hash=sha256:[0-9a-f]{64})+", entry), entry
        assert "://" not in entry, entry


@pytest.mark.parametrize("lock", EXTRAS)
def test_a_lock_holds_what_pyproject_asks_for_on_every_python_and_system(lock: str) -> None:
    extras = (PROJECT["optional-dependencies"][extra] for extra in EXTRAS[lock])
    direct = [Requirement(line) for line in itertools.chain(PROJECT["dependencies"], *extras)]
    for environment in environments():
        versions = installed(lock, environment)
        assert [str(needed) for needed in direct if not needed.specifier.contains(versions[needed.name])] == []


@pytest.mark.parametrize("lock", ["gateway", "runner"])
def test_a_bento_installs_the_versions_that_the_tests_ran_with(lock: str) -> None:
    for environment in environments():
        tested = installed("dev", environment)
        assert {name: tested[name] for name in installed(lock, environment)} == installed(lock, environment)


@pytest.mark.parametrize("lock", EXTRAS)
def test_the_running_python_finds_every_requirement_of_its_packages_in_the_lock(lock: str) -> None:
    environment = {name: str(value) for name, value in default_environment().items()}
    versions = installed(lock, environment)
    for name in versions:
        for line in importlib.metadata.requires(name) or ():
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({**environment, "extra": ""}):
                assert need.specifier.contains(versions[canonicalize_name(need.name)]), (name, line)
