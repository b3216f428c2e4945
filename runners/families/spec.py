"""The facts of an architecture, and the facts of one model that follow from them. Without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from runners.families import schedulers
from tasks.capabilities import StandIn

MAX_SIDE = 16384
"""The largest side in pixels that a folder may ask for."""
MAX_STEPS = 150
"""The most steps of a task."""
Matrix = tuple[tuple[float, float, float], ...]
"""One row (red, green, blue) per latent channel, and optionally one more row, the bias."""


class UnusableModel(Exception):
    """The model cannot be run. The message is one sentence for the person who installed it."""


class Defaults(BaseModel):
    """`defaults.json` of a model's folder: the values that suit this model better than those of its family."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int | None = Field(default=None, ge=1, le=MAX_SIDE)
    height: int | None = Field(default=None, ge=1, le=MAX_SIDE)
    min_side: int | None = Field(default=None, ge=1, le=MAX_SIDE)
    max_side: int | None = Field(default=None, ge=1, le=2 * MAX_SIDE)
    steps: int | None = Field(default=None, ge=1, le=MAX_STEPS)
    guidance_scale: float | None = Field(default=None, ge=0, le=100)
    max_sequence_length: int | None = Field(default=None, ge=1, le=4096)
    true_cfg_scale: float | None = Field(default=None, ge=0, le=100)
    latent_rgb: Matrix | None = None


@dataclass(frozen=True, kw_only=True)
class FamilySpec:
    """The facts of one architecture. A family is one of these in `FAMILIES` and the class that `code` names.

    `code` is the "module:Class" of the part that needs torch (see `runners.families.family.Family`), which is imported
    when a model of the family is loaded. `denoiser` is the attribute of the pipeline that predicts the noise, and
    `without` names the parts of the pipeline that are never loaded.
    """

    name: str
    code: str
    denoiser: str
    gpu_dtype: str
    """The torch dtype on an accelerator; on a CPU every model runs in float32."""
    parts: Mapping[str, tuple[str, ...]]
    """The classes that each part of the pipeline may have, as "library.Class". A folder that names any other part or
    class is refused, so that it cannot choose which code runs."""
    steps: int
    guidance_scale: float
    max_prompt_length: int
    """Characters. The text encoder reads fewer tokens than the prompt may have."""
    full_size: int | None = None
    """Default width and height in pixels of the family's published models, for which a small model may stand in. None:
    those of the model itself."""
    size: int | None = None
    """Default width and height in pixels. None: the denoiser's own `sample_size`."""
    patch: int = 1
    """Latents along one side of a token. Sizes are multiples of it times the VAE's scale."""
    max_default_images: int = 4
    """How many times the pixels of the default size the largest image has."""
    latent_rgb: Matrix | None = None
    """Maps latents to colors for previews. None: the family makes none."""
    samplers: tuple[str, ...] = ()
    """The names in `schedulers.SAMPLERS` that a request may choose beside the model's own scheduler."""
    own_sampler: str = schedulers.OWN
    """The name of the model's own scheduler if it is none of `samplers`."""
    negative_prompt: bool = True
    inputs: tuple[str, ...] = ()
    """The names of the files that a request may bring, for example `image`."""
    without: tuple[str, ...] = ()
    load_options: Mapping[str, Any] = field(default_factory=dict)
    """More options of the pipeline's `from_pretrained`."""
    refusals: Mapping[str, str] = field(default_factory=dict)
    """Keys of the denoiser's config.json that must not be set, and why."""

    def facts(self, configs: Mapping[str, Mapping[str, Any]], defaults: Defaults) -> "ModelFacts":
        """The facts of a model. `configs` holds the config.json of each part of its pipeline, by the part's name.

        Raises UnusableModel.
        """
        denoiser, vae = configs.get(self.denoiser), configs.get("vae")
        if denoiser is None or vae is None:
            raise UnusableModel(f"the model has no part {self.denoiser if denoiser is None else 'vae'!r}.")
        for key, sentence in self.refusals.items():
            if denoiser.get(key) is not None:
                raise UnusableModel(sentence)
        scale = _scale(vae)
        channels = _whole(denoiser, "in_channels", self.patch**2, 2**16) // self.patch**2
        height, width = (self.size, self.size) if self.size else _native_size(denoiser, scale)
        matrix = defaults.latent_rgb or self.latent_rgb
        if matrix is not None and len(matrix) not in (channels, channels + 1):
            raise UnusableModel(
                f"latent_rgb has {len(matrix)} rows; it takes {channels}, or {channels + 1} with a bias."
            )
        width, height = defaults.width or width, defaults.height or height
        min_side, max_side = defaults.min_side or 4 * scale * self.patch, defaults.max_side or 2 * max(width, height)
        if not min_side <= min(width, height) <= max(width, height) <= max_side:
            raise UnusableModel(
                f"its size {width}x{height} is not between min_side {min_side} and max_side {max_side}."
            )
        if width % (scale * self.patch) or height % (scale * self.patch):
            raise UnusableModel(f"its width {width} and height {height} must be multiples of {scale * self.patch}.")
        own = str(configs.get("scheduler", {}).get("_class_name", ""))
        return ModelFacts(
            spec=self,
            defaults=defaults,
            width=width,
            height=height,
            size_multiple=scale * self.patch,
            min_side=min_side,
            max_side=max_side,
            max_pixels=self.max_default_images * width * height,
            steps=defaults.steps or self.steps,
            guidance_scale=self.guidance_scale if defaults.guidance_scale is None else defaults.guidance_scale,
            schedulers=schedulers.names_for(own, self.samplers, self.own_sampler),
            latent_channels=channels,
            latent_rgb=matrix,
        )


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The facts of a model, from its folder alone. Sizes in pixels. Its own scheduler is the first of `schedulers`."""

    spec: FamilySpec
    defaults: Defaults
    width: int
    height: int
    size_multiple: int
    min_side: int
    max_side: int
    max_pixels: int
    steps: int
    guidance_scale: float
    schedulers: tuple[str, ...]
    latent_channels: int
    latent_rgb: Matrix | None

    def stand_in(self) -> StandIn:
        """The limits and defaults of the family's published models. One latent of them stands for 8x8 pixels."""
        side, multiple = self.spec.full_size or max(self.width, self.height), 8 * self.spec.patch
        return StandIn(
            width=side,
            height=side,
            size_multiple=multiple,
            min_side=4 * multiple,
            max_side=2 * side,
            max_pixels=self.spec.max_default_images * side**2,
            steps=self.spec.steps,
            guidance_scale=self.spec.guidance_scale,
            max_prompt_length=self.spec.max_prompt_length,
        )


def _whole(config: Mapping[str, Any], key: str, least: int, most: int) -> int:
    """The whole number `key` of a config.json. Raises UnusableModel."""
    value = config.get(key)
    if not _is_whole(value, least, most):
        raise UnusableModel(f"a config.json lacks a usable value: {key} must be between {least} and {most}.")
    return int(value)  # type: ignore[arg-type]


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _scale(vae: Mapping[str, Any]) -> int:
    """Pixels along one side of a latent: each block of the VAE but the last halves the side."""
    blocks = vae.get("block_out_channels")
    if not isinstance(blocks, list) or not 1 <= len(blocks) <= 8:
        raise UnusableModel("a config.json lacks a usable value: block_out_channels must list 1 to 8 blocks.")
    return int(2 ** (len(blocks) - 1))


def _native_size(denoiser: Mapping[str, Any], scale: int) -> tuple[int, int]:
    """(height, width) in pixels of a denoiser's `sample_size`, which is in latents: one number or two."""
    size, most = denoiser.get("sample_size"), MAX_SIDE // scale
    pair: list[Any] = size if isinstance(size, list) else [size, size]
    if len(pair) != 2 or not all(_is_whole(side, 1, most) for side in pair):
        raise UnusableModel(
            f"a config.json lacks a usable value: sample_size must be 1 to {most}, or two such numbers."
        )
    return pair[0] * scale, pair[1] * scale
