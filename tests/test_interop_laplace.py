"""Laplace's own functions with our backend, beside theirs.

Their models and data are those of Laplace's own tests of its backends and of its regression example.
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("curvlinops")
theirs = pytest.importorskip("laplace")

from laplace import Laplace, marglik_training  # noqa: E402
from laplace.curvature import BackPackGGN, CurvatureInterface, CurvlinopsGGN  # noqa: E402
from risks import convolutional, dense, same  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

import gnfast.interop.laplace as bridge  # noqa: E402
from gnfast.interop.laplace import FunctionalLaplace, GnfastGGN  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
KINDS = ["regression", "classification"]


def model_of_their_tests() -> nn.Module:
    torch.manual_seed(711)
    return nn.Sequential(nn.Linear(3, 20), nn.Tanh(), nn.Linear(20, 2)).double()


def batch(kind: str, n: int = 10, d: int = 3, k: int = 2) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(711)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64)
    if kind == "regression":
        return X, torch.randn(n, k, generator=generator, dtype=torch.float64)
    return X, torch.randint(k, (n,), generator=generator)


def loader(kind: str) -> DataLoader:
    return DataLoader(TensorDataset(*batch(kind)), batch_size=3)


def both(kind: str, structure: str, **options: Any) -> list[Any]:
    """The same approximation with our backend and with theirs, fitted."""
    found = []
    for backend in (GnfastGGN, CurvlinopsGGN):
        la = Laplace(model_of_their_tests(), kind, "all", structure, backend=backend, **options)
        la.fit(loader(kind))
        found.append(la)
    return found


def evidence(la: Any) -> float:
    return float(la.log_marginal_likelihood().sum().detach())


# ---------------------------------------------------------------------------------------------- the backend itself
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("Theirs", [CurvlinopsGGN, BackPackGGN])
def test_matrix_diagonal_and_jacobians_are_theirs(Theirs: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "SAMPLES", 4)  # several blocks, the last one smaller
    X, y = batch(kind)
    ours = GnfastGGN(model_of_their_tests(), kind)
    assert "gnfast's engine" in repr(ours)

    def other() -> Any:
        model = model_of_their_tests()  # a new one each time: BackPACK's class leaves its hooks in it
        model.output_size = 2
        return Theirs(model, kind)

    # CurvlinopsGGN.full multiplies by an identity in float32, hence its rounding
    for method, accuracy in (("full", 1e-6), ("diag", 1e-12)):
        for a, b in zip(getattr(ours, method)(X, y), getattr(other(), method)(X, y), strict=True):
            same(a, b, accuracy)
    for a, b in zip(ours.jacobians(X), other().jacobians(X), strict=True):
        same(a, b, 1e-12)
    chosen = torch.arange(len(X)) % 2
    for outputs in (chosen, torch.stack([chosen, 1 - chosen], dim=1)):
        given = ours.selected_output_jacobians(X, outputs), other().selected_output_jacobians(X, outputs)
        for a, b in zip(*given, strict=True):
            same(a, b.detach(), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_single_precision(kind: str) -> None:
    model = convolutional().float()
    X = torch.randn(5, 2, 6, 6)
    y = torch.randint(3, (5,)) if kind == "classification" else torch.randn(5, 3)
    ours, other = GnfastGGN(model, kind), CurvlinopsGGN(model, kind)
    assert "gnfast's engine" in repr(ours)
    for a, b in zip(ours.full(X, y) + ours.diag(X, y), other.full(X, y) + other.diag(X, y), strict=True):
        same(a, b, 1e-5)
    for a, b in zip(ours.jacobians(X), other.jacobians(X), strict=True):
        same(a, b, 1e-5)


def test_parameters_that_change_are_followed() -> None:
    X, _ = batch("regression")
    model = model_of_their_tests()
    ours, other = GnfastGGN(model, "regression"), CurvlinopsGGN(model, "regression")
    same(ours.jacobians(X)[0], other.jacobians(X)[0], 1e-12)
    nn.utils.vector_to_parameters(2 * nn.utils.parameters_to_vector(model.parameters()).detach(), model.parameters())
    same(ours.jacobians(X)[0], other.jacobians(X)[0], 1e-12)
    with torch.no_grad():
        model[0].bias.add_(1)
    same(ours.jacobians(X)[0], other.jacobians(X)[0], 1e-12)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.linear(x))


def test_their_route_where_the_engine_does_not_take_it() -> None:
    X, y = batch("regression")
    odd = Odd()
    ours, other = GnfastGGN(odd, "regression"), CurvlinopsGGN(odd, "regression")
    assert "Laplace's own" in repr(ours) and "sin" in repr(ours)
    for method in ("full", "diag"):
        for a, b in zip(getattr(ours, method)(X, y), getattr(other, method)(X, y), strict=True):
            assert torch.equal(a, b)
    assert torch.equal(ours.jacobians(X)[0], other.jacobians(X)[0])
    # what is asked for is theirs, the model is not odd
    model = model_of_their_tests()
    X.requires_grad_()
    assert GnfastGGN(model, "regression").jacobians(X, enable_backprop=True)[0].requires_grad
    normed = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    a, b = (Backend(normed, "regression").jacobians(X.detach())[0] for Backend in (GnfastGGN, CurvlinopsGGN))
    assert torch.equal(a, b)
    torch.manual_seed(0)
    _, a = GnfastGGN(model, "regression", stochastic=True).full(X.detach(), y)
    torch.manual_seed(0)
    _, b = CurvlinopsGGN(model, "regression", stochastic=True).full(X.detach(), y)
    assert torch.equal(a, b)


def test_the_model_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def counted(*given: Any) -> Any:
        reads.append(given)
        return network_of(*given)

    network_of = bridge.network_of
    monkeypatch.setattr(bridge, "network_of", counted)
    X, y = batch("regression")
    ours = GnfastGGN(model_of_their_tests(), "regression")
    for _ in range(2):
        ours.full(X, y)
        ours.diag(X, y)
        ours.jacobians(X)
    assert len(reads) == 1


def test_selectors_of_another_length_are_refused() -> None:
    X, _ = batch("regression")
    with pytest.raises(ValueError, match="outputs has 3 rows"):
        GnfastGGN(model_of_their_tests(), "regression").selected_output_jacobians(X, torch.zeros(3, dtype=torch.long))


# ------------------------------------------------------------------------------------------------ through Laplace
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("structure", ["full", "diag", "kron"])
def test_posterior_evidence_and_predictions_are_theirs(structure: str, kind: str) -> None:
    ours, other = both(kind, structure)
    X = batch(kind)[0][:4] + 0.3
    assert evidence(ours) == pytest.approx(evidence(other), rel=1e-6)
    for la in (ours, other):
        la.optimize_prior_precision(method="marglik", n_steps=10)
    assert float(ours.prior_precision) == pytest.approx(float(other.prior_precision), rel=1e-5)
    given = (ours(X), other(X)) if kind == "regression" else ([ours(X)], [other(X)])
    for a, b in zip(*given, strict=True):
        same(a, b, 1e-5)
    assert ours._backend_cls is GnfastGGN and isinstance(ours.backend, CurvatureInterface)


def test_a_subnetwork() -> None:
    chosen = torch.tensor([2, 5, 70, 81])
    found = []
    for backend in (GnfastGGN, CurvlinopsGGN):
        options = dict(backend=backend, subnetwork_indices=chosen)
        la = Laplace(model_of_their_tests(), "classification", "subnetwork", "full", **options)
        la.fit(loader("classification"))
        found.append(la.posterior_precision)
    same(*found, 1e-10)


def test_the_last_layer() -> None:
    found = []
    for backend in (GnfastGGN, CurvlinopsGGN):
        la = Laplace(model_of_their_tests(), "regression", "last_layer", "full", backend=backend)
        la.fit(loader("regression"))
        found.append(la.posterior_precision)
    assert "last layer" in repr(GnfastGGN(la.model, "regression", last_layer=True))
    same(*found, 1e-10)


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_functional_posterior_is_theirs(kind: str, independent: bool) -> None:
    options = dict(n_subset=8, independent_outputs=independent, seed=3)
    ours = FunctionalLaplace(model_of_their_tests(), kind, **options)
    other = theirs.FunctionalLaplace(model_of_their_tests(), kind, backend=CurvlinopsGGN, **options)
    ours.fit(loader(kind))
    other.fit(loader(kind))
    assert isinstance(ours.backend, GnfastGGN) and "gnfast's engine" in repr(ours.backend)
    X = batch(kind)[0][:4] + 0.3
    given = (ours(X), other(X)) if kind == "regression" else ([ours(X)], [other(X)])
    for a, b in zip(*given, strict=True):
        same(a, b, 1e-8)
    assert evidence(ours) == pytest.approx(evidence(other), rel=1e-8)
    # Laplace() goes on finding its own class
    found = Laplace(model_of_their_tests(), kind, "all", "gp", n_subset=8)
    assert type(found) is theirs.FunctionalLaplace


def test_the_nystrom_approximation_takes_our_backend() -> None:
    found = []
    for backend in (GnfastGGN, CurvlinopsGGN):
        options = dict(functional_approximation="nystrom", backend=backend, subsample_size=8, n_eigenvalues=5)
        la = Laplace(model_of_their_tests(), "regression", "all", "gp", **options)
        la.fit(loader("regression"))
        found.append(la(batch("regression")[0][:4]))
    for a, b in zip(*found, strict=True):
        same(a, b, 1e-8)


def test_their_regression_example() -> None:
    """examples/regression_example.py, shortened, its backend changed."""
    generator = torch.Generator().manual_seed(711)
    X = (torch.rand(150, generator=generator) * 8).unsqueeze(-1)
    y = torch.sin(X) + 0.3 * torch.randn(X.shape, generator=generator)
    train = DataLoader(TensorDataset(X, y), batch_size=150)
    found = []
    for backend in (GnfastGGN, CurvlinopsGGN):
        model = dense([1, 50, 1], nn.Tanh, torch.float32)
        la = Laplace(model, "regression", subset_of_weights="all", hessian_structure="full", backend=backend)
        la.fit(train)
        log_prior, log_sigma = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
        optimizer = torch.optim.Adam([log_prior, log_sigma], lr=1e-1)
        for _ in range(10):
            optimizer.zero_grad()
            loss = -la.log_marginal_likelihood(log_prior.exp(), log_sigma.exp())
            loss.backward()
            optimizer.step()
        mean, variance = la(X[:7])
        joint_mean, covariance = la(X[:7], joint=True)
        assert torch.allclose(mean.flatten(), joint_mean)
        assert torch.allclose(variance.flatten(), covariance.diag(), rtol=1e-3)
        found.append((mean, variance, la.sigma_noise, la.prior_precision))
    for a, b in zip(*found, strict=True):
        same(a.detach(), b.detach(), 1e-3)  # float32, through a Cholesky factor of a matrix with kappa 1e4


def test_training_by_the_marginal_likelihood() -> None:
    found = []
    for backend in (GnfastGGN, CurvlinopsGGN):
        torch.manual_seed(0)
        options = dict(backend=backend, n_epochs=3, optimizer_kwargs={"lr": 1e-2}, prior_structure="scalar")
        la, *_ = marglik_training(
            model_of_their_tests(), loader("regression"), likelihood="regression", hessian_structure="full", **options
        )
        found.append(la.posterior_precision)
    same(*found, 1e-5)
