"""A job whose message is gone, beside jobs that merely wait, while the queue is never empty."""

from collections import defaultdict

import boto3
import pytest

from pipeline.deadletters.jobsweep import JobSweep
from pipeline.settings import load_settings
from tests.faults.load import Input
from tests.faults.world import World, faults_registry

#: Tasks that the load keeps on the queue, and seconds that each takes.
LOAD, SECONDS = 20, 0.2
#: Seconds without a change after which a sweep examines a job.
IDLE = 1.0
#: Sweeps after it was found, in which a job that waits could be taken for lost.
MORE = 6


def delete_from_outside(world: World) -> None:
    """Receive the only message of the queue, and delete it, as a stray consumer would."""
    sqs = boto3.client("sqs", **world.observer.aws["sqs"])
    url = world.observer.queue_url
    (message,) = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


def test_a_lost_job_is_reported_under_load_and_a_waiting_one_is_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing tells it from the others by counting: its own message group does."""
    for name, value in world.environment_of("sweep").items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    for worker in world.of("worker"):
        world.stop(worker)
    lost = world.load.send_one("parcels")
    world.wait(lambda: world.observer.depth()[0] == 1, "it is on the queue")
    delete_from_outside(world)
    world.ready(workers=1)
    long, waiting = (world.load.send_one("arrivals", entity="one", seconds=seconds) for seconds in (55, 0))
    world.wait_effect("start", long)
    kinds = sweep_until_lost(world, lost)
    assert kinds[lost.job_id] == {"waiting", "lost"}
    assert kinds[waiting.job_id] == kinds[long.job_id] == {"waiting"}
    assert not [job_id for job_id, found in kinds.items() if "lost" in found and job_id != lost.job_id]
    world.load.ledger.remove(lost)
    world.cli("jobs", "cancel", lost.job_id, "--yes")
    world.verify(runs=1)


def sweep_until_lost(world: World, lost: Input) -> dict[str, set[str]]:
    """Sweep under load until the job is reported; return all kinds of findings by job."""
    kinds: defaultdict[str, set[str]] = defaultdict(set)
    settings = load_settings(world.environment_of("sweep"))
    with JobSweep(settings, faults_registry()) as sweep:

        def look() -> bool:
            if world.observer.depth()[0] < LOAD:
                world.load.produce([world.load.item("parcels", seconds=SECONDS) for _ in range(LOAD)])
            for finding in sweep.run(IDLE):
                kinds[str(finding.job_id)].add(finding.kind)
            return "lost" in kinds[lost.job_id]

        world.wait(look, "the lost job is reported")
        for _ in range(MORE):
            look()
        assert any(world.observer.depth()), "the queue was empty: the test proves nothing"
    return kinds
