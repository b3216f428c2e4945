"""`python -m tools.kubernetes KUSTOMIZE KUBECONFORM`: check infra/kubernetes with the real programs at these paths.

Every overlay must be built by kustomize as `tools.kubernetes.kustomize` builds it, and be valid for kubeconform.
"""

import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # the stubs are a package of their own

from tools.kubernetes.kustomize import HASH, build
from tools.kubernetes.schemas import FOLDER, VERSIONS

OVERLAYS = Path(__file__).resolve().parents[2] / "infra/kubernetes/overlays"


def main(kustomize: str, kubeconform: str) -> None:
    """Check every overlay. Ends with a sentence about the first difference."""
    for overlay in sorted(path for path in OVERLAYS.iterdir() if path.is_dir()):
        built = subprocess.run([kustomize, "build", str(overlay)], capture_output=True, text=True, check=False)
        if built.returncode:
            sys.exit(f"kustomize cannot build {overlay.name}: {built.stderr}")
        real = by_name(yaml.safe_load_all(built.stdout))
        ours = by_name(build(overlay))
        for name in sorted(real.keys() | ours.keys()):
            if real.get(name) != ours.get(name):
                sys.exit(f"{overlay.name}: kustomize builds {name} as\n{real.get(name)}\nand not as\n{ours.get(name)}")
        for version in VERSIONS:
            command = [kubeconform, "-strict", "-summary", "-kubernetes-version", f"{version}.0", *_schemas(version)]
            subprocess.run(command, input=built.stdout, text=True, check=True)
        print(f"{overlay.name}: {len(real)} resources, as kustomize builds them, valid")


def by_name(resources: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The resources by kind and name, with HASH in place of the hashes of generated names."""
    text = yaml.safe_dump_all(resources, allow_unicode=True)
    same = re.sub(r"(name: (?:settings|runner-[a-z0-9-]+?))-[a-z0-9]{10}$", rf"\1-{HASH}", text, flags=re.MULTILINE)
    return {f"{each['kind']} {each['metadata']['name']}": each for each in yaml.safe_load_all(same)}


def _schemas(version: str) -> list[str]:
    ours = FOLDER / "{{ .ResourceKind }}-keda-{{ .ResourceAPIVersion }}.json"
    bundled = files("kubernetes_validate") / f"kubernetes-json-schema/v{version}.0-local-strict"
    return [
        "-schema-location",
        f"{bundled}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json",
        "-schema-location",
        str(ours),
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
