"""Long searches: interrupts that lose nothing, progress with residuals, checkpoints."""

from __future__ import annotations

import io
import itertools
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import scipy.sparse.linalg as sla
from problems import data, network
from spectra import SPECTRA, with_spectrum

import gnfast as gn
from gnfast.spectrum import checkpoints

SOLVERS = ("lanczos", "krylov", "davidson", "lobpcg")


def stubborn(size=400):
    """A flat spectrum, which takes tens of steps."""
    return with_spectrum(np.linspace(1, 2, size))


def stop_after(steps, of=("largest eigenvalues", "smallest eigenvalues", "eigenvalues of both ends")):
    """Ctrl-C after so many steps of the stages named."""
    count = itertools.count(1)

    def progress(stage, done, total):
        if stage in of and next(count) == steps:
            raise KeyboardInterrupt

    return progress


# ------------------------------------------------------------------------------------------------------- interrupts
@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("steps", [2, 9])
def test_an_interrupt_returns_the_best_so_far(steps, method):
    M = stubborn()
    with pytest.warns(gn.ConvergenceWarning, match=f"{method} was interrupted after .*: interrupted; the best pairs"):
        values, vectors, info = gn.eigsh(M, 3, method=method, progress=stop_after(steps), return_info=True)
    assert (info.converged, info.reason, info.passes) == (False, "interrupted", steps)
    assert values.shape == (3,)
    assert np.all((values > 1.5) & (values <= 2 + 1e-12))
    residuals = np.linalg.norm(M @ vectors - vectors * values, axis=0)
    np.testing.assert_allclose(residuals, info.residuals, rtol=1e-6, atol=1e-13)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("after", [5, 17])
def test_an_interrupt_inside_a_product_does_so_too(after, method):
    M, calls = stubborn(), itertools.count()

    def product(V):
        if next(calls) == after:
            raise KeyboardInterrupt
        return M @ V

    op = sla.LinearOperator(M.shape, matvec=product, matmat=product, dtype=M.dtype)
    with pytest.warns(gn.ConvergenceWarning, match="was interrupted"):
        values, vectors, info = gn.eigsh(op, 3, method=method, return_info=True)
    assert info.reason == "interrupted"
    residuals = np.linalg.norm(M @ vectors - vectors * values, axis=0)
    np.testing.assert_allclose(residuals, info.residuals, rtol=1e-6, atol=1e-13)


def test_an_interrupt_with_nothing_found_is_one():
    M = stubborn()

    def product(V):
        raise KeyboardInterrupt("at once")

    op = sla.LinearOperator(M.shape, matvec=lambda v: M @ v, matmat=lambda V: M @ V, dtype=M.dtype)
    calls = itertools.count()
    op._matmat = lambda V: M @ V if next(calls) == 0 else product(V)  # the check of symmetry passes
    with pytest.raises(KeyboardInterrupt):
        gn.eigsh(op, 3, method="lanczos")
    foreign = sla.LinearOperator(M.shape, matvec=product, matmat=product, dtype=M.dtype)
    with pytest.raises(KeyboardInterrupt, match="at once"):  # on its way through the core it stays what it was
        gn.eigsh(foreign, 3, method="lanczos")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_between_two_steps_of_the_core():
    """A signal while the core computes arrives at its next step."""
    M = stubborn()
    seen = []

    def progress(stage, done, total):
        seen.append(done)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.warns(gn.ConvergenceWarning, match="interrupted"):
        info = gn.eigsh(M, 3, method="lanczos", progress=progress, return_info=True)[2]
    assert info.reason == "interrupted"
    assert 3 <= info.passes <= 4


# --------------------------------------------------------------------------------------------------------- progress
@pytest.mark.parametrize("method", SOLVERS)
def test_progress_tells_the_residual(method, capsys):
    seen = []
    M = stubborn(200)
    info = gn.eigsh(M, 2, method=method, progress=lambda *step: seen.append(step), return_info=True)[2]
    assert {str(stage) for stage, _, _ in seen} == {"largest eigenvalues"}
    assert len(seen) == info.passes
    assert seen[-1][1] == info.products
    assert seen[-1][0].residual == pytest.approx(info.residuals.max())
    assert seen[-1][0].residual < 1e-3 * seen[0][0].residual
    gn.eigsh(M, 2, method=method, progress=True)
    assert f"{info.products} products, residual {info.residuals.max():.1e}" in capsys.readouterr().err
    gn.eigsh(M, 2, "BE", "lanczos", progress=lambda *step: seen.append(step))
    assert seen[-1][0] == "eigenvalues of both ends"


# ------------------------------------------------------------------------------------------------------ checkpoints
@pytest.fixture
def every_step(monkeypatch):
    monkeypatch.setattr(checkpoints, "EVERY", 0.0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("which", ["LA", "SA", "BE"])
@pytest.mark.parametrize("method", SOLVERS)
def test_a_search_goes_on_where_it_was(method, which, dtype, tmp_path, every_step):
    if (method == "krylov" and which == "SA") or (method in ("davidson", "lobpcg") and which == "BE"):
        pytest.skip("not for that end")
    M, path = stubborn().astype(dtype), tmp_path / "state.npz"
    M = (M + M.T) / 2
    whole, _, uncut = gn.eigsh(M, 3, which, method, return_info=True)
    stage = {"LA": "largest eigenvalues", "SA": "smallest eigenvalues", "BE": "eigenvalues of both ends"}[which]
    for stop in (3, 8, 2):  # counted anew in each call
        with pytest.warns(gn.ConvergenceWarning):
            _, _, part = gn.eigsh(
                M, 3, which, method, progress=stop_after(stop, (stage,)), checkpoint=path, return_info=True
            )
        assert path.exists()
    found, _, info = gn.eigsh(M, 3, which, method, checkpoint=path, return_info=True)
    assert info.passes > part.passes > 12
    np.testing.assert_array_equal(found, whole)  # to the last bit: nothing was lost and nothing done twice
    assert info.products == uncut.products
    assert not path.exists()
    assert not list(tmp_path.iterdir())


def test_a_killed_process_leaves_a_whole_state(tmp_path):
    path = tmp_path / "state.npz"
    script = """
        import os, sys
        import numpy as np
        import gnfast as gn
        from gnfast.spectrum import checkpoints
        from spectra import with_spectrum
        checkpoints.EVERY = 0.0
        M = with_spectrum(np.linspace(1, 2, 400))
        steps = []
        def progress(stage, done, total):
            steps.append(done)
            if len(steps) == 9:
                os._exit(9)
        gn.eigsh(M, 3, method="lanczos", checkpoint=sys.argv[1], progress=progress)
    """
    here = os.path.dirname(__file__)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(path)], cwd=here)
    assert done.returncode == 9
    M = stubborn()
    steps = []
    values, _, info = gn.eigsh(
        M, 3, method="lanczos", checkpoint=path, progress=lambda *step: steps.append(step), return_info=True
    )
    assert len(steps) == info.passes - 8  # the ninth step was not saved yet
    np.testing.assert_array_equal(values, gn.eigsh(M, 3, method="lanczos")[0])


def test_more_products_go_on_from_fewer(tmp_path):
    M, path = stubborn(), tmp_path / "state.npz"
    with pytest.warns(gn.ConvergenceWarning, match="max_products reached"):
        gn.eigsh(M, 3, method="lanczos", max_products=40, checkpoint=path)
    values, _, info = gn.eigsh(M, 3, method="lanczos", checkpoint=path, return_info=True)
    whole, _, uncut = gn.eigsh(M, 3, method="lanczos", return_info=True)
    np.testing.assert_array_equal(values, whole)
    assert info.products == uncut.products


def test_checkpoints_of_our_operators(tmp_path, every_step, monkeypatch):
    monkeypatch.setattr("gnfast.spectrum.matrices.DENSE_SIZE", 5)
    path = tmp_path / "state.npz"
    G = gn.GaussNewton(network([9, 40, 30, 4], "relu"), data(40, 9))
    ends = {"LA": "largest eigenvalues", "SA": "smallest eigenvalues"}
    for op, which in ((G, "LA"), (G.gram(), "SA")):
        expected = gn.eigsh(op, 3, which)[0]
        with pytest.warns(gn.ConvergenceWarning):
            gn.eigsh(op, 3, which, progress=stop_after(4, (ends[which],)), checkpoint=path)
        assert path.exists()
        np.testing.assert_allclose(gn.eigsh(op, 3, which, checkpoint=path)[0], expected, rtol=1e-9)


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path, every_step):
    M, path = stubborn(), tmp_path / "state.npz"

    def interrupted(**options):
        with pytest.warns(gn.ConvergenceWarning):
            gn.eigsh(M, 3, method="lanczos", checkpoint=path, progress=stop_after(5), **options)

    interrupted()
    whole = path.read_bytes()
    for k, options, message in (
        (4, {"method": "lanczos"}, "is of another search: its k is 3, not 4"),
        (3, {"method": "krylov"}, "its method is 'lanczos', not 'krylov'"),
        (3, {"method": "lanczos", "seed": 1}, "its seed is 0, not 1"),
        (3, {"method": "lanczos", "which": "SA"}, "its which is 'LA', not 'SA'"),
        (3, {"method": "lanczos", "block_size": 7}, "its block is 4, not 7"),
    ):
        with pytest.raises(ValueError, match=message):
            gn.eigsh(M, k, checkpoint=path, **options)
    with pytest.raises(ValueError, match="its operator gives another product with a fixed vector"):
        gn.eigsh(M + 1e-9 * np.eye(400), 3, method="lanczos", checkpoint=path)
    with pytest.raises(ValueError, match="its size is 400, not 97"):
        gn.eigsh(with_spectrum(SPECTRA["geometric"]), 3, method="lanczos", checkpoint=path)
    with pytest.raises(ValueError, match="its dtype is 'float64', not 'float32'"):
        gn.eigsh(M.astype("float32"), 3, method="lanczos", checkpoint=path)
    middle = len(whole) // 2
    for broken in (
        whole[:middle],
        whole[:-1],
        b"",
        b"nonsense",
        whole[:middle] + b"\0\1\2\3" * 9 + whole[middle + 36 :],
    ):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"is damaged or no checkpoint of gnfast .*; delete it to start anew"):
            gn.eigsh(M, 3, method="lanczos", checkpoint=path)
        assert path.read_bytes() == broken  # left for who wants to look
    with np.load(io.BytesIO(whole)) as file:
        parts = dict(file)
    parts["basis"] = parts["basis"][:-1]
    np.savez(path, **parts)
    with pytest.raises(ValueError, match=r"is damaged .*the saved state is of another search"):
        gn.eigsh(M, 3, method="lanczos", checkpoint=path)
    path.write_bytes(whole)
    gn.eigsh(M, 3, method="lanczos", checkpoint=path)
    assert not path.exists()


def test_checkpoints_that_cannot_be_kept(tmp_path):
    M = stubborn(60)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        gn.eigsh(M, 3, checkpoint=tmp_path / "absent" / "state.npz")
    with pytest.raises(PermissionError, match="cannot be written"):
        gn.eigsh(M, 3, checkpoint=tmp_path)
    with pytest.raises(TypeError, match="checkpoint is 3 but must be a string or a pathlib"):
        gn.eigsh(M, 3, checkpoint=3)
    for method in ("dense", "nystrom"):
        with pytest.raises(ValueError, match=f"method '{method}' keeps no checkpoint"):
            gn.eigsh(M, 3, method=method, checkpoint=tmp_path / "state.npz")
