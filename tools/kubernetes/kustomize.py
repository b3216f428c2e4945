"""Builds a kustomization in Python, with those features of kustomize that infra/kubernetes uses, and refuses others.

So the suite needs no Go program. `python -m tools.kubernetes` proves that it builds what the real kustomize builds.
"""

import copy
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # the stubs are a package of their own

Resource = dict[str, Any]
_FIELDS = {
    "apiVersion", "kind", "resources", "components", "labels", "configMapGenerator", "nameSuffix", "namespace",
    "images", "replicas", "patches",
}  # fmt: skip
_CLUSTER_WIDE = ("Namespace",)
_REFERENCES = {"configMapRef": "ConfigMap"}
"""The fields that hold the name of another resource, and its kind."""
HASH = "0000000000"
"""Stands for the hash that kustomize appends to the name of a generated ConfigMap."""


class NotSupported(Exception):
    """The kustomization uses something that this module does not build."""


def build(folder: Path) -> list[Resource]:
    """The resources of the kustomization in this folder."""
    resources = _accumulate(folder, [])
    generated = {r["metadata"]["name"] for r in resources if r.pop("generated", False)}
    _rename(resources, {name: f"{name}-{HASH}" for name in generated}, {"ConfigMap"})
    return resources


def _accumulate(folder: Path, inherited: list[Resource]) -> list[Resource]:
    """The resources of the folder; those of a component are `inherited` and changed in place."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := kustomization.keys() - _FIELDS:
        raise NotSupported(f"{folder}: {', '.join(sorted(unknown))}")
    own: list[Resource] = []
    for name in kustomization.get("resources", ()):
        path = folder / name
        own += _accumulate(path, []) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    resources = inherited + own
    for generator in kustomization.get("configMapGenerator", ()):
        _generate(folder, generator, resources)
    for patch in kustomization.get("patches", ()):
        _patch(patch, resources)
    if namespace := kustomization.get("namespace"):
        for resource in resources:
            if resource["kind"] not in _CLUSTER_WIDE:
                resource["metadata"]["namespace"] = namespace
    if suffix := kustomization.get("nameSuffix"):
        names = {resource["metadata"]["name"] for resource in resources}
        _rename(resources, {name: f"{name}{suffix}" for name in names}, {resource["kind"] for resource in resources})
    for labels in kustomization.get("labels", ()):
        for resource in resources:
            _label(resource, labels)
    for replicas in kustomization.get("replicas", ()):
        for resource in resources:
            if resource["metadata"]["name"] == replicas["name"] and resource["kind"] == "Deployment":
                resource["spec"]["replicas"] = replicas["count"]
    for image in kustomization.get("images", ()):
        _set_image(resources, image)
    for component in kustomization.get("components", ()):
        resources = _accumulate(folder / component, resources)
    return resources


def _generate(folder: Path, generator: Mapping[str, Any], resources: list[Resource]) -> None:
    lines = [line for name in generator.get("envs", ()) for line in (folder / name).read_text().splitlines()]
    pairs = [line.partition("=") for line in (*lines, *generator.get("literals", ())) if line and line[0] != "#"]
    data = {key: value for key, _, value in pairs}
    if generator.get("behavior") == "merge":
        found = next(r for r in resources if (r["kind"], r["metadata"]["name"]) == ("ConfigMap", generator["name"]))
        found["data"] |= data
    else:
        metadata = {"name": generator["name"]}
        resources.append(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data, "generated": True}
        )


def _patch(patch: Mapping[str, Any], resources: list[Resource]) -> None:
    target = patch["target"]
    change = yaml.safe_load(patch["patch"])
    for resource in resources:
        if resource["kind"] != target["kind"] or not re.fullmatch(target["name"], resource["metadata"]["name"]):
            continue
        if isinstance(change, list):
            for operation in change:
                _add(resource, operation)
        else:
            _merge(resource["spec"], change["spec"])


def _add(resource: Resource, operation: Mapping[str, Any]) -> None:
    """One operation of a JSON patch."""
    *path, last = operation["path"].strip("/").split("/")
    place: Any = resource
    for step in path:
        place = place[int(step) if isinstance(place, list) else step]
    if operation["op"] != "add":
        raise NotSupported(operation["op"])
    value = copy.deepcopy(operation["value"])
    if isinstance(place, list):
        place.append(value)
    else:
        place[last] = value


def _merge(into: Resource, change: Mapping[str, Any]) -> None:
    """A strategic merge patch. Of the lists, containers are merged by name, and all others replaced."""
    for key, value in change.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        elif key == "containers":
            by_name = {container["name"]: container for container in into[key]}
            for container in value:
                _merge(by_name[container["name"]], container)
        else:
            into[key] = copy.deepcopy(value)


def _rename(resources: list[Resource], names: Mapping[str, str], kinds: Collection[str]) -> None:
    """Give the resources of these kinds new names, and change the references to them."""
    for resource in resources:
        if resource["kind"] in kinds:
            resource["metadata"]["name"] = names.get(resource["metadata"]["name"], resource["metadata"]["name"])
    for node in _nodes(resources):
        for key, kind in _REFERENCES.items():
            if key in node and kind in kinds:
                node[key]["name"] = names.get(node[key]["name"], node[key]["name"])


def _nodes(value: Any) -> Iterator[Resource]:
    """Every object in the value."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _nodes(item)


def _label(resource: Resource, labels: Mapping[str, Any]) -> None:
    pairs, selectors = labels["pairs"], labels.get("includeSelectors", False)
    resource["metadata"].setdefault("labels", {}).update(pairs)
    spec = resource.get("spec", {})
    if "template" in spec and (selectors or labels.get("includeTemplates")):
        spec["template"]["metadata"].setdefault("labels", {}).update(pairs)
    if not selectors:
        return
    if resource["kind"] == "Service":
        spec["selector"].update(pairs)
    for node in _nodes({key: value for key, value in spec.items() if resource["kind"] != "NetworkPolicy"}):
        if "matchLabels" in node:
            node["matchLabels"].update(pairs)


def _set_image(resources: list[Resource], image: Mapping[str, str]) -> None:
    for node in _nodes(resources):
        name, _, tag = str(node.get("image", "")).partition(":")
        if name == image["name"]:
            tag = image.get("newTag", tag)
            node["image"] = image.get("newName", name) + (f":{tag}" if tag else "")
