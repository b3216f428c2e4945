"""How many runners each model gets on this machine, and which GPU each of them sees."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MOST = 64
FORM = f"model=n separated by commas, each n a whole number from 1 to {MOST}"
"""What RUNNERS may be."""


@dataclass(frozen=True)
class Placement:
    """One runner: its name, its model, and the only GPU it sees; None: it sees what `make run` sees."""

    name: str
    model: str
    gpu: str | None


def place(models: Sequence[str], aliases: Mapping[str, str], wanted: str, gpus: Sequence[str]) -> list[Placement]:
    """The runners in the order of their ports.

    `wanted`: the setting RUNNERS, e.g. flux-1-dev=4,sd-mini=1. Each runner of a model named there gets a GPU of its
    own, in the order written. Every other model gets one runner, whose environment stays as it is. Without a GPU there
    is nothing to share out: the runners use the CPU. Raises ValueError with a sentence that names the setting.
    """
    counts = _counts(models, aliases, wanted)
    if gpus and (asked := sum(counts.values())) > len(gpus):
        raise ValueError(
            f"RUNNERS={wanted} asks for {asked} GPUs, one for each runner; there are {len(gpus)}: {', '.join(gpus)}."
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


def _counts(models: Sequence[str], aliases: Mapping[str, str], wanted: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for entry in filter(None, map(str.strip, wanted.split(","))):
        name, _, number = (word.strip() for word in entry.partition("="))
        model = aliases.get(name, name)
        if not number.isdecimal() or not 1 <= int(number) <= MOST:
            raise ValueError(f"RUNNERS must be {FORM}, not {wanted!r}.")
        if model not in models:
            raise ValueError(f"RUNNERS={wanted} names {name}, which is no model here; models: {', '.join(models)}.")
        if model in counts:
            raise ValueError(f"RUNNERS={wanted} names {model} twice.")
        counts[model] = int(number)
    return counts


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; found without loading torch."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name for name in map(str.strip, listed.split(",")) if name and name != "-1"]
    try:
        answer = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []  # no NVIDIA driver, or none that works: the runners would find no GPU either
    # The lines of a GPU's MIG slices are indented.
    return [str(number) for number in range(sum(line.startswith("GPU") for line in answer.stdout.splitlines()))]
