"""The page of licences names every package of the locks, and is the same on every machine."""

import re
from importlib.metadata import PackageNotFoundError, distribution

import pytest

from tools import licences
from tools.generate_docs import FOLDER, LICENCES, licences_page
from tools.licences import licences_on, packages

PAGE = (FOLDER / LICENCES).read_text(encoding="utf-8")


def test_every_package_that_a_supported_system_installs_is_on_the_page():
    locks = "".join(lock.read_text() for lock in licences.LOCKS.glob("*.txt"))
    names = set(re.findall(r"^([A-Za-z0-9._-]+)==", locks, re.MULTILINE))
    assert names - {package.name for package in packages()} == {"colorama", "pywin32", "httpx2-jsfetch"}
    assert licences_on(PAGE).keys() - {"package", "---"} == {package.name for package in packages()}


def test_every_package_states_a_licence_or_the_page_says_that_it_states_none():
    of_package = licences_on(PAGE)
    assert all(of_package.values())
    assert [name for name, licence in of_package.items() if licence == "none stated"] == ["cuda-toolkit"]
    assert of_package["numpy"].startswith("BSD-3-Clause")
    assert (of_package["tqdm"], of_package["python-dateutil"]) == ("MPL-2.0 AND MIT", "BSD OR Apache-2.0")


@pytest.mark.parametrize("missing", ["nvidia-", "cuda-", "triton", "", "numpy"])
def test_a_machine_that_lacks_packages_makes_the_same_page(missing: str, monkeypatch: pytest.MonkeyPatch):
    def of_this_machine(name: str) -> object:
        if name.startswith(missing):
            raise PackageNotFoundError(name)
        return distribution(name)

    monkeypatch.setattr(licences, "distribution", of_this_machine)
    assert licences_page() == PAGE
    with pytest.raises(LookupError, match="is not installed, so its licence is not known"):
        licences.rows("")


def test_a_wrong_licence_on_the_page_is_noticed():
    wrong = PAGE.replace("| pydantic | ", "| pydantic | 1.", 1)
    assert licences.rows(PAGE) == licences.rows(wrong)
    changed = "\n".join(line.replace("| MIT |", "| GPL |") for line in PAGE.splitlines())
    assert licences.rows(changed) == licences.rows(PAGE)
