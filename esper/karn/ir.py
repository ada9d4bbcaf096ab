"""BlueprintIR: a kernel's structure as data.

A graph of whitelisted operators, its identity, its shapes and its cost.

An instance is always valid: the constructor refuses anything else. Reading one from JSON executes
nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Set as AbstractSet
from dataclasses import Field, dataclass, fields
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any, cast, get_args

from esper.errors import BuildError
from esper.events import geometry as geometries
from esper.events.geometry import PLAIN, Geometry
from esper.events.kernel_description import KernelDescription
from esper.events.records import Blend, Tap
from esper.karn.operators import LATER, OPERATORS, Flatten, Operator, Shape
from esper.karn.value import MAX_SIZE, Value

VERSION = 1
"""Version of the JSON form."""
INPUT = "input"
"""The name by which nodes refer to what the kernel reads."""
MAX_NODES = 64
_MAX_TEXT = 1 << 18
_NODE_NAME = re.compile(
    r"[a-z]{1,16}[0-9]{1,3}"
)  # ends in a number, so that it can never hide an attribute of nn.Module
_FAMILY_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "bool": (bool,),
    "float": (float, int),
    "str": (str,),
    "Initialisation": (str,),
    "Function": (str,),
    "Padding": (int, str),
    "Pair": (list,),
    "PairPadding": (list, str),
}


@dataclass(frozen=True, slots=True)
class Budget:
    """What one kernel may cost: trainable parameters, and floating-point operations of a forward
    for one sample.
    """

    parameters: int
    flops: int

    @classmethod
    def of(cls, parameters: int, positions: int = 1) -> Budget:
        """The budget that goes with a number of parameters, for a kernel that writes so many
        positions.

        64 operations a parameter; from 16 positions on 4 at each, twice what a convolution of as
        many weights costs. Where many positions look at each other, as in attention, this bounds
        the work before the parameters do.
        """
        return cls(parameters, max(64, 4 * positions) * parameters)


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of the graph.

    `name` is a word and a number (`conv1`); `inputs` are names of earlier nodes or "input".
    """

    name: str
    operator: Operator
    inputs: tuple[str, ...] = (INPUT,)


@dataclass(frozen=True)
class BlueprintIR:
    """A kernel's structure: reads [batch, *reads.shape], writes [batch, *writes.shape].

    Attributes:
        family: Name of the template it came from.
        in_features: Features or channels that it reads: the layer's, or the chunk's own for tap
            HOST_CHUNK.
        out_features: Width of the chunk that it writes.
        tap: What it reads.
        blend: How it is blended with the host's chunk.
        alpha_target: Blending weight to ramp to, within (0, 1].
        seed: Random seed of the initial weights, 0 to 2**63 - 1.
        nodes: The graph in the order of execution; the last node is the output.
        geometry: How the positions that it writes follow from those that it reads: the layer's
            geometry, or for tap HOST_CHUNK that of the layer's outputs. Kernels of features serve
            every position of a sequence.

    Raises:
        BuildError: the graph is not one that can be built; the sentence names the node.
    """

    family: str
    in_features: int
    out_features: int
    tap: Tap
    blend: Blend
    alpha_target: float
    seed: int
    nodes: tuple[Node, ...]
    geometry: Geometry = PLAIN

    def __post_init__(self) -> None:
        self._check_fields()
        self._check_graph()
        if (written := self.values[self.nodes[-1].name]) != self.writes:
            raise BuildError(f"The blueprint writes {written}, but has to write {self.writes}.")

    def _check_fields(self) -> None:
        if not _FAMILY_NAME.fullmatch(self.family):
            raise BuildError(f"The family {self.family!r} is no name in lower case.")
        for what, value in (("in_features", self.in_features), ("out_features", self.out_features)):
            if not 1 <= value <= MAX_SIZE:
                raise BuildError(
                    f"The blueprint's {what} is {value}; it has to be from 1 to {MAX_SIZE}."
                )
        for what, choice, known in (
            ("tap", self.tap, get_args(Tap)),
            ("blend", self.blend, get_args(Blend)),
        ):
            if choice not in known:
                raise BuildError(
                    f"The blueprint's {what} {choice!r} is unknown; it is one of "
                    f"{', '.join(known)}."
                )
        if self.tap == "HOST_CHUNK" and self.in_features != self.out_features:
            raise BuildError(
                "A HOST_CHUNK blueprint reads as many features as it writes, not "
                f"{self.in_features} and {self.out_features}."
            )
        if self.tap == "HOST_CHUNK" and self.geometry != geometries.outputs(self.geometry):
            raise BuildError(
                "A HOST_CHUNK blueprint keeps its positions; the geometry "
                f"{self.geometry.text!r} does not."
            )
        if max((1, *self.geometry.size, *self.geometry.output_size)) > MAX_SIZE:
            raise BuildError(
                f"The geometry {self.geometry.text!r} has more than {MAX_SIZE} positions "
                "in one dimension."
            )
        if not 0 < self.alpha_target <= 1:
            raise BuildError(
                f"The blueprint's alpha_target is {self.alpha_target}; it has to be above "
                "0 and at most 1."
            )
        # what Avro's long and torch's generator both take
        if not 0 <= self.seed < 1 << 63:
            raise BuildError(
                f"The blueprint's seed is {self.seed}; it has to be from 0 to 2**63 - 1."
            )

    def _check_graph(self) -> None:
        if not 1 <= len(self.nodes) <= MAX_NODES:
            raise BuildError(
                f"The blueprint has {len(self.nodes)} nodes; it has to have from 1 to {MAX_NODES}."
            )
        names = [node.name for node in self.nodes]
        for name in names:
            if not _NODE_NAME.fullmatch(name):
                raise BuildError(
                    f"The node name {name!r} is not a word in lower case with a number after it."
                )
            if names.count(name) > 1:
                raise BuildError(f"Two nodes are named {name!r}.")
        for node in self.nodes:
            # the exact class: a subclass could compute anything under a whitelisted name
            if type(node.operator) not in OPERATORS.values():
                raise BuildError(
                    f"Node {node.name!r} has an operator that is not on the whitelist: "
                    f"{type(node.operator).__name__}."
                )
            if isinstance(node.operator, Flatten) and self.geometry.kind != "features":
                raise BuildError(
                    f"Node {node.name!r} flattens positions, but a {self.geometry.kind} "
                    "kernel has to run on any number of them."
                )
            if len(node.inputs) != node.operator.ARITY:
                raise BuildError(
                    f"Node {node.name!r} reads {len(node.inputs)} values; "
                    f"{node.operator.OP} reads {node.operator.ARITY}."
                )
            for source in node.inputs:
                if source != INPUT and source not in names:
                    raise BuildError(
                        f"Node {node.name!r} reads {source!r}, which is no node of the blueprint."
                    )
        try:
            # before the order is checked, which would refuse a cycle without saying that it is one
            TopologicalSorter(
                {node.name: [name for name in node.inputs if name != INPUT] for node in self.nodes}
            ).prepare()
        except CycleError as error:
            raise BuildError(f"The nodes {' -> '.join(error.args[1])} form a cycle.") from None
        self._check_order(names)

    def _check_order(self, names: list[str]) -> None:
        for position, node in enumerate(self.nodes):
            late = [
                source
                for source in node.inputs
                if source != INPUT and source not in names[:position]
            ]
            if late:
                raise BuildError(
                    f"Node {node.name!r} is listed before {late[0]!r}, which it reads."
                )
        read = {source for node in self.nodes for source in node.inputs}
        # what no node reads costs parameters and never gets a gradient
        unread = [name for name in names[:-1] if name not in read]
        if unread:
            raise BuildError(f"No node reads {unread[0]!r}, and it is not the last one.")

    @property
    def reads(self) -> Value:
        """What it reads, for one sample."""
        return Value(self.geometry.layout, self.in_features, self.geometry.size)

    @property
    def writes(self) -> Value:
        """What it writes, for one sample."""
        return Value(self.geometry.layout, self.out_features, self.geometry.output_size)

    @cached_property
    def values(self) -> dict[str, Value]:
        """What each node writes for one sample, and "input".

        Raises BuildError where they do not fit.
        """
        values: dict[str, Value] = {INPUT: self.reads}
        for node in self.nodes:
            try:
                values[node.name] = node.operator.output(
                    *(values[source] for source in node.inputs)
                )
            except BuildError as error:
                raise BuildError(f"Node {node.name!r}: {error}") from None
        return values

    @cached_property
    def parameter_shapes(self) -> dict[str, Shape]:
        """Shapes of the trainable parameters, by `node.parameter`, in the order of the nodes."""
        return {
            f"{node.name}.{name}": shape
            for node in self.nodes
            for name, shape in node.operator.parameters(
                *(self.values[source] for source in node.inputs)
            ).items()
        }

    @cached_property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(math.prod(shape) for shape in self.parameter_shapes.values())

    @cached_property
    def flops(self) -> int:
        """Floating-point operations of one forward for one sample (see `esper.karn.operators`)."""
        return sum(
            node.operator.flops(*(self.values[source] for source in node.inputs))
            for node in self.nodes
        )

    @property
    def description(self) -> KernelDescription:
        """What records say of a kernel that is built from it."""
        return KernelDescription(
            blueprint_id=self.blueprint_id,
            family=self.family,
            in_features=self.in_features,
            out_features=self.out_features,
            tap=self.tap,
            blend=self.blend,
            parameters=self.parameters,
            flops=self.flops,
            geometry=self.geometry.text,
        )

    @cached_property
    def json(self) -> str:
        """The canonical JSON: keys sorted, no spaces; equal blueprints have equal text."""
        nodes = [
            {"name": node.name, "op": node.operator.OP, "inputs": list(node.inputs)}
            | {
                own.name: getattr(node.operator, own.name)
                for own in fields(cast("Any", node.operator))
                # a later attribute at its default is left out: old blueprints keep their id
                if _is_written(own, node.operator)
            }
            for node in self.nodes
        ]
        own = {
            own.name: getattr(self, own.name)
            for own in fields(self)
            if own.name not in ("nodes", "geometry")
        }
        if self.geometry.text:
            own["geometry"] = self.geometry.text
        return json.dumps(
            {**own, "version": VERSION, "nodes": nodes},
            sort_keys=True,
            separators=(",", ":"),
            # NaN is no JSON: two readers could take one blueprint for different ones
            allow_nan=False,
        )

    @cached_property
    def blueprint_id(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal: the blueprint's identity."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    def fits(self, budget: Budget) -> bool:
        """Whether it costs no more than `budget`."""
        return self.parameters <= budget.parameters and self.flops <= budget.flops

    def require(self, budget: Budget) -> None:
        """Refuse a blueprint over budget.

        Raises:
            BuildError: it costs more than `budget`.
        """
        if not self.fits(budget):
            raise BuildError(
                f"The {self.family} blueprint costs {self.parameters} parameters and "
                f"{self.flops} operations a sample; "
                f"the budget is {budget.parameters} and {budget.flops}."
            )


def parse(text: str) -> BlueprintIR:
    """The blueprint in a JSON text.

    Raises:
        BuildError: not JSON, keys missing or unknown, values of a wrong type, or a graph that
            cannot be built.
    """
    # before json sees it: a text from the bus must not decide how much memory is taken
    if len(text) > _MAX_TEXT:
        raise BuildError(
            f"A blueprint of {len(text)} characters is longer than the {_MAX_TEXT} that are read."
        )
    try:
        document = json.loads(text)
    # deep nesting ends in RecursionError, not in ValueError
    except (ValueError, RecursionError) as error:
        raise BuildError(f"A blueprint is not JSON: {error}.") from None
    types = {
        "family": str,
        "in_features": int,
        "out_features": int,
        "tap": str,
        "blend": str,
        "alpha_target": float,
        "seed": int,
    }
    _require_keys("The blueprint", document, {*types, "nodes", "version"}, {"geometry"})
    if document["version"] != VERSION:
        raise BuildError(
            f"The blueprint has version {document['version']!r}; this Esper reads version "
            f"{VERSION}."
        )
    values = {
        name: _typed(f"The blueprint's {name}", document[name], kind.__name__)
        for name, kind in types.items()
    }
    if not isinstance(document["nodes"], list):
        raise BuildError("The blueprint's nodes are not a list.")
    geometry = geometries.parse(
        _typed("The blueprint's geometry", document.get("geometry", ""), "str")
    )
    return BlueprintIR(
        **values, nodes=tuple(_node(item) for item in document["nodes"]), geometry=geometry
    )


def _node(item: Any) -> Node:
    if not isinstance(item, dict) or not isinstance(item.get("op"), str):
        raise BuildError("A node of the blueprint is not an object that names its op.")
    kind = OPERATORS.get(item["op"])
    if kind is None:
        raise BuildError(
            f"The operator {item['op']!r} is not on the whitelist: {', '.join(sorted(OPERATORS))}."
        )
    attributes = {
        own.name: str(own.type)
        for own in fields(cast("Any", kind))
        if not _is_later(own) or own.name in item
    }
    later = {own.name for own in fields(cast("Any", kind)) if _is_later(own)}
    _require_keys(f"A {kind.OP} node", item, {"name", "op", "inputs", *attributes} - later, later)
    inputs = item["inputs"]
    if (
        not isinstance(item["name"], str)
        or not isinstance(inputs, list)
        or not all(isinstance(source, str) for source in inputs)
    ):
        raise BuildError(f"A {kind.OP} node's name has to be text, and its inputs a list of names.")
    values = {
        name: _typed(f"Node {item['name']!r}: {name}", item[name], spelled)
        for name, spelled in attributes.items()
    }
    return Node(item["name"], kind(**values), tuple(inputs))


def _is_later(attribute: Field[Any]) -> bool:
    """Whether blueprints did not always have this attribute, so that its key may be missing."""
    return attribute.metadata == LATER


def _is_written(attribute: Field[Any], operator: Operator) -> bool:
    return not _is_later(attribute) or getattr(operator, attribute.name) != attribute.default


def _require_keys(
    what: str, document: Any, keys: set[str], optional: AbstractSet[str] = frozenset()
) -> None:
    if not isinstance(document, dict):
        raise BuildError(f"{what} is not a JSON object.")
    if missing := keys - set(document):
        raise BuildError(f"{what} lacks {', '.join(sorted(missing))}.")
    if unknown := set(document) - keys - optional:
        raise BuildError(f"{what} has unknown keys: {', '.join(sorted(unknown))}.")


def _typed(what: str, value: Any, kind: str) -> Any:
    """`value` if it is of the JSON type `kind`.

    Whole numbers are taken for float, two of them in a list for a pair.
    """
    # to Python True is an int: JSON knows better
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
        raise BuildError(f"{what} is {value!r}, which is no {kind}.")
    if isinstance(value, list):
        if [type(item) for item in value] != [int, int]:
            raise BuildError(f"{what} is {value!r}, which are not two whole numbers.")
        return tuple(value)
    return float(value) if isinstance(value, int) and kind == "float" else value
