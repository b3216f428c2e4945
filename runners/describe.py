"""`python -m runners.describe`: print what the model MODEL_NAME can do, as one line of JSON.

It is read from the model's folder, without loading the model, so it needs neither torch nor a GPU.
`python -m functions.consume.publish_models` publishes it.
"""

import sys

from config.settings import Settings, load_settings
from runners.capabilities import describe
from runners.families import UnusableModel
from runners.model_folder import inspect
from tasks.capabilities import ServedModel


def describe_unserved(settings: Settings) -> ServedModel:
    """The model of the settings, with no runner and no measured speed. Its pixel budget is the setting's, or the one
    image of the default size that every runner has room for. Raises UnusableModel."""
    capabilities = describe(inspect(settings.model_cache_dir, settings.model_name), settings)
    budget = max(settings.runner_pixel_budget, capabilities.width * capabilities.height)
    status = {"pixel_budget": budget, "seconds_per_megapixel_step": 0.0, "runners": 0}
    return ServedModel.model_validate(dict(capabilities) | status)


def main() -> None:
    """Print the model. Ends with a sentence if there is none to describe."""
    settings = load_settings()
    if not settings.model_name:
        sys.exit("MODEL_NAME must name a folder of MODEL_CACHE_DIR.")
    try:
        print(describe_unserved(settings).model_dump_json())
    except UnusableModel as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
