"""Single modules and functions of PyTorch as layers: each entry makes those of one, or raises `UnsupportedError`."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import gnfast as gn
from gnfast._arrays import Array
from gnfast.networks.layers import Layer

F = nn.functional
EVALUATE = "call eval() first, and where forward calls functional.dropout, pass it training=self.training"


class UnsupportedError(ValueError):
    """An error for what the core does not take: the part of a module or a call, as the object of `module has`.

    `cure` is what to do, where that is not to take the route that needs no layers.
    """

    def __init__(self, what: str, cure: str = "") -> None:
        super().__init__(what)
        self.cure = cure


def array_of(tensor: Any) -> Array | None:
    """The tensor's own memory where it is contiguous on the CPU."""
    if tensor is None:
        return None
    if tensor.device.type != "cpu":
        raise UnsupportedError(f"parameters on {tensor.device} (call .cpu() first)")
    if tensor.dtype not in (torch.float32, torch.float64):
        raise UnsupportedError(f"parameters in {str(tensor.dtype).removeprefix('torch.')}, not in float32 or float64,")
    found: Array = tensor.detach().numpy()
    return found


def altered(module: Any) -> str:
    """The reason why a module computes something else than its type says; empty if there is none."""
    everywhere = nn.modules.module._global_forward_hooks or nn.modules.module._global_forward_pre_hooks
    if module._forward_hooks or module._forward_pre_hooks or everywhere:
        return "forward hooks"
    return "a forward of its own" if "forward" in vars(module) else ""


def _required(tensor: Any) -> Array:
    found = array_of(tensor)
    if found is None:
        raise UnsupportedError("a layer without a weight")
    return found


def _plain(name: str, module: Any, **defaults: Any) -> None:
    """Options that must have their default."""
    for option, value in defaults.items():
        if getattr(module, option, value) != value:
            raise UnsupportedError(f"the module {name} with {option}={getattr(module, option)!r}")


# --------------------------------------------------------------------------------------------------------- modules
def linear(weight: Any, bias: Any = None) -> list[Layer]:
    """A dense layer, as torch.nn.functional.linear."""
    return [gn.Dense(_required(weight), array_of(bias))]


def convolution(
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> list[Layer]:
    """A convolution, as torch.nn.functional.conv1d and conv2d, with the module's padding mode."""
    if padding_mode not in ("zeros", "circular"):
        raise UnsupportedError(f"a convolution with padding_mode={padding_mode!r}")
    kind = gn.Conv2d if weight.ndim == 4 else gn.Conv1d
    return [kind(_required(weight), array_of(bias), stride, padding, padding_mode, dilation, groups)]


def _convolution_module(m: Any) -> list[Layer]:
    return convolution(m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups, m.padding_mode)


def batch_norm(
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> list[Layer]:
    """Batch norm, as torch.nn.functional.batch_norm."""
    moments = (None, None) if training else (array_of(running_mean), array_of(running_var))
    return [gn.BatchNorm(array_of(weight), array_of(bias), *moments, eps=eps, training=training)]


def _batch_norm_module(m: Any) -> list[Layer]:
    batch = m.training or m.running_mean is None
    return batch_norm(m.running_mean, m.running_var, m.weight, m.bias, batch, eps=m.eps)


def layer_norm(normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> list[Layer]:
    """Layer norm, as torch.nn.functional.layer_norm."""
    return [gn.LayerNorm(array_of(weight), array_of(bias), tuple(normalized_shape), eps=eps)]


def activation(name: str, slope: float = 0.01) -> list[Layer]:
    """An activation by gnfast's name."""
    return [gn.Activation(name, slope)]


def _elu(alpha: float = 1.0, inplace: bool = False) -> list[Layer]:
    if alpha != 1:
        raise UnsupportedError(f"elu with alpha={alpha}")
    return activation("elu")


def _gelu(approximate: str = "none") -> list[Layer]:
    return activation("gelu_tanh" if approximate == "tanh" else "gelu")


def _softplus(beta: float = 1, threshold: float = 20) -> list[Layer]:
    if beta != 1 or threshold < 20:
        raise UnsupportedError(f"softplus with beta={beta}, threshold={threshold}")
    return activation("softplus")


def _leaky_relu(negative_slope: float = 0.01, inplace: bool = False) -> list[Layer]:
    return activation("leaky_relu", negative_slope)


def dropout(p: float = 0.5, training: bool = True, inplace: bool = False) -> list[Layer]:
    """Nothing, where dropout does nothing."""
    if training and p > 0:
        raise UnsupportedError("dropout in training mode, which is random,", EVALUATE)
    return []


def flatten(start_dim: int = 0, end_dim: int = -1) -> list[Layer]:
    """All axes behind the samples' as one."""
    if start_dim != 1 or end_dim != -1:
        raise UnsupportedError(f"flatten from dimension {start_dim} to {end_dim}, not of all behind the first,")
    return [gn.Flatten()]


def _view(*sizes: Any, shape: Any = None) -> list[Layer]:
    """x.view(x.size(0), -1) and its spellings."""
    if shape is not None:  # by name
        sizes = (*sizes, shape)
    shape = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes
    if len(shape) == 2 and shape[1] == -1 and _is_count(shape[0]):
        return [gn.Flatten()]
    raise UnsupportedError("a reshape to anything but (n, -1)")


def _is_count(size: Any) -> bool:
    """The number of samples: x.size(0) or x.shape[0]."""
    if not isinstance(size, torch.fx.Node):
        return False
    if size.target == "size":
        return bool(size.args[1:] == (0,) or size.kwargs.get("dim") == 0)
    if size.target is not operator.getitem or size.args[1] != 0:
        return False
    whole = size.args[0]
    return whole.target is getattr or (whole.target == "size" and len(whole.args) == 1 and not whole.kwargs)


def average_pool(
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> list[Layer]:
    """Average pooling, as torch.nn.functional.avg_pool1d and avg_pool2d."""
    padded = any(padding) if isinstance(padding, tuple | list) else padding != 0
    if ceil_mode or divisor_override is not None or (padded and not count_include_pad):
        raise UnsupportedError("average pooling with ceil_mode, divisor_override or count_include_pad=False")
    return [gn.Pool("average", kernel_size, stride or None, padding)]


def max_pool(
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> list[Layer]:
    """Max pooling, as torch.nn.functional.max_pool1d and max_pool2d."""
    if ceil_mode or return_indices or dilation not in (1, (1,), (1, 1)):
        raise UnsupportedError("max pooling with ceil_mode, return_indices or a dilation")
    return [gn.Pool("max", kernel_size, stride or None, padding)]


def global_pool(output_size: Any) -> list[Layer]:
    """Adaptive pooling to one value a channel."""
    if output_size not in (1, (1,), (1, 1)):
        raise UnsupportedError(f"adaptive pooling to {output_size}, not to 1,")
    return [gn.Pool("global_average")]


def _contiguous(memory_format: Any = None) -> list[Layer]:
    return []


def _mean(dim: Any = None, keepdim: bool = False, dtype: Any = None) -> list[Layer]:
    """The mean over height and width of images."""
    if dtype is not None:
        raise UnsupportedError(f"a mean with dtype={dtype}")
    axes = sorted(axis % 4 for axis in dim) if isinstance(dim, tuple | list) and len(dim) == 2 else []
    if axes != [2, 3]:
        raise UnsupportedError(f"a mean over dimensions {dim}, not over (2, 3),")
    return [gn.Pool("global_average"), *([] if keepdim else [gn.Flatten()])]


def _pool_module(m: Any) -> list[Layer]:
    if isinstance(m, nn.MaxPool1d | nn.MaxPool2d):
        return max_pool(m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices)
    divisor = getattr(m, "divisor_override", None)
    return average_pool(m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, divisor)


# Exact types: a subclass may have a forward of its own.
MODULES: dict[type, Callable[[Any], list[Layer]]] = {
    nn.Linear: lambda m: linear(m.weight, m.bias),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d), _convolution_module),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), _batch_norm_module),
    nn.LayerNorm: lambda m: layer_norm(m.normalized_shape, m.weight, m.bias, m.eps),
    nn.ReLU: lambda m: activation("relu"),
    nn.LeakyReLU: lambda m: activation("leaky_relu", m.negative_slope),
    nn.ELU: lambda m: _elu(m.alpha),
    nn.GELU: lambda m: _gelu(m.approximate),
    nn.SiLU: lambda m: activation("silu"),
    nn.Tanh: lambda m: activation("tanh"),
    nn.Sigmoid: lambda m: activation("sigmoid"),
    nn.Softplus: lambda m: _softplus(m.beta, m.threshold),
    nn.Identity: lambda m: [],
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d), lambda m: dropout(m.p, m.training)),
    nn.Flatten: lambda m: flatten(m.start_dim, m.end_dim),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.MaxPool1d, nn.MaxPool2d), _pool_module),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), lambda m: global_pool(m.output_size)),
}


def _named(name: str) -> Callable[..., list[Layer]]:
    def make(inplace: bool = False) -> list[Layer]:
        return activation(name)

    return make


# Functions, and methods by their names; called with what follows the input.
CALLS: dict[Any, Callable[..., list[Layer]]] = {
    F.linear: linear,
    **dict.fromkeys((F.conv1d, F.conv2d, torch.conv1d, torch.conv2d), convolution),
    F.batch_norm: batch_norm,
    F.layer_norm: layer_norm,
    **{call: _named("relu") for call in (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")},
    **{call: _named("tanh") for call in (F.tanh, torch.tanh, torch.tanh_, "tanh", "tanh_")},
    **{call: _named("sigmoid") for call in (F.sigmoid, torch.sigmoid, torch.sigmoid_, "sigmoid", "sigmoid_")},
    F.silu: _named("silu"),
    F.leaky_relu: _leaky_relu,
    F.elu: _elu,
    F.gelu: _gelu,
    F.softplus: _softplus,
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d), dropout),
    **dict.fromkeys((torch.flatten, "flatten"), flatten),
    **dict.fromkeys(("view", "reshape", torch.reshape), _view),
    **dict.fromkeys((F.avg_pool1d, F.avg_pool2d), average_pool),
    **dict.fromkeys((F.max_pool1d, F.max_pool2d), max_pool),
    **dict.fromkeys((F.adaptive_avg_pool1d, F.adaptive_avg_pool2d), global_pool),
    **dict.fromkeys((torch.mean, "mean"), _mean),
    "contiguous": _contiguous,
}
RESHAPES = (_view,)  # the only ones that may ask for sizes
# Results that are the input itself, or a view of its memory.
SAME_MEMORY = {
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Flatten),
    *(F.dropout, F.dropout1d, F.dropout2d, torch.flatten, torch.reshape),
    *("flatten", "view", "reshape", "contiguous"),
}
