"""Modules of PyTorch read as networks: the graph of torch.fx, walked backwards from its output.

A value that is the sum of two others ends a residual block. It begins where the paths of both meet: at their nearest
common dominator, the last value that all paths from the input pass through.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.fx
from torch.nn.modules.batchnorm import _BatchNorm

from gnfast.interop._layers import CALLS, MODULES, UnsupportedError, altered
from gnfast.interop._models import Watch, left_alone
from gnfast.layers import Activation, Layer, Residual, Scale
from gnfast.networks import Network

Node: TypeAlias = Any  # torch.fx.Node
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
SUBTRACTIONS = (operator.sub, operator.isub, torch.sub, "sub", "sub_")
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
QUOTIENTS = (operator.truediv, operator.itruediv, torch.div, "div", "div_")
INSTEAD = "gnfast.interop.torch.GaussNewton takes any module"


def from_torch(module: Any) -> Network:
    """A PyTorch module as a network of the core: the same function, the same parameters in the same order.

    Reads what torch.fx can trace and what is made of `Linear`, `Conv1d`, `Conv2d`, `BatchNorm1d`, `BatchNorm2d`,
    `LayerNorm`, the activations of gnfast, `Flatten`, average, max and global average pooling, `Identity`, dropout in
    evaluation mode, multiplication by numbers, and sums of two branches, which become residual blocks; modules or
    functions. Batch norm is in the mode that its module is in: in training mode it uses the batch's statistics.

    Args:
        module: A `torch.nn.Module` on the CPU, float32 or float64. Its parameters must be registered in the order in
            which the layers use them, of two branches the one first whose parameters come first.

    Returns:
        A network whose arrays share their memory with the parameters where these are contiguous (always but for
        `channels_last`): after a training step read the module again; operators that were made before it refuse to go
        on. All parameters of the module are parameters.

    Raises:
        ImportError: PyTorch is not installed.
        TypeError: Not a module, or of another dtype.
        ValueError: An operation that gnfast has no layer for, named with its place, or a layer with forward hooks or
            whose weight is made of others, as pruning and `weight_norm` do; shared, unused or unordered parameters.
            `gnfast.interop.torch.GaussNewton` takes any module.
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module is of type {type(module).__name__} but must be a torch.nn.Module")
    _check_sharing(module)
    if why := altered(module):  # which the tracer passes over
        raise ValueError(f"module has {why}, which gnfast has no layer for; {INSTEAD}")
    with left_alone(module):
        return _ModuleNetwork(_Walk(module, _traced(module)).layers(), module)


def _traced(module: Any) -> Any:
    try:
        return torch.fx.Tracer().trace(module)
    except Exception as error:  # whatever the module's own code raises on a value that is not there yet
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"module {type(module).__name__} cannot be traced by torch.fx "
            f"({reason[0] if reason else error!r}); {INSTEAD}"
        ) from error


class _ModuleNetwork(Network):
    """A network whose arrays are a module's, which training changes in place."""

    def __init__(self, layers: list[Layer], module: Any) -> None:
        super().__init__(layers)
        averages = [  # a step of theirs is seen in their count only
            (f"{name}.{key}".lstrip("."), tensor)
            for name, child in module.named_modules()
            if isinstance(child, _BatchNorm) and not child.training
            for key, tensor in child.named_buffers(recurse=False)
        ]
        self._watch = Watch([*module.named_parameters(), *averages])

    def check_unchanged(self) -> None:
        self._watch.check()


class _Walk:
    def __init__(self, module: Any, graph: Any) -> None:
        self.module, self.graph = module, graph
        self.order = {id(tensor): i for i, tensor in enumerate(module.parameters())}
        self.names = {id(tensor): name for name, tensor in module.named_parameters()}
        self.used: dict[int, Node] = {}  # parameter, and the node that has taken it
        self.flat: list[int] = []  # parameters in the order of the layers
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise ValueError(f"module takes {len(inputs)} inputs but a network takes one; {INSTEAD}")
        self.input = inputs[0]
        self._depths: dict[Node, int] = {self.input: 0}
        self._above: dict[Node, Node] = {}
        (output,) = (node for node in graph.nodes if node.op == "output")
        self.result = output.args[0]
        if not isinstance(self.result, torch.fx.Node):
            raise ValueError(f"module gives a {type(self.result).__name__} but must give one tensor; {INSTEAD}")

    def layers(self) -> list[Layer]:
        """Those of the whole module, its parameters accounted for."""
        found = self.chain(self.input, self.result)
        unused = [name for key, name in self.names.items() if key not in self.used]
        if unused:
            raise ValueError(f"parameter {unused[0]!r} does not take part in the outputs; remove it, or {INSTEAD}")
        positions = [self.order[key] for key in self.flat]
        if positions != sorted(positions):
            at = next(i for i, position in enumerate(positions) if position != i)
            raise ValueError(
                f"parameter {self.names[self.flat[at]]!r} is used as number {at} but registered as number "
                f"{positions[at]}; define the submodules in the order in which forward uses them, or {INSTEAD}"
            )
        return found

    def chain(self, first: Node, last: Node) -> list[Layer]:
        """The layers that lead from one value to another, which it dominates."""
        blocks: list[list[Layer]] = []
        pending: list[Callable[[], list[Layer]]] = []
        while last is not first:  # backwards; what each step makes is put off, so that parameters are met in order
            above, make = self._step(last)
            pending.append(make)
            last = above
        for make in reversed(pending):
            blocks.append(make())
        return [layer for block in blocks for layer in block]

    def _step(self, node: Node) -> tuple[Node, Callable[[], list[Layer]]]:
        """The value before `node`, and how the layers between are made."""
        if node.op == "call_module":
            return self._data(node), lambda: self._module(node)
        if _is_sum(node):
            return self.dominator(node), lambda: [self._residual(node)]
        if node.target in (*PRODUCTS, *QUOTIENTS):
            return self._data(node), lambda: [self._scale(node)]
        return self._data(node), lambda: self._call(node)

    def _module(self, node: Node) -> list[Layer]:
        found = self.module.get_submodule(node.target)
        make = MODULES.get(type(found))
        if make is None:
            raise self._unsupported(node, f"the module {type(found).__name__}")
        own = dict(found.named_parameters())
        usual = {name for name in ("weight", "bias") if getattr(found, name, None) is not None}
        if own.keys() != usual:
            odd = ", ".join(sorted(own.keys() ^ usual))
            raise self._unsupported(node, f"the module {type(found).__name__} with its parameters changed ({odd})")
        if why := altered(found):
            raise self._unsupported(node, why)
        return self._made(node, lambda: make(found), list(own.values()))

    def _call(self, node: Node) -> list[Layer]:
        make = CALLS.get(node.target)
        name = getattr(node.target, "__name__", node.target)
        if make is None or node.op not in ("call_function", "call_method"):
            raise self._unsupported(node, f"the operation {name}")
        tensors: list[Any] = []

        def value(arg: Any) -> Any:
            if isinstance(arg, torch.fx.Node) and arg.op == "get_attr":
                tensors.append(self._attribute(arg))
                return tensors[-1]
            return arg

        args = [value(arg) for arg in node.args[1:]]
        kwargs = {key: value(arg) for key, arg in node.kwargs.items() if key != "input"}
        return self._made(node, lambda: make(*args, **kwargs), [t for t in tensors if id(t) in self.order])

    def _attribute(self, node: Node) -> Any:
        return operator.attrgetter(node.target)(self.module)

    def _made(self, node: Node, make: Callable[[], list[Layer]], parameters: list[Any]) -> list[Layer]:
        self._check_in_place(node)
        for tensor in parameters:
            if id(tensor) in self.used:
                raise ValueError(
                    f"parameter {self.names[id(tensor)]!r} is used twice, at {self.used[id(tensor)].name!r} and at "
                    f"{node.name!r}; shared parameters are not read, {INSTEAD}"
                )
            self.used[id(tensor)] = node
            self.flat.append(id(tensor))
        try:
            layers = make()
        except UnsupportedError as error:
            raise self._unsupported(node, str(error)) from None
        if sum(len(layer.parameters()) for layer in layers) != len(parameters):
            raise self._unsupported(node, "a weight or bias that is no parameter")
        return layers

    def _residual(self, node: Node) -> Layer:
        self._check_in_place(node)
        start = self.dominator(node)
        signs = [1.0, float(node.kwargs.get("alpha", 1.0)) * (-1 if node.target in SUBTRACTIONS else 1)]
        branches = list(zip(node.args, signs, strict=True))
        branches.sort(key=lambda branch: self._first_parameter(branch[0], start))
        made = []
        for value, sign in branches:
            layers = self.chain(start, value)
            made.append([*layers, *([Scale(sign)] if sign != 1 else [])])
        body, shortcut = made
        if not body:  # without parameters, the branch that is the identity is the shortcut
            body, shortcut = shortcut, body
        return Residual(body or [Activation("identity")], shortcut or None)

    def _first_parameter(self, value: Node, start: Node) -> int:
        """The place of the first parameter on the way from `start`; past all others where there is none."""
        found, seen, todo = [len(self.order)], {start}, [value]
        while todo:
            node = todo.pop()
            if node in seen:
                continue
            seen.add(node)
            if node.op == "call_module":
                found += [self.order[id(tensor)] for tensor in self.module.get_submodule(node.target).parameters()]
            elif node.op == "get_attr":
                found.append(self.order.get(id(self._attribute(node)), len(self.order)))
            todo += node.all_input_nodes
        return min(found)

    def _scale(self, node: Node) -> Layer:
        self._check_in_place(node)
        left, right = node.args[:2]
        number = right if isinstance(left, torch.fx.Node) else left
        inverse = node.target in QUOTIENTS
        if isinstance(number, torch.fx.Node) or not isinstance(number, int | float) or (inverse and number is left):
            raise self._unsupported(node, "a product or quotient of two values that depend on the input")
        return Scale(1 / number if inverse else float(number))

    def _data(self, node: Node) -> Node:
        """The one value that `node` takes and that depends on the input."""
        if node.op in ("get_attr", "placeholder"):
            raise self._unsupported(node, f"a value of its own, {node.target!r}, beside the input")
        found = [arg for arg in node.all_input_nodes if arg.op != "get_attr" and not _is_size(arg)]
        if len(found) != 1 or (node.args and isinstance(node.args[0], torch.fx.Node) and node.args[0].op == "get_attr"):
            raise self._unsupported(node, f"the operation {getattr(node.target, '__name__', node.target)}")
        return found[0]

    def dominator(self, node: Node) -> Node:
        """The nearest value that all paths from the input to `node` pass through."""
        todo = [node]
        while todo:  # without recursion: a network may be deeper than Python's stack
            top = todo[-1]
            if top in self._depths:
                todo.pop()
                continue
            inputs = list(dict.fromkeys(top.args[:2])) if _is_sum(top) else [self._data(top)]
            unknown = [value for value in inputs if value not in self._depths]
            if unknown:
                todo += unknown
                continue
            above = inputs[0]
            for other in inputs[1:]:
                above = self._common(above, other)
            self._above[top], self._depths[top] = above, self._depths[above] + 1
        return self._above[node]

    def _common(self, a: Node, b: Node) -> Node:
        while a is not b:
            if self._depths[a] < self._depths[b]:
                a, b = b, a
            a = self._above[a]
        return a

    def _check_in_place(self, node: Node) -> None:
        """An operation in place changes its input for all who read it later."""
        target = self.module.get_submodule(node.target) if node.op == "call_module" else node.target
        name = getattr(target, "__name__", target if isinstance(target, str) else "")
        in_place = getattr(target, "inplace", False) is True or node.kwargs.get("inplace", False)
        in_place = in_place or (name.endswith("_") or name in ("iadd", "isub", "imul", "itruediv"))
        if in_place and isinstance(node.args[0], torch.fx.Node):
            later = [user for user in node.args[0].users if user is not node and user > node]
            if later:
                raise self._unsupported(node, f"an operation in place whose input {later[0].name!r} reads afterwards")

    def _unsupported(self, node: Node, what: str) -> ValueError:
        before = [arg.name for arg in node.all_input_nodes]
        where = f" after {', '.join(map(repr, before))}" if before else ""
        name = node.target if node.op == "call_module" else node.name
        return ValueError(f"module has {what} at {str(name)!r}{where}, which gnfast has no layer for; {INSTEAD}")


def _is_sum(node: Node) -> bool:
    """Whether two values are added or subtracted."""
    both = node.op != "call_module" and node.target in (*ADDITIONS, *SUBTRACTIONS) and len(node.args) == 2
    return both and all(isinstance(arg, torch.fx.Node) for arg in node.args)


def _is_size(node: Node) -> bool:
    """x.size(0), x.shape[0]: what a flattening asks for."""
    if node.target in ("size", getattr):
        return True
    return node.target is operator.getitem and _is_size(node.args[0])


def _check_sharing(module: Any) -> None:
    seen: dict[int, str] = {}
    for name, tensor in module.named_parameters(remove_duplicate=False):
        if seen.setdefault(id(tensor), name) != name:
            raise ValueError(
                f"module shares a parameter, {seen[id(tensor)]!r} is {name!r} too, which is not read; {INSTEAD}"
            )
