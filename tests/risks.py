"""Small models and data of PyTorch for the bridges to other libraries."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn


def dense(sizes: list[int], activation: type = nn.ReLU, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1]).to(dtype)


def convolutional() -> nn.Module:
    torch.manual_seed(1)
    body = [nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.Tanh()]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(16, 3)).double()


def batches(shape: tuple[int, ...], k: int, targets: str, sizes: tuple[int, ...] = (5, 3, 5)) -> list[tuple]:
    generator = torch.Generator().manual_seed(3)
    data = []
    for n in sizes:
        X = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
        if targets == "classes":
            y = torch.randint(0, k, (n,), generator=generator)
        else:
            y = torch.rand(n, k, generator=generator, dtype=torch.float64)
        data.append((X, y))
    return data


def same(ours: torch.Tensor, theirs: torch.Tensor, accuracy: float = 1e-10) -> None:
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=0, atol=accuracy * float(theirs.abs().max()))
