"""The device of the training: a GPU if there is one, else the CPU.

All random numbers come from generators on the CPU, so that a seed means the same on both devices.
"""

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
