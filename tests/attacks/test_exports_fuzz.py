"""Hostile exports by the hundred: each is refused in a sentence or does no harm.

ESPER_FUZZ=1000 is the full length.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attacks.hostile import real

COUNT = int(os.environ.get("ESPER_FUZZ", "34"))
MOST_KIB = 400 << 10
"""What a reader's memory may grow by over all cases, KiB: the largest JSON text that is read,
unpacked, and its copies.
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + 20 * COUNT)]


def test_hostile_exports_are_refused_in_a_sentence_and_touch_nothing(tmp_path: Path) -> None:
    """Attack: real exports with anything in them changed, and crafted ones: bombs, links, names,
    depths, forged snapshots, functions of others.

    Every command that reads an export ends with success or one sentence, its memory stays bounded,
    and it neither writes outside its folders, nor reads the file beside the export, nor imports or
    runs what is named in it.
    """
    real(tmp_path / "real")
    command = [
        sys.executable,
        "-m",
        "tests.attacks.fuzzing_exports",
        str(tmp_path),
        "7",
        str(COUNT),
    ]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("ESPER_")
    }
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=240 + 20 * COUNT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    clean, *cases, figures = map(json.loads, done.stdout.splitlines())
    assert set(clean["ended"].values()) == {""}
    assert len(cases) == COUNT
    assert [one for one in cases if "fault" in one["ended"] or one["leak"]] == []
    sentences = [sentence for one in cases for sentence in one["ended"].values() if sentence]
    assert len(sentences) > COUNT
    assert all(sentence.isprintable() for sentence in sentences)
    assert all(len(sentence) < 2000 for sentence in sentences)
    assert figures["seen"] == []
    assert figures["most_kib"] - figures["base_kib"] < MOST_KIB, figures
