"""Checks that a picture belongs to its task: by its metadata, and by comparison with pictures of the same request."""

import io
import json
from collections.abc import Hashable
from dataclasses import dataclass, field

from PIL import Image, ImageChops, UnidentifiedImageError

from runners.encoding import SOFTWARE
from tests.proofs.soak.ledger import Body

TOLERANCE = 8
"""The largest difference of a pixel (of 255) between pictures of one request: other batch sizes round differently."""


def picture_error(picture: bytes, task_id: str, body: Body) -> str | None:
    """A sentence about what is wrong with the picture; None: it is the task's own."""
    try:
        image = Image.open(io.BytesIO(picture))
        image.load()
        metadata = json.loads(image.text[SOFTWARE])  # type: ignore[attr-defined]
    except (UnidentifiedImageError, OSError, SyntaxError, AttributeError, KeyError, ValueError) as error:
        return f"the picture of {task_id} does not open: {error!r}"
    request, params = metadata["request"], body["image_params"]
    expected = {
        "task_id": (metadata["task_id"], task_id),
        "its request's task": (request["task_id"], task_id),
        "model": (metadata["model"], body["model_name"]),
        "prompt": (request["prompt"], body["prompt"]),
        "seed": (request["seed"], params["seed"]),
        "picture's seed": (params["seed"] <= metadata["seed"] < params["seed"] + params["num_images"], True),
        "steps": (request["steps"], params["steps"]),
        "LoRAs": (request["loras"], list(body["loras"])),
        "size": (image.size, (params["width"], params["height"])),
    }
    errors = [f"{what} is {is_!r}, not {should!r}" for what, (is_, should) in expected.items() if is_ != should]
    return f"the picture of {task_id} is not its own: {'; '.join(errors)}" if errors else None


@dataclass
class PictureComparison:
    """The first picture of each request, which all later ones are compared with."""

    first: dict[Hashable, tuple[str, Image.Image]] = field(default_factory=dict)
    compared: int = 0
    worst: int = 0

    def differs(self, picture: bytes, task_id: str, index: int, body: Body) -> str | None:
        """A sentence if the picture differs from an earlier one of the same request; otherwise None."""
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
        if most > TOLERANCE:
            return (
                f"picture {index} of {task_id} differs by {most} of 255 from that of {other_id}, for the same request"
            )
        return None
