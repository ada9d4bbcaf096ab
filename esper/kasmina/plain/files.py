"""A model as a file: tensors by name, and what its layers have grown, in safetensors or as
`torch.save` writes a `state_dict`; and from a file into a model of the user's.

What is read may be anybody's: nothing in it is executed, and no size that it states is believed.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from esper.bounded import DEFAULT, Limits, json_of, open_named, tensors_header
from esper.bounded.names import MALFORMED
from esper.errors import CorruptError, UsageError, printable
from esper.kasmina.seeded.fast_path import follow_loads, follow_no_loads
from esper.kasmina.seeded.hosts import channels, kind_of, unsuited
from esper.kasmina.seeded.layers import SeededLayer, seed_layers, unseed
from esper.kasmina.seeded.structure import KEY, LayerNote, read_note, state_tensors

_METADATA: Final = "esper"
_ZIP: Final = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What a file holds.

    Attributes:
        tensors: Parameters and buffers by name.
        layers: What each seeded layer has grown, by its name.
    """

    tensors: Mapping[str, Tensor]
    layers: Mapping[str, LayerNote] = field(default_factory=dict)


def packed(model: nn.Module) -> bytes:
    """A safetensors file of all parameters and buffers of a model, and of what its seeded layers
    have grown as metadata.

    Every name of the `state_dict` is in it, so that any program can load it: tensors that share
    memory, such as tied weights, are written under each of their names.
    """
    layers = {
        name: layer.seeds.note().model_dump(mode="json")
        # under each of its names, as its tensors are
        for name, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, SeededLayer)
    }
    # keys sorted: equal models are equal files, with equal hashes
    metadata = json.dumps({"layers": layers}, sort_keys=True)
    return save(_apart(state_tensors(model)), {_METADATA: metadata})


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU that share no memory, as safetensors wants them."""
    taken, apart = set[int](), {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        apart[name] = plain.clone() if place in taken else plain
        taken.add(place)
    return apart


def read_file(path: Path, limits: Limits = DEFAULT) -> ModelFile:
    """What a safetensors file or one of `torch.save` holds.

    Raises:
        UsageError: it cannot be read, or was written by an Esper that did not note what had grown.
        CorruptError: it is neither, is damaged, or is larger than the limits allow.
    """
    with open_named(path, limits.file) as file:
        if file.read(len(_ZIP)) == _ZIP:
            _require_stored(file, path)
            return _of_state(_state_dict(file, path), limits, str(path))
        file.seek(0)
        # read, not mapped: a file that is cut off under a mapping ends the process
        content = file.read()
    if int.from_bytes(content[:8], "little") > len(content):
        raise CorruptError(f"{path} is neither a safetensors file nor one of torch.save.")
    return unpacked(content, limits, str(path))


def unpacked(content: bytes, limits: Limits, what: str) -> ModelFile:
    """What a safetensors file in memory holds; raises as `read_file` does."""
    header = tensors_header(content, limits, what)
    try:
        noted = header.get("__metadata__", {}).get(_METADATA, "{}")
        notes = json_of(noted.encode(), limits, f"The metadata of {what}")
        layers = {
            name: read_note(note, f"What {what} notes of layer {printable(name)}", limits)
            for name, note in notes.get("layers", {}).items()
        }
        older = bool(notes.get("kernels")) and "layers" not in notes
        state = load(content)
    except (*MALFORMED, SafetensorError) as error:
        raise CorruptError(f"{what} is no safetensors file: {printable(str(error))}.") from None
    if older:
        raise UsageError(
            f"{what} was written by an older Esper, which did not note the widths of the seeds: "
            "load its tensors with safetensors, into the model as the run left it."
        )
    file = _of_state(state, limits, what)
    return ModelFile(file.tensors, {**layers, **file.layers})


def load_into(model: nn.Module, file: ModelFile, what: str) -> nn.Module:
    """Give a model, plain or germinated, what a file holds, and return it: seeds where the file has
    them, kernels, and every parameter and buffer.

    Raises:
        UsageError: the file is of another model; `what` names it. The model is as it was then.
        CorruptError: it contradicts itself.
    """
    plain = not any(isinstance(part, SeededLayer) for part in model.modules())
    fresh = _layers_to_seed(model, file.layers, what)
    seed_layers(model, fresh)
    follow_loads(model)
    layers = {name: cast("SeededLayer", model.get_submodule(name)) for name in file.layers}
    held = {id(layer): list(layer.seeds.slots) for layer in layers.values()}
    try:
        for name, layer in layers.items():
            prefix = f"{name}." if name else ""
            inside = {
                own.removeprefix(prefix): tensor
                for own, tensor in file.tensors.items()
                if own.startswith(prefix)
            }
            layer.grow(file.layers[name], inside)
        _require_same(state_tensors(model), file.tensors, what)
        model.load_state_dict(dict(file.tensors))
    except Exception:
        for layer in {id(layer): layer for layer in layers.values()}.values():
            _take_back(layer, held[id(layer)])
        if plain:
            follow_no_loads(model)
        for name in fresh:
            unseed(cast("SeededLayer", model.get_submodule(name)))
        raise
    return model


def _layers_to_seed(
    model: nn.Module, notes: Mapping[str, LayerNote], what: str
) -> dict[str, tuple[int, ...]]:
    """The layers of a file that have no seeds in the model yet, each by its first name, and the
    widths of their chunks.

    Raises:
        UsageError: one is not there, is of another kind or width, or seeds are on other layers.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    first_names = {id(layer): name for name, layer in model.named_modules()}
    reasons, fresh = unsuited(model), dict[str, tuple[int, ...]]()
    for name, note in notes.items():
        layer = modules.get(name)
        if layer is None:
            raise UsageError(
                f"{what} has seeds in layer {printable(name)}, which this model does not have: "
                "give it a model of the class that it was saved from."
            )
        kind = kind_of(layer)
        if isinstance(layer, SeededLayer):
            continue
        if (
            kind is None
            or first_names[id(layer)] in reasons
            or (kind.name, channels(kind, layer)[1]) != (note.kind, sum(note.chunks))
        ):
            raise UsageError(
                f"{what} has seeds on {sum(note.chunks)} channels of layer {name} of kind "
                f"{note.kind}, and this model's layer is another: give it a model of the class "
                "that it was saved from."
            )
        fresh[first_names[id(layer)]] = note.chunks
    if fresh and any(isinstance(layer, SeededLayer) for layer in modules.values()):
        raise UsageError(
            f"{what} has seeds in layer {next(iter(fresh))}, and this model was "
            "germinated without it: load into a model that was not germinated."
        )
    return fresh


def _require_same(living: Mapping[str, Tensor], saved: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors that are not those of the model, before the first is copied."""
    for name in sorted(living.keys() | saved.keys()):
        if name not in saved:
            raise UsageError(f"{what} has no {name}, which this model has.")
        if name not in living:
            raise UsageError(f"{what} has {printable(name)}, which this model does not have.")
        if saved[name].shape != living[name].shape:
            raise UsageError(
                f"{name} is {tuple(saved[name].shape)} in {what}, and "
                f"{tuple(living[name].shape)} in this model."
            )
        if _form(saved[name]) != _form(living[name]):
            raise UsageError(
                f"{name} is {_form(saved[name]) or 'plain'} in {what}, and "
                f"{_form(living[name]) or 'plain'} in this model."
            )


def _form(tensor: Tensor) -> str:
    """What keeps a tensor's values from being copied into another; empty for a plain one."""
    forms = {"sparse": tensor.layout != torch.strided, "quantized": tensor.is_quantized}
    forms |= {"complex": tensor.is_complex(), "without values": tensor.is_meta}
    return ", ".join(form for form, of_it in forms.items() if of_it)


def _take_back(layer: SeededLayer, slots: list[Any]) -> None:
    """Make a layer hold the kernels that it held before."""
    for index, (now, before) in enumerate(zip(layer.seeds.slots, slots, strict=True)):
        if now is not before:
            delattr(layer, f"kernel_{index}")
    layer.seeds.slots = slots
    layer.seeds.refresh()


def _of_state(state: Mapping[str, Tensor], limits: Limits, what: str) -> ModelFile:
    """Tensors, and the entries of a `state_dict` that say what has grown."""
    tensors, layers = {}, {}
    for name, value in state.items():
        owner, _, last = name.rpartition(".")
        if last == KEY:
            layers[owner] = read_note(
                value, f"What {what} notes of layer {printable(owner)}", limits
            )
        else:
            tensors[name] = value
    return ModelFile(tensors, layers)


def _require_stored(file: BinaryIO, path: Path) -> None:
    """Refuse an archive whose entries unpack to more than it has, as `torch.save` never writes.

    Raises:
        CorruptError: it is one, or no archive.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        whole = file.seek(0, 2)
    except (*MALFORMED, zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise CorruptError(f"{path} is damaged: {printable(str(error))}.") from None
    if (
        any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        or sum(entry.file_size for entry in entries) > whole
    ):
        raise CorruptError(f"{path} unpacks to more than it has, as no file of torch.save does.")


def _state_dict(file: BinaryIO, path: Path) -> dict[str, Tensor]:
    """A `state_dict` that `torch.save` wrote.

    Raises:
        CorruptError: torch cannot read it, or would have to execute what is in it.
        UsageError: it holds something else.
    """
    try:
        file.seek(0)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (*MALFORMED, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        first = printable(str(error)).partition("\n")[0]
        raise CorruptError(
            f"{path} holds more than tensors, or is damaged ({first}): save the model's "
            "state_dict alone, torch.save(model.state_dict(), file)."
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise UsageError(
            f"{path} holds something else than a state_dict: save that of the model, "
            "torch.save(model.state_dict(), file)."
        )
    return state
