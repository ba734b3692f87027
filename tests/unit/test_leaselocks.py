"""An extension under way keeps a return of the same message waiting, and no other."""

import threading

from pipeline.transport.lease import Lease, LeaseLocks
from tests.builders import lease
from tests.processes import wait_until


def test_what_is_locked_is_not_free() -> None:
    """Until the block of whoever has it ends, also with an error."""
    locks, one, two = LeaseLocks(), lease("1"), lease("2")
    with locks.lock_free([one]) as mine, locks.lock_free([one, two]) as yours:
        assert (mine, yours) == ([one], [two])
    with locks.lock_all([one, two]), locks.lock_free([one]) as mine:
        assert mine == []


def test_a_return_waits_for_an_extension_of_its_message_only() -> None:
    """One that hangs must not hold up the others."""
    locks, hanging, other = LeaseLocks(), lease("1"), lease("2")
    returned: list[str] = []

    def give_back(each: Lease) -> None:
        with locks.lock_all([each]):
            returned.append(each.message_id)

    with locks.lock_free([hanging]):
        threads = [threading.Thread(target=give_back, args=(each,)) for each in (hanging, other)]
        for thread in threads:
            thread.start()
        wait_until(lambda: returned == ["2"], "the other is back")
    for thread in threads:
        thread.join(5)
    assert returned == ["2", "1"]
