"""Every kind of layer: of the other dtype, at the end of a network for the bounds, pruned, and read from files."""

from __future__ import annotations

import json
import warnings

import numpy as np
import oracles
import pytest

import gnfast as gn
from gnfast._memory import megabytes


def ones(*shape, dtype="float32"):
    return np.ones(shape, dtype)


def eye(m, dtype="float32"):
    return np.eye(m, dtype=dtype)


MEAN, VAR = np.array([0.5, -1.0], "float32"), np.array([2.0, 0.3], "float32")
# Between a dense layer with two outputs and one with two inputs; without parameters, or with some.
BETWEEN = {
    "batch norm of statistics": gn.BatchNorm(mean=MEAN, var=VAR),
    "batch norm with a weight": gn.BatchNorm(MEAN, mean=MEAN, var=VAR),
    "batch norm with a bias": gn.BatchNorm(bias=MEAN, mean=MEAN, var=VAR),
    "batch norm with both": gn.BatchNorm(MEAN, VAR, MEAN, VAR),
    "batch norm, training": gn.BatchNorm(training=True),
    "batch norm, training, with statistics": gn.BatchNorm(mean=MEAN, var=VAR, training=True),
    "batch norm, training, with both": gn.BatchNorm(MEAN, VAR, training=True),
    "layer norm": gn.LayerNorm(),
    "layer norm of a shape": gn.LayerNorm(normalized_shape=2),
    "layer norm with a weight": gn.LayerNorm(MEAN),
    "layer norm with a bias": gn.LayerNorm(bias=MEAN),
    "scale": gn.Scale(0.3),
    "activation": gn.Activation("leaky_relu", 0.3),
    "identity": gn.Activation("identity"),
    "flatten": gn.Flatten(),
    "dense": gn.Dense(eye(2), MEAN, 0.5),
    "residual": gn.Residual([gn.BatchNorm(mean=MEAN, var=VAR)], [gn.Dense(eye(2))], 0.5),
    "residual of statistics": gn.Residual([gn.BatchNorm(mean=MEAN, var=VAR)], [gn.BatchNorm(mean=VAR, var=VAR)]),
    "nested residual": gn.Residual([gn.Residual([gn.BatchNorm(mean=MEAN, var=VAR), gn.Activation("tanh")])]),
}
# The same for images (1, 2, 3) that become (2, 2, 2).
IMAGES = {
    "statistics alone": [gn.Conv2d(ones(2, 1, 1, 2)), gn.BatchNorm(mean=MEAN, var=VAR)],
    "pools": [gn.Conv2d(ones(2, 1, 1, 2), MEAN), gn.Pool("max", (2, 1), 1), gn.BatchNorm(mean=MEAN, var=VAR)],
    "series": [gn.Conv2d(ones(2, 1, 2, 2)), gn.LayerNorm(normalized_shape=(2, 1, 2)), gn.Pool("global_average")],
}


@pytest.mark.parametrize("name", BETWEEN)
def test_any_layer_changes_its_dtype(name):
    W = np.random.default_rng(0).standard_normal((2, 3)).astype("float32")
    check_conversion(gn.Network([gn.Dense(W), BETWEEN[name], gn.Dense(eye(2))]), (3,))


@pytest.mark.parametrize("name", IMAGES)
def test_any_layer_of_images_changes_its_dtype(name):
    check_conversion(gn.Network([*IMAGES[name], gn.Flatten()]), (1, 2, 3))


def check_conversion(net, shape):
    X = np.random.default_rng(1).standard_normal((4, *shape)).astype("float32")
    double = net.with_parameters([array.astype("float64") for array in net.parameters()])
    for layer in gn.networks.traversal.flat_layers(double.layers):
        assert all(array.dtype == "float64" for array in layer.arrays().values())
    np.testing.assert_allclose(double(X.astype("float64")), net(X), rtol=2e-5, atol=2e-5)
    back = double.with_parameters([array.astype("float32") for array in double.parameters()])
    np.testing.assert_array_equal(back(X), net(X))
    pruned = gn.prune(net, 0.0)
    again = pruned.with_parameters([array.astype("float64") for array in pruned.parameters()])
    np.testing.assert_array_equal(again(X.astype("float64")), double(X.astype("float64")))
    with warnings.catch_warnings(action="ignore", category=gn.bounds.NoBoundWarning):
        gn.bounds.all(net, X)  # computes in float64


def test_the_walk_tells_names_shapes_and_places_of_parameters():
    """Compared with the network's own lists of parameters and its outputs, layer by layer."""
    inner = gn.Residual([gn.Conv2d(ones(2, 2, 1, 1), MEAN.copy())], [gn.BatchNorm(MEAN, VAR, MEAN, VAR)])
    around = gn.Residual([gn.Conv2d(ones(2, 1, 1, 2)), gn.Activation("tanh"), inner], [gn.Conv2d(ones(2, 1, 1, 2))])
    net = gn.Network([around, gn.Pool("max", (2, 1), 1), gn.Flatten(), gn.Dense(ones(3, 4), ones(3))])
    X = np.random.default_rng(1).standard_normal((4, 1, 2, 3)).astype("float32")
    steps = list(gn.networks.traversal.walk(net.layers, X.shape[1:]))
    assert [step.name for step in steps] == [
        *("layers.0.layers.0", "layers.0.layers.1", "layers.0.layers.2.layers.0", "layers.0.layers.2.shortcut.0"),
        *("layers.0.shortcut.0", "layers.1", "layers.2", "layers.3"),
    ]
    arrays = [array for step in steps for array in step.layer.parameters()]
    assert all(a is b for a, b in zip(arrays, net.parameters(), strict=True))
    ends = np.cumsum([0, *(sum(array.size for array in step.layer.parameters()) for step in steps)])
    assert [(step.first, step.size) for step in steps] == list(zip(ends[:-1], np.diff(ends), strict=True))
    for i, step in enumerate(steps[-3:], 1):
        for shape, upto in ((step.inputs, i), (step.outputs, i + 1)):
            assert gn.Network([*net.layers[:upto], gn.Flatten()])(X).shape[1:] == (np.prod(shape),)
    assert {step.outputs for step in steps[:5]} == {(2, 2, 2)}
    assert [step.inputs for step in steps[:5]] == [(1, 2, 3), *[(2, 2, 2)] * 3, (1, 2, 3)]


# ---------------------------------------------------------------------------------------------------- the last layer
W = np.random.default_rng(2).standard_normal((4, 2, 2))
ENDS = {
    "a factor beside a dense layer": [gn.Residual([gn.Scale(2.0)], [gn.Dense(W[0])])],
    "a dense layer beside a factor": [gn.Residual([gn.Dense(W[0])], [gn.Scale(2.0)])],
    "a block of a factor": [gn.Dense(W[0]), gn.Residual([gn.Scale(2.0)])],
    "a block of the identity": [gn.Dense(W[0]), gn.Residual([gn.Activation("identity")], scale=0.5)],
    "two blocks": [gn.Dense(W[0]), gn.Residual([gn.Scale(2.0)]), gn.Residual([gn.Scale(-0.5)], [gn.Scale(3.0)])],
    "nested blocks": [gn.Dense(W[0]), gn.Residual([gn.Residual([gn.Scale(2.0)]), gn.Dense(W[1])])],
    "a nested factor": [gn.Dense(W[0]), gn.Residual([gn.Residual([gn.Scale(2.0)])])],
    "a factor behind a block": [gn.Residual([gn.Dense(W[0]), gn.Dense(W[1])]), gn.Scale(3.0)],
    "both dense": [gn.Residual([gn.Dense(W[0])], [gn.Dense(W[1])])],
}


@pytest.mark.parametrize("name", ENDS)
def test_bounds_of_any_linear_end(name):
    net, X = gn.Network(ENDS[name]), np.random.default_rng(3).standard_normal((5, 2))
    assert net.out_features == 2
    w = oracles.nonzero(gn.GaussNewton(net, X).to_dense())
    bounds = gn.bounds.all(net, X)
    assert bounds
    for bound in bounds:
        assert bound.value >= w[-1] / w[0] * (1 - 1e-9), bound


def test_outputs_that_depend_on_the_samples():
    net = gn.Network([gn.BatchNorm(ones(2), ones(2), training=True)])
    with pytest.raises(ValueError, match="output_shape"):
        net.out_features  # noqa: B018
    with pytest.raises(ValueError, match="output_shape"):
        gn.Network([gn.Residual([gn.Conv1d(ones(1, 1, 1)), gn.Flatten()], [gn.Flatten()])]).out_features  # noqa: B018


# ---------------------------------------------------------------------------------------------------- pruning
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_scales_of_normalisations_are_never_pruned(scope):
    alone = [gn.BatchNorm(ones(2), ones(2), MEAN, VAR), gn.LayerNorm(ones(2)), gn.LayerNorm(ones(1, 2))]
    for layer in alone:
        with pytest.raises(ValueError, match="net has normalisations only"):
            gn.prune(gn.Network([layer]), 0.5, scope)
    with pytest.raises(ValueError, match="net has normalisations only"):
        gn.prune(gn.Network([gn.Residual([alone[0]])]), 0.5, scope)
    weight = np.array([[[1.0, 2.0]], [[3.0, 4.0]]], "float32")
    both = gn.Network([gn.Conv1d(weight), gn.LayerNorm(ones(2, 3) / 8, ones(2, 3) / 8), gn.Flatten()])
    pruned = gn.prune(both, 0.5, scope)
    np.testing.assert_array_equal(pruned.kept, [2, 3, *range(4, 16)])


# ---------------------------------------------------------------------------------------------------- files
def saved(path, layers, weight):
    torch, files = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    tensors = {"layers.0.weight": torch.ones(2, 2, dtype=getattr(torch, weight))}
    files.save_file(tensors, path, None if layers is None else {"gnfast": "1", "layers": layers})
    return path


DENSE = json.dumps([{"type": "dense", "bias": False, "skip": 0.0}])


@pytest.mark.parametrize(
    ("dtype", "name"), [("bfloat16", "BF16"), ("float16", "F16"), ("int64", "I64"), ("float8_e4m3fn", "F8_E4M3")]
)
def test_weights_of_other_dtypes(tmp_path, dtype, name):
    path = saved(tmp_path / "net.safetensors", DENSE, dtype)
    with pytest.raises(ValueError, match=rf"'layers.0.weight' in {name} but networks are in float32 or float64"):
        gn.load(path)
    # what the message says
    torch_files, st = pytest.importorskip("safetensors.torch"), pytest.importorskip("safetensors")
    with st.safe_open(path, "pt") as file:
        metadata = file.metadata()
    floats = {name: tensor.float() for name, tensor in torch_files.load_file(path).items()}
    torch_files.save_file(floats, path, metadata)
    np.testing.assert_array_equal(gn.load(path).parameters()[0], ones(2, 2))


def test_foreign_file_in_bfloat16(tmp_path):
    with pytest.raises(ValueError, match=r"safetensors.torch.load_file, each with .float\(\).numpy\(\)"):
        gn.load(saved(tmp_path / "net.safetensors", None, "bfloat16"))
    with pytest.raises(ValueError, match=r"safetensors.numpy.load_file"):
        gn.load(saved(tmp_path / "other.safetensors", None, "float16"))


@pytest.mark.parametrize("depth", [900, 5000, 100_000])
@pytest.mark.parametrize("kind", ["lists", "blocks"])
def test_deeply_nested_layers(tmp_path, depth, kind):
    head, tail = ("[", "]") if kind == "lists" else ('{"type": "residual", "layers": [', "]}")
    path = saved(tmp_path / "net.safetensors", "[" + head * depth + DENSE[1:-1] + tail * depth + "]", "float32")
    with pytest.raises(ValueError, match=r"damaged|too deeply"):
        gn.load(path)
    header = b'{"a":' * depth + b"1" + b"}" * depth
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="is no safetensors file or is damaged"):
        gn.load(path)


def test_bytes_for_people():
    expected = {0: "0 B", 12.4: "12 B", 999: "999 B", 1e3: "1.0 kB", 4.56e4: "45.6 kB"}
    expected |= {
        999_949: "999.9 kB",
        1e6: "1.0 MB",
        2.5e7: "25.0 MB",
        9.9996e8: "1.0 GB",
        1e9: "1.0 GB",
        1.5e13: "15000.0 GB",
    }
    assert {size: megabytes(size) for size in expected} == expected
