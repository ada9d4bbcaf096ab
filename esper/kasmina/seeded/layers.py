"""Seeded layers: a subclass of the host's class that takes its place, so a dormant one costs one
branch and changes no bit.

A layer's output channels are split into chunks, one a seed. The host transform runs once; each live
seed then replaces or adds to its chunk. Shape legend: B batch (and any leading dimensions), I input
channels, O output channels, C chunk width, S positions of a convolution.
"""

from __future__ import annotations

import copyreg
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from esper.errors import CorruptError, EsperError, UsageError
from esper.kasmina.seeded.faults import Notes, Place
from esper.kasmina.seeded.host_kind import HostKind, Seeded
from esper.kasmina.seeded.hosts import channels, kind_of, known
from esper.kasmina.seeded.side_streams import side_by_side
from esper.kasmina.seeded.slots import Slot
from esper.kasmina.seeded.statistics import LayerStatistics
from esper.kasmina.seeded.structure import KEY, KernelNote, LayerNote, read_note, slot_of
from esper.kernels.build import KernelModule


@dataclass(slots=True)
class Switches:
    """Flags that all seeded layers of a model share, so that one assignment reaches every layer.

    `shadow` is the (layer, seed) whose kernel stands in for its chunk in this pass; `without` the
    one that is left out; those in `fallback` give the host's chunk. `notes` says what kernels did
    wrong.
    """

    sampling: bool = False
    shadow: Place | None = None
    without: Place | None = None
    fallback: frozenset[Place] = frozenset()
    notes: Notes = field(default_factory=Notes)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy or a file has the seeds that are aside; no pass is under way in it."""
        return Switches, (False, None, None, self.fallback)

    @contextmanager
    def live_pass(self, *, watching: bool, sampling: bool) -> Iterator[None]:
        """Within: outputs of live kernels are checked if `watching`, and statistics of seeds taken
        if `sampling`; neither after it, whatever the pass raised.
        """
        self.notes.watching, self.sampling = watching, sampling
        try:
            yield
        finally:
            self.notes.watching = self.sampling = False

    @contextmanager
    def set_aside(self, places: frozenset[Place]) -> Iterator[None]:
        """Within: the seeds at `places` give the host's chunk, and what kernels do wrong is noted
        anew; after it, those aside are the ones from before.
        """
        before, self.fallback = self.fallback, places
        self.notes.clear(watching=False)
        try:
            yield
        finally:
            self.fallback = before


def chunk_sizes(features: int, seeds: int) -> tuple[int, ...]:
    """Widths of the chunks of `features` channels over `seeds` seeds: as even as can be, the wider
    ones first.

    Raises:
        UsageError: no seeds, or more than channels.
    """
    if not 1 <= seeds <= features:
        raise UsageError(
            f"A layer with {features} outputs takes 1 to {features} seeds, not {seeds}; "
            "set kasmina.seeds accordingly."
        )
    width, rest = divmod(features, seeds)
    return tuple(width + (index < rest) for index in range(seeds))


@dataclass(slots=True)
class Seeds:
    """The seeds of one layer. `busy` is false while every seed is dormant: the fast path.

    `argument` is the name of the layer's input where it comes as a named argument.
    """

    name: str
    kind: HostKind
    chunks: tuple[int, ...]
    switches: Switches
    argument: str = "input"
    slots: list[Slot | None] = field(default_factory=list)
    statistics: LayerStatistics | None = None
    busy: bool = False
    geometry: str | None = (
        None  # as esper.events.geometry writes it; None before a probe has seen it
    )

    def __post_init__(self) -> None:
        """Begin with empty slots."""
        self.slots = [None] * len(self.chunks)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the buffer that a run reads its figures from: a copy has none."""
        return {name: getattr(self, name) for name in self.__slots__} | {"statistics": None}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    @property
    def dim(self) -> int:
        """Dimension of the channels."""
        return self.kind.channel_dim

    def starts(self) -> tuple[int, ...]:
        """First channel of each chunk."""
        return tuple(sum(self.chunks[:index]) for index in range(len(self.chunks)))

    def refresh(self) -> None:
        """Find out whether any slot holds a kernel."""
        self.busy = any(slot is not None for slot in self.slots)

    def mixed(self, inputs: Tensor, host: Tensor) -> Tensor:
        """Output [B, O, S] of the layer for inputs [B, I, S]: the host's, with the chunks of live
        and shadowed seeds blended in.
        """
        running = [
            (index, slot)
            for index, slot in enumerate(self.slots)
            if slot is not None and self._runs(index, slot)
        ]
        if not running:
            return host
        # pieces and cat: autograd keeps the host's output, so writing into it would fail in
        # backward
        pieces = list(host.split(self.chunks, dim=self.dim))
        calls = [
            partial(self._piece, (self.name, index), slot, inputs, pieces[index])
            for index, slot in running
        ]
        for (index, _), piece in zip(running, side_by_side(calls, (inputs, host)), strict=True):
            pieces[index] = piece
        output = torch.cat(pieces, dim=self.dim)
        # one contiguous piece makes cat's result contiguous, and each later layer would convert it
        laid = self.kind.memory_format
        if (
            laid is not None
            and host.dim() == 1 - self.dim  # with a batch dimension
            and host.is_contiguous(memory_format=laid)
        ):
            output = output.contiguous(memory_format=laid)
        return output

    def note(self) -> LayerNote:
        """What the layer has grown, as data."""
        return LayerNote(
            kind=self.kind.name,
            channel_dim=self.dim,
            argument=self.argument,
            chunks=self.chunks,
            kernels={
                index: KernelNote.of(slot)
                for index, slot in enumerate(self.slots)
                if slot is not None
            },
        )

    def _runs(self, index: int, slot: Slot) -> bool:
        switches, place = self.switches, (self.name, index)
        if place in switches.fallback or place == switches.without:
            return False
        return slot.live or place == switches.shadow

    def _piece(self, place: Place, slot: Slot, inputs: Tensor, chunk: Tensor) -> Tensor:
        """The chunk of one seed with its kernel; the host's own, and a note, when the
        kernel fails.
        """
        switches = self.switches
        shadowed = place == switches.shadow
        if shadowed:
            # gradients end at the kernel: what lies below it does not learn in this pass
            inputs, chunk = inputs.detach(), chunk.detach()
        try:
            k = slot.output(inputs, chunk, self.dim, timed=switches.sampling)
            if switches.notes.watching:
                switches.notes.check(place, k)
            return slot.shadow(chunk, k) if shadowed else slot.blended(chunk, k)
        except Exception as error:  # noqa: BLE001  # whatever a kernel does, the step goes on without it
            switches.notes.failed(place, error)
            return chunk


def kernel_type(layer: nn.Module) -> tuple[torch.dtype, bool]:
    """The type of kernels beside a host layer, and whether their inputs have to be cast to it.

    float64 beside parameters in float64, else float32: in half precision AdamW's averages stand
    still and its epsilon is 0, so kernels of such a host compute in float32.
    """
    types = {tensor.dtype for tensor in layer.parameters() if tensor.is_floating_point()}
    own = torch.float64 if torch.float64 in types else torch.float32
    return own, types != {own}


class SeededLayer(Seeded):
    """What makes a host layer a seeded one.

    `germinate` swaps a layer's class for one that has this before the host's own class.
    """

    seeds: Seeds

    def forward(self, *args: Any, **named: Any) -> Any:
        """Layer inputs [B, I, S] to outputs [B, O, S].

        All arguments go to the host's forward as they are.
        """
        output = super().forward(*args, **named)
        seeds = self.seeds
        if seeds.busy:
            output = seeds.mixed(args[0] if args else named[seeds.argument], output)
        if seeds.switches.sampling and seeds.statistics is not None:
            seeds.statistics.observe(output)
        return output

    def grow(self, note: LayerNote, tensors: Mapping[str, Tensor]) -> None:
        """Hold the kernels of a note; their weights, in `tensors` by their names in the layer, are
        still to be copied in.

        A slot that holds the same kernel keeps it, and so do optimizers.

        Raises:
            UsageError, CorruptError: layer or seeds do not match; nothing is changed then.
        """
        seeds, begun = self.seeds, dict[int, Slot]()
        if (note.kind, note.chunks) != (seeds.kind.name, seeds.chunks):
            raise UsageError(
                f"Layer {seeds.name} is of kind {seeds.kind.name} with seeds on "
                f"{seeds.chunks} channels here, and {note.kind} with {note.chunks} in the file: "
                "germinate it as it was."
            )
        for index, held in enumerate(seeds.slots):
            wanted, what = note.kernels.get(index), f"The kernel at {seeds.name}[{index}]"
            if held is not None and (wanted is None or wanted.kernel_id != held.kernel_id):
                raise UsageError(
                    f"{what} is another one here than in the file: load it into a model that "
                    "was just germinated."
                )
            if held is None and wanted is not None:
                begun[index] = slot_of(wanted, what)
                _require_fit(self, index, begun[index], what)
        for index, slot in begun.items():
            self._hold(index, slot, tensors)
        for index, wanted in note.kernels.items():
            wanted.settle(cast("Slot", seeds.slots[index]))

    def _hold(self, index: int, slot: Slot, tensors: Mapping[str, Tensor]) -> None:
        name, device = f"kernel_{index}", next(self.parameters()).device
        own = dict(self.named_parameters(recurse=False))
        if all(own[key].dtype == one.dtype for key, one in tensors.items() if key in own):
            for parameter_name, parameter in slot.kernel.named_parameters():
                saved = tensors.get(f"{name}.{parameter_name}")
                # in the type that they were saved in
                if isinstance(saved, Tensor) and saved.is_floating_point():
                    parameter.data = parameter.data.to(saved.dtype)
        else:  # the host's weights become those of this layer, and so the kernels fit it
            dtype, casts = kernel_type(self)
            slot.kernel.to(dtype)
            if isinstance(slot.kernel, KernelModule):
                slot.kernel.casts = casts
        slot.alpha = slot.alpha.to(device)
        slot.kernel.to(device)
        fill(self, index, slot)

    def _save_to_state_dict(
        self,
        destination: MutableMapping[str, Any],
        prefix: str,
        keep_vars: bool,  # noqa: FBT001  # torch's own signature
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # a dormant layer's is the plain layer's
        if self.seeds.busy:
            destination[f"{prefix}{KEY}"] = self.seeds.note().tensor

    def _load_from_state_dict(
        self,
        state_dict: MutableMapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,  # noqa: FBT001  # torch's own signature
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # torch loads the children after this, so kernels that are begun here get their weights
        if (note := state_dict.pop(f"{prefix}{KEY}", None)) is not None:
            inside = {
                name.removeprefix(prefix): value
                for name, value in state_dict.items()
                if name.startswith(prefix)
            }
            try:
                self.grow(read_note(note, f"What is noted of layer {self.seeds.name}"), inside)
            except EsperError as error:
                error_msgs.append(str(error))
                # the sentence says it all: torch would list each tensor of the kernels beside it
                for name in inside:
                    child = name.partition(".")[0]
                    if child.startswith("kernel_") and child not in self._modules:
                        del state_dict[f"{prefix}{name}"]
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """By the host's class: pickle finds no class that was made at run time.

        Raises:
            UsageError: the host's class pickles itself in a way of its own.
        """
        reduced: Any = super().__reduce_ex__(max(int(protocol), 2))
        make, made, *state = reduced
        if make is not copyreg.__newobj__ or made != (type(self),):  # type: ignore[attr-defined]
            raise UsageError(
                f"{type(self).__bases__[-1].__name__}, the class of layer {self.seeds.name}, "
                "pickles itself in a way of its own, which leaves out seeds: save its state_dict "
                "instead."
            )
        return (_unpickled, (host_class(type(self)),), *state)


def fill(layer: SeededLayer, index: int, slot: Slot) -> None:
    """Put a kernel into an empty slot of a layer.

    It becomes a child of the layer, so that .to(), .train() and state_dict() of the model reach it.
    """
    layer.add_module(f"kernel_{index}", slot.kernel.train(layer.training))
    layer.seeds.slots[index] = slot
    layer.seeds.refresh()


def clear(layer: SeededLayer, index: int) -> None:
    """Empty a slot of a layer: with its last kernel gone, its structure is the host's again."""
    delattr(layer, f"kernel_{index}")
    layer.seeds.slots[index] = None
    layer.seeds.refresh()


def _unpickled(host: type[nn.Module]) -> SeededLayer:
    """A seeded layer of a host's class, whose state is still to be set."""
    made = seeded_class(host)
    return made.__new__(made)


def _require_fit(layer: SeededLayer, index: int, slot: Slot, what: str) -> None:
    """Refuse a kernel that reads or writes other widths than the seed has.

    Raises:
        CorruptError: it does.
    """
    seeds, ir = layer.seeds, cast("KernelModule", slot.kernel).ir
    width = seeds.chunks[index]
    reads = reads_and_writes(layer)[0] if slot.tap == "LAYER_INPUT" else width
    if (ir.in_features, ir.out_features, ir.geometry.channel_dim) != (reads, width, seeds.dim):
        raise CorruptError(f"{what} has a blueprint for another layer.")


def _kind_named(name: str) -> HostKind:
    """A kind of layer out of a pickle.

    Raises:
        UsageError: it is not there.
    """
    if name not in known():
        raise UsageError(
            f"The model has layers of kind {name}, which nobody has registered here: install or "
            "import the package that brings it, then load it again."
        )
    return known()[name]


# by name: kinds hold functions, which pickle takes only where a module has them
copyreg.pickle(HostKind, lambda kind: (_kind_named, (kind.name,)))

_CLASSES: dict[type[nn.Module], type[SeededLayer]] = {}


def seeded_class(host: type[nn.Module]) -> type[SeededLayer]:
    """The seeded subclass of a host class, the same at each call.

    A user's own subclass of a host keeps its forward.
    """
    if host not in _CLASSES:
        _CLASSES[host] = type(
            f"Seeded{host.__name__}",
            (SeededLayer, host),
            {"__module__": __name__, "__doc__": SeededLayer.__doc__},
        )
    return _CLASSES[host]


def seed_layers(module: nn.Module, chunks: Mapping[str, tuple[int, ...]]) -> None:
    """Swap the class of each named layer for its seeded subclass and give it dormant seeds."""
    switches = Switches()
    modules = dict(module.named_modules())
    for name, sizes in chunks.items():
        layer: Any = modules[name]
        kind = kind_of(layer)
        assert kind is not None  # noqa: S101  # the caller found it so
        made: type[nn.Module] = type(layer)
        argument = first_argument(made)
        # the class is swapped, the layer not wrapped: names, hooks and optimizers stay as they are
        layer.__class__ = (
            # torch makes a class of a layer's own for its parametrizations, and takes the one below
            # when they are removed: the seeds belong there
            _rebased(made, seeded_class)
            if parametrize.is_parametrized(layer)
            else seeded_class(made)
        )
        layer.seeds = Seeds(name, kind, sizes, switches, argument)


def first_argument(host: type[nn.Module]) -> str:
    """The name of the input in the forward of a host class."""
    _, *parameters = inspect.signature(host.forward).parameters.values()
    named = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    return named[0] if named else "input"


def unseed(layer: SeededLayer) -> None:
    """Give a layer its host's class back; its slots have to be empty."""
    del layer.__dict__["seeds"]
    layer.__class__ = host_class(type(layer))  # type: ignore[assignment]  # it is no SeededLayer any more


def host_class(seeded: type[nn.Module]) -> type[nn.Module]:
    """The class that a layer had before it was seeded, with what others have put above since."""
    if SeededLayer in seeded.__bases__:
        return seeded.__bases__[1]  # from `seeded_class`
    return _rebased(seeded, host_class) if issubclass(seeded, SeededLayer) else seeded


def _rebased(
    made: type[nn.Module], change: Callable[[type[nn.Module]], type[nn.Module]]
) -> type[nn.Module]:
    """A class that was made at run time, as torch's for parametrizations, on changed bases."""
    contents = {
        name: value for name, value in vars(made).items() if name not in ("__dict__", "__weakref__")
    }
    bases = tuple(change(base) for base in made.__bases__)
    # such classes are named for the one below them
    name = made.__name__.replace(made.__bases__[-1].__name__, bases[-1].__name__)
    return type(name, bases, contents)


def host_parameters(layer: SeededLayer) -> int:
    """Number of parameters of the host layer itself."""
    return sum(parameter.numel() for parameter in layer.parameters(recurse=False))


def reads_and_writes(layer: SeededLayer) -> tuple[int, int]:
    """Channels that the layer reads and writes."""
    return channels(layer.seeds.kind, layer)
