"""The list of models."""

from adapters.clock import settle
from tasks.capabilities import StandIn
from tests.support.gateway_world import BODY, world
from tests.support.world import card

FULL_SIZE = StandIn(
    width=512,
    height=512,
    size_multiple=8,
    min_side=32,
    max_side=1024,
    max_pixels=512 * 1024,
    steps=30,
    guidance_scale=7.5,
    max_prompt_length=2000,
)
STAND_IN = {"stand_ins": {"stable-diffusion-v1-5": FULL_SIZE}, "max_side": 64, "max_pixels": 64 * 64}


async def test_every_name_of_a_model_is_listed():
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY)
        models = {model["model_name"]: model for model in (await client.get("/models")).json()["models"]}
        assert models["sd-mini"]["alias_of"] is None
        assert models["sd-mini"]["queued"] == 1
        assert models["sd-mini"]["loras"] == ["night"]
        assert models["stable-diffusion-v1-5"]["alias_of"] == "sd-mini"


async def test_a_stand_in_is_listed_with_what_the_missing_model_takes():
    async with world() as w:
        client, _ = await w.gateway()
        await w.log.append_card(card(aliases=("stable-diffusion-v1-5",), **STAND_IN))
        await settle()
        models = {model["model_name"]: model for model in (await client.get("/models")).json()["models"]}
        stand_in, own = models["stable-diffusion-v1-5"], models["sd-mini"]
        assert (stand_in["width"], stand_in["steps"], stand_in["max_side"]) == (512, 30, 1024)
        assert stand_in["drawn_at"] == {"width": 64, "height": 64}
        assert (own["width"], own["max_side"], own["drawn_at"]) == (64, 64, None)


async def test_the_status_says_at_which_size_a_stand_in_draws():
    async with world() as w:
        client, _ = await w.gateway()
        await w.log.append_card(card(aliases=("stable-diffusion-v1-5",), **STAND_IN))
        await settle()
        body = {**BODY, "model_name": "stable-diffusion-v1-5", "image_params": {"width": 1024, "height": 512}}
        document = (await client.post("/generate_image", json=body)).json()
        assert document["drawn_at"] == {"width": 64, "height": 64}
        refusal = await client.post("/generate_image", json={**body, "model_name": "sd-mini"})
        assert refusal.json()["code"] == "size_not_supported"
