"""The networks of the sweep over activation functions: every cell and seed a member of one batched program."""

from __future__ import annotations

import common
import torch
from torch import Tensor, nn

F = nn.functional
KINDS = {"tanh": F.tanh, "ReLU": F.relu, "leaky ReLU": F.leaky_relu, "ELU": F.elu, "softplus": F.softplus,
         "GELU": F.gelu}  # fmt: skip


class Activations(nn.Module):
    """The members in 12 equal parts: each kind without batch norm, then each kind with it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([kind(part) for kind, part in zip([*KINDS.values()] * 2, x.chunk(12), strict=True)])


class HalfNormed(nn.Module):
    """Batch norm for the second half of the members, each on its own: (members, N, units)."""

    def __init__(self, members: int, units: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(members // 2 * units)

    def forward(self, x: Tensor) -> Tensor:
        plain, rest = x.chunk(2)
        normed = self.norm(rest.transpose(0, 1).flatten(1)).view(rest.shape[1], *rest.shape[::2]).transpose(0, 1)
        return torch.cat([plain, normed])


def network(cells: list[tuple[str, str, str, int]]) -> nn.Sequential:
    """Every cell and seed in one program; a seed starts from equal weights in every cell, up to their gain."""
    sizes, tanh = (12, 10, 7, 5, 4, 3, 2), torch.tensor([kind == "tanh" for _, kind, _, _ in cells])
    model = nn.Sequential()
    for name, module in common.stacked_mlp(sizes, nn.Identity, 2.0**0.5, [c[3] for c in cells]).named_children():
        if name.startswith("act"):
            model.add_module(f"norm{name[3:]}", HalfNormed(len(cells), sizes[int(name[3:])]))
            model.add_module(name, Activations())
        else:
            module.weight.data[tanh] *= 2.0**-0.5
            model.add_module(name, module)
    return model
