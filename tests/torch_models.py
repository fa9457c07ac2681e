"""Modules of PyTorch and functions with whatever forward may do, each with samples: for products by autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils import parametrizations, prune

N = 5


def randn(*shape: int) -> Any:
    return torch.randn(N, *shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def integers(*shape: int, high: int = 6) -> Any:
    return torch.randint(0, high, (N, *shape), generator=torch.Generator().manual_seed(8))


class Call(nn.Module):
    """A function of its submodules and x as a module."""

    def __init__(self, function: Callable[..., Any], *parts: Any) -> None:
        super().__init__()
        self.parts, self.function = nn.ModuleList(parts), function

    def forward(self, x: Any) -> Any:
        return self.function(x, *self.parts)


class First(nn.Module):
    """The first of several results."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, *x: Any) -> Any:
        return self.body(*x)[0]


def _norm(module: nn.Module) -> nn.Module:
    """Running averages and scales that are not those of a new module."""
    torch.manual_seed(3)
    for name, tensor in [*module.named_buffers(), *module.named_parameters()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + 0.5 if name != "running_mean" else torch.randn_like(tensor)
    return module


def attention(**options: Any) -> nn.Module:
    return Call(
        lambda x, a: a(x, x, x, need_weights=False)[0], nn.MultiheadAttention(4, 2, batch_first=True, **options)
    )


def sdpa(**options: Any) -> nn.Module:
    def run(x: Any, q: Any, k: Any) -> Any:
        return F.scaled_dot_product_attention(q(x)[:, None], k(x)[:, None], x[:, None], **options)[:, 0]

    return Call(run, nn.Linear(4, 4), nn.Linear(4, 4))


def encoder(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True, **options)


def decoder() -> nn.Module:
    return Call(lambda x, d: d(x, 2 * x), nn.TransformerDecoderLayer(4, 2, 8, dropout=0.0, batch_first=True))


def loss(kind: Any, *targets: Any, **options: Any) -> nn.Module:
    """A loss at each sample as what a network gives."""
    criterion = kind(reduction="none", **options)

    def run(x: Any) -> Any:
        given = [y[: len(x)].to(x.dtype if y.is_floating_point() else y.dtype) for y in targets]
        return criterion(x, *given).reshape(len(x), -1)

    return Call(run)


def pairwise(kind: Any, number: int, signs: bool, **options: Any) -> nn.Module:
    """A loss of so many vectors a sample, the others made of the first, with signs as targets or none."""
    criterion = kind(reduction="none", **options)

    def run(x: Any) -> Any:
        parts = [x, torch.tanh(x).flip(1), x * x / 2][:number]
        parts = [part[:, 0] for part in parts] if kind is nn.MarginRankingLoss else parts
        given = [torch.where(torch.arange(len(x)) % 2 == 0, 1, -1).to(x.dtype)] if signs else []
        return criterion(*parts, *given).reshape(len(x), -1)

    return Call(run)


def ctc() -> nn.Module:
    """Of three steps of two classes and a blank each."""

    def run(x: Any) -> Any:
        steps = x.reshape(len(x), 2, 3).transpose(0, 1).log_softmax(2)
        lengths = torch.full((len(x),), 2), torch.full((len(x),), 1)
        return nn.CTCLoss(reduction="none")(steps, torch.ones(len(x), 1, dtype=torch.long), *lengths)[:, None]

    return Call(run)


class Lists(nn.Module):
    """Parameters in a list and in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.ParameterList([nn.Parameter(torch.randn(6, 6)) for _ in range(2)])
        self.named = nn.ParameterDict({"scale": torch.randn(6), "shift": torch.randn(6)})

    def forward(self, x: Any) -> Any:
        return torch.tanh(x @ self.rows[0]) @ self.rows[1] * self.named["scale"] + self.named["shift"]


def called(module: nn.Module, *shape: int) -> nn.Module:
    """A lazy module that has seen samples."""
    module.double()(randn(*shape))
    return module


def padded(x: Any, body: Any) -> Any:
    mask = torch.zeros(len(x), x.shape[1], dtype=torch.bool)
    mask[:, -1] = True
    return body(x, src_key_padding_mask=mask)


SEQ, IMG, SIG, VOL = (3, 4), (4, 4, 4), (4, 7), (2, 4, 4, 4)
# Modules for (n, 6) features: activations, norms and so on.
FLAT: dict[str, Callable[[], nn.Module]] = {
    **{
        f"{kind.__name__}{'(inplace)' if inplace else ''}": (
            lambda kind=kind, o=inplace: kind(inplace=True) if o else kind()
        )
        for kind in (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.SiLU, nn.Mish, nn.Hardtanh)
        for inplace in (False, True)
    },
    "Hardsigmoid(inplace)": lambda: nn.Hardsigmoid(inplace=True),
    "Hardswish(inplace)": lambda: nn.Hardswish(inplace=True),
    "Threshold(inplace)": lambda: nn.Threshold(0.1, 0.3, inplace=True),
    "RReLU eval": lambda: nn.RReLU().eval(),
    "RReLU eval (inplace)": lambda: nn.RReLU(inplace=True).eval(),
    "RReLU train": nn.RReLU,
    "Dropout train": nn.Dropout,
    "Hardsigmoid": nn.Hardsigmoid,
    "Hardswish": nn.Hardswish,
    "Hardshrink": nn.Hardshrink,
    "Softshrink": nn.Softshrink,
    "Tanhshrink": nn.Tanhshrink,
    "Softplus": lambda: nn.Softplus(2.0),
    "Softsign": nn.Softsign,
    "LogSigmoid": nn.LogSigmoid,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
    "GELU": nn.GELU,
    "GELU tanh": lambda: nn.GELU("tanh"),
    "GLU": nn.GLU,
    "PReLU": nn.PReLU,
    "PReLU(6)": lambda: nn.PReLU(6),
    "Softmax": lambda: nn.Softmax(1),
    "Softmin": lambda: nn.Softmin(1),
    "LogSoftmax": lambda: nn.LogSoftmax(1),
    "Softmax over the batch": lambda: nn.Softmax(0),
    "Identity": nn.Identity,
    "Dropout eval": lambda: nn.Dropout().eval(),
    "AlphaDropout eval": lambda: nn.AlphaDropout().eval(),
    "Linear": lambda: nn.Linear(6, 3),
    "Linear without bias": lambda: nn.Linear(6, 3, bias=False),
    "Bilinear": lambda: Call(lambda x, b: b(x, torch.tanh(x)), nn.Bilinear(6, 6, 3)),
    "BatchNorm1d eval": lambda: _norm(nn.BatchNorm1d(6)).eval(),
    "BatchNorm1d train": lambda: _norm(nn.BatchNorm1d(6)).train(),
    "BatchNorm1d without averages": lambda: nn.BatchNorm1d(6, track_running_stats=False),
    "LayerNorm": lambda: _norm(nn.LayerNorm(6)),
    "RMSNorm": lambda: _norm(nn.RMSNorm(6)),
    "GroupNorm": lambda: _norm(nn.GroupNorm(2, 6)),
    "LocalResponseNorm": lambda: nn.Sequential(nn.Unflatten(1, (6, 1)), nn.LocalResponseNorm(2), nn.Flatten()),
    "CosineSimilarity": lambda: Call(lambda x, c, a: c(x, a(x))[:, None], nn.CosineSimilarity(), nn.Linear(6, 6)),
    "PairwiseDistance": lambda: Call(lambda x, d, a: d(x, a(x))[:, None], nn.PairwiseDistance(), nn.Linear(6, 6)),
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(6, 3)),
    "weight_norm by hooks": lambda: nn.utils.weight_norm(nn.Linear(6, 3)),
    "spectral_norm eval": lambda: parametrizations.spectral_norm(nn.Linear(6, 3)).eval(),
    "spectral_norm by hooks, eval": lambda: nn.utils.spectral_norm(nn.Linear(6, 3)).eval(),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(6, 3)),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(6, 3), "weight", amount=0.4),
    **{
        kind.__name__: (lambda kind=kind, y=y: loss(kind, y))
        for kind, y in {
            nn.MSELoss: randn(6),
            nn.L1Loss: randn(6),
            nn.SmoothL1Loss: randn(6),
            nn.HuberLoss: randn(6),
            nn.KLDivLoss: randn(6).softmax(1),
            nn.PoissonNLLLoss: randn(6).abs(),
            nn.BCEWithLogitsLoss: randn(6).sigmoid(),
            nn.SoftMarginLoss: randn(6).sign(),
            nn.HingeEmbeddingLoss: randn(6).sign(),
            nn.CrossEntropyLoss: integers(),
            nn.NLLLoss: integers(),
            nn.MultiMarginLoss: integers(),
            nn.MultiLabelMarginLoss: integers(6) - 1,
            nn.MultiLabelSoftMarginLoss: (randn(6) > 0).double(),
        }.items()
    },
    "CrossEntropyLoss of probabilities, smoothed": lambda: loss(
        nn.CrossEntropyLoss, randn(6).softmax(1), label_smoothing=0.1
    ),
    "BCELoss": lambda: nn.Sequential(nn.Sigmoid(), loss(nn.BCELoss, randn(6).sigmoid())),
    "GaussianNLLLoss": lambda: loss(nn.GaussianNLLLoss, randn(6), randn(6).exp()),
    "CosineEmbeddingLoss": lambda: pairwise(nn.CosineEmbeddingLoss, 2, True),
    "MarginRankingLoss": lambda: pairwise(nn.MarginRankingLoss, 2, True),
    "TripletMarginLoss": lambda: pairwise(nn.TripletMarginLoss, 3, False),
    "TripletMarginWithDistanceLoss": lambda: pairwise(nn.TripletMarginWithDistanceLoss, 3, False),
    "CTCLoss": ctc,
    "ParameterList and ParameterDict": Lists,
    "ModuleDict": lambda: Call(
        lambda x, d: d["b"](torch.tanh(d["a"](x))), nn.ModuleDict({"a": nn.Linear(6, 4), "b": nn.Linear(4, 3)})
    ),
    "DataParallel": lambda: nn.DataParallel(nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))),
    "LazyLinear": lambda: called(nn.LazyLinear(3), 6),
    "LazyBatchNorm1d eval": lambda: called(nn.LazyBatchNorm1d(), 6).eval(),
    "SyncBatchNorm eval": lambda: _norm(nn.SyncBatchNorm(6)).eval(),
    "AdaptiveLogSoftmax": lambda: Call(lambda x, a: a.log_prob(x), nn.AdaptiveLogSoftmaxWithLoss(6, 5, [2])),
}
# (n, 4, 4, 4) images.
IMAGES: dict[str, Callable[[], nn.Module]] = {
    "Conv2d": lambda: nn.Conv2d(4, 3, 3, padding=1),
    "Conv2d strided, grouped, dilated": lambda: nn.Conv2d(4, 4, 2, stride=2, padding=1, groups=2, dilation=2),
    "Conv2d circular": lambda: nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular"),
    "Conv2d reflect": lambda: nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect"),
    "Conv2d replicate": lambda: nn.Conv2d(4, 2, 3, padding=1, padding_mode="replicate"),
    "Conv2d same": lambda: nn.Conv2d(4, 2, 2, padding="same"),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1),
    "MaxPool2d": lambda: nn.MaxPool2d(2),
    "MaxPool2d overlapping": lambda: nn.MaxPool2d(3, 1, 1),
    "AvgPool2d": lambda: nn.AvgPool2d(2, 1, 1, count_include_pad=False),
    "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d((3, 2)),
    "AdaptiveMaxPool2d": lambda: nn.AdaptiveMaxPool2d((3, 2)),
    "FractionalMaxPool2d": lambda: nn.FractionalMaxPool2d(1, output_size=(2, 3)),
    "LPPool2d": lambda: nn.LPPool2d(2, 2),
    "MaxUnpool2d": lambda: Call(lambda x, p, u: u(*p(x)), nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)),
    "BatchNorm2d eval": lambda: _norm(nn.BatchNorm2d(4)).eval(),
    "BatchNorm2d train": lambda: _norm(nn.BatchNorm2d(4)).train(),
    "InstanceNorm2d": lambda: _norm(nn.InstanceNorm2d(4, affine=True)),
    "InstanceNorm2d with averages, train": lambda: nn.InstanceNorm2d(4, track_running_stats=True).train(),
    "InstanceNorm2d with averages, eval": lambda: _norm(nn.InstanceNorm2d(4, track_running_stats=True)).eval(),
    "GroupNorm": lambda: _norm(nn.GroupNorm(2, 4)),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(2),
    "Dropout2d eval": lambda: nn.Dropout2d().eval(),
    "FeatureAlphaDropout eval": lambda: nn.FeatureAlphaDropout().eval(),
    "Softmax2d": nn.Softmax2d,
    "CrossMapLRN2d": lambda: nn.CrossMapLRN2d(3),
    "LazyConv2d": lambda: called(nn.LazyConv2d(3, 2), *IMG),
    "LazyConvTranspose2d": lambda: called(nn.LazyConvTranspose2d(2, 2), *IMG),
    "LazyBatchNorm2d train": lambda: called(nn.LazyBatchNorm2d(), *IMG),
    "LazyInstanceNorm2d": lambda: called(nn.LazyInstanceNorm2d(affine=True), *IMG),
    "weight_norm of a convolution": lambda: parametrizations.weight_norm(nn.Conv2d(4, 2, 3)),
    "pruned convolution": lambda: prune.ln_structured(nn.Conv2d(4, 3, 3), "weight", amount=1, n=2, dim=0),
    "PReLU(4)": lambda: nn.PReLU(4),
    "ChannelShuffle": lambda: nn.ChannelShuffle(2),
    "PixelShuffle": lambda: nn.PixelShuffle(2),
    "PixelUnshuffle": lambda: nn.PixelUnshuffle(2),
    "Upsample nearest": lambda: nn.Upsample(scale_factor=2),
    "Upsample bilinear": lambda: nn.Upsample(size=(5, 7), mode="bilinear"),
    "Upsample bicubic": lambda: nn.Upsample(scale_factor=1.5, mode="bicubic", align_corners=True),
    "UpsamplingNearest2d": lambda: nn.UpsamplingNearest2d(scale_factor=2),
    "UpsamplingBilinear2d": lambda: nn.UpsamplingBilinear2d(scale_factor=2),
    "ZeroPad2d": lambda: nn.ZeroPad2d((1, 0, 2, 0)),
    "ConstantPad2d": lambda: nn.ConstantPad2d(1, 0.5),
    "ReflectionPad2d": lambda: nn.ReflectionPad2d(2),
    "ReplicationPad2d": lambda: nn.ReplicationPad2d((1, 2, 0, 3)),
    "CircularPad2d": lambda: nn.CircularPad2d(2),
    "Unfold": lambda: nn.Unfold(2, padding=1),
    "Fold": lambda: nn.Sequential(nn.Flatten(2), nn.Fold((5, 5), 2), nn.Flatten()),
    "Flatten": nn.Flatten,
    "Unflatten": lambda: nn.Unflatten(1, (2, 2)),
    "grid_sample": lambda: Call(
        lambda x: F.grid_sample(x, torch.linspace(-1, 1, 24).to(x.dtype).reshape(1, 3, 4, 2).expand(len(x), 3, 4, 2))
    ),
    "depthwise ReLU6 block": lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.ReLU6(True), nn.Conv2d(4, 2, 1)),
}
SIGNALS: dict[str, Callable[[], nn.Module]] = {
    "Conv1d": lambda: nn.Conv1d(4, 3, 3, stride=2),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(4, 2, 3, stride=2),
    "MaxPool1d": lambda: nn.MaxPool1d(3, 2),
    "AvgPool1d": lambda: nn.AvgPool1d(3, 2),
    "AdaptiveAvgPool1d": lambda: nn.AdaptiveAvgPool1d(3),
    "AdaptiveMaxPool1d": lambda: nn.AdaptiveMaxPool1d(3),
    "LPPool1d": lambda: nn.LPPool1d(2, 3),
    "MaxUnpool1d": lambda: Call(lambda x, p, u: u(*p(x)), nn.MaxPool1d(2, return_indices=True), nn.MaxUnpool1d(2)),
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(4),
    "BatchNorm1d train": lambda: nn.BatchNorm1d(4).train(),
    "Dropout1d eval": lambda: nn.Dropout1d().eval(),
    "Upsample linear": lambda: nn.Upsample(scale_factor=2, mode="linear"),
    "ReflectionPad1d": lambda: nn.ReflectionPad1d(2),
    "ReplicationPad1d": lambda: nn.ReplicationPad1d(2),
    "CircularPad1d": lambda: nn.CircularPad1d(2),
    "ZeroPad1d": lambda: nn.ZeroPad1d(2),
    "ConstantPad1d": lambda: nn.ConstantPad1d((1, 2), 0.3),
    "LazyConv1d": lambda: called(nn.LazyConv1d(3, 2), *SIG),
    "LazyConvTranspose1d": lambda: called(nn.LazyConvTranspose1d(3, 2), *SIG),
    "LazyInstanceNorm1d": lambda: called(nn.LazyInstanceNorm1d(affine=True), *SIG),
}
VOLUMES: dict[str, Callable[[], nn.Module]] = {
    "Conv3d": lambda: nn.Conv3d(2, 2, 2, stride=2),
    "ConvTranspose3d": lambda: nn.ConvTranspose3d(2, 1, 2),
    "MaxPool3d": lambda: nn.MaxPool3d(2),
    "AvgPool3d": lambda: nn.AvgPool3d(2),
    "AdaptiveAvgPool3d": lambda: nn.AdaptiveAvgPool3d(2),
    "AdaptiveMaxPool3d": lambda: nn.AdaptiveMaxPool3d((2, 3, 2)),
    "FractionalMaxPool3d": lambda: nn.FractionalMaxPool3d(1, output_size=3),
    "LPPool3d": lambda: nn.LPPool3d(2, 2),
    "BatchNorm3d eval": lambda: _norm(nn.BatchNorm3d(2)).eval(),
    "InstanceNorm3d": lambda: nn.InstanceNorm3d(2),
    "Upsample trilinear": lambda: nn.Upsample(scale_factor=1.5, mode="trilinear"),
    "ReflectionPad3d": lambda: nn.ReflectionPad3d(1),
    "ReplicationPad3d": lambda: nn.ReplicationPad3d(1),
    "ConstantPad3d": lambda: nn.ConstantPad3d(1, 2.0),
    "ZeroPad3d": lambda: nn.ZeroPad3d(1),
    "CircularPad3d": lambda: nn.CircularPad3d(1),
    "MaxUnpool3d": lambda: Call(lambda x, p, u: u(*p(x)), nn.MaxPool3d(2, return_indices=True), nn.MaxUnpool3d(2)),
    "LazyConv3d": lambda: called(nn.LazyConv3d(2, 2), *VOL),
    "LazyConvTranspose3d": lambda: called(nn.LazyConvTranspose3d(1, 2), *VOL),
    "LazyBatchNorm3d eval": lambda: called(nn.LazyBatchNorm3d(), *VOL).eval(),
    "LazyInstanceNorm3d": lambda: called(nn.LazyInstanceNorm3d(affine=True), *VOL),
    "Dropout3d eval": lambda: nn.Dropout3d().eval(),
}
SEQUENCES: dict[str, Callable[[], nn.Module]] = {
    "RNN": lambda: First(nn.RNN(4, 3, batch_first=True)),
    "RNN relu, both ways": lambda: First(nn.RNN(4, 3, nonlinearity="relu", bidirectional=True, batch_first=True)),
    "LSTM": lambda: First(nn.LSTM(4, 3, batch_first=True)),
    "LSTM of two layers, projected": lambda: First(nn.LSTM(4, 4, 2, proj_size=2, batch_first=True)),
    "LSTM time first": lambda: First(nn.LSTM(4, 3)),
    "GRU": lambda: First(nn.GRU(4, 3, batch_first=True)),
    "GRU time first": lambda: First(nn.GRU(4, 3)),
    "RNNCell": lambda: Call(lambda x, c: c(x[:, 0]), nn.RNNCell(4, 3)),
    "LSTMCell": lambda: Call(lambda x, c: c(x[:, 0])[0], nn.LSTMCell(4, 3)),
    "GRUCell": lambda: Call(lambda x, c: c(x[:, 0], c(x[:, 1])), nn.GRUCell(4, 3)),
    "MultiheadAttention": attention,
    "MultiheadAttention eval": lambda: attention().eval(),
    "MultiheadAttention add_bias_kv": lambda: attention(add_bias_kv=True, add_zero_attn=True),
    "MultiheadAttention with weights": lambda: Call(
        lambda x, a: a(x, x, x)[0], nn.MultiheadAttention(4, 2, batch_first=True)
    ),
    "MultiheadAttention time first": lambda: Call(lambda x, a: a(x, x, x)[0], nn.MultiheadAttention(4, 2)),
    "scaled_dot_product_attention": sdpa,
    "scaled_dot_product_attention, causal": lambda: sdpa(is_causal=True),
    "TransformerEncoderLayer": encoder,
    "TransformerEncoderLayer eval": lambda: encoder().eval(),
    "TransformerEncoderLayer eval, gelu, norm first": lambda: encoder(activation="gelu", norm_first=True).eval(),
    "TransformerEncoder eval": lambda: nn.TransformerEncoder(encoder(), 2).eval(),
    "TransformerEncoder eval, padded": lambda: Call(padded, nn.TransformerEncoder(encoder(), 1)).eval(),
    "TransformerDecoderLayer": decoder,
    "Transformer": lambda: Call(
        lambda x, t: t(x, x), nn.Transformer(4, 2, 1, 1, 8, dropout=0.0, batch_first=True)
    ).eval(),
    "LayerNorm of two axes": lambda: nn.LayerNorm((3, 4)),
    "Embedding of rounded values": lambda: Call(
        lambda x, e: e((x.detach() * 2).long().clamp(0, 4)), nn.Embedding(5, 3)
    ),
}
TOKENS: dict[str, Callable[[], nn.Module]] = {
    "Embedding": lambda: nn.Embedding(6, 3),
    "Embedding padding_idx": lambda: nn.Embedding(6, 3, padding_idx=2),
    "Embedding scale_grad_by_freq": lambda: nn.Embedding(6, 3, scale_grad_by_freq=True),
    "Embedding sparse": lambda: nn.Embedding(6, 3, sparse=True),
    "Embedding max_norm": lambda: nn.Embedding(6, 3, max_norm=0.5),
    "EmbeddingBag mean": lambda: nn.EmbeddingBag(6, 3),
    "EmbeddingBag sum": lambda: nn.EmbeddingBag(6, 3, mode="sum"),
    "EmbeddingBag max": lambda: nn.EmbeddingBag(6, 3, mode="max"),
    "EmbeddingBag padding_idx": lambda: nn.EmbeddingBag(6, 3, padding_idx=1),
    "EmbeddingBag sparse": lambda: nn.EmbeddingBag(6, 3, sparse=True),
}
# Which must be refused, and why: all else must be right.
REFUSED = {
    "RReLU train": "gives other outputs when it is called again",
    "Dropout train": "dropout in training mode",
    "FractionalMaxPool2d": "random",
    "FractionalMaxPool3d": "random",
    "Embedding max_norm": "in place",
}


def _front(shape: tuple[int, ...]) -> nn.Module:
    """Layers before, so that what follows sees values that depend on parameters, and not the samples themselves."""
    if len(shape) == 1:
        return nn.Linear(shape[0], shape[0])
    if shape == SEQ:
        return nn.Linear(shape[-1], shape[-1])
    return {2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}[len(shape)](shape[0], shape[0], 1)


class Inside(nn.Module):
    """A module within a network: a layer before where inputs are floating, and two outputs."""

    def __init__(self, body: nn.Module, X: Any) -> None:
        super().__init__()
        self.front = _front(tuple(X.shape[1:])) if X.is_floating_point() else nn.Identity()
        self.body = body
        modes = [(child, child.training) for child in self.modules()]
        width = body(self.front(X)).flatten(1).shape[1]
        for child, mode in modes:
            child.training = mode
        self.last = nn.Linear(width, 2)

    def forward(self, x: Any) -> Any:
        return self.last(self.body(self.front(x)).flatten(1))


GROUPS = [(FLAT, randn(6)), (IMAGES, randn(*IMG)), (SIGNALS, randn(*SIG)), (VOLUMES, randn(*VOL))]
GROUPS += [(SEQUENCES, randn(*SEQ)), (TOKENS, integers(4))]
NAMES = [(name, i) for i, (group, _) in enumerate(GROUPS) for name in group]


def built(name: str, group: int, inside: bool, dtype: Any = torch.float64) -> tuple[nn.Module, Any]:
    """The module with its samples, alone or within a network."""
    torch.manual_seed(1)
    modules, X = GROUPS[group]
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        body = modules[name]()
        module = (Inside(body, X) if inside else body).to(dtype)
    finally:
        torch.set_default_dtype(default)
    return module, X.to(dtype) if X.is_floating_point() else X
