"""One thread for torch in the tests: small tensors gain nothing from two, and a busy machine loses much."""

import torch

torch.set_num_threads(1)
