"""A harvested model as two files that need no Esper: its tensors, and Python that gives a model of
the user's class its kernels in plain torch.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

from esper.kasmina.plain.files import ModelFile
from esper.kasmina.plain.grafts import blending, plain_kernel
from esper.kasmina.seeded.slots import Slot
from esper.kasmina.seeded.structure import LayerNote, slot_of

_IMPORTS: Final = {
    "inf": "from math import inf",
    "nan": "from math import nan",
    "device": "from torch import device",
}
"""Names that code of torch.fx uses beside torch itself, and where they are from."""

_HEAD: Final = '''\
"""The kernels of a model in plain PyTorch, and how a model of its class gets them.

    from {module} import load
    model = load(build())  # build() gives the model as it was before it grew

Written by `esper harvest`. It needs torch and safetensors, and nothing of Esper.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
'''

_LOAD: Final = '''\
def load(model, path=Path(__file__).with_name({file!r})):
    """Give `model` its kernels, and the weights and buffers in `path`, and return it."""
    grown = set()
    for name, (kernels, blend) in LAYERS.items():
        layer = model.get_submodule(name)
        if id(layer) in grown:  # under another name
            continue
        grown.add(id(layer))
        place = next(layer.parameters()).device
        for child, kernel in kernels.items():
            if hasattr(layer, child):
                raise ValueError(f"{{name}} has a {{child}} already: give load() a model without.")
            layer.add_module(child, kernel().to(place).train(layer.training))
        layer.register_forward_hook(blend, with_kwargs=True, prepend=True)
    for part in model.modules():
        # padded positions as a nested tensor have no channels to blend into
        if isinstance(part, nn.TransformerEncoder):
            part.use_nested_tensor &= not any(id(one) in grown for one in part.modules())
    model.load_state_dict(load_file(path))
    return model
'''


@dataclass(frozen=True, slots=True)
class Harvested:
    """What is written.

    Attributes:
        tensors: By the names that the model has with its kernels.
        source: The Python file.
        kept: The fossilised kernels, such as "mlp at first[0]".
        left_out: The kernels that were live and not fossilised: the model is without them.
    """

    tensors: Mapping[str, Tensor]
    source: str
    kept: tuple[str, ...]
    left_out: tuple[str, ...]


def harvested(file: ModelFile, *, module: str, saved_as: str) -> Harvested:
    """The fossilised kernels of a file with its other tensors, and the code that puts them in.

    Args:
        file: a grown model.
        module: the name under which the Python file will be imported.
        saved_as: the name of the file of tensors, which will lie beside it.

    Raises:
        UsageError: a fossilised kernel has no blueprint.
        CorruptError: the file contradicts itself.
    """
    slots = {
        name: {
            index: slot_of(kernel, f"The kernel at {name}[{index}]")
            for index, kernel in sorted(note.kernels.items())
            if kernel.fossilised
        }
        for name, note in file.layers.items()
    }
    names = {name: _child_names(file, name, held) for name, held in slots.items()}
    tensors = _renamed(file, names)
    parts, entries = list[str](), list[str]()
    growing = [(name, held) for name, held in slots.items() if held]
    for number, (name, held) in enumerate(growing):
        kernels = []
        for place, (index, slot) in enumerate(held.items()):
            child = names[name][index]
            made, prefix = f"Kernel{number}_{place}", f"{_inside(name)}{child}."
            said = f"# {slot.family} of seed {index} in {name!r}\n"
            parts.append(said + _kernel(made, plain_kernel(slot.kernel), tensors, prefix))
            kernels.append(f'"{child}": {made}')
        parts.append(_blend(f"blend_{number}", file.layers[name], held, names[name]))
        entries.append(f"    {name!r}: ({{{', '.join(kernels)}}}, blend_{number}),\n")
    layers = f"LAYERS = {{\n{''.join(entries)}}}" if entries else "LAYERS = {}"
    code = "\n\n\n".join([*parts, layers, _LOAD.format(file=saved_as)])
    imports = "".join(f"{line}\n" for name, line in _IMPORTS.items() if _uses(code, name))
    source = f"{_HEAD.format(module=module)}{imports}\n\n{code}"
    kernels_of = [
        (kernel, f"{kernel.family} at {name}[{index}]")
        for name, note in file.layers.items()
        for index, kernel in sorted(note.kernels.items())
    ]
    return Harvested(
        tensors,
        source,
        tuple(said for kernel, said in kernels_of if kernel.fossilised),
        tuple(said for kernel, said in kernels_of if kernel.live and not kernel.fossilised),
    )


def _inside(name: str) -> str:
    return f"{name}." if name else ""


def _child_names(file: ModelFile, name: str, held: Mapping[int, Slot]) -> dict[int, str]:
    """Names for the kernels of a layer by their seeds, of which no tensor of it is: it may have
    been harvested before.
    """
    prefix = _inside(name)
    taken = {
        own.removeprefix(prefix).partition(".")[0] for own in file.tensors if own.startswith(prefix)
    }
    free = (f"kept_{n}" for n in itertools.count() if f"kept_{n}" not in taken)
    return dict(zip(held, free, strict=False))


def _renamed(file: ModelFile, names: Mapping[str, Mapping[int, str]]) -> dict[str, Tensor]:
    """The tensors as a harvested model names them, without those of other kernels."""
    tensors = dict(file.tensors)
    for name, note in file.layers.items():
        for index in note.kernels:
            old = f"{_inside(name)}kernel_{index}."
            for own in [own for own in tensors if own.startswith(old)]:
                value = tensors.pop(own)
                if index in names[name]:
                    new = f"{_inside(name)}{names[name][index]}.{own.removeprefix(old)}"
                    tensors[new] = value
    return tensors


def _kernel(made: str, kernel: GraphModule, tensors: Mapping[str, Tensor], prefix: str) -> str:
    """The class of a kernel: its parameters, and what torch.fx says of its forward."""
    lines = [f"class {made}(nn.Module):", "    def __init__(self):", "        super().__init__()"]
    # a blueprint's nodes are named parts of its kernel, and have no parts of their own
    lines += [f"        self.{name} = {_made(part)}" for name, part in kernel.named_children()]
    for name, parameter in kernel.named_parameters():
        saved = tensors.get(f"{prefix}{name}", parameter)
        lines.append(
            f"        self.{name} = nn.Parameter("
            f"torch.empty({tuple(saved.shape)}, dtype={saved.dtype}))"
        )
    body = _code(kernel).replace("\n", "\n    ").rstrip()
    return "\n".join([*lines, "", f"    {body}"])


def _made(part: nn.Module) -> str:
    """The expression that makes a part of a kernel: a torch module without parameters, or what
    only holds them.
    """
    return f"nn.{part!r}" if type(part) is not nn.Module else "nn.Module()"


def _blend(made: str, note: LayerNote, held: Mapping[int, Slot], names: Mapping[int, str]) -> str:
    """The forward hook of a layer as a function."""
    kept = {index: (names[index], slot) for index, slot in held.items()}
    code = _code(blending(note.argument, note.channel_dim, note.chunks, kept))
    return code.replace("def forward(self, ", f"def {made}(", 1).rstrip()


def _code(module: GraphModule) -> str:
    for node in module.graph.nodes:
        # annotations are of classes that the file does not import
        node.type = None
    code = module.graph.python_code("self").src.strip()
    # what frees each value after its last use
    code = re.sub(r";  [\w =]+ = None$", "", code, flags=re.MULTILINE)
    return re.sub(r"\btorch\._C\._nn\.(\w+)", _public, code)


def _public(found: re.Match[str]) -> str:
    """The public name of a function of torch's, where it has one."""
    name = found[1]
    private = getattr(torch._C._nn, name)  # noqa: SLF001  # the name that torch.fx writes
    return f"nn.functional.{name}" if getattr(functional, name, None) is private else found[0]


def _uses(code: str, name: str) -> bool:
    return re.search(rf"(?<![\w.]){name}\b", code) is not None
