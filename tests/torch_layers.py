"""Networks of all layers as functions of PyTorch, for their Jacobians by torch.func; and random ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import strategies as st

import gnfast as gn

torch = pytest.importorskip("torch")
F = torch.nn.functional

ACTIVATIONS = {
    "identity": lambda z, _: z,
    "relu": lambda z, _: F.relu(z),
    "leaky_relu": F.leaky_relu,
    "elu": lambda z, _: F.elu(z),
    "gelu": lambda z, _: F.gelu(z),
    "gelu_tanh": lambda z, _: F.gelu(z, approximate="tanh"),
    "silu": lambda z, _: F.silu(z),
    "softplus": lambda z, _: F.softplus(z),
    "tanh": lambda z, _: torch.tanh(z),
    "sigmoid": lambda z, _: torch.sigmoid(z),
}


def run(layers, parameters, x):
    """The layers on x (n, ...), their parameters taken from an iterator."""
    for layer in layers:
        x = _one(layer, parameters, x)
    return x


def _one(layer, parameters, x):
    match layer:
        case gn.Dense():
            weight = next(parameters) + layer.skip * torch.eye(*layer.weight.shape, dtype=x.dtype)
            return F.linear(x, weight, None if layer.bias is None else next(parameters))
        case gn.Activation():
            return ACTIVATIONS[layer.name](x, layer.slope)
        case gn.Conv1d() | gn.Conv2d():
            weight, bias = next(parameters), None if layer.bias is None else next(parameters)
            function, padding = (F.conv2d if weight.ndim == 4 else F.conv1d), layer.padding
            if layer.padding_mode == "circular" and padding != "valid":
                sides = []
                for i, (kernel, dilation) in enumerate(zip(layer.kernel_size, layer.dilation, strict=True)):
                    both = dilation * (kernel - 1) if padding == "same" else 2 * padding[i]
                    sides = [both // 2, both - both // 2, *sides]
                x, padding = F.pad(x, sides, mode="circular"), 0
            return function(x, weight, bias, layer.stride, padding, layer.dilation, layer.groups)
        case gn.Pool(mode="global_average"):
            return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)
        case gn.Pool():
            name = f"{'max' if layer.mode == 'max' else 'avg'}_pool{x.ndim - 2}d"
            return getattr(F, name)(x, layer.kernel_size, layer.stride, layer.padding)
        case gn.Flatten():
            return x.flatten(1)
        case gn.Scale():
            return layer.factor * x
        case gn.BatchNorm():
            weight = None if layer.weight is None else next(parameters)
            bias = None if layer.bias is None else next(parameters)
            mean, var = (None if a is None else torch.tensor(a).to(x.dtype) for a in (layer.mean, layer.var))
            if layer.training:
                mean = var = None
            return F.batch_norm(x, mean, var, weight, bias, layer.training, eps=layer.eps)
        case gn.LayerNorm():
            weight = None if layer.weight is None else next(parameters)
            bias = None if layer.bias is None else next(parameters)
            return F.layer_norm(x, layer.normalized_shape or x.shape[1:], weight, bias, layer.eps)
        case gn.Residual():
            body = run(layer.layers, parameters, x)
            return run(layer.shortcut or (), parameters, x) + layer.scale * body
    raise TypeError(layer)


def forward(net, X):
    return run(net.layers, iter([torch.tensor(a) for a in net.parameters()]), torch.tensor(X)).numpy()


def jacobian(net, X):
    """J (n k, p) in float64, rows ordered (sample, output)."""
    parameters = tuple(torch.tensor(a).double() for a in net.parameters())
    x = torch.tensor(X).double()
    blocks = torch.func.jacrev(lambda *values: run(net.layers, iter(values), x), tuple(range(len(parameters))))(
        *parameters
    )
    rows = len(X) * blocks[0].shape[1]
    return np.hstack([block.reshape(rows, -1).numpy() for block in blocks])


# ------------------------------------------------------------------------------------------------- random networks
class Maker:
    """Draws layers that fit the shape of the samples so far."""

    def __init__(self, draw, dtype="float64"):
        self.draw, self.dtype = draw, dtype
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def array(self, *shape):
        return (self.rng.standard_normal(shape) / math.sqrt(max(1, math.prod(shape[1:])))).astype(self.dtype)

    def bias(self, size):
        return self.array(size) if self.draw(st.booleans()) else None

    def convolution(self, shape, out=None, keep=False):
        """One that fits; with `keep` it keeps the image's size."""
        axes = len(shape) - 1
        groups = self.draw(st.sampled_from([g for g in (1, 1, 2, 3) if shape[0] % g == 0]))
        out = out or groups * self.draw(st.integers(1, 3))
        groups = groups if out % groups == 0 else 1
        circular = self.draw(st.booleans())
        mode = "circular" if circular else "zeros"
        if keep:
            kernel = [self.draw(st.sampled_from([k for k in (1, 2, 3) if k <= size])) for size in shape[1:]]
            options = {"padding": "same"}
        else:
            padding = [self.draw(st.integers(0, min(2, size))) for size in shape[1:]]
            kernel = [
                self.draw(st.integers(1, min(4, size + 2 * p))) for size, p in zip(shape[1:], padding, strict=True)
            ]
            dilation = [
                self.draw(st.sampled_from([d for d in (1, 2) if d * (k - 1) < size + 2 * p]))
                for size, p, k in zip(shape[1:], padding, kernel, strict=True)
            ]
            stride = [self.draw(st.integers(1, 3)) for _ in kernel]
            options = {"padding": padding, "dilation": dilation, "stride": stride}
        kind = gn.Conv2d if axes == 2 else gn.Conv1d
        weight = self.array(out, shape[0] // groups, *kernel)
        return kind(weight, self.bias(out), padding_mode=mode, groups=groups, **options)

    def activation(self):
        name, slope = self.draw(st.sampled_from(sorted(ACTIVATIONS))), self.draw(st.sampled_from([0.0, 0.3, -0.5]))
        return gn.Activation(name, slope) if name == "leaky_relu" else gn.Activation(name)

    def pool(self, shape):
        kernel = [self.draw(st.integers(1, min(3, size))) for size in shape[1:]]
        padding = [self.draw(st.integers(0, k // 2)) for k in kernel]
        stride = self.draw(st.sampled_from([None, 1, 2]))
        return gn.Pool(self.draw(st.sampled_from(["average", "max"])), kernel, stride, padding)

    def residual(self, shape, depth, out=None):
        """One of any number of channels, or of `out`."""
        if self.draw(st.booleans()):  # a body that keeps the shape
            body = [self.convolution(shape, shape[0], keep=True) if len(shape) > 1 else self.dense(shape, shape[0])]
            body = [self.activation(), *body, self.activation()][self.draw(st.integers(0, 1)) :]
            if depth:
                body.append(self.residual(shape, depth - 1, shape[0]))
            shortcut = self.draw(st.sampled_from([None, [gn.Scale(0.5)], [gn.Activation("tanh")]]))
        elif len(shape) > 1:
            out = out or self.draw(st.integers(1, 4))
            body = [self.convolution(shape, out, keep=True), self.activation()]
            shortcut = [self.convolution(shape, out, keep=True)]
        else:
            out = out or self.draw(st.integers(1, 4))
            body, shortcut = [self.activation(), self.dense(shape, out)], [self.dense(shape, out)]
        return gn.Residual(body, shortcut, self.draw(st.sampled_from([1.0, -0.7])))

    def dense(self, shape, out):
        return gn.Dense(self.array(out, shape[0]), self.bias(out), self.draw(st.sampled_from([0.0, 0.5])))

    def network(self):
        """(net, X)"""
        axes = self.draw(st.integers(1, 2))
        shape = (self.draw(st.integers(1, 4)), *(self.draw(st.sampled_from([1, 2, 3, 5, 6])) for _ in range(axes)))
        X = self.rng.standard_normal((self.draw(st.sampled_from([1, 2, 5])), *shape)).astype(self.dtype)
        layers = []

        def add(layer):
            nonlocal shape
            layers.append(layer)
            shape = layer.output_shape(shape)

        for _ in range(self.draw(st.integers(0, 4))):
            kinds = {
                "convolution": lambda: self.convolution(shape),
                "activation": self.activation,
                "pool": lambda: self.pool(shape),
                "residual": lambda: self.residual(shape, 1),
                "scale": lambda: gn.Scale(self.draw(st.sampled_from([1.0, 0.4]))),
            }
            add(kinds[self.draw(st.sampled_from(sorted(kinds)))]())
        if self.draw(st.booleans()):
            add(gn.Pool("global_average"))
        add(gn.Flatten())
        if self.draw(st.booleans()):
            add(self.residual(shape, 0))
        add(self.dense(shape, self.draw(st.integers(1, 4))))
        return gn.Network(layers), X


@st.composite
def networks(draw, dtype="float64"):
    return Maker(draw, dtype).network()
