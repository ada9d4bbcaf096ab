"""A folder of images as data for a classification: a subfolder for each class.

Pillow reads them: it is installed with matplotlib already, and torchvision would bring no other
decoder of files, but a bound on torch.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from esper.errors import UsageError, printable
from esper.tolaria.recipes.splits import Splits

FORMATS: Final = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".ppm": "PPM", ".pgm": "PPM"}
"""What is read, by the end of a file's name."""
LARGEST: Final = 1 << 26  # pixels of one image: compressed files can claim any number of them
_MODES: Final = {1: "L", 3: "RGB"}


@dataclass(frozen=True, slots=True)
class _Asked:
    size: int
    channels: int


def read_images(
    folder: Path,
    *,
    size: int,
    channels: int = 3,
    validation: float = 0.2,
    test: float = 0.2,
    seed: int = 0,
) -> Splits:
    """The images [N, channels, size, size] from 0 to 1 and labels [N] of a folder, split by class
    in an order that `seed` gives; labels number the classes by name.

    Images of other sizes are scaled without regard to their proportions. All are in memory.

    Raises:
        UsageError: a class has no image or too few, there is one class alone, or a file is no
            image; the sentence names it.
    """
    _require(size, channels, validation, test)
    classes = _classes(folder)
    generator = torch.Generator().manual_seed(seed)
    parts: tuple[list[Tensor], ...] = ([], [], [])
    labels: tuple[list[Tensor], ...] = ([], [], [])
    for label, files in enumerate(classes.values()):
        images = torch.stack([_read(path, _Asked(size, channels)) for path in files])
        counts = _counts(files, validation, test)
        order = torch.randperm(len(files), generator=generator)
        for part, into, chosen in zip(parts, labels, order.split(counts), strict=True):
            part.append(images[chosen])
            into.append(torch.full((len(chosen),), label))
    return Splits(*((torch.cat(x), torch.cat(y)) for x, y in zip(parts, labels, strict=True)))


def _require(size: int, channels: int, validation: float, test: float) -> None:
    if size < 1 or size * size > LARGEST:
        raise UsageError(f"size = {size} cannot be an image's side: give its pixels, such as 64.")
    if channels not in _MODES:
        raise UsageError(f"channels = {channels}: give 1 for grey images, 3 for colours.")
    if validation <= 0 or test <= 0 or validation + test >= 1:
        raise UsageError(
            f"validation = {validation} and test = {test} are fractions of each class: give "
            "positive ones whose sum is less than 1, such as 0.2 and 0.2."
        )


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The files of each class, by names."""
    try:
        # what systems and editors leave begins with a dot
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        classes = {path.name: _files(path) for path in entries if path.is_dir()}
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be read as a folder of images: {error.strerror}. It needs a "
            "subfolder for each class."
        ) from None
    stray = next((path for path in entries if not path.is_dir()), None)
    if stray is not None:
        raise UsageError(f"{stray} is in no class: put it in the subfolder of its class.")
    if len(classes) < 2:
        raise UsageError(
            f"{folder} has {len(classes)} subfolders: a classification needs one for each of two "
            "classes at least."
        )
    return classes


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in files:
        if path.suffix.lower() not in FORMATS or not path.is_file():
            raise UsageError(
                f"{path} is no image that is read: give files whose names end in "
                f"{', '.join(FORMATS)}, and put others elsewhere."
            )
    return files


def _counts(files: list[Path], validation: float, test: float) -> list[int]:
    """How many images of a class go where: one at least to each split."""
    if len(files) < 3:
        where = files[0].parent if files else "A class"
        raise UsageError(
            f"{where} has {len(files)} images: each class needs three at least, one for each split."
        )
    held_out, last = max(1, round(len(files) * validation)), max(1, round(len(files) * test))
    if held_out + last >= len(files):
        held_out = last = 1
    return [len(files) - held_out - last, held_out, last]


def _read(path: Path, asked: _Asked) -> Tensor:
    """One image [channels, size, size]."""
    try:
        with warnings.catch_warnings():
            # Pillow only warns of an image that is huge when unpacked
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # the format by the name alone: a file is not tried with every decoder of Pillow's
            with Image.open(path, formats=[FORMATS[path.suffix.lower()]]) as file:
                values = _pixels(file, path, asked)
    except UsageError:
        raise
    # decoders raise SyntaxError, struct.error, ValueError and others for broken files
    except Exception as error:
        raise UsageError(
            f"{path} cannot be read as an image: {printable(str(error)).rstrip('.')}. Replace it "
            "or take it away."
        ) from error
    return torch.from_numpy(values).view(asked.size, asked.size, asked.channels).permute(2, 0, 1)


def _pixels(image: Image.Image, path: Path, asked: _Asked) -> np.ndarray[Any, np.dtype[np.float32]]:
    if image.width * image.height > LARGEST:
        raise UsageError(
            f"{path} has {image.width} x {image.height} pixels: make it smaller, {LARGEST:,} are "
            "the most."
        )
    # Pillow would cut them off at 255
    if image.mode.startswith(("I", "F")):
        raise UsageError(f"{path} has more than 8 bits a channel: save it with 8.")
    turned = ImageOps.exif_transpose(image).convert(_MODES[asked.channels])
    if turned.size != (asked.size, asked.size):
        turned = turned.resize((asked.size, asked.size), Image.Resampling.BILINEAR)
    values: np.ndarray[Any, np.dtype[np.float32]] = np.asarray(turned, dtype=np.float32)
    return values / np.float32(255)
