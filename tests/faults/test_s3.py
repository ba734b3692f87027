"""Faults of S3: away for puts, away for reads; a crash after a put; objects that are gone or truncated."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from pipeline.payloads.bucket import Bucket, bucket_need
from pipeline.payloads.client import s3_client
from pipeline.settings import load_settings
from tests.faults.load import Fate, Input
from tests.faults.mishaps import Hold
from tests.faults.world import Process, World
from tests.payloads import keys, s3mock
from tests.proxies import Proxy

#: Bytes of the data of a large event: a topic takes it compressed, a queue does not.
LARGE = 1_500_000
#: Large events beside the load.
FEW = 4


@dataclass(kw_only=True)
class Storage:
    """A bucket that bridges reach through one proxy, and workers through another."""

    world: World
    bridges: Proxy
    workers: Proxy
    url: str
    bucket: str
    started: list[Process] = field(default_factory=list)

    def start(self, kind: str, *, client: str | None = None) -> Process:
        """Start a bridge or a worker that has the bucket."""
        proxy = self.bridges if kind == "bridge" else self.workers
        process = self.world.start(
            kind, client=client, PAYLOAD_BUCKET=self.bucket, AWS_ENDPOINT_URL_S3=proxy.url
        )
        self.started.append(process)
        return process

    def send(self, fate: Fate = "complete") -> list[Input]:
        """Send some large events of two hops."""
        items = [self.world.load.item("parcels", entity=f"large-{n}", fate=fate) for n in range(FEW)]
        large = [
            replace(each, value=json.dumps(json.loads(each.value or b"") | {"filling": "x" * LARGE}).encode())
            for each in items
        ]
        return self.world.load.produce(large)

    def objects(self) -> list[str]:
        """Return the keys of all objects."""
        return keys(load_settings({**self.world.environment, "PAYLOAD_BUCKET": self.bucket}))

    def wait_log(self, process: Process, event: str) -> None:
        """Wait until a process has logged an event."""
        self.world.wait(lambda: event in process.log, f"{event} of {process.name}")


@pytest.fixture
def storage(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """A bridge and two workers with a bucket; they end with the fault, as others have none."""
    with s3mock() as url, Proxy(url) as bridges, Proxy(url) as workers:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        for process in world.alive():
            world.stop(process)
        made = Storage(world=world, bridges=bridges, workers=workers, url=url, bucket="faults-payloads")
        need = bucket_need(load_settings({**world.environment, "PAYLOAD_BUCKET": made.bucket}))
        assert need
        Bucket(need).provision(update=False)
        for kind in ("bridge", "worker", "worker"):
            made.start(kind)
        world.ready()
        try:
            yield made
        finally:
            for process in made.started:
                if process.lives:
                    world.kill(process)


def test_away_when_data_is_put(storage: Storage) -> None:
    """The bridge tries again with the same keys; nothing is rejected, and each task runs once."""
    storage.bridges.cut()
    storage.send()
    storage.wait_log(storage.world.bridge, "service.unanswered")
    storage.bridges.restore()
    storage.world.load.send()
    storage.world.verify(runs=1)
    assert len(storage.objects()) == FEW


def test_away_when_data_is_read(storage: Storage) -> None:
    """The children wait for it; no attempt fails, and leases are kept."""
    storage.workers.cut()
    storage.send()
    workers = storage.world.of("worker")
    storage.world.wait(
        lambda: any("payload.unanswered" in each.log for each in workers), "a child that waits for S3"
    )
    storage.workers.restore()
    storage.world.load.send()
    storage.world.verify(runs=1)


def test_a_crash_between_put_and_send(storage: Storage) -> None:
    """The next bridge puts the same data again, under the same keys."""
    hold = Hold()
    with storage.world.wire.rule(hold, "SendMessageBatch", client="bridge"):
        storage.send()
        hold.wait()
        assert storage.objects()
        storage.world.kill(storage.world.bridge)
        hold.let_go()
    storage.start("bridge")
    storage.world.load.send()
    storage.world.verify(runs=1)
    assert len(storage.objects()) == FEW


@pytest.mark.parametrize("truncated", [False, True], ids=["gone", "truncated"])
def test_objects_are(storage: Storage, truncated: bool) -> None:
    """A dead letter at once with the reason; nothing runs on it, and nothing waits behind it."""
    storage.workers.cut()
    storage.send(fate="failed")
    storage.world.wait(lambda: len(storage.objects()) == FEW, "all objects")
    for key in storage.objects():
        if truncated:
            s3_client().put_object(Bucket=storage.bucket, Key=key, Body=b"{")
        else:
            s3_client().delete_object(Bucket=storage.bucket, Key=key)
    storage.workers.restore()
    storage.world.load.send()
    storage.world.verify(runs=1)
    reasons = {
        letter["MessageAttributes"]["reason"]["StringValue"] for letter in storage.world.observer.letters()
    }
    said = "is damaged" if truncated else "is gone"
    assert len([reason for reason in reasons if said in reason]) == FEW
