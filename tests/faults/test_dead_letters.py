"""Faults of parts: one becomes a dead letter, is examined, and redriven."""

import pytest

from tests.faults.marks import long_only
from tests.faults.world import World


@pytest.mark.parametrize(
    "ordinal", [pytest.param(0, id="first part", marks=long_only), pytest.param(3, id="last part")]
)
def test_a_failed_part_is_redriven(world: World, ordinal: int) -> None:
    """The job fails when all its parts have ended; the redriven part completes it: one event for each end."""
    sent = world.load.send_one("crates", parts=4, do="early-fail-until-mended", only=ordinal, fate="failed")
    others = world.load.send_one("arrivals", do="early-fail-until-mended", fate="failed", entity="mended")
    world.load.send()
    world.verify()
    world.mend()
    for each in (sent, others):
        world.redrive(each)
    world.load.expect("mended", sent, others)
    world.verify()
