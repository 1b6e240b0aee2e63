"""A module that gives other modules names, for both baseline networks."""

from torch import Tensor, nn


class Holder(nn.Module):
    """Holds modules under the names of the released keys; it has only the modules it was given."""

    main: nn.Module
    conv: nn.Module
    conv1: nn.Module
    conv2: nn.Module
    proj: nn.Module
    mlp: nn.Module
    fc1: nn.Module
    fc2: nn.Module
    y_proj: "Holder"
    y_embedding: Tensor

    def __init__(self, **modules: nn.Module):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
