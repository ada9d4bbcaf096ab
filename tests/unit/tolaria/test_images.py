"""Folders of images become data, or a sentence names the file that cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from esper import read_images
from esper.errors import UsageError


def grey(value: int, size: tuple[int, int] = (4, 4)) -> Image.Image:
    return Image.fromarray(np.full(size, value, dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten images, whose pixels say class and number."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for number in range(10):
            grey(100 * label + number).save(tmp_path / name / f"{number}.png")
    (tmp_path / ".DS_Store").write_text("left by a system")
    return tmp_path


def test_each_class_is_split_alike(folder: Path) -> None:
    """Labels follow the names; six, two and two of each class; each image once; the same seed the
    same order.
    """
    splits = read_images(folder, size=4, channels=1)
    parts = [splits.train, splits.validation, splits.test]
    assert [tuple(x.shape) for x, _ in parts] == [(12, 1, 4, 4), (4, 1, 4, 4), (4, 1, 4, 4)]
    assert [y.bincount().tolist() for _, y in parts] == [[6, 6], [2, 2], [2, 2]]
    values = (torch.cat([x for x, _ in parts])[:, 0, 0, 0] * 255).round().int()
    labels = torch.cat([y for _, y in parts])
    assert sorted(values.tolist()) == [*range(10), *range(100, 110)]
    assert torch.equal(labels, (values >= 100).long())
    again, other = (read_images(folder, size=4, channels=1, seed=seed) for seed in (0, 1))
    assert torch.equal(again.train[0], splits.train[0])
    assert not torch.equal(other.train[0], splits.train[0])


@pytest.mark.parametrize("ending", ["png", "jpg", "jpeg", "JPG", "ppm", "pgm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_format_is_read_and_scaled(folder: Path, ending: str, channels: int) -> None:
    """Grey and coloured files of any size, in as many channels as asked for."""
    path = folder / "cat" / f"other.{ending}"
    image = grey(60, (9, 7)) if ending == "pgm" else grey(60, (9, 7)).convert("RGB")
    image.save(path)
    found = read_images(folder, size=6, channels=channels)
    shown = torch.cat([found.train[0], found.validation[0], found.test[0]])
    assert shown.shape == (21, channels, 6, 6)
    # JPEG may be a grey level off
    assert ((shown * 255 - 60).abs() < 1.5).flatten(1).all(1).any()


def test_alpha_palettes_and_turned_photographs_are_seen_as_they_look(folder: Path) -> None:
    """A camera's note that the picture lies on its side is followed."""
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    picture[0] = 255
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn clockwise
    Image.fromarray(picture).save(folder / "cat" / "turned.png", exif=turned)
    Image.fromarray(picture).convert("P").save(folder / "cat" / "palette.png")
    Image.fromarray(picture).convert("RGBA").save(folder / "cat" / "alpha.png")
    found = read_images(folder, size=4, channels=3)
    shown = torch.cat([found.train[0], found.validation[0], found.test[0]])[:, 0]
    white = [tuple(map(tuple, image.nonzero().tolist())) for image in shown if image.max() == 1]
    assert sorted(white) == sorted(
        [
            tuple((row, 3) for row in range(4)),
            *[tuple((0, column) for column in range(4))] * 2,
        ]
    )


def truncate(folder: Path) -> Path:
    path = folder / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[:40])
    return path


def rename(folder: Path) -> Path:
    """A PNG that calls itself JPEG: no other decoder is tried."""
    return (folder / "dog" / "3.png").rename(folder / "dog" / "3.jpg")


def deepen(folder: Path) -> Path:
    path = folder / "dog" / "3.png"
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(path)
    return path


def bomb(folder: Path) -> Path:
    """A few bytes that claim many pixels."""
    path = folder / "dog" / "3.pgm"
    path.write_bytes(b"P5 30000 30000 255\n")
    return path


def large(folder: Path) -> Path:
    """Fewer than what Pillow warns of, and more than what is read."""
    path = folder / "dog" / "3.pgm"
    path.write_bytes(b"P5 9000 9000 255\n")
    return path


def text(folder: Path) -> Path:
    path = folder / "dog" / "notes.txt"
    path.write_text("mine")
    return path


def stray(folder: Path) -> Path:
    path = folder / "3.png"
    grey(1).save(path)
    return path


def empty(folder: Path) -> Path:
    path = folder / "dog"
    for one in list(path.iterdir())[:8]:
        one.unlink()
    return path


def nested(folder: Path) -> Path:
    path = folder / "dog" / "small.png"
    path.mkdir()
    return path


def lone(folder: Path) -> Path:
    for one in (folder / "dog").iterdir():
        one.unlink()
    (folder / "dog").rmdir()
    return folder


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (truncate, "cannot be read as an image"),
        (rename, "cannot be read as an image"),
        (deepen, "more than 8 bits a channel"),
        (bomb, "cannot be read as an image"),
        (large, "9000 x 9000 pixels"),
        (text, "no image that is read"),
        (stray, "is in no class"),
        (empty, "has 2 images: each class needs three"),
        (nested, "no image that is read"),
        (lone, "has 1 subfolders"),
    ],
)
def test_what_cannot_be_read_is_named(
    folder: Path, spoil: Callable[[Path], Path], said: str
) -> None:
    """By its path, with the remedy, whatever the decoder raises."""
    path = spoil(folder)
    with pytest.raises(UsageError, match=said) as refused:
        read_images(folder, size=4, channels=1)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"size": 0}, "size = 0"),
        ({"channels": 2}, "channels = 2"),
        ({"validation": 0.6, "test": 0.5}, "sum is less than 1"),
        ({"test": 0.0}, "positive"),
        ({"folder": Path("nowhere")}, "cannot be read as a folder of images"),
    ],
)
def test_what_cannot_be_asked_for_is_named(
    folder: Path, asked: dict[str, object], said: str
) -> None:
    """Before any file is read."""
    with pytest.raises(UsageError, match=said):
        read_images(**{"folder": folder, "size": 4, "channels": 1, **asked})  # type: ignore[arg-type]
