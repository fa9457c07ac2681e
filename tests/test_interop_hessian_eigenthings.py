"""The algorithms of pytorch-hessian-eigenthings on our operators, beside their own."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("curvlinops")
theirs = pytest.importorskip("hessian_eigenthings")

from hessian_eigenthings.operators import CurvatureOperator, GGNOperator  # noqa: E402
from risks import batches, dense  # noqa: E402

import gnfast as gn  # noqa: E402
from gnfast.interop.hessian_eigenthings import GaussNewtonOperator, Operator  # noqa: E402

nn = torch.nn


def readme_model() -> tuple[nn.Module, list[tuple]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 1)).to(torch.float64)
    x, y = torch.randn(128, 20, dtype=torch.float64), torch.randn(128, 1, dtype=torch.float64)
    return model, [(x[i : i + 32], y[i : i + 32]) for i in range(0, 128, 32)]


def test_the_example_of_their_readme() -> None:
    model, data = readme_model()
    ours = GaussNewtonOperator(model, data, nn.MSELoss())
    mse = theirs.supervised_loss_of_output(nn.functional.mse_loss)
    other = GGNOperator(model, data, theirs.supervised_forward, mse)
    assert isinstance(ours, CurvatureOperator) and "gnfast's engine" in repr(ours)
    assert (ours.size, ours.dtype, ours.device) == (other.size, other.dtype, other.device)
    v = torch.randn(ours.size, dtype=torch.float64)
    torch.testing.assert_close(ours @ v, other @ v, rtol=1e-10, atol=1e-12)
    a, b = (theirs.lanczos(operator, k=5, seed=0) for operator in (ours, other))
    torch.testing.assert_close(a.eigenvalues, b.eigenvalues, rtol=1e-8, atol=0)
    a, b = (theirs.trace(operator, num_matvecs=99, seed=0) for operator in (ours, other))
    assert a.estimate == pytest.approx(b.estimate, rel=1e-8)
    a, b = (theirs.spectral_density(operator, num_runs=2, lanczos_steps=20, seed=0) for operator in (ours, other))
    torch.testing.assert_close(a.density, b.density, rtol=1e-5, atol=1e-6 * float(b.density.max()))
    a, b = (theirs.deflated_power_iteration(operator, k=2, seed=0) for operator in (ours, other))
    torch.testing.assert_close(a.eigenvalues, b.eigenvalues, rtol=1e-8, atol=0)


def test_any_operator_of_ours() -> None:
    model, data = readme_model()
    X = torch.cat([X for X, _ in data]).numpy()
    G = gn.GaussNewton(gn.from_torch(model), X)
    top = gn.eigsh(G, k=3, return_eigenvectors=False)
    for operator in (Operator(G), Operator(G.gram()), Operator(G.gram().to_dense())):
        assert isinstance(operator, CurvatureOperator)
        options = dict(k=3, max_iter=60, tol=1e-10, reorthogonalize=True, seed=1)
        found = theirs.lanczos(operator, **options).eigenvalues.numpy()
        assert np.allclose(np.sort(found), np.sort(top), rtol=1e-8)
    narrow = gn.GaussNewton(gn.from_torch(dense([6, 7, 3], dtype=torch.float32)), X[:5, :6].astype(np.float32))
    assert Operator(narrow).dtype == torch.float32
    assert (Operator(narrow) @ torch.ones(narrow.shape[0])).dtype == torch.float32
    with pytest.raises(ValueError, match="not symmetric"):
        Operator(np.arange(4.0).reshape(2, 2))


def test_their_route_where_the_engine_does_not_take_it() -> None:
    operator = GaussNewtonOperator(dense([6, 3]), batches((6,), 3, "values"), nn.SmoothL1Loss())
    assert "curvlinops' own" in repr(operator)
    assert theirs.trace(operator, num_matvecs=9, seed=0).estimate > 0
