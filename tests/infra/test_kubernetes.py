"""The manifests of infra/kubernetes: valid for Kubernetes and KEDA, hardened, and in agreement with the settings."""

import copy
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from config.settings import Settings, load_settings
from functions.status.scale import ModelScale
from tools.kubernetes.kustomize import NotSupported, build
from tools.kubernetes.schemas import Invalid, check

KUBERNETES = Path(__file__).resolve().parents[2] / "infra/kubernetes"
OVERLAYS = ("local", "gpu", "autoscaled")
PART = "app.kubernetes.io/component"
OUTSIDE = {"AWS_DEFAULT_REGION"}
"""Variables of other programs."""
Resource = dict[str, Any]


@cache
def built(overlay: str) -> list[Resource]:
    return build(KUBERNETES / "overlays" / overlay)


def of_kind(overlay: str, *kinds: str) -> list[Resource]:
    return [resource for resource in built(overlay) if resource["kind"] in kinds]


def named(overlay: str, kind: str, name: str) -> Resource:
    return next(resource for resource in of_kind(overlay, kind) if resource["metadata"]["name"].startswith(name))


def pods(overlay: str) -> Iterator[tuple[str, Resource]]:
    """The name, the labels and the spec of every pod template."""
    for resource in of_kind(overlay, "Deployment", "StatefulSet", "Job"):
        yield resource["metadata"]["name"], resource["spec"]["template"]


def containers(spec: Resource) -> list[Resource]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


def settings(overlay: str, name: str) -> dict[str, str]:
    return dict(named(overlay, "ConfigMap", name)["data"])


def of_part(overlay: str, part: str) -> list[Resource]:
    return [template["spec"] for _, template in pods(overlay) if template["metadata"]["labels"][PART] == part]


each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@each_overlay
def test_every_resource_is_valid_and_has_no_unknown_field(overlay: str) -> None:
    assert built(overlay)
    for resource in built(overlay):
        check(resource)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ("spec", "template", "spec", "terminationGracePeriod"), 5),
        ("Deployment", ("spec", "template", "spec", "containers", 0, "livenessProbe", "periodSeconds"), "often"),
        ("NetworkPolicy", ("spec", "podselector"), {}),
        ("ScaledObject", ("spec", "minReplicas"), 0),
        ("ScaledObject", ("spec", "triggers", 0, "metadata", "targetValue"), 1),
        ("TriggerAuthentication", ("spec", "secretTargetRef", 0, "secret"), "x"),
    ],
)
def test_a_wrong_field_is_found(kind: str, path: tuple[Any, ...], value: object) -> None:
    resource = copy.deepcopy(of_kind("autoscaled", kind)[0])
    place: Any = resource
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(Invalid, match=kind):
        check(resource)


def test_a_feature_of_kustomize_that_is_not_built_here_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("kind: Kustomization\nnamePrefix: x-\n")
    with pytest.raises(NotSupported, match="namePrefix"):
        build(tmp_path)


@each_overlay
def test_every_pod_keeps_the_restricted_standard_with_a_read_only_root(overlay: str) -> None:
    for name, template in pods(overlay):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["limits"]["memory"], name
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}, name
    account = named(overlay, "ServiceAccount", "ai-image-gen")
    assert account["automountServiceAccountToken"] is False


@each_overlay
def test_every_setting_of_a_config_map_exists_and_has_a_value_that_is_allowed(overlay: str) -> None:
    for config in of_kind(overlay, "ConfigMap"):
        ours = {name: value for name, value in config["data"].items() if name not in OUTSIDE}
        plain = {name: value for name, value in ours.items() if name.lower() in Settings.model_fields}
        load_settings(plain)
        for name in ours.keys() - plain.keys():
            assert name.startswith("KAFKA_CONFIG_") or name.endswith("_FILE"), name


@each_overlay
def test_secrets_are_files_of_one_secret_and_never_values(overlay: str) -> None:
    assert of_kind(overlay, "Secret") == []
    for config in of_kind(overlay, "ConfigMap"):
        for name, value in config["data"].items():
            if any(word in name for word in ("SECRET", "PASSWORD", "KEY", "USERNAME")):
                assert name.endswith("_FILE"), name
                assert value.startswith("/run/secrets/ai-image-gen/"), name


@each_overlay
def test_a_runner_gets_its_own_secret_and_nothing_about_kafka_or_s3(overlay: str) -> None:
    for spec in of_part(overlay, "runner"):
        (secret,) = (volume["secret"] for volume in spec["volumes"] if "secret" in volume)
        assert [item["key"] for item in secret["items"]] == ["runner-secret"]
        (container,) = spec["containers"]
        (source,) = container["envFrom"]
        data = settings(overlay, source["configMapRef"]["name"])
        assert not [name for name in data if name.startswith(("KAFKA", "AWS", "S3"))]
    for job in of_part(overlay, "setup"):
        for container in job.get("initContainers", ()):
            assert "secrets" not in {mount["name"] for mount in container["volumeMounts"]}


@each_overlay
def test_each_part_gets_longer_to_end_than_its_settings_say(overlay: str) -> None:
    data = settings(overlay, "settings")
    longest = float(data["MAX_RUNTIME"])
    assert float(data["CONSUMER_GRACE"]) >= longest
    for spec in of_part(overlay, "consumer"):
        assert spec["terminationGracePeriodSeconds"] >= float(data["CONSUMER_GRACE"]) + 20
    for spec in of_part(overlay, "gateway"):
        notice_and_grace = float(data["GATEWAY_NOTICE"]) + float(data["GATEWAY_GRACE"])
        assert spec["terminationGracePeriodSeconds"] >= notice_and_grace + 10
    for spec in of_part(overlay, "runner"):
        grace = float(settings(overlay, spec["containers"][0]["envFrom"][0]["configMapRef"]["name"])["RUNNER_GRACE"])
        assert grace >= longest
        assert spec["terminationGracePeriodSeconds"] >= grace + 20


@each_overlay
def test_probes_tell_loading_from_dead(overlay: str) -> None:
    for part in ("gateway", "consumer", "runner"):
        for spec in of_part(overlay, part):
            (container,) = spec["containers"]
            assert container["livenessProbe"]["httpGet"]["path"] == "/livez", "a part that waits for others is alive"
            assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    for spec in of_part(overlay, "runner"):
        startup = spec["containers"][0]["startupProbe"]
        assert startup["httpGet"]["path"] == "/readyz"
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 1200, "FLUX.1-dev loads 34 GB"


@each_overlay
def test_consumers_find_every_runner_also_one_that_loads(overlay: str) -> None:
    services = {each["metadata"]["name"]: each for each in of_kind(overlay, "Service")}
    runners = {
        name: template["metadata"]["labels"]
        for name, template in pods(overlay)
        if template["metadata"]["labels"][PART] == "runner"
    }
    urls = [urlsplit(url) for url in settings(overlay, "settings")["RUNNER_URLS"].split(",")]
    assert {url.hostname for url in urls} == runners.keys()
    for url in urls:
        spec = services[str(url.hostname)]["spec"]
        assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)
        assert spec["ports"][0]["port"] == url.port
        assert spec["selector"].items() <= runners[str(url.hostname)].items()
        selected = [name for name, labels in runners.items() if spec["selector"].items() <= labels.items()]
        assert selected == [url.hostname], "the service of a model has the runners of that model alone"


@each_overlay
def test_every_model_is_published_by_a_job_of_its_own_image(overlay: str) -> None:
    jobs = {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in of_kind(overlay, "Job")}
    for name, template in pods(overlay):
        if template["metadata"]["labels"][PART] == "runner":
            (runner,) = template["spec"]["containers"]
            (describe,) = jobs[name.replace("runner", "publish", 1)]["initContainers"]
            assert describe["image"] == runner["image"]
            assert describe["envFrom"] == runner["envFrom"]
            mounted = {mount["name"] for mount in describe["volumeMounts"]}
            assert mounted == {mount["name"] for mount in runner["volumeMounts"]} - {"secrets"}


def allows(policy: Resource, source: Resource, port: object) -> bool:
    """Whether an ingress policy lets pods with these labels in at the port."""
    return any(
        any(each["port"] == port for each in rule["ports"])
        and (
            "from" not in rule
            or any(peer["podSelector"]["matchLabels"].items() <= source.items() for peer in rule["from"])
        )
        for rule in policy["spec"]["ingress"]
    )


@each_overlay
def test_only_consumers_reach_runners_and_only_ours_reach_kafka_and_s3(overlay: str) -> None:
    policies = {each["metadata"]["name"]: each for each in of_kind(overlay, "NetworkPolicy")}
    assert policies["deny-all"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    labels = {name: template["metadata"]["labels"] for name, template in pods(overlay)}
    reach_runners = {name for name, of_pod in labels.items() if allows(policies["runner"], of_pod, "http")}
    assert reach_runners == {"consumer"}
    ours = {name for name, of_pod in labels.items() if of_pod[PART] in ("gateway", "consumer", "setup")}
    assert {name for name, of_pod in labels.items() if of_pod.get("ai-image-gen/stores")} == ours
    for server, port in (("kafka", "kafka"), ("s3", "http")):
        if overlay == "local":
            assert {name for name, of_pod in labels.items() if allows(policies[server], of_pod, port)} == ours
    egress = {name for name, policy in policies.items() if "egress" in policy["spec"]}
    assert egress == {"consumer", "stores"}, "a runner calls nobody"


@each_overlay
def test_every_command_of_a_pod_is_a_module_of_its_image(overlay: str) -> None:
    modules = {
        (container["image"], module)
        for _, template in pods(overlay)
        for container in containers(template["spec"])
        for module in re.findall(r"python -m ([a-z_.]+)", " ".join(container.get("args", ())))
    }
    rooms = {"ai-image-gen-gateway": {"adapters", "functions"}}
    assert len(modules) >= 4
    for image, module in modules:
        assert module.partition(".")[0] in rooms.get(image, {"runners"})
        assert find_spec(module) is not None, module


@each_overlay
def test_every_policy_and_budget_selects_a_pod(overlay: str) -> None:
    labels = [template["metadata"]["labels"] for _, template in pods(overlay)]
    for resource in of_kind(overlay, "NetworkPolicy", "PodDisruptionBudget"):
        selector = resource["spec"].get("podSelector", resource["spec"].get("selector"))
        wanted = selector.get("matchLabels", {}).items()
        assert any(wanted <= of_pod.items() for of_pod in labels), resource["metadata"]["name"]


@pytest.mark.parametrize("overlay", ["gpu", "autoscaled"])
def test_a_runner_has_one_gpu_and_nobody_but_a_scaler_sets_a_number_that_scales(overlay: str) -> None:
    scaled = {each["spec"]["scaleTargetRef"]["name"] for each in of_kind(overlay, "HorizontalPodAutoscaler")}
    for deployment in of_kind(overlay, "Deployment"):
        name, spec = deployment["metadata"]["name"], deployment["spec"]
        if name.startswith("runner"):
            assert spec["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
        if name.startswith("runner") or name in scaled:
            assert "replicas" not in spec, "an apply would reset the number that the scaler has set"
    assert named(overlay, "Deployment", "consumer")["spec"]["replicas"] >= 2, "a consumer is never scaled to none"


def test_keda_scales_each_runner_from_none_by_what_the_gateway_answers() -> None:
    scaled = {each["spec"]["scaleTargetRef"]["name"]: each["spec"] for each in of_kind("autoscaled", "ScaledObject")}
    runners = {name for name, t in pods("autoscaled") if t["metadata"]["labels"][PART] == "runner"}
    assert scaled.keys() == runners
    service = named("autoscaled", "Service", "gateway")
    for name, spec in scaled.items():
        assert spec["minReplicaCount"] == 0
        (trigger,) = spec["triggers"]
        url = urlsplit(trigger["metadata"]["url"])
        assert url.hostname == f"gateway.{service['metadata']['namespace']}.svc"
        assert url.port == service["spec"]["ports"][0]["port"]
        assert url.path == f"/scale/{name.removeprefix('runner-')}"
        assert trigger["metadata"]["valueLocation"] in ModelScale.model_fields
        assert (trigger["metricType"], trigger["metadata"]["targetValue"]) == ("AverageValue", "1")
        down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        assert down["stabilizationWindowSeconds"] >= 300, "runners that start are not taken back while others load"
