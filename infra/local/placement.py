"""How many runners each model gets on this machine, and which GPU each of them sees."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MOST = 64
FORM = f"model=n separated by commas, each n a whole number from 1 to {MOST}"
"""The allowed values of RUNNERS, in words."""


@dataclass(frozen=True)
class Placement:
    """One runner: its name, its model, and the only GPU that it sees. None: it sees the GPUs that `make run` sees."""

    name: str
    model: str
    gpu: str | None


def place(models: Sequence[str], aliases: Mapping[str, str], setting: str, gpus: Sequence[str]) -> list[Placement]:
    """The runners in the order of their ports.

    `setting`: the value of RUNNERS, e.g. flux-1-dev=4,sd-mini=1. Each runner of a model that it names gets a GPU of its
    own, in the order written. Every other model gets one runner, whose environment stays as it is. On a machine without
    a GPU all runners use the CPU. Raises ValueError with a sentence that names the setting.
    """
    counts = _counts(models, aliases, setting)
    if gpus and (needed := sum(counts.values())) > len(gpus):
        raise ValueError(
            f"RUNNERS={setting} asks for {needed} GPUs, one for each runner; there are {len(gpus)}: {', '.join(gpus)}."
        )
    free = iter(gpus)
    placed = {
        model: [
            Placement(f"runner.{model}.{n}" if count > 1 else f"runner.{model}", model, next(free, None))
            for n in range(1, count + 1)
        ]
        for model, count in counts.items()
    }
    return [runner for model in models for runner in placed.get(model, [Placement(f"runner.{model}", model, None)])]


def _counts(models: Sequence[str], aliases: Mapping[str, str], setting: str) -> dict[str, int]:
    """How many runners the setting names for each model."""
    counts: dict[str, int] = {}
    for entry in filter(None, map(str.strip, setting.split(","))):
        name, _, number = (word.strip() for word in entry.partition("="))
        model = aliases.get(name, name)
        if not number.isdecimal() or not 1 <= int(number) <= MOST:
            raise ValueError(f"RUNNERS must be {FORM}, not {setting!r}.")
        if model not in models:
            raise ValueError(f"RUNNERS={setting} names {name}, which is not a model; models: {', '.join(models)}.")
        if model in counts:
            raise ValueError(f"RUNNERS={setting} names {model} twice.")
        counts[model] = int(number)
    return counts


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. Does not load torch."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name for name in map(str.strip, listed.split(",")) if name and name != "-1"]
    try:
        answer = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []  # there is no working NVIDIA driver, so the runners would find no GPU either
    # The lines of a GPU's MIG slices are indented.
    return [str(number) for number in range(sum(line.startswith("GPU") for line in answer.stdout.splitlines()))]
