"""Is this the picture of that task? Its metadata says, and pictures of one request must look the same."""

import io
import json
from collections.abc import Hashable
from dataclasses import dataclass, field

from PIL import Image, ImageChops, UnidentifiedImageError

from runners.encoding import SOFTWARE
from tests.proofs.soak.ledger import Body

ALIKE = 8
"""Most a pixel may differ, of 255, between two pictures of one request: batches of other sizes round otherwise."""


def mistake(picture: bytes, task_id: str, body: Body) -> str | None:
    """What is wrong with the picture, in a sentence; None: it is the task's own."""
    try:
        image = Image.open(io.BytesIO(picture))
        image.load()
        said = json.loads(image.text[SOFTWARE])  # type: ignore[attr-defined]
    except (UnidentifiedImageError, OSError, SyntaxError, AttributeError, KeyError, ValueError) as error:
        return f"the picture of {task_id} does not open: {error!r}"
    asked, params = said["request"], body["image_params"]
    expected = {
        "task_id": (said["task_id"], task_id),
        "its request's task": (asked["task_id"], task_id),
        "model": (said["model"], body["model_name"]),
        "prompt": (asked["prompt"], body["prompt"]),
        "seed": (asked["seed"], params["seed"]),
        "picture's seed": (params["seed"] <= said["seed"] < params["seed"] + params["num_images"], True),
        "steps": (asked["steps"], params["steps"]),
        "LoRAs": (asked["loras"], list(body["loras"])),
        "size": (image.size, (params["width"], params["height"])),
    }
    wrong = [f"{what} is {is_!r}, not {should!r}" for what, (is_, should) in expected.items() if is_ != should]
    return f"the picture of {task_id} is not its own: {'; '.join(wrong)}" if wrong else None


@dataclass
class Looks:
    """The first picture seen of each request, to hold all later ones against."""

    first: dict[Hashable, tuple[str, Image.Image]] = field(default_factory=dict)
    compared: int = 0
    worst: int = 0

    def differs(self, picture: bytes, task_id: str, index: int, body: Body) -> str | None:
        """A sentence where the picture looks unlike another one of the same request."""
        image = Image.open(io.BytesIO(picture)).convert("RGB")
        params = body["image_params"]
        loras = tuple((lora["name"], lora["weight"]) for lora in body["loras"])
        key = (body["model_name"], body["prompt"], tuple(sorted(params.items())), loras, index)
        other_id, other = self.first.setdefault(key, (task_id, image))
        if other is image:
            return None
        extrema = ImageChops.difference(image, other).getextrema()
        most = max(int(high) for _, high in extrema)  # type: ignore[misc]
        self.compared += 1
        self.worst = max(self.worst, most)
        if most > ALIKE:
            return (
                f"picture {index} of {task_id} differs by {most} of 255 from that of {other_id}, for the same request"
            )
        return None
