"""The licences of every package in the locks, as the package itself states them: docs/licences.md.

The page is the same on every machine. The packages come from the locks, and what each one states is read from its
installed metadata. For a package that this machine lacks (those of NVIDIA are for Linux alone) the page keeps what it
says already, so a new one must be installed once where the page is made.
"""

import itertools
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageMetadata, PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

LOCKS = Path(__file__).resolve().parents[1] / "requirements"
USES: Mapping[str, str] = {
    "gateway": "gateway and consumer",
    "runner": "runner",
    "dev": "development and `make run`",
    "uv": "development and `make run`",
}
"""What each lock is for. A package is listed under the first lock that has it."""
PYTHONS = ("3.11", "3.12", "3.13")
SYSTEMS = (("linux", "Linux", "x86_64"), ("linux", "Linux", "aarch64"), ("darwin", "Darwin", "arm64"))
_SPDX: Mapping[str, str] = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD License": "BSD",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "ISC License": "ISC",
    "MIT License": "MIT",
    "MIT license": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
    "Python Software Foundation License": "PSF-2.0",
}
"""The SPDX name of a licence that a package names otherwise."""
_CLASSIFIER = "License :: OSI Approved :: "


class Package(NamedTuple):
    """A package of the locks. `versions`: one, or where the version depends on the Python that of the oldest first."""

    name: str
    versions: tuple[str, ...]
    use: str


def environments() -> Iterator[dict[str, str]]:
    """The environments of every supported Python and system, as markers of requirements see them."""
    for python, (platform, system, machine) in itertools.product(PYTHONS, SYSTEMS):
        yield {
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "python_version": python,
            "python_full_version": f"{python}.1",
            "sys_platform": platform,
            "platform_system": system,
            "platform_machine": machine,
        }


def _locked(lock: str) -> list[Requirement]:
    lines = (LOCKS / f"{lock}.txt").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return [Requirement(line.partition(" --hash=")[0]) for line in lines]


def packages() -> list[Package]:
    """Every package that some supported system installs, by use and name."""
    supported = list(environments())
    by_name: dict[str, Package] = {}
    for lock, use in USES.items():
        versions: dict[str, list[str]] = {}
        for requirement in _locked(lock):
            marker = requirement.marker
            if marker is None or any(marker.evaluate(environment) for environment in supported):
                versions.setdefault(requirement.name, []).append(str(requirement.specifier).removeprefix("=="))
        for name, of_name in versions.items():
            by_name.setdefault(name, Package(name, tuple(of_name), use))
    uses = list(dict.fromkeys(USES.values()))
    return sorted(by_name.values(), key=lambda package: (uses.index(package.use), package.name))


def licence(package: Package, on_page: Mapping[str, str]) -> str:
    """What the package states, or what the page says if this machine lacks the package or has another version of it.
    Raises LookupError if neither is known."""
    try:
        installed = distribution(package.name)
    except PackageNotFoundError:
        pass
    else:
        if installed.version == package.versions[0]:
            return stated_licence(installed.metadata)
    if package.name not in on_page:
        raise LookupError(f"{package.name} {package.versions[0]} is not installed, so its licence is not known")
    return on_page[package.name]


def stated_licence(fields: PackageMetadata) -> str:
    """What a package's metadata states, in the words of SPDX where they are known."""
    if expression := _first(fields, "License-Expression"):
        return expression
    text = _first(fields, "License")
    # Some packages have a whole licence in this field, or no name of one.
    if text and "\n" not in text and text != "Dual License":
        return _SPDX.get(text, text)
    classifiers = [text.removeprefix(_CLASSIFIER) for text in fields.get_all("Classifier") or []]
    return " OR ".join(_SPDX[text] for text in classifiers if text in _SPDX) or "none stated"


def _first(fields: PackageMetadata, name: str) -> str:
    values = fields.get_all(name) or [""]
    return str(values[0])


def licences_on(page: str) -> dict[str, str]:
    """What a page says, by package."""
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in page.splitlines() if line[:1] == "|"]
    return {name: text for name, _, text, _ in cells}


def rows(page: str) -> list[str]:
    """The rows of the page's table. `page`: the page as it is."""
    on_page = licences_on(page)
    return [
        f"| {package.name} | {', '.join(package.versions)} | {licence(package, on_page)} | {package.use} |"
        for package in packages()
    ]
