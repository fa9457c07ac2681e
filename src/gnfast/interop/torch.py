"""PyTorch: Gauss-Newton operators of any module or function, by automatic differentiation."""

from gnfast import _checks

_checks.optional_import("torch", "gnfast.interop.torch", "torch")

from gnfast.interop._gauss_newton import AutogradPlan, GaussNewton, Gram  # noqa: E402  (which need it)
from gnfast.interop._graphs import from_torch  # noqa: E402
from gnfast.interop._monitor import Curvature, CurvatureMonitor  # noqa: E402

__all__ = ["AutogradPlan", "Curvature", "CurvatureMonitor", "GaussNewton", "Gram", "from_torch"]
