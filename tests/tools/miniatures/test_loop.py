"""The training loop learns, and a run that was stopped ends like one that was not."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tools.miniatures.train import loop
from tools.miniatures.train.loop import Trainee, train


class Line(Trainee):
    """Learns y = 3x, and can be made to fail at one step."""

    def __init__(self, falls_at: int = -1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line, self.falls_at = nn.Linear(1, 1), falls_at

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        if step == self.falls_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 1, generator=generator)
        return ((self.line(x) - 3 * x) ** 2).mean()


def test_the_loop_learns(tmp_path: Path) -> None:
    trainee = Line()
    train(trainee, tmp_path, name="line", steps=300, rate=0.1, average=0.9)
    assert trainee.line.weight.item() == pytest.approx(3, abs=0.05)


def test_a_stopped_run_ends_as_one_that_was_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    whole = Line()
    train(whole, tmp_path / "whole", name="line", steps=60, rate=0.1)
    with pytest.raises(KeyboardInterrupt):
        train(Line(falls_at=25), tmp_path / "stopped", name="line", steps=60, rate=0.1)
    again = Line()
    train(again, tmp_path / "stopped", name="line", steps=60, rate=0.1)
    assert torch.equal(whole.line.weight, again.line.weight)


def test_a_finished_run_is_only_loaded(tmp_path: Path) -> None:
    trained = Line()
    train(trained, tmp_path, name="line", steps=20, rate=0.1)
    loaded = Line(falls_at=0)
    train(loaded, tmp_path, name="line", steps=20, rate=0.1)
    assert torch.equal(trained.line.weight, loaded.line.weight)


def test_a_finished_run_of_other_weights_is_not_taken_for_this_one(tmp_path: Path) -> None:
    train(Line(), tmp_path, name="line", steps=2, rate=0.1)
    other = Line()
    other.curve = nn.Linear(1, 1)
    with pytest.raises(KeyError, match="curve"):
        train(other, tmp_path, name="line", steps=2, rate=0.1)
