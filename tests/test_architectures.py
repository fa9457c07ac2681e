"""ResNet-20 against the same network in PyTorch, read back by `from_torch`."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import gnfast as gn

torch = pytest.importorskip("torch")
nn = torch.nn


class Block(nn.Module):
    def __init__(self, before: int, out: int, stride: int, norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, out, 3, stride, 1, bias=not norm)
        self.bn1 = nn.BatchNorm2d(out) if norm else nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=not norm)
        self.bn2 = nn.BatchNorm2d(out) if norm else nn.Identity()
        self.downsample = None
        if before != out:
            conv = nn.Conv2d(before, out, 1, stride, bias=not norm)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out)) if norm else conv

    def forward(self, x: Any) -> Any:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, width: int, classes: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 1, 1, bias=not norm)
        self.bn = nn.BatchNorm2d(width) if norm else nn.Identity()
        widths = [width, width, width, width, 2 * width, 2 * width, 2 * width, 4 * width, 4 * width, 4 * width]
        pairs = list(itertools.pairwise(widths))
        self.blocks = nn.Sequential(*[Block(a, b, 1 + (a != b), norm) for a, b in pairs])
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Any) -> Any:
        x = self.blocks(torch.relu(self.bn(self.conv(x))))
        x = nn.functional.adaptive_avg_pool2d(x, 1)
        return self.fc(x.view(x.size(0), -1))


@pytest.mark.parametrize(("norm", "training"), [(False, False), (True, False), (True, True)])
def test_resnet20_is_that_of_pytorch(norm: bool, training: bool) -> None:
    net = gn.resnet20(classes=3, width=2, batch_norm=norm, seed=5, dtype="float64", training=training)
    module = ResNet(2, 3, norm).double().train(training)
    with torch.no_grad():
        for tensor, array in zip(module.parameters(), net.parameters(), strict=True):
            tensor.copy_(torch.from_numpy(array.copy()))
    X = torch.randn(3, 3, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    read = gn.from_torch(module)
    wanted = module(X).detach().numpy()
    tol = 1e-10 * np.abs(wanted).max()
    assert np.abs(net(X.numpy()) - wanted).max() <= tol
    assert np.abs(read(X.numpy()) - wanted).max() <= tol
    assert repr(net) == repr(read)
    V = np.asfortranarray(np.random.default_rng(0).standard_normal((net.num_parameters, 2)))
    product = gn.interop.torch.GaussNewton(module, None, X, "cross_entropy") @ V
    for network in (net, read):
        found = gn.GaussNewton(network, X.numpy(), "cross_entropy") @ V
        assert np.abs(found - product).max() <= 1e-9 * np.abs(product).max()


def test_resnet20_has_the_papers_size() -> None:
    net = gn.resnet20()
    assert net.dtype == np.float32
    assert net.num_parameters == 272_474  # 269,722 of option A, and the projections with their normalisations
    assert net.output_shape((3, 32, 32)) == (10,)
    pruned = gn.prune(net, 0.9)
    weights = sum(array.size for array in net.parameters() if array.ndim > 1)
    assert pruned.num_parameters == net.num_parameters - round(0.9 * weights)


def test_resnet20_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="classes is 0"):
        gn.resnet20(classes=0)
    with pytest.raises(TypeError, match="batch_norm is 1"):
        gn.resnet20(batch_norm=1)
