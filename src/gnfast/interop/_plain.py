"""A module or function of PyTorch as it stands, by plain reverse mode: its outputs and J^T u as training computes them.

Nothing here uses `torch.func`, replaces a parameter that takes part, or leaves a trace: what other routes give is
compared with it.
"""

from __future__ import annotations

import collections
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed
MUTABLE = (list, dict, set, collections.deque)


def eagerly() -> contextlib.AbstractContextManager[None]:
    """A context in which compiled code runs as it was written: compiled backward passes reuse what several need."""
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        return contextlib.nullcontext()
    stance: contextlib.AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


@contextlib.contextmanager
def left_alone(module: Any) -> Iterator[list[Any]]:
    """Put back what forward or a hook assigns to modules, and the contents of their lists, dicts and sets.

    In here it may be a value of a transform, or of a graph that is traced. Gives the dicts, lists and sets.
    """
    found = _containers(module)
    before = [(container, _copy(container)) for container in found]
    try:
        yield found
    finally:
        for container, content in before:
            _restore(container, content)


@contextlib.contextmanager
def at_rest(module: Any, instead: Mapping[int, Tensor] | None = None) -> Iterator[None]:
    """Call the module in here as often as is wanted: afterwards it is as it was, whatever forward or a hook did.

    Beyond `left_alone`, buffers and other tensors that are no parameters are replaced by copies, so that a call that
    writes to them (running averages) writes to no one's. So are the tensors whose ids `instead` has, by those that it
    names, wherever the module holds them: under two names, in the list that recurrent layers keep beside, in submodules
    that are shared.
    """
    new = dict(instead or {})
    alive = []  # an id must not be given out again

    def other(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if id(value) not in new and not isinstance(value, torch.nn.Parameter):
                new[id(value)] = value.clone()
            alive.append(value)
            return new.get(id(value), value)
        if type(value) is tuple:
            parts = tuple(other(part) for part in value)
            return parts if any(a is not b for a, b in zip(parts, value, strict=True)) else value
        return value

    with left_alone(module) as found:
        for container in found:
            if isinstance(container, dict):
                places = list(container.items())
            else:
                places = list(enumerate(container)) if isinstance(container, list | collections.deque) else []
            for key, value in places:
                if (swapped := other(value)) is not value:
                    container[key] = swapped
        yield


def _containers(module: Any) -> list[Any]:
    """Dicts, lists and sets that the module and those in it hold, each once; modules in plain lists count, too."""
    found: dict[int, Any] = {}

    def walk(value: Any) -> None:
        if isinstance(value, torch.nn.Module):
            value = vars(value)
        if type(value) is tuple:
            for part in value:
                walk(part)
        elif isinstance(value, MUTABLE) and id(value) not in found:
            found[id(value)] = value
            for part in value.values() if isinstance(value, dict) else value:
                walk(part)

    walk(module)
    return list(found.values())


def _copy(container: Any) -> list[Any]:
    """Values, keys among them."""
    return [part for pair in container.items() for part in pair] if isinstance(container, dict) else list(container)


def _restore(container: Any, content: list[Any]) -> None:
    now = _copy(container)
    if len(now) == len(content) and all(a is b for a, b in zip(now, content, strict=True)):
        return
    container.clear()
    if isinstance(container, dict):
        for key, value in zip(content[::2], content[1::2], strict=True):
            container[key] = value
    else:
        (container.update if isinstance(container, set) else container.extend)(content)


class Plain:
    """F as it stands, and J^T u by `torch.autograd.grad`.

    Args:
        forward: X -> outputs (n, ...), reading `leaves`.
        leaves: The tensors that are differentiated, leaves of PyTorch's graph; those that require no gradient do so
            while this works.
        module: What `forward` calls, if it is a module: it is left as it was.
        instead: As in `at_rest`.

    Attributes:
        draws: Whether a call so far has drawn random numbers, whose state is left as it was.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        leaves: Sequence[Tensor],
        module: Any = None,
        instead: Mapping[int, Tensor] | None = None,
    ) -> None:
        self._forward, self.leaves, self._module, self._instead = forward, list(leaves), module, instead
        self.draws = False

    @contextlib.contextmanager
    def working(self, instead: Mapping[int, Tensor] | None = None) -> Iterator[None]:
        """Around calls of `graph` and all that is done with its outputs; `instead` as in `at_rest`, besides."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(eagerly())
            if self._module is not None:
                stack.enter_context(at_rest(self._module, {**(self._instead or {}), **(instead or {})}))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            frozen = [leaf for leaf in self.leaves if not leaf.requires_grad]
            on = self.leaves[0].device
            state = _random_state(on)
            try:
                for leaf in frozen:
                    leaf.requires_grad_(True)
                yield
            finally:
                for leaf in frozen:
                    leaf.requires_grad_(False)
                if not torch.equal(state, _random_state(on)):
                    self.draws = True
                    (torch.cuda.set_rng_state(state, on) if on.type == "cuda" else torch.set_rng_state(state))

    def call(self, X: Tensor) -> Tensor:
        """The outputs (n, ...) that remember how they were made."""
        return self._forward(X)

    def graph(self, X: Tensor) -> Tensor:
        """The same as (n, k)."""
        out = self.call(X)
        return out.reshape(len(out), -1)

    def pulled(self, X: Tensor, cotangents: Sequence[Tensor] | Callable[[Tensor], Sequence[Tensor]]) -> Any:
        """Outputs (n, k) and, for each cotangent u (n, k), J^T u as a list of one tensor a leaf; detached.

        Args:
            X: The samples.
            cotangents: Them, or a function that gives them for the outputs.
        """
        with self.working():
            outputs = self.graph(X)
            wanted = cotangents(outputs.detach()) if callable(cotangents) else cotangents
            found = [self.pull(outputs, u) for u in wanted]
            return outputs.detach(), found

    def pull(self, outputs: Tensor, u: Tensor) -> list[Tensor]:
        """J^T u of outputs that `graph` made, which stay as they are."""
        if not outputs.requires_grad:
            return [torch.zeros_like(leaf) for leaf in self.leaves]
        parts = torch.autograd.grad(outputs, self.leaves, u, retain_graph=True, allow_unused=True)
        return [
            torch.zeros_like(leaf) if part is None else dense(part).detach()
            for leaf, part in zip(self.leaves, parts, strict=True)
        ]


def _random_state(device: Any) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def dense(tensor: Tensor) -> Tensor:
    """Gradients of embeddings may be sparse."""
    return tensor.to_dense() if tensor.layout is not torch.strided else tensor
