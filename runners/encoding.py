"""An image as a file that says how it was made: in PNG text as the Stable Diffusion web tools read it, else in EXIF."""

import json
from collections.abc import Mapping
from io import BytesIO

from PIL.Image import Image, Resampling
from PIL.PngImagePlugin import PngInfo

from tasks.runner_api import RunRequest

PNG_LEVEL = 1
"""At 1024x1024 level 1 takes 49 ms and level 6 takes 164 ms; the file of level 6 is a few percent smaller."""
QUALITY = {"jpeg": 92, "webp": 90}
_EXIF_IFD, _USER_COMMENT, _SOFTWARE = 0x8769, 0x9286, 0x0131
_DESCRIPTION = 0x010E
_EXIF_BYTES = 60_000
"""A JPEG's EXIF holds 64 kB in all, which a prompt of several thousand characters nearly fills."""
SOFTWARE = "ai-image-gen"


def resized(image: Image, request: RunRequest) -> Image:
    """The image at the requested size. Only a stand-in draws at another size."""
    size = (request.width, request.height)
    return image if request.drawn_at is None else image.resize(size, Resampling.LANCZOS)


def parameters(request: RunRequest, seed: int, scheduler_label: str, steps: int) -> str:
    """The text that the web tools write and read: prompt, negative prompt, then `name: value` pairs."""
    pairs = {
        "Steps": steps,
        "Sampler": scheduler_label,
        "CFG scale": f"{request.guidance_scale:g}",
        "Seed": seed,
        "Size": f"{request.width}x{request.height}",
        "Model": request.model_name,
    }
    if request.drawn_at is not None:
        pairs["Drawn at"] = f"{request.drawn_at.width}x{request.drawn_at.height}"
    if request.loras:
        pairs["Lora weights"] = '"' + ", ".join(f"{lora.name}: {lora.weight:g}" for lora in request.loras) + '"'
    pairs["Version"] = SOFTWARE
    lines = [request.prompt]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    lines.append(", ".join(f"{name}: {value}" for name, value in pairs.items()))
    return "\n".join(lines)


def encode(image: Image, request: RunRequest, seed: int, text: str, acceleration: Mapping[str, str]) -> bytes:
    """The image file. It holds `text`, which `parameters` makes, and as JSON everything else about the task."""
    fields = request.model_dump(mode="json", exclude={"metadata"})
    everything = json.dumps({**request.metadata, "request": fields, "seed": seed, "acceleration": acceleration})
    out = BytesIO()
    if request.format == "png":
        info = PngInfo()
        info.add_itxt("parameters", text)
        info.add_itxt(SOFTWARE, everything)
        image.save(out, "PNG", compress_level=PNG_LEVEL, pnginfo=info)
        return out.getvalue()
    exif = image.getexif()
    exif[_SOFTWARE] = SOFTWARE
    comment = b"UNICODE\0" + text.encode("utf-16-be")
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = comment[:_EXIF_BYTES]
    exif[_DESCRIPTION] = everything if len(comment) + len(everything.encode()) < _EXIF_BYTES else request.task_id
    image.save(out, request.format.upper(), quality=QUALITY[request.format], exif=exif)
    return out.getvalue()
