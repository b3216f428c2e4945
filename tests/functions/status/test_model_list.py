"""The list of models."""

from tests.support.gateway_world import BODY, world


async def test_every_name_of_a_model_is_listed():
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY)
        models = {model["model_name"]: model for model in (await client.get("/models")).json()["models"]}
        assert models["sd-mini"]["alias_of"] is None
        assert models["sd-mini"]["queued"] == 1
        assert models["sd-mini"]["loras"] == ["night"]
        assert models["stable-diffusion-v1-5"]["alias_of"] == "sd-mini"
