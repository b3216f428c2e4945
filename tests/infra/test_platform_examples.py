"""The examples of other platforms fit the code, each other, and what the platforms accept."""

import ast
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from cfnlint.api import ManualArgs, lint
from cfnlint.decode import cfn_yaml

from config.kafka_config import KAFKA_CONFIG_PREFIX
from config.settings import Settings
from functions.consume.triggers.push import MARGIN_SECONDS, WHOLE_SHARE
from infra.share_group import worker

INFRA = Path(__file__).resolve().parents[2] / "infra"
TEMPLATE = INFRA / "lambda" / "template.yaml"
SETTINGS = Settings()


def function() -> Any:
    return cfn_yaml.load(str(TEMPLATE))["Resources"]["Function"]["Properties"]


def mappings() -> list[Any]:
    resources = cfn_yaml.load(str(TEMPLATE))["Resources"].values()
    return [each["Properties"] for each in resources if each["Type"] == "AWS::Lambda::EventSourceMapping"]


def knative(name: str) -> Any:
    return yaml.safe_load((INFRA / "knative" / f"{name}.yaml").read_text())["spec"]


def unknown_settings(names: set[str]) -> set[str]:
    return {name for name in names if name.lower() not in Settings.model_fields and KAFKA_CONFIG_PREFIX not in name}


def test_cloudformation_accepts_the_lambda_template() -> None:
    findings = lint(TEMPLATE.read_text(), config=ManualArgs(regions=["eu-west-1"]))
    assert [str(finding) for finding in findings] == []


def test_the_lambda_template_names_the_handler_and_settings_that_exist() -> None:
    module, _, name = function()["Handler"].rpartition(".")
    assert callable(getattr(import_module(module), name))
    assert unknown_settings(set(function()["Environment"]["Variables"])) == set()


def test_every_lambda_mapping_asks_for_the_failures_that_the_function_reports() -> None:
    assert [each["FunctionResponseTypes"] for each in mappings()] == [["ReportBatchItemFailures"]] * 4
    # Only pollers in provisioned mode read the failures.
    assert all(each["ProvisionedPollerConfig"] for each in mappings())
    lanes = [each["Topics"][0]["Fn::Sub"].rpartition(".")[2] for each in mappings()]
    assert sorted(lanes) == sorted([*SETTINGS.lanes] * 2)


def test_a_lambda_task_of_the_longest_runtime_ends_within_one_call() -> None:
    longest = float(function()["Environment"]["Variables"]["MAX_RUNTIME"])
    assert longest < WHOLE_SHARE * (function()["Timeout"] - MARGIN_SECONDS)


def test_the_lambda_package_holds_what_the_handler_imports() -> None:
    lines = (INFRA / "lambda" / "requirements.txt").read_text().splitlines()
    named = {line.replace("-", "_") for line in lines if line and not line.startswith("#")}
    rooms = [INFRA.parent / room for room in ("tasks", "adapters", "config", "functions/consume")]
    nodes = [node for room in rooms for file in room.rglob("*.py") for node in ast.walk(ast.parse(file.read_text()))]
    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    imported = {module.partition(".")[0] for module in modules}
    outside = {name for name in imported if "site-packages" in (find_spec(name).origin or "")}  # type: ignore[union-attr]
    # The first three come with packages that are named; the last is imported by type checkers alone.
    assert outside - {"botocore", "urllib3", "pydantic_core", "mypy_boto3_s3"} == named


def test_the_knative_service_runs_a_module_with_settings_that_exist() -> None:
    (container,) = knative("service")["template"]["spec"]["containers"]
    assert container["command"][:2] == ["python", "-m"]
    assert find_spec(container["command"][2])
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    assert unknown_settings(set(env)) == set()
    assert container["ports"] == [{"containerPort": SETTINGS.consumer_port}]


def test_the_knative_times_let_the_service_answer_before_anyone_gives_up() -> None:
    spec, source = knative("service")["template"]["spec"], knative("source")
    env = {entry["name"]: entry["value"] for entry in spec["containers"][0]["env"]}
    assert spec["timeoutSeconds"] == spec["responseStartTimeoutSeconds"] == float(env["KNATIVE_TIMEOUT"])
    assert float(env["MAX_RUNTIME"]) < WHOLE_SHARE * (spec["timeoutSeconds"] - MARGIN_SECONDS)
    (timeout,) = re.fullmatch(r"PT(\d+)S", source["delivery"]["timeout"]).groups()  # type: ignore[union-attr]
    assert int(timeout) > spec["timeoutSeconds"]


def test_the_knative_source_reads_the_lanes_for_the_consumers_group() -> None:
    source = knative("source")
    assert (tuple(source["topics"]), source["consumerGroup"]) == (SETTINGS.lane_names, SETTINGS.kafka_group)
    assert source["sink"]["ref"]["name"] == "ai-image-gen-tasks"


def test_a_share_group_asks_for_no_longer_lock_than_brokers_allow() -> None:
    assert worker.MARGIN_SECONDS < worker.LOCK_SECONDS <= 60
    assert worker.group_name(SETTINGS) != SETTINGS.kafka_group
