"""What the Gram of a PyTorch model tells without products: its diagonal, its null space, its preconditioner."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gnfast as gn

torch = pytest.importorskip("torch")
nn = torch.nn

import oracles  # noqa: E402
from test_interop_torch import OUTPUTS, N, block, close, conv_net, explicit, images  # noqa: E402

from gnfast.interop.torch import GaussNewton  # noqa: E402


class Branching(nn.Module):
    """What vmap cannot take."""

    def forward(self, x: Any) -> Any:
        return x if bool((x > -1e9).all()) else -x


def branching_net() -> Any:
    return nn.Sequential(nn.Flatten(), nn.Linear(60, 4), Branching(), nn.Tanh(), nn.Linear(4, OUTPUTS)).double()


# Without a limit, with samples that depend on each other, in several steps, and sample by sample.
CASES = [("eval", None), ("train", None), ("eval", 2e5), ("branching", None)]


def gram_of(kind: str, limit: float | None) -> tuple[Any, np.ndarray]:
    module = branching_net() if kind == "branching" else conv_net(kind)
    _, J = explicit(module, images())
    return GaussNewton(module, None, images(), "mse", memory_limit=limit).gram(), J @ J.T / N


@pytest.mark.parametrize(("kind", "limit"), CASES)
def test_diagonal(kind: str, limit: float | None) -> None:
    K, exact = gram_of(kind, limit)
    found, trace = gn.diagonal(K), gn.trace(K)
    assert found.exact and trace.exact
    assert found.products == trace.products == (len(exact) if kind == "train" else 0), "coupled samples have no rows"
    assert close(found.values, exact.diagonal())
    assert trace.value == pytest.approx(np.trace(exact), rel=1e-11)


@pytest.mark.parametrize(("kind", "limit"), CASES)
def test_preconditioner_is_the_inverse_of_the_mean_over_outputs(kind: str, limit: float | None) -> None:
    K, exact = gram_of(kind, limit)
    mean = np.einsum("iaja->ij", exact.reshape(N, OUTPUTS, N, OUTPUTS)) / OUTPUTS
    V = block(len(exact))
    if np.linalg.eigvalsh(mean)[0] < 1e-12 * np.trace(mean):  # batch norm: the outputs' mean over samples is fixed
        assert K.preconditioner() is None
        return
    assert close(K.preconditioner() @ V, np.kron(np.linalg.inv(mean), np.eye(OUTPUTS)) @ V, 1e-8)


def test_condition_numbers_where_the_dual_may_not_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gnfast.spectrum.matrices.DENSE_SIZE", 5)
    monkeypatch.setattr("gnfast.spectrum.matrices.STORED_SIZE", 10)
    K, exact = gram_of("eval", None)
    values = oracles.spectrum(exact)
    found = gn.cond(K)
    assert "wide-limit preconditioner" in found.method and not K.stored
    assert found.lower <= values[-1] / values[0] * (1 + 1e-9) and found.value == pytest.approx(values[-1] / values[0])


def test_what_the_sizes_alone_make_zero_is_no_cut() -> None:
    module, X = nn.Linear(2, 2, dtype=torch.float64), images().flatten(1)[:, :2]
    K = GaussNewton(module, None, X, "mse").gram()
    assert (K.shape[0], K.parameters, K.known_nullity) == (2 * N, 6, 2 * N - 6)
    assert "count as zero" not in gn.cond(K).upper_from
    assert "count as zero" in gn.cond(K.to_dense()).upper_from, "an array does not tell"


def test_restrict_is_the_adjoint_of_lift() -> None:
    K, _ = gram_of("eval", None)
    Y, V = block(K.shape[0], 2), block(K.parameters, 2)
    assert close(K.lift(Y).T @ V, Y.T @ K.restrict(np.ascontiguousarray(V.T)).T)


def test_a_tracker_starts_from_parameters() -> None:
    module, tracker = conv_net(), gn.Tracker(top=2)
    for n in (N, N - 1):  # other samples, whose dual is smaller: eigenvectors of the samples would be of no use
        values = tracker.update(GaussNewton(module, None, images()[:n]))
        _, J = explicit(module, images()[:n])
        assert close(values, oracles.spectrum(J @ J.T / n)[-2:], 1e-7)
    assert [step.warm for step in tracker.history] == [False, True]


def test_it_is_formed_where_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    K, _ = gram_of("eval", None)
    formed: list[int] = []
    form = type(K).form
    monkeypatch.setattr(type(K), "form", lambda self, *args: formed.append(1) or form(self, *args))
    many = gn.density(K, probes=6, steps=12)
    assert formed and not K.stored, "for this computation only"
    formed.clear()
    gn.density(K, probes=2, steps=2)
    assert not formed, "four products do not pay for it"
    monkeypatch.setattr(type(K), "costs", lambda self: None)
    np.testing.assert_allclose(gn.density(K, probes=6, steps=12).nodes, many.nodes, atol=1e-10 * many.nodes.max())
    assert not formed
