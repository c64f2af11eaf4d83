import warnings

import pytest
import torch

# Detectron2 imports pkg_resources and compiles with torch.jit; neither is ours to mend.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
