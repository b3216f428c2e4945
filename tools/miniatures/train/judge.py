"""The judge: a classifier of what a picture shows. All measurements of the miniatures rely on it, so it is tested on
pictures whose content is known."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tools.miniatures.train.device import DEVICE
from tools.miniatures.train.loop import Trainee, train
from tools.miniatures.train.pictures import COLOURS, PLACES, SHAPES, SIDE, SIZES, random_scenes, render

WEIGHTS = Path(__file__).parent / "judge.safetensors"
HEADS = {"shape": 6, "colour": 8, "background": 8, "size": 3, "place": 5, "outline": 2, "night": 2}
WORDS = {
    "shape": SHAPES,
    "colour": COLOURS,
    "background": COLOURS,
    "size": tuple(SIZES),
    "place": tuple(PLACES),
    "outline": (False, True),
    "night": (False, True),
}


@dataclass(frozen=True)
class Seen:
    """What one picture of a single object shows."""

    shape: str
    colour: str
    background: str
    size: str
    place: str
    outline: bool
    night: bool


def look(picture: Image.Image) -> Seen:
    """Classify a picture of one object, of any size in pixels."""
    small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(1, SIDE, SIDE, 3)
    return look_all(pixels.permute(0, 3, 1, 2) / 127.5 - 1)[0]


@torch.no_grad()
def look_all(pictures: Tensor) -> list[Seen]:
    """Classify a batch of pictures, (n, 3, 64, 64) in -1..1."""
    best = {name: scores.argmax(1).tolist() for name, scores in _judge()(pictures.float()).items()}
    return [Seen(**{name: WORDS[name][best[name][i]] for name in HEADS}) for i in range(len(pictures))]


@cache
def _judge() -> "Judge":
    judge = Judge().eval()
    judge.load_state_dict({key: value.float() for key, value in load_file(WEIGHTS).items()})
    return judge


class Judge(Trainee):
    """A small convolutional network with one head per question."""

    def __init__(self) -> None:
        super().__init__()
        layers, before = [], 3
        for width in (16, 32, 64, 96):
            layers += [nn.Conv2d(before, width, 3, 2, 1), nn.GroupNorm(4, width), nn.SiLU()]
            before = width
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 16, 128), nn.SiLU())
        self.head = nn.Linear(128, sum(HEADS.values()))

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        return dict(zip(HEADS, self.head(self.body(pictures)).split(list(HEADS.values()), 1), strict=True))

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        pictures, truth = examples(64, step)
        # A model never draws pictures as clean as synthesized ones, so blur, noise and paler colours must not matter.
        soft = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
        pictures = torch.lerp(pictures, soft, torch.rand(64, 1, 1, 1, generator=generator))
        pictures = pictures * (1 - 0.15 * torch.rand(64, 1, 1, 1, generator=generator)) + 0.06 * torch.randn(
            64, 3, 1, 1, generator=generator
        )
        pictures = pictures + 0.08 * torch.rand(64, 1, 1, 1, generator=generator) * torch.randn(
            pictures.shape, generator=generator
        )
        answers = self(pictures.to(DEVICE))
        truth = {name: value.to(DEVICE) for name, value in truth.items()}
        all_count = torch.ones(64, device=DEVICE)
        counted = {"background": ~truth["night"].bool()}  # at night all backgrounds are nearly black
        losses = (
            (F.cross_entropy(answers[name], truth[name], reduction="none") * counted.get(name, all_count)).mean()
            for name in HEADS
        )
        return sum(losses, torch.zeros((), device=DEVICE))

    @torch.no_grad()
    def look(self, folder: Path, step: int) -> str:
        pictures, truth = examples(1000, 999_999_999, styled=False)
        answers = self(pictures.to(DEVICE))
        return " ".join(f"{name} {(answers[name].argmax(1).cpu() == truth[name]).float().mean():.3f}" for name in HEADS)


def examples(n: int, seed: int, styled: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """Synthesized pictures of one object, and their labels."""
    scenes = random_scenes(n, seed, held_out=None)
    generator = torch.Generator().manual_seed(seed)
    outline, night = (torch.rand(2, n, generator=generator) < 0.2) & torch.tensor(styled)
    truth = {name: getattr(scenes, name)[:, 0] for name in ("shape", "colour", "size", "place")}
    truth |= {"background": scenes.background, "outline": outline.long(), "night": night.long()}
    return render(scenes, outline, night), truth


def trained_judge(work: Path) -> None:
    """Train the judge (five minutes) and write its weights into this folder."""
    torch.manual_seed(0)
    judge = Judge()
    train(judge, work, name="judge", steps=4000, rate=2e-3, look_seconds=60)
    save_file({key: value.half().contiguous() for key, value in judge.state_dict().items()}, WEIGHTS)
