"""The flow into the queues of streams: what Faust does to it when a worker has its partitions."""

from __future__ import annotations

from mode.utils.queues import FlowControlQueue

from esper_processors.streams import App


def test_a_flow_that_is_resumed_twice_keeps_what_is_in_the_queues() -> None:
    """Faust resumes it once more after messages have come: none is lost.

    What was there when it stopped is stale, since it is fetched again.
    """
    flow = App("flow", broker="kafka://127.0.0.1:1").flow_control
    queue: FlowControlQueue[int] = FlowControlQueue(flow_control=flow, clear_on_resume=True)
    flow.resume()
    queue.put_nowait(1)
    flow.resume()
    assert queue.qsize() == 1
    flow.suspend()
    flow.resume()
    assert queue.qsize() == 0
