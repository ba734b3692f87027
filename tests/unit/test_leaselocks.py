"""An extension under way keeps a return of the same message waiting, and no other."""

import threading

from pipeline.sqs import ReceivedMessage
from pipeline.transport.claims import Claims
from pipeline.transport.lease import Lease
from tests.processes import wait_until


def lease(name: str) -> Lease:
    message = ReceivedMessage(
        message_id=name,
        receipt_handle=name,
        body="",
        group_id=name,
        deduplication_id=name,
        receive_count=1,
        sent_at=0,
        attributes={},
        requested_at=0,
    )
    return Lease(message=message, queue="q", payload={}, deadline=0)


def test_what_is_claimed_is_not_free() -> None:
    """Until the block of whoever has it ends, also with an error."""
    claims, one, two = Claims(), lease("1"), lease("2")
    with claims.on_free([one]) as mine, claims.on_free([one, two]) as yours:
        assert (mine, yours) == ([one], [two])
    with claims.on_all([one, two]), claims.on_free([one]) as mine:
        assert mine == []


def test_a_return_waits_for_an_extension_of_its_message_only() -> None:
    """One that hangs must not hold up the others."""
    claims, hanging, other = Claims(), lease("1"), lease("2")
    returned: list[str] = []

    def give_back(each: Lease) -> None:
        with claims.on_all([each]):
            returned.append(each.message_id)

    with claims.on_free([hanging]):
        threads = [threading.Thread(target=give_back, args=(each,)) for each in (hanging, other)]
        for thread in threads:
            thread.start()
        wait_until(lambda: returned == ["2"], "the other is back")
    for thread in threads:
        thread.join(5)
    assert returned == ["2", "1"]
