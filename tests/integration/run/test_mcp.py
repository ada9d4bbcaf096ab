"""Claims about `esper mcp`, by the protocol's own client over the server's standard input: what an
agent may ask, what it is refused, and that nothing goes on after it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult

from tests.integration.run.whole import endpoints, esper, query
from tests.waiting import PATIENCE_S, eventually

RUN = "twin-0"
READING = [
    "list_runs",
    "list_decisions",
    "explain_decision",
    "compare_runs",
    "find_alerts",
    "audit_run",
    "list_kernels",
    "show_kernel",
    "list_tables",
    "query_history",
]
OPERATING = ["rebuild_state", "fork_run", "what_if"]


@contextlib.asynccontextmanager
async def connected(home: Path, *arguments: str, folder: Path) -> AsyncIterator[Client]:
    """A client whose server has just been started, in a folder."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "esper.cli", "mcp", *arguments],
        env={**os.environ, "ESPER_HOME": str(home)},
        cwd=folder,
    )
    async with Client(server, read_timeout_seconds=PATIENCE_S) as client:
        yield client


def asked(
    home: Path, folder: Path, work: Callable[[Client], Awaitable[Any]], *arguments: str
) -> Any:
    """What `work` makes of a connection."""

    async def main() -> Any:
        async with connected(home, *arguments, folder=folder) as client:
            return await work(client)

    return anyio.run(main)


def text(result: CallToolResult) -> str:
    """What an agent reads."""
    (content,) = result.content
    assert content.type == "text"
    return content.text


def told(result: CallToolResult) -> dict[str, Any]:
    """The answer of a tool that gave one."""
    assert not result.is_error, text(result)
    found: dict[str, Any] = json.loads(text(result))
    assert found == result.structured_content
    return found


@pytest.fixture
def operator(home: Path, tmp_path: Path) -> Path:
    """A file with an operator's token."""
    return token(home, tmp_path / "token", "--role", "operator")


def token(home: Path, path: Path, *options: str) -> Path:
    """A file with a new token."""
    made = esper(home, "token", *options)
    assert made.returncode == 0, made.stderr
    path.write_text(made.stdout)
    return path


@pytest.mark.usefixtures("lockstep")
def test_an_agent_reads_what_the_history_has(home: Path, tmp_path: Path) -> None:
    """Tools, runs, decisions, one of them explained, SQL, tables, alerts, an audit, kernels."""
    url = endpoints(home).history_url
    decisions = query(
        url,
        f"SELECT decision_id, command FROM decisions WHERE run_id = '{RUN}' ORDER BY decided_at",  # noqa: S608
    )

    async def work(client: Client) -> None:
        offered = (await client.list_tools()).tools
        assert [tool.name for tool in offered] == READING
        assert all(tool.annotations and tool.annotations.read_only_hint for tool in offered)
        runs = told(await client.call_tool("list_runs", {"recipe": "mnist1d", "most": 1}))
        assert len(runs["rows"]) == 1 < runs["total"]
        listed = told(await client.call_tool("list_decisions", {"run": RUN, "most": 10_000}))
        assert sorted(one["decision_id"] for one in listed["rows"]) == sorted(
            one["decision_id"] for one in decisions
        )
        first = decisions[0]["decision_id"]
        explained = told(await client.call_tool("explain_decision", {"decision": first}))
        assert explained["decision"]["command"] == decisions[0]["command"]
        steps = f"-- how many\nSELECT count() AS n FROM training_step WHERE run_id = '{RUN}'"
        (row,) = told(await client.call_tool("query_history", {"query": steps}))["rows"]
        assert int(row["n"]) == 280
        names = {one["name"] for one in told(await client.call_tool("list_tables", {}))["rows"]}
        assert {"runs", "decisions", "training_step"} <= names
        assert told(await client.call_tool("find_alerts", {"run": RUN}))["rows"][0]["run_id"] == RUN
        report = told(await client.call_tool("audit_run", {"run": RUN}))
        assert RUN in json.dumps(report)
        kernels = told(await client.call_tool("list_kernels", {"grafted": True, "most": 1}))
        kernel = {"kernel": kernels["rows"][0]["kernel_id"]}
        assert told(await client.call_tool("show_kernel", kernel))
        same = {"runs": [RUN, "twin-1"]}
        assert told(await client.call_tool("compare_runs", same))["decisions"] == []

    asked(home, tmp_path, work)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("query_history", {"query": "DROP TABLE runs"}, "readonly"),
    ("query_history", {"query": "SELECT * FROM nothing_like_it"}, "nothing_like_it"),
    ("query_history", {}, "'query' is a required property"),
    ("query_history", {"query": "SELECT 1", "format": "CSV"}, "format"),
    ("query_history", {"query": "SELECT repeat('x', 500000)"}, "ask for less"),
    ("query_history", {"query": "SELECT repeat('x', 900) FROM numbers(20000)"}, "ask for less"),
    ("list_decisions", {"run": "x' OR '1'='1"}, "does not match"),
    ("list_runs", {"most": 0}, "most"),
    ("list_runs", {"state": "GONE"}, "GONE"),
    ("audit_run", {"run": "no-such-run"}, "no-such-run"),
    ("audit_run", {"run": "--help"}, "does not match"),
    ("compare_runs", {"runs": ["journal.avro", RUN]}, "names a file here"),
    ("explain_decision", {"decision": "ffffffffffff"}, "No decision begins"),
    ("fork_run", {"run": RUN}, "There is no tool fork_run"),
]


def test_what_cannot_be_is_a_sentence_for_the_agent(home: Path, tmp_path: Path) -> None:
    """Arguments that are none, writing, another run's name, too much at once, a path, a tool that
    was not offered.
    """
    (tmp_path / "journal.avro").write_bytes(b"")

    async def work(client: Client) -> list[CallToolResult]:
        return [await client.call_tool(name, given) for name, given, _ in WRONG]

    for (name, given, said), result in zip(WRONG, asked(home, tmp_path, work), strict=True):
        assert result.is_error, (name, given, text(result)[:300])
        assert said in text(result), (name, given, text(result)[:600])
        assert "Traceback" not in text(result)


@pytest.mark.usefixtures("lockstep")
def test_an_operator_s_agent_rebuilds_and_forks(home: Path, tmp_path: Path, operator: Path) -> None:
    """With progress on the way, under the name that it gave; functions of a recipe are not its to
    name.
    """
    lines: list[str] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        del progress, total
        lines.append(message or "")

    async def work(client: Client) -> None:
        assert [tool.name for tool in (await client.list_tools()).tools] == READING + OPERATING
        state = told(await client.call_tool("rebuild_state", {"run": RUN, "step": 270}))
        assert state["step"] == 270
        given = {"run": RUN, "step": 270, "run_id": "mcp-fork", "settings": ["gates.z=0.5"]}
        forked = told(await client.call_tool("fork_run", given, progress_callback=heard))
        assert forked["run_id"] == "mcp-fork"
        named = {"run": RUN, "step": 270, "settings": ["task=os:system"]}
        assert "does not match" in text(await client.call_tool("fork_run", named))

    asked(home, tmp_path, work, "--operate", "--token-file", str(operator))
    assert any(lines)
    (row,) = query(
        endpoints(home).history_url, "SELECT parent, state FROM runs WHERE run_id = 'mcp-fork'"
    )
    assert (row["parent"], row["state"]) == (RUN, "FINISHED")


def test_a_token_is_looked_at_anew(home: Path, tmp_path: Path, operator: Path) -> None:
    """Taken away while the server runs, its tools are refused; a viewer's opens none."""

    async def work(client: Client) -> CallToolResult:
        await anyio.Path(operator).write_text("gone")
        return await client.call_tool("rebuild_state", {"run": RUN, "step": 1})

    arguments = ("--operate", "--token-file", str(operator))
    assert asked(home, tmp_path, work, *arguments).is_error
    viewer = token(home, tmp_path / "viewer")
    for path, said in ((viewer, "viewer's"), (tmp_path / "none", "cannot be read")):
        done = esper(home, "mcp", "--operate", "--token-file", str(path))
        assert (done.returncode != 0, said in done.stderr) == (True, True), done.stderr
    assert "go together" in esper(home, "mcp", "--operate").stderr


@pytest.mark.usefixtures("lockstep")
def test_what_an_agent_asked_for_ends_with_it(home: Path, tmp_path: Path, operator: Path) -> None:
    """A fork in mid-training, whose client goes away, is not there any more."""

    def training() -> list[psutil.Process]:
        named = [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"]]
        return [one for one in named if "--run-id=mcp-left" in one.info["cmdline"]]

    async def work(client: Client) -> None:
        began = anyio.Event()

        async def heard(progress: float, total: float | None, message: str | None) -> None:
            del progress, total, message
            began.set()

        given = {"run": RUN, "step": 0, "run_id": "mcp-left"}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: client.call_tool("fork_run", given, progress_callback=heard))
            await began.wait()
            assert training()
            tasks.cancel_scope.cancel()

    asked(home, tmp_path, work, "--operate", "--token-file", str(operator))
    eventually(lambda: not training())


def test_a_terminal_is_told_how_it_is_used(home: Path) -> None:
    """Nothing waits for a person who types."""
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "esper.cli", "mcp"],
            stdin=slave,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env={**os.environ, "ESPER_HOME": str(home)},
            check=False,
        )
    finally:
        os.close(master)
        os.close(slave)
    assert done.returncode == 2
    assert "mcpServers" in done.stderr
