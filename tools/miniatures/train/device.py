"""Where it is trained: on a GPU where there is one.

All dice are thrown on the CPU, so that a seed means the same on both.
"""

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
