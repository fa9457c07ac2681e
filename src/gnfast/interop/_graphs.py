"""Modules of PyTorch read as networks: the graph of torch.fx, walked backwards from its output.

A value that is the sum of two others ends a residual block. It begins where the paths of both meet: at their nearest
common dominator, the last value that all paths from the input pass through.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.fx

from gnfast import _checks
from gnfast.interop._layers import CALLS, MODULES, RESHAPES, SAME_MEMORY, UnsupportedError, altered
from gnfast.interop._models import check_some, check_values, left_alone
from gnfast.interop._sources import ModuleSource
from gnfast.interop._watch import Watch
from gnfast.networks import Network
from gnfast.networks.layers import Activation, Layer, Residual, Scale

Node: TypeAlias = Any  # torch.fx.Node
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
SUBTRACTIONS = (operator.sub, operator.isub, torch.sub, "sub", "sub_")
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
NEGATIVES = (operator.neg, torch.neg, "neg", torch.neg_, "neg_")
QUOTIENTS = (operator.truediv, operator.itruediv, torch.div, "div", "div_")
INSTEAD = "gnfast.interop.torch.GaussNewton takes any module that PyTorch differentiates"
ONE_DTYPE = f"{INSTEAD} and that computes in one dtype"
CASTS = ("to", "type", "type_as", "half", "bfloat16", "float", "double")


def from_torch(module: Any, check: bool = True) -> Network:
    """A PyTorch module as a network of the core: the same function, the same parameters in the same order.

    Reads what torch.fx can trace and what is made of `Linear`, `Conv1d`, `Conv2d`, `BatchNorm1d`, `BatchNorm2d`,
    `LayerNorm`, the activations of gnfast, `Flatten`, average, max and global average pooling, `Identity`, dropout in
    evaluation mode, multiplication by numbers, and sums of two branches, which become residual blocks; modules or
    functions. Batch norm is in the mode that its module is in: in training mode it uses the batch's statistics.

    Args:
        module: A `torch.nn.Module` on the CPU, float32 or float64. Its parameters must be registered in the order in
            which the layers use them, of two branches the one first whose parameters come first.
        check: Whether the network is compared with the module at the first samples that it gets (of a call, of an
            operator): outputs, and one random product with J^T by plain reverse mode, at 16 of the samples. The module
            is kept until then, and networks that `with_parameters`, `gnfast.prune` and `copy.deepcopy` make of this
            one do the same with their own values; what `save` and `pickle` write is not compared.

    Returns:
        A network whose arrays share their memory with the parameters where these are contiguous (always but for
        `channels_last`): after a training step read the module again; operators that were made before it refuse to go
        on. All parameters of the module are parameters; either all or none of them may require gradients.

    Raises:
        ImportError: PyTorch is not installed.
        TypeError: Not a module, or of another dtype.
        ValueError: An operation that gnfast has no layer for, named with its place, or a layer with forward hooks or
            whose weight is made of others, as pruning and `weight_norm` do; shared, unused, unordered or partly frozen
            parameters; layers under `torch.no_grad()` or autocast; values that an operation in place changes under
            another name, or whose result the outputs do not use. The network's first samples: its outputs or
            derivatives are not the module's. `gnfast.interop.torch.GaussNewton` takes any module.

    Examples:
        >>> import torch
        >>> import gnfast as gn
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> gn.from_torch(module)
        Network(4 -> 8 -> 3, relu, 67 parameters, float32)
           0  Dense(4 -> 8, bias, float32)
           1  Activation(relu)
           2  Dense(8 -> 3, bias, float32)
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module is of type {type(module).__name__} but must be a torch.nn.Module")
    check = _checks.boolean(check, "check")
    own = dict(module.named_parameters())
    check_some(own)
    for name, tensor in own.items():
        check_values(name, tensor)
    _check_sharing(module)
    _check_frozen(module)
    if why := altered(module):  # which the tracer passes over
        raise ValueError(f"module has {why}, which gnfast has no layer for; {INSTEAD}")
    with left_alone(module):
        network = _ModuleNetwork(_Walk(module, _traced(module)).layers(), module)
    if check:
        network.source = ModuleSource(module)
    return network


class _Tracer(torch.fx.Tracer):  # type: ignore[misc]  # a type checker sees no PyTorch
    """Notes the modes of PyTorch that an operation is in, which graphs leave out."""

    def create_node(self, *args: Any, **kwargs: Any) -> Any:
        node = super().create_node(*args, **kwargs)
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            node.meta["without gradients"] = True
        if torch.is_autocast_enabled("cpu"):
            node.meta["autocast"] = True
        return node


def _traced(module: Any) -> Any:
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
            return _Tracer().trace(module)
    except Exception as error:  # whatever the module's own code raises on a value that is not there yet
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"module {type(module).__name__} cannot be traced by torch.fx "
            f"({reason[0] if reason else error!r}); {INSTEAD}"
        ) from error


class _ModuleNetwork(Network):
    """A network whose arrays are a module's, which training changes in place.

    `watched` says whether each use looks whether the module is as it was; who looks himself does it once for many.
    """

    def __init__(self, layers: list[Layer], module: Any) -> None:
        super().__init__(layers)
        self.watched = True
        self._watch = Watch(module.named_parameters(), module, all_modes=False)

    @property
    def watches(self) -> bool:
        return True

    def check_unchanged(self) -> None:
        if self.watched:
            self._watch.check()


class _Walk:
    def __init__(self, module: Any, graph: Any) -> None:
        self.module, self.graph = module, graph
        self.order = {id(tensor): i for i, tensor in enumerate(module.parameters())}
        self.names = {id(tensor): name for name, tensor in module.named_parameters()}
        self.used: dict[int, Node] = {}  # parameter, and the node that has taken it
        self.flat: list[int] = []  # parameters in the order of the layers
        self.nodes = list(graph.nodes)
        self.places = {node: i for i, node in enumerate(self.nodes)}
        self.reached: set[Node] = set()
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
        """The layers of the whole module, its parameters accounted for."""
        found = self.chain(self.input, self.result)
        self._check_rest()
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

    def _check_rest(self) -> None:
        """Checks of what the walk from the output does not show: results that nobody uses, and modes."""
        for node in self.nodes:
            if not node.op.startswith("call") or _is_size(node):
                continue
            if node not in self.reached:
                raise self._unsupported(node, f"{self._name(node)}, whose result the outputs do not use,")
            if node.meta.get("autocast"):
                raise self._unsupported(node, f"{self._name(node)} under torch.autocast", ONE_DTYPE)
            if node.meta.get("without gradients") and self._first_parameter(node, self.input) < len(self.order):
                raise self._unsupported(node, f"{self._name(node)} under torch.no_grad() or torch.inference_mode()")

    def _name(self, node: Node) -> str:
        if node.op == "call_module":
            return f"the module {type(self.module.get_submodule(node.target)).__name__}"
        return f"the operation {getattr(node.target, '__name__', node.target)}"

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
        self.reached.add(node)
        if node.op == "call_module":
            return self._data(node), lambda: self._module(node)
        if _is_sum(node):
            return self.dominator(node), lambda: [self._residual(node)]
        if node.target in NEGATIVES:
            return self._data(node), lambda: [self._negative(node)]
        if node.target in (*PRODUCTS, *QUOTIENTS):
            return self._data(node), lambda: [self._scale(node)]
        return self._data(node), lambda: self._call(node)

    def _module(self, node: Node) -> list[Layer]:
        found = self.module.get_submodule(node.target)
        make = MODULES.get(type(found))
        if make is None or len(node.args) + len(node.kwargs) != 1:
            raise self._unsupported(node, self._name(node))
        own = dict(found.named_parameters())
        usual = [name for name in ("weight", "bias") if getattr(found, name, None) is not None]
        if own.keys() != set(usual):
            odd = ", ".join(sorted(own.keys() ^ set(usual)))
            raise self._unsupported(node, f"{self._name(node)} with its parameters changed ({odd})")
        if why := altered(found):
            raise self._unsupported(node, why)
        in_place = getattr(found, "inplace", False) is True
        return self._made(node, lambda: make(found), [own[name] for name in usual], in_place)

    def _call(self, node: Node) -> list[Layer]:
        make = CALLS.get(node.target)
        if make is None or node.op not in ("call_function", "call_method"):
            raise self._unsupported(node, self._name(node), ONE_DTYPE if node.target in CASTS else INSTEAD)

        def value(arg: Any) -> Any:
            if isinstance(arg, torch.fx.Node) and arg.op == "get_attr":
                return self._attribute(arg)
            return arg

        args = [value(arg) for arg in node.args[1:]]
        kwargs = {key: value(arg) for key, arg in node.kwargs.items() if key != "input"}
        if make not in RESHAPES and _nodes_in((args, kwargs)):
            raise self._unsupported(node, f"{self._name(node)} with an argument that depends on the input")
        try:
            given = inspect.signature(make).bind(*args, **kwargs).arguments
        except TypeError as error:
            raise self._unsupported(node, f"{self._name(node)} with other arguments ({error})") from None
        tensors = [given[name] for name in ("weight", "bias") if isinstance(given.get(name), torch.Tensor)]
        own = [tensor for tensor in tensors if id(tensor) in self.order]
        return self._made(node, lambda: make(*args, **kwargs), own, _is_in_place(node))

    def _attribute(self, node: Node) -> Any:
        return operator.attrgetter(node.target)(self.module)

    def _made(self, node: Node, make: Callable[[], list[Layer]], parameters: list[Any], in_place: bool) -> list[Layer]:
        """The layers of a node, and its parameters counted; `parameters` in the order of the layer."""
        if in_place:
            self._check_in_place(node, self._data(node))
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
            raise self._unsupported(node, str(error), error.cure or INSTEAD) from None
        except (TypeError, ValueError) as error:  # what a layer of ours does not take
            raise self._unsupported(node, f"{self._name(node)} with other arguments ({error})") from error
        if sum(len(layer.parameters()) for layer in layers) != len(parameters):
            raise self._unsupported(node, "a weight or bias that is no parameter")
        return layers

    def _residual(self, node: Node) -> Layer:
        operands = self._operands(node, 2, ("alpha",))
        if _is_in_place(node):
            self._check_in_place(node, operands[0])
        start = self.dominator(node)
        alpha = node.kwargs.get("alpha", 1)
        if not isinstance(alpha, int | float):
            raise self._unsupported(node, f"{self._name(node)} with alpha={alpha!r}")
        signs = [1.0, float(alpha) * (-1 if node.target in SUBTRACTIONS else 1)]
        branches = list(zip(operands, signs, strict=True))
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
        left, right = self._operands(node, 2, ("rounding_mode",))
        number = right if isinstance(left, torch.fx.Node) else left
        inverse = node.target in QUOTIENTS
        if isinstance(number, torch.fx.Node) or not isinstance(number, int | float) or (inverse and number is left):
            raise self._unsupported(node, "a product or quotient of two values that depend on the input")
        if node.kwargs.get("rounding_mode") is not None:
            raise self._unsupported(node, f"{self._name(node)} with rounding_mode={node.kwargs['rounding_mode']!r}")
        if _is_in_place(node):
            self._check_in_place(node, left)
        try:
            return Scale(1 / number if inverse else float(number))
        except (ZeroDivisionError, ValueError) as error:
            raise self._unsupported(node, f"{self._name(node)} by {number} ({error})") from error

    def _negative(self, node: Node) -> Layer:
        (value,) = self._operands(node, 1)
        if _is_in_place(node):
            self._check_in_place(node, value)
        return Scale(-1.0)

    def _operands(self, node: Node, count: int, options: Sequence[str] = ()) -> list[Any]:
        """The values that an operation on one or two of them takes, by place or by name."""
        found = _operands_of(node)
        odd = [name for name in node.kwargs if name not in ("input", "other", *options)]
        if len(found) != count or odd:
            raise self._unsupported(node, f"{self._name(node)} with other arguments ({', '.join(odd) or len(found)})")
        return found

    def _data(self, node: Node) -> Node:
        """The one value that `node` takes and that depends on the input."""
        if node.op in ("get_attr", "placeholder"):
            raise self._unsupported(node, f"a value of its own, {node.target!r}, beside the input")
        found = [arg for arg in node.all_input_nodes if arg.op != "get_attr" and not _is_size(arg)]
        if len(found) != 1 or (node.args and isinstance(node.args[0], torch.fx.Node) and node.args[0].op == "get_attr"):
            raise self._unsupported(node, self._name(node))
        return found[0]

    def dominator(self, node: Node) -> Node:
        """The nearest value that all paths from the input to `node` pass through."""
        todo = [node]
        while todo:  # without recursion: a network may be deeper than Python's stack
            top = todo[-1]
            if top in self._depths:
                todo.pop()
                continue
            inputs = list(dict.fromkeys(_operands_of(top))) if _is_sum(top) else [self._data(top)]
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

    def _check_in_place(self, node: Node, changed: Node) -> None:
        """An operation in place changes its input for all who read it later, under whatever name."""
        memory, place = self._memory(changed), self.places[node]
        for later in self.nodes[place + 1 :]:
            for value in later.all_input_nodes:
                if self.places[value] < place and not _is_size(later) and self._memory(value) is memory:
                    raise self._unsupported(
                        node, f"an operation in place whose input {str(later.name)!r} reads afterwards"
                    )

    def _memory(self, node: Node) -> Node:
        """The value whose memory this one may share: a view of it, itself under another name, or changed in place."""
        while True:
            if node.op == "call_module":
                found = self.module.get_submodule(node.target)
                shares = type(found) in SAME_MEMORY or getattr(found, "inplace", False) is True
            else:
                shares = node.target in SAME_MEMORY or _is_in_place(node)
            inputs = [arg for arg in node.all_input_nodes if arg.op != "get_attr" and not _is_size(arg)]
            if not shares or not inputs:
                return node
            node = inputs[0]

    def _unsupported(self, node: Node, what: str, cure: str = INSTEAD) -> ValueError:
        before = [arg.name for arg in node.all_input_nodes]
        where = f" after {', '.join(map(repr, before))}" if before else ""
        name = node.target if node.op == "call_module" else node.name
        return ValueError(f"module has {what} at {str(name)!r}{where}, which gnfast has no layer for; {cure}")


def _operands_of(node: Node) -> list[Any]:
    names = [name for name in ("input", "other") if name in node.kwargs]
    return [*node.args, *(node.kwargs[name] for name in names)]


def _is_sum(node: Node) -> bool:
    """Whether two values are added or subtracted."""
    if node.op == "call_module" or node.target not in (*ADDITIONS, *SUBTRACTIONS):
        return False
    found = _operands_of(node)
    return len(found) == 2 and all(isinstance(arg, torch.fx.Node) for arg in found)


def _is_in_place(node: Node) -> bool:
    """Whether a function or method changes its first argument."""
    name = getattr(node.target, "__name__", node.target)
    if node.op not in ("call_function", "call_method"):
        return False
    return _option(node, "inplace") or name.endswith("_") or name in ("iadd", "isub", "imul", "itruediv")


def _option(node: Node, name: str) -> bool:
    """Whether an argument of a call that has it is true, by place or by name."""
    names = list(inspect.signature(CALLS[node.target]).parameters) if node.target in CALLS else []
    given = dict(zip(names, node.args[1:], strict=False)) | node.kwargs
    return given.get(name, False) is True


def _is_size(node: Node) -> bool:
    """x.size(0), x.shape[0]: what a flattening asks for."""
    if node.target in ("size", "dim"):
        return True
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim")
    return node.target is operator.getitem and isinstance(node.args[0], torch.fx.Node) and _is_size(node.args[0])


def _nodes_in(args: Any) -> list[Node]:
    found: list[Node] = []
    torch.fx.node.map_arg(args, found.append)
    return found


def _check_frozen(module: Any) -> None:
    frozen = [name for name, tensor in module.named_parameters() if not tensor.requires_grad]
    if frozen and len(frozen) < len(list(module.parameters())):
        raise ValueError(
            f"module has parameters of both kinds, {frozen[0]!r} does not require a gradient, and a network has all "
            f"of them as parameters; {INSTEAD}, and has those that require a gradient"
        )


def _check_sharing(module: Any) -> None:
    seen: dict[int, str] = {}
    for name, tensor in module.named_parameters(remove_duplicate=False):
        if seen.setdefault(id(tensor), name) != name:
            raise ValueError(
                f"module shares a parameter, {seen[id(tensor)]!r} is {name!r} too, which is not read; {INSTEAD}"
            )
