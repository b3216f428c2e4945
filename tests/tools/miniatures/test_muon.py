"""The optimizer of the denoisers: steps of matrices are orthogonal, other parameters get another optimizer."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tools.miniatures.train import loop
from tools.miniatures.train.loop import Trainee, train
from tools.miniatures.train.muon import Muon, orthogonal


class Map(Trainee):
    """Learns a fixed linear map, and can be made to fail at one step."""

    def __init__(self, falls_at: int = -1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.truth, self.map, self.falls_at = torch.randn(24, 32), nn.Linear(32, 24), falls_at

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        if step == self.falls_at:
            raise KeyboardInterrupt
        x = torch.randn(64, 32, generator=generator)
        return (self.map(x) - x @ self.truth.T).square().mean()


@pytest.mark.parametrize("shape", [(24, 64), (64, 24), (32, 32)])
def test_a_step_is_nearly_orthogonal(shape: tuple[int, int]) -> None:
    stretched = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(1))))
    assert stretched.min() > 0.4 and stretched.max() < 1.4


def test_convolutions_are_matrices_and_biases_are_not() -> None:
    assert Muon.fits(torch.zeros(64, 32, 3, 3))
    assert not Muon.fits(torch.zeros(64))
    assert not Muon.fits(torch.zeros(4, 64, 3, 3))


def test_the_optimizer_learns(tmp_path: Path) -> None:
    trainee = Map()
    before = trainee.loss(0, torch.Generator().manual_seed(3)).item()
    train(trainee, tmp_path, name="map", steps=100, rate=0.1, average=0.9, muon=True)
    assert trainee.loss(0, torch.Generator().manual_seed(3)).item() < before / 10


def test_a_stopped_run_ends_as_one_that_was_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    whole, again = Map(), Map()
    train(whole, tmp_path / "whole", name="map", steps=40, rate=0.01, muon=True)
    with pytest.raises(KeyboardInterrupt):
        train(Map(falls_at=15), tmp_path / "stopped", name="map", steps=40, rate=0.01, muon=True)
    train(again, tmp_path / "stopped", name="map", steps=40, rate=0.01, muon=True)
    assert torch.equal(whole.map.weight, again.map.weight)
