"""A network that does at chosen moments what networks do now and then, and a recorder of it."""

import torch
from recording import recorder
from torch import nn

from infoplane.hooks import every

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 2
PROBE = X, Y
ALL = ["fc", "act#0", "act#1", "expert", "out"]


class Switched(nn.Module):
    """Does at chosen moments what networks do now and then."""

    def __init__(self):
        super().__init__()
        self.fc, self.act, self.expert, self.out = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 2)
        self.scale, self.acts, self.use, self.fail = 1.0, 2, True, None

    def forward(self, x):
        if self.fail is not None:
            raise self.fail
        x = self.fc(x * self.scale)
        for _ in range(self.acts):
            x = self.act(x)
        return self.out(self.expert(x) if self.use else x)


def switched(**options):
    model = Switched()
    rec, sink = recorder(model, PROBE, schedule=every(1), calls="all", **options)
    return model, rec, sink
