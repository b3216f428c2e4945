"""Validates a manifest strictly: a field that the schema does not name is an error.

The schemas of Kubernetes come with the package kubernetes-validate. Those of KEDA's resources are in `schemas/`, made
from KEDA's definitions by `strict`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import yaml  # type: ignore[import-untyped]  # the stubs are a package of their own

VERSIONS = ("1.29", "1.37")
"""The oldest and the newest version of Kubernetes that the manifests are checked for."""
FOLDER = Path(__file__).parent / "schemas"


class Invalid(Exception):
    """The manifest is not as its schema says. The message names the resource and the field."""


def check(resource: dict[str, Any]) -> None:
    """Raise Invalid unless every field of the resource is known and has the right type."""
    name = f"{resource['kind']} {resource['metadata']['name']}"
    if resource["apiVersion"].startswith("keda.sh/"):
        schema = json.loads((FOLDER / f"{resource['kind'].lower()}-keda-v1alpha1.json").read_text())
        try:
            jsonschema_rs.Draft202012Validator(schema).validate(resource)
        except jsonschema_rs.ValidationError as error:
            raise Invalid(f"{name}: {error.message} ({'.'.join(map(str, error.instance_path))})") from None
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(map(str, error.path))
            raise Invalid(f"{name}, Kubernetes {version}: {error.message} ({path})") from None


def strict(definition: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a CustomResourceDefinition's only version, in which no unknown field is allowed."""
    (version,) = definition["spec"]["versions"]
    schema: dict[str, Any] = _closed(version["schema"]["openAPIV3Schema"])
    # The definition leaves these to the API server, which checks them for every resource.
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    schema["required"] = sorted({*schema.get("required", ()), "apiVersion", "kind", "metadata"})
    return schema


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {
        key: _closed(value) for key, value in schema.items() if not (key == "description" and isinstance(value, str))
    }
    if isinstance(closed.get("properties"), dict) and not closed.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    if closed.pop("x-kubernetes-int-or-string", None):
        closed.pop("type", None)
    return closed


def make(definitions: Path) -> None:
    """Write the schemas of KEDA's resources, from the folder of its definitions."""
    for kind in ("scaledobject", "triggerauthentication"):
        definition = yaml.safe_load((definitions / f"keda.sh_{kind}s.yaml").read_text())
        file = FOLDER / f"{kind}-keda-v1alpha1.json"
        file.write_text(json.dumps(strict(definition), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
