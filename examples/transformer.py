"""A small causal transformer over characters: block1, block2, block3, logits."""

from __future__ import annotations

from torch import Tensor, nn

WIDTH = 64


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        wide = nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), *wide)

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(h)).view(*h.shape[:2], 3, 4, WIDTH // 4).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.out(mixed.transpose(1, 2).reshape(h.shape))
        return h + self.mlp(h)


class Transformer(nn.Module):
    def __init__(self, alphabet: int, context: int) -> None:
        super().__init__()
        self.letter, self.place = nn.Embedding(alphabet, WIDTH), nn.Embedding(context, WIDTH)
        self.block1, self.block2, self.block3 = Block(), Block(), Block()
        self.logits = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, alphabet))

    def forward(self, ids: Tensor) -> Tensor:
        h = self.letter(ids) + self.place.weight
        return self.logits(self.block3(self.block2(self.block1(h))))
