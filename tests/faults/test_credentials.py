"""Faults of credentials: they expire under load, and SQS and DynamoDB refuse all until new ones come."""

from tests.faults.mishaps import answer_error
from tests.faults.world import World


def test_credentials_expire(world: World) -> None:
    """Every call is refused for seconds; no task is dead-lettered for it, and no process ends."""
    processes = world.alive()
    world.load.send(seconds=0.05)
    with (
        world.wire.rule(answer_error(403, "ExpiredToken"), server="sqs"),
        world.wire.rule(answer_error(400, "ExpiredTokenException"), server="dynamodb"),
    ):
        world.load.send()
        world.pass_time(6)
    world.verify()
    assert world.alive() == processes
