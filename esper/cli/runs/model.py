"""`esper model RUN` and `esper decrypt FILE`: what lies sealed in the installation, in the clear
for its owner.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from esper.cli.shared.json_text import json_text
from esper.errors import CorruptError, StorageFullError, UsageError

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
    app.command("decrypt")(decrypt)


def model(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's id (`esper runs`).")],
    *,
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Write the final model of a run as a safetensors file:
    `safetensors.torch.load_file` reads it.
    """
    from esper.config import Settings  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.tolaria.recipes.run_names import require_run_id  # noqa: PLC0415 - as above

    require_run_id(run_id)
    _written(Settings.load().runs_dir / run_id / "model.safetensors", out, as_json=as_json)


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
    import hashlib  # noqa: PLC0415 - as above

    content = _plain(path.resolve())
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
    sha256 = hashlib.sha256(content).hexdigest()
    if as_json:
        print(
            json_text(
                {"file": str(out), "sha256": sha256, "size_bytes": len(content)}, sort_keys=True
            )
        )
        return
    print(f"{out} has it in the clear: {len(content) / 1e6:.1f} MB, SHA-256 {sha256}.")


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
