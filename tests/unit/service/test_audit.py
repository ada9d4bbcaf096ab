"""What the gate tells the audit: every request that would change something, before and after, and
nothing of its secrets.
"""

from __future__ import annotations

from esper.config import ServiceSettings, Settings
from esper.errors import UnavailableError
from esper.service.checks.audit_entries import PENDING, detail_of
from tests.servicefixtures import assert_problem, bearer, served, token
from tests.unit.service.conftest import Part, build


def statuses(part: Part) -> list[int]:
    """What was told so far."""
    return [entry.status for entry in part.audit.entries]


def test_a_request_is_told_before_it_is_done_and_after(part: Part) -> None:
    """Who, what, where and what for, twice under one id; secrets are left out."""
    headers = bearer(token(part.settings, part.clock, "operator", subject="ann"))
    part.client.post(
        "/api/v1/runs/r1/orders?access_token=abc&x=1",
        json={"count": 1, "password": "hush"},
        headers=headers,
    )
    before, after = part.audit.entries
    assert (before.status, after.status) == (PENDING, 200)
    assert before.id == after.id
    assert (after.actor, after.role, after.run_id) == ("ann", "operator", "r1")
    assert (after.action, after.resource) == (
        "POST /api/v1/runs/{run_id}/orders",
        "/api/v1/runs/r1/orders",
    )
    assert (
        after.detail
        == '{"body":{"count":1,"password":"(hidden)"},"query":{"access_token":"(hidden)","x":"1"}}'
    )


def test_whatever_the_outcome_it_is_told(part: Part) -> None:
    """No token, too low a role, no such place, wrong body, too large, a fault: each once or, where
    it was let in, before and after.
    """
    viewer, operator, admin = (
        bearer(token(part.settings, part.clock, role)) for role in ("viewer", "operator", "admin")
    )
    path = "/api/v1/runs/r1/orders"
    expected: list[int] = []
    for status, headers, where, body in (
        (401, {}, path, {"count": 1}),
        (403, viewer, path, {"count": 1}),
        (404, admin, "/nothing", {}),
        (413, operator, path, {"count": 1, "password": "x" * 2_000}),
    ):
        assert part.client.post(where, json=body, headers=headers).status_code == status
        expected += [status]
        assert statuses(part) == expected
    for status, body in ((422, {}), (500, {"count": 7})):
        assert part.client.post(path, json=body, headers=operator).status_code == status
        expected += [PENDING, status]
        assert statuses(part) == expected
    assert part.client.put("/api/v1/status", headers=admin).status_code == 405
    assert part.audit.entries[0].actor == "anonymous"
    assert part.audit.entries[0].role == ""
    assert part.audit.entries[0].detail == ""
    assert part.done == []


def test_reading_is_not_told(part: Part) -> None:
    """GET is not, nor a POST that the part has declared to change nothing."""
    headers = bearer(token(part.settings, part.clock))
    part.client.get("/api/v1/status", headers=headers)
    assert part.client.post("/api/v1/look", headers=headers).json() == {"changed": False}
    assert part.audit.entries == []


def test_what_cannot_be_recorded_is_not_done(part: Part) -> None:
    """Where the audit refuses, the answer is 503, and the route has not been called."""
    part.audit.down = UnavailableError("Kafka does not answer; try again.")
    headers = bearer(token(part.settings, part.clock, "admin"))
    answer = part.client.post("/api/v1/runs/r1/orders", json={"count": 1}, headers=headers)
    assert_problem(answer, 503)
    assert "Kafka" in answer.json()["detail"]
    assert part.done == []
    assert part.client.get("/api/v1/status", headers=headers).status_code == 200


def test_requests_beyond_the_limit_are_counted_in_the_next_record(part: Part) -> None:
    """A flood does not fill the audit log: what was refused unseen is a number."""
    headers = bearer(token(part.settings, part.clock, "admin"))
    part.settings = Settings(home=part.settings.home, service=ServiceSettings(rate=1, burst=5))
    with served(build(part), part.settings) as client:
        assert [client.post("/nothing", headers=headers).status_code for _ in range(8)] == [
            404
        ] * 5 + [429] * 3
        part.clock.advance(1)
        client.post("/nothing", headers=headers)
    assert statuses(part) == [404] * 6
    assert part.audit.entries[-1].detail == '{"refused_unseen":3}'


def test_details_are_short_and_hide_secrets_at_any_depth() -> None:
    """Nested secrets are hidden, other bodies are told by size and type, long ones are cut."""
    body = b'{"a":[{"api_key":"x","Secret":{"b":1},"ok":1}]}'
    assert (
        detail_of({}, "application/json; charset=utf-8", body, {})
        == '{"body":{"a":[{"Secret":"(hidden)","api_key":"(hidden)","ok":1}]}}'
    )
    assert (
        detail_of({}, "application/json", b"{broken token", {})
        == '{"body":"13 bytes of application/json"}'
    )
    assert detail_of({}, "", b"abc", {}) == '{"body":"3 bytes of no type"}'
    assert detail_of({}, "", b"", {}) == ""
    assert len(detail_of({"q": "x" * 10_000}, "", b"", {})) < 5_000
