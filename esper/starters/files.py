"""The files of a project that `esper init` writes, and the small data that some of them train on.

Data are made anew on each machine instead of being kept in Esper's package.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial
from importlib import resources
from typing import Any, Final

from esper.errors import UsageError

TASKS: Final = {
    "classification": "one-dimensional digits and an MLP",
    "regression": "a function of ten numbers and an MLP",
    "language_model": "characters of Python's manual, in text.txt, and a transformer",
    "images": "a folder of images, a subfolder for each class, and a convolutional network",
    "fine_tuning": "a frozen backbone and a head that grows",
    "script": "a training loop of your own",
}
"""What a project can be about."""
SCRIPT: Final = "train.py"
RECIPE: Final = "recipe.toml"
_HOME: Final = "esper.starters"
_CHARACTERS: Final = 100_000  # of the text: what the recipe reads in three minutes


def started(task: str) -> str:
    """The name of the file that `esper run` takes."""
    return SCRIPT if task == "script" else RECIPE


def files_of(task: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The files of a project, by path in its folder, in the order in which they are written."""
    if task == "script":
        yield SCRIPT, _source(f"{task}.py").encode
        return
    # a name of its own: `mine` of two projects on one path would be one module
    module = f"my_{task}"
    if task == "images":
        yield from _images()
    if task == "language_model":
        yield "text.txt", _text
    yield f"{module}.py", _source(f"{task}.py").encode
    recipe = _source(f"{task}.toml").replace(f"{_HOME}.{task}:", f"{module}:")
    yield RECIPE, recipe.encode


def _source(name: str) -> str:
    return resources.files(_HOME).joinpath(name).read_text(encoding="utf-8")


def _text() -> bytes:
    """English that comes with Python: chapters of its language reference."""
    try:
        from pydoc_data.topics import topics  # noqa: PLC0415  # half a megabyte
    except ImportError:
        raise UsageError(
            "This Python lacks the texts of its manual (pydoc_data): install them, or another task."
        ) from None
    # in the order of their names; each release of Python has its own
    text = "\n".join(str(topics[name]) for name in sorted(topics))
    return text[:_CHARACTERS].encode()


def _images() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The 1,797 digits of scikit-learn as PNG files of 8 x 8 grey pixels, by class."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  # scipy takes a second

    found = load_digits()
    for number, (image, label) in enumerate(zip(found.images, found.target, strict=True)):
        # values are from 0 to 16
        pixels = (image * 255 / 16).round().astype("uint8")
        yield f"images/{label}/{number:04}.png", partial(_png, pixels)


def _png(pixels: Any) -> bytes:
    from PIL import Image  # noqa: PLC0415  # as above

    written = io.BytesIO()
    Image.fromarray(pixels).save(written, format="PNG")
    return written.getvalue()
