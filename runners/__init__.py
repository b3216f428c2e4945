"""The GPU side: loading a model, the step engine, image files. Of what is shipped, only this room imports torch.

Importing it turns off, before the libraries that read these variables are imported, all that could reach the network or
run code that came with a model.
"""

import os

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "DIFFUSERS_DISABLE_REMOTE_CODE": "true",
    "USE_HUB_KERNELS": "OFF",
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
}
"""The variables, and their values whatever the environment says."""
os.environ.update(OFFLINE)
os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
