"""`python -m tools.kubernetes KUSTOMIZE`: build infra/kubernetes with the real kustomize, the program at this path.

Every overlay must be what `tools.kubernetes.kustomize` builds of it, and be valid.
"""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # the stubs are a package of their own

from tools.kubernetes.kustomize import HASH, build
from tools.kubernetes.schemas import check

OVERLAYS = Path(__file__).resolve().parents[2] / "infra/kubernetes/overlays"


def main(kustomize: str) -> None:
    """Check every overlay. Ends with a sentence about the first difference. Raises Invalid."""
    for overlay in sorted(path for path in OVERLAYS.iterdir() if path.is_dir()):
        built = subprocess.run([kustomize, "build", str(overlay)], capture_output=True, text=True, check=False)
        if built.returncode:
            sys.exit(f"kustomize cannot build {overlay.name}: {built.stderr}")
        real = by_name(yaml.safe_load_all(built.stdout))
        ours = by_name(build(overlay))
        for name in sorted(real.keys() | ours.keys()):
            if real.get(name) != ours.get(name):
                sys.exit(f"{overlay.name}: kustomize builds {name} as\n{real.get(name)}\nand not as\n{ours.get(name)}")
        for resource in yaml.safe_load_all(built.stdout):
            check(resource)
        print(f"{overlay.name}: {len(real)} resources, as kustomize builds them, valid")


def by_name(resources: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The resources by kind and name, with HASH in place of the hashes of generated names."""
    text = yaml.safe_dump_all(resources, allow_unicode=True)
    same = re.sub(r"(name: (?:settings|runner-[a-z0-9-]+?))-[a-z0-9]{10}$", rf"\1-{HASH}", text, flags=re.MULTILINE)
    return {f"{each['kind']} {each['metadata']['name']}": each for each in yaml.safe_load_all(same)}


if __name__ == "__main__":
    main(*sys.argv[1:])
