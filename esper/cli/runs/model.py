"""`esper model RUN`, `esper harvest RUN` and `esper decrypt FILE`: what lies sealed in the
installation, in the clear for its owner.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated

import typer

from esper.errors import CorruptError, StorageFullError, UsageError
from esper.json_text import json_text

Out = Annotated[
    Path,
    typer.Option(
        "--out", metavar="FILE", help="A new file, readable by you alone; it is in the clear."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("model")(model)
    app.command("harvest")(harvest)
    app.command("decrypt")(decrypt)


def model(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's id (`esper runs`).")],
    *,
    out: Out,
    best: Annotated[
        bool,
        typer.Option(
            "--best",
            help="The model of the epoch with the best score (stopping.keep_best), not the last.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the final model of a run as a safetensors file:
    `safetensors.torch.load_file` reads it.
    """
    from esper.config import Settings  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.tolaria.recipes.run_names import require_run_id  # noqa: PLC0415 - as above
    from esper.tolaria.session.model_file import BEST_MODEL  # noqa: PLC0415 - as above

    require_run_id(run_id)
    folder = Settings.load().runs_dir / run_id
    if best and folder.is_dir() and not (folder / BEST_MODEL).exists():
        raise UsageError(
            f"Run {run_id} has kept no best model: its recipe has to say stopping.keep_best = true."
        )
    _written(folder / (BEST_MODEL if best else "model.safetensors"), out, as_json=as_json)


def harvest(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's id (`esper runs`).")],
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="A new file for the tensors; the Python file beside it has its name with .py.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Write the final model of a run for use without Esper: its tensors as a safetensors file, and
    a Python file with its kernels in plain torch, whose `load(model)` gives them to a model of the
    class that was trained.
    """
    from safetensors.torch import save  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs

    from esper.bounded import DEFAULT  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above
    from esper.kasmina.plain.files import unpacked  # noqa: PLC0415 - as above
    from esper.kasmina.plain.source import harvested  # noqa: PLC0415 - as above
    from esper.tolaria.recipes.run_names import require_run_id  # noqa: PLC0415 - as above

    require_run_id(run_id)
    module = out.with_suffix(".py")
    if not module.stem.isidentifier() or module == out:
        raise UsageError(
            f"{module} could not be imported: name the file of tensors with letters, digits and "
            "underscores, such as model.safetensors."
        )
    for path in (out, module):
        if path.exists():
            raise UsageError(f"{path} exists already; name another file with --out.")
    content = _plain((Settings.load().runs_dir / run_id / "model.safetensors").resolve())
    file = unpacked(content, DEFAULT, f"The final model of {run_id}")
    found = harvested(file, module=module.stem, saved_as=out.name)
    tensors = save(dict(found.tensors))
    _write(out, tensors)
    _write(module, found.source.encode())
    kept, left_out = ", ".join(found.kept), ", ".join(found.left_out)
    if as_json:
        told = {
            "file": str(out),
            "module": str(module),
            "sha256": hashlib.sha256(tensors).hexdigest(),
            "size_bytes": len(tensors),
            "kept": found.kept,
            "left_out": found.left_out,
        }
        print(json_text(told, sort_keys=True))
        return
    print(f"{out} has the model's tensors, and {module} its kernels: {kept or 'none was kept'}.")
    if left_out:
        print(f"Left out, because they were live and not kept when the run ended: {left_out}.")
    print(f"Use: from {module.stem} import load; model = load(model)")


def decrypt(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A model or a kernel in the installation's folders."),
    ],
    *,
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Write a sealed model or kernel of this installation as a safetensors file."""
    _written(file, out, as_json=as_json)


def _written(path: Path, out: Path, *, as_json: bool) -> None:
    content = _plain(path.resolve())
    _write(out, content)
    sha256 = hashlib.sha256(content).hexdigest()
    if as_json:
        print(
            json_text(
                {"file": str(out), "sha256": sha256, "size_bytes": len(content)}, sort_keys=True
            )
        )
        return
    print(f"{out} has it in the clear: {len(content) / 1e6:.1f} MB, SHA-256 {sha256}.")


def _write(out: Path, content: bytes) -> None:
    """Write a new file that its owner alone may read.

    Raises:
        UsageError: it is there already, or cannot be made.
        StorageFullError: there is no room.
    """
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{out} exists already; name another file with --out.") from None
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}.") from error
    try:
        with os.fdopen(descriptor, "wb") as written:
            written.write(content)
    except OSError as error:
        out.unlink(missing_ok=True)
        raise StorageFullError(
            f"{out} cannot be written: {error.strerror}. Free some room and try again."
        ) from error


def _plain(path: Path) -> bytes:
    """A sealed file's content: a model by its run's folder, or a kernel by its id."""
    from esper.config import Settings  # noqa: PLC0415 - as above
    from esper.tolaria.session.model_file import read_model  # noqa: PLC0415 - as above
    from esper.urza.artefact import address_of  # noqa: PLC0415 - as above
    from esper.urza.opening import open_store  # noqa: PLC0415 - as above
    from esper.vault.boxes import KERNELS, MODELS, open_box  # noqa: PLC0415 - as above

    settings = Settings.load()
    store = open_store(settings)
    try:
        return read_model(path, open_box(settings, store, MODELS))
    except CorruptError:
        if path.parent.name != "kernels" and path.parent != settings.kernel_cache_dir:
            raise
        return open_box(settings, store, KERNELS).opened(address_of(path.stem), path.read_bytes())
