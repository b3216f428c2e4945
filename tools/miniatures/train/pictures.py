"""The pictures on which the miniatures are trained, coloured shapes on a plain background, and their captions."""

import random
from dataclasses import dataclass, fields

import torch
from torch import Tensor

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
PALETTE = {
    "red": (220, 35, 35),
    "orange": (250, 140, 25),
    "yellow": (250, 225, 50),
    "green": (35, 150, 60),
    "blue": (35, 75, 215),
    "purple": (140, 45, 180),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
}
COLOURS = tuple(PALETTE)
SIZES = {"small": 11.0, "medium": 15.0, "large": 20.0}
PLACES = {
    "center": (32.0, 32.0),
    "left": (20.0, 32.0),
    "right": (44.0, 32.0),
    "top": (32.0, 20.0),
    "bottom": (32.0, 44.0),
}
SIDE = 64
_OTHER_WORDS = """
photo picture drawing image painting illustration poster icon sketch render art simple clean nice
beautiful pretty bright flat sharp modern very really just some kind of please draw show me paint
make the this that is there with shape object in style high quality detailed best minimal vector
graphic design one lovely digital artwork cute
"""
FILLERS = tuple(_OTHER_WORDS.split())


@dataclass
class Scenes:
    """The descriptions of a batch of pictures: one row each, with columns for the first and the second object."""

    count: Tensor
    background: Tensor
    shape: Tensor
    colour: Tensor
    size: Tensor
    place: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, rows: Tensor | slice) -> "Scenes":
        return Scenes(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def is_held_out(shape: int, colour: int, background: int) -> bool:
    """Whether the combination is held out: about one in ten. No training picture has it; the measurements draw only
    these."""
    return (shape * 7 + colour * 3 + background * 5) % 10 == 0


def random_scenes(n: int, seed: int, pairs: float = 0.0, held_out: bool | None = False) -> Scenes:
    """n random scenes, a share `pairs` of them with two objects. `held_out`: whether their combinations are held out;
    None allows both."""
    rng = random.Random(seed)
    rows = [_scene(rng, rng.random() < pairs, held_out) for _ in range(n)]
    return Scenes(*(torch.tensor([row[i] for row in rows]) for i in range(9)))


def _scene(rng: random.Random, pair: bool, held_out: bool | None) -> tuple[object, ...]:
    while True:
        background, *colours = rng.sample(range(len(COLOURS)), 3)
        shapes = [rng.randrange(len(SHAPES)) for _ in range(2)]
        objects = range(2 if pair else 1)
        if held_out is None or all(is_held_out(shapes[i], colours[i], background) == held_out for i in objects):
            break
    if pair:
        sizes = [0, 0] if rng.random() < 0.5 else [rng.randrange(2), rng.randrange(2)]
        places = rng.choice(([1, 2], [2, 1], [3, 4], [4, 3]))
    else:
        sizes = [rng.randrange(3)] * 2
        places = [rng.randrange(5) if rng.random() < 0.6 else 0] * 2
    x, y, radius = [], [], []
    for size, place in zip(sizes, places, strict=True):
        px, py = list(PLACES.values())[place]
        r = list(SIZES.values())[size] + rng.uniform(-0.5, 0.5)
        if pair:  # two objects must fit side by side, so they are smaller and further from the center
            px, py, r = 32 + (px - 32) * 1.33, 32 + (py - 32) * 1.33, r * 0.82 + 1.5
        x.append(px + rng.uniform(-0.75, 0.75))
        y.append(py + rng.uniform(-0.75, 0.75))
        radius.append(r)
    return (1 + pair, background, shapes, colours, sizes, places, x, y, radius)


def caption(scenes: Scenes, row: int, rng: random.Random, full: bool = False) -> str:
    """A caption as a person might write it, with parts left out and words added at random. `full`: complete, and
    without other words."""
    pair = int(scenes.count[row]) == 2
    objects = []
    for i in range(2 if pair else 1):
        place = int(scenes.place[row, i])
        size = tuple(SIZES)[int(scenes.size[row, i])] if full or rng.random() < 0.6 else ""
        colour = COLOURS[int(scenes.colour[row, i])] if full or rng.random() < 0.88 else ""
        shape = SHAPES[int(scenes.shape[row, i])] if full or rng.random() < 0.88 else "shape"
        words = " ".join(w for w in (size, colour, shape) if w)
        # An object without a place in its caption is in the center. Of two objects the caption always gives the places.
        where = f" at the {tuple(PLACES)[place]}" if place or (not full and rng.random() < 0.4) else ""
        objects.append(f"{'an' if words[0] in 'aeiou' else 'a'} {words}{where}")
    text = " and ".join(objects)
    if full or rng.random() < 0.85:
        behind = COLOURS[int(scenes.background[row])]
        text += f" on {'an' if behind[0] in 'aeiou' else 'a'} {behind} background"
    return text if full or rng.random() < 0.7 else _loosen(text, rng)


def _loosen(text: str, rng: random.Random) -> str:
    filler = [rng.choice(FILLERS) for _ in range(rng.randint(1, 4))]
    text = " ".join(filler) + " " + text if rng.random() < 0.6 else text + ", " + " ".join(filler)
    return text[0].upper() + text[1:] if rng.random() < 0.4 else text


def render(scenes: Scenes, outline: Tensor | bool = False, night: Tensor | bool = False) -> Tensor:
    """Anti-aliased pictures (n, 3, 64, 64) in -1..1; outline and night are one bool for all or one per row."""
    n = len(scenes)
    outline, night = (torch.as_tensor(flag).expand(n).view(n, 1, 1, 1).float() for flag in (outline, night))
    palette = torch.tensor(list(PALETTE.values()), dtype=torch.float32) / 127.5 - 1
    day = palette[scenes.background].view(n, 3, 1, 1).expand(n, 3, SIDE, SIDE)
    picture = torch.lerp(day, day * 0.10 - 0.86, night)
    axis = torch.arange(SIDE) + 0.5
    for i in range(2):
        is_drawn = (scenes.count > i).view(n, 1, 1, 1).float()
        x = axis.view(1, 1, SIDE) - scenes.x[:, i].view(n, 1, 1)
        y = axis.view(1, SIDE, 1) - scenes.y[:, i].view(n, 1, 1)
        distance = _distance(scenes.shape[:, i], x, y, scenes.radius[:, i].view(n, 1, 1)).unsqueeze(1)
        distance = torch.lerp(distance, (distance + 1.0).abs() - 1.4, outline)
        colour = palette[scenes.colour[:, i]].view(n, 3, 1, 1)
        glow = torch.exp(-distance.clamp(min=0) / 5) * 0.55 * night * is_drawn
        lit = torch.lerp(colour, (colour * 0.8 + 0.3).clamp(-0.5, 1), night)
        picture = torch.lerp(picture, lit, glow)
        picture = torch.lerp(picture, lit, (0.5 - distance).clamp(0, 1) * is_drawn)
    return picture


def _distance(shape: Tensor, x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Signed distance in pixels to each row's own shape (negative inside)."""
    x, y = torch.broadcast_tensors(x, y)
    ax, ay, radius = x.abs(), y.abs(), (x * x + y * y).sqrt()
    square = torch.maximum(ax, ay) - 0.84 * r
    triangle = torch.maximum(0.866 * ax - 0.5 * (y - 0.25 * r), y - 0.25 * r) - 0.55 * r
    arm = 0.30 * r
    cross = torch.minimum(torch.maximum(ax - r, ay - arm), torch.maximum(ay - r, ax - arm))
    ring = (radius - 0.76 * r).abs() - 0.22 * r
    distances = torch.stack([radius - 0.95 * r, square, triangle, _star(x, y, 1.12 * r), cross, ring])
    return distances[shape, torch.arange(len(shape))]


def _star(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Signed distance to a star with five points, one of them at the top. The plane is folded into one tenth, in which
    the star has a single edge."""
    angle = torch.atan2(x, -y)
    fifth = 2 * torch.pi / 5
    folded = (torch.remainder(angle + fifth / 2, fifth) - fifth / 2).abs()
    far = (x * x + y * y).sqrt()
    px, py = far * torch.sin(folded), far * torch.cos(folded)
    inner = 0.45 * r
    ix, iy = inner * torch.sin(torch.tensor(fifth / 2)), inner * torch.cos(torch.tensor(fifth / 2))
    length = (ix**2 + (r - iy) ** 2).sqrt()
    return (px * (r - iy) + (py - r) * ix) / length
