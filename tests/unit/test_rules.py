"""Kinds of tests that pass or fail by the speed of the machine, by another test, or that hang: none
is written again.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parents[1]
ROOT: Final = TESTS.parent
CLOCKS: Final = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time"}
LEAST_TIMEOUT_S: Final = 30
# the sources of golden runs are as they were
OWN: Final = sorted(path for path in TESTS.rglob("*.py") if path.parent.name != "source")
FILES: Final = [path for path in OWN if path.name != "waiting.py"]


def name_of(node: ast.AST) -> str:
    """The last name of what is called or looked up."""
    return (
        node.attr
        if isinstance(node, ast.Attribute)
        else node.id
        if isinstance(node, ast.Name)
        else ""
    )


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a tree, with the name of what is called."""
    return ((name_of(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call))


def owner_of(call: ast.Call) -> str:
    """What a method is called on; empty for a function."""
    return name_of(call.func.value) if isinstance(call.func, ast.Attribute) else ""


def has_timeout(call: ast.Call) -> bool:
    """Whether a call says how long it may take at most, by whatever means."""
    return any(word.arg is None or word.arg in ("timeout", "seconds") for word in call.keywords)


def elapsed(tree: ast.AST) -> Iterator[int]:
    """Lines that judge how much time has passed: a difference of two readings of a clock, or what
    was computed so, that an assertion compares.
    """
    measured = {
        name_of(target)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _difference(node.value)
        for target in node.targets
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and (
            _difference(node.test)
            or any(name_of(one) in measured - {""} for one in ast.walk(node.test))
        ):
            yield node.lineno


def _difference(tree: ast.AST) -> bool:
    subtractions = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub)
    )
    return any(name in CLOCKS for node in subtractions for name, _ in calls(node))


def endless(tree: ast.AST) -> Iterator[int]:
    """Lines that start a program or ask a server without an end to it."""
    for name, call in calls(tree):
        owner = owner_of(call)
        if (owner, name) in {
            ("subprocess", "run"),
            ("subprocess", "check_output"),
            ("subprocess", "check_call"),
        } and not has_timeout(call):
            yield call.lineno
        if (
            name in ("urlopen", "HTTPConnection", "HTTPSConnection", "create_connection")
            and not has_timeout(call)
            and len(call.args) < 3
        ):
            yield call.lineno
        if (
            name in ("get_client", "SchemaRegistryClient")
            and owner == "requests"
            and not has_timeout(call)
        ):
            yield call.lineno
        if name == "communicate" and not has_timeout(call) and not call.args:
            yield call.lineno


def hasty(tree: ast.AST) -> Iterator[int]:
    """Lines that end a whole test before a busy machine is done with it."""
    for name, call in calls(tree):
        limits = [
            one.value
            for one in call.args
            if isinstance(one, ast.Constant) and isinstance(one.value, int | float)
        ]
        if name == "timeout" and owner_of(call) == "mark" and any(limit < 900 for limit in limits):
            yield call.lineno


@pytest.mark.parametrize("kind", [elapsed, endless, hasty])
def test_no_test_is_of_a_kind_that_fails_elsewhere(
    kind: Callable[[ast.AST], Iterator[int]],
) -> None:
    """No assertion on elapsed time, no program or request without a time-out, no limit on a test
    below the general one.
    """
    found = [
        f"{path.relative_to(TESTS.parent)}:{line}"
        for path in FILES
        for line in kind(ast.parse(path.read_text()))
    ]
    assert found == [], f"{kind.__name__}: {kind.__doc__} See CONTRIBUTING.md."


def test_the_rules_find_what_they_are_for() -> None:
    """Each kind is found in a line that is of it."""
    samples = {
        elapsed: "began = clock.monotonic()\nassert clock.monotonic() - began < 2",
        endless: "subprocess.run(['true'], check=True)",
        hasty: "pytestmark = pytest.mark.timeout(60)",
    }
    assert all(list(kind(ast.parse(sample))) for kind, sample in samples.items())


def imports_in(text: str) -> set[tuple[str, str]]:
    """Module and name of every import from Esper in a text, programs in strings among them."""
    found = set()
    for module, names in re.findall(
        r"from (esper(?:_processors)?(?:\.\w+)*) import (\([^)]*\)|[\w, ]+)", text
    ):
        for name in re.split(r"[,\s()]+", re.sub(r"\s+as\s+\w+", "", names)):
            if name.isidentifier():
                found.add((module, name))
    return found


def test_programs_in_strings_and_documents_import_what_there_is() -> None:
    """A module that moves takes them with it; no type checker reads them."""
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *OWN]
    lacking = set()
    for path in texts:
        for module, name in imports_in(path.read_text()):
            try:
                found = importlib.import_module(module)
                if not hasattr(found, name):
                    importlib.import_module(f"{module}.{name}")
            except ImportError:
                lacking.add(f"{path.name}: from {module} import {name}")
    assert lacking == set()
