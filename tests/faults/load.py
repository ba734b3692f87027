"""The load of a fault: events written with a bare Kafka client, and a list of those acknowledged."""

import itertools
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from confluent_kafka import Producer

#: The expected end of an input. "mended": it failed, was redriven, and is complete.
Fate = Literal["complete", "failed", "rejected", "mended"]

#: Ids of jobs are UUIDs of what begins them, in this namespace (docs/guides/writing-stages.md).
NAMESPACE = uuid.UUID("5a4ad0a6-9d0e-4c55-8a32-0f6d5f3c7f11")

#: Seconds for Kafka to acknowledge all of it.
FLUSH = 120.0


@dataclass(frozen=True, kw_only=True)
class Input:
    """One event of the load."""

    #: In its data, and unique.
    key: str
    job_id: str
    #: The logical topic.
    topic: str
    entity: str
    seq: int
    parts: int = 0
    fate: Fate = "complete"
    #: The record as it was produced.
    record_key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


@dataclass(kw_only=True)
class Mix:
    """The number of events of each kind."""

    entities: int
    #: Ordered: each entity's in turn.
    arrivals: int
    #: Two hops.
    parcels: int
    #: Split, of ``pieces`` each.
    crates: int
    pieces: int

    @property
    def events(self) -> int:
        """Return the number of events."""
        return self.arrivals + self.parcels + self.crates


@dataclass(kw_only=True)
class Load:
    """The input of one fault."""

    bootstrap: str
    prefix: str
    mix: Mix
    #: All that Kafka acknowledged.
    ledger: list[Input] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._run = uuid.uuid4().hex[:8]
        self._numbers = itertools.count()
        self._places: dict[str, itertools.count[int]] = {}
        self._producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                # Topics decide what is too large, by what is left of it when it is compressed.
                "message.max.bytes": 8_000_000,
                "compression.type": "snappy",
                # Silent: some faults take the broker away.
                "log_level": 0,
            }
        )

    def send(self, mix: Mix | None = None, **more: Any) -> list[Input]:
        """Send a mix of interleaved kinds; ``more`` is added to the data of each event."""
        mix = mix or self.mix
        arrivals = [self.item("arrivals", entity=n % mix.entities, **more) for n in range(mix.arrivals)]
        parcels = [self.item("parcels", entity=n % mix.entities, **more) for n in range(mix.parcels)]
        crates = [
            self.item("crates", entity=n % mix.entities, parts=mix.pieces, **more) for n in range(mix.crates)
        ]
        return self.produce(
            [x for each in itertools.zip_longest(arrivals, parcels, crates) for x in each if x]
        )

    def expect(self, fate: Fate, *inputs: Input) -> None:
        """Expect another end of these inputs from now on."""
        self.ledger = [replace(each, fate=fate) if each in inputs else each for each in self.ledger]

    def send_one(self, topic: str, **data: Any) -> Input:
        """Send one event."""
        (sent,) = self.produce([self.item(topic, **data)])
        return sent

    def item(
        self,
        topic: str,
        *,
        entity: int | str = 0,
        parts: int = 0,
        fate: Fate = "complete",
        submitted_at: float | None = None,
        **data: Any,
    ) -> Input:
        """Return an input that is not sent yet."""
        number = next(self._numbers)
        name = f"{self._run}-{entity}"
        seq = next(self._places.setdefault(f"{topic}/{name}", itertools.count()))
        key = f"{self._run}-{number}"
        event_id, source = f"event-{key}", "/faults"
        content = {"key": key, "entity": name, "seq": seq, "parts": parts, **data}
        headers = {
            "ce_specversion": "1.0",
            "ce_id": event_id,
            "ce_source": source,
            "ce_type": topic,
            "content-type": "application/json",
        }
        if submitted_at is not None:
            headers["ce_submittedat"] = repr(submitted_at)
        return Input(
            key=key,
            job_id=str(uuid.uuid5(NAMESPACE, json.dumps(["job", source, event_id], separators=(",", ":")))),
            topic=topic,
            entity=name,
            seq=seq,
            parts=parts,
            fate=fate,
            record_key=name.encode(),
            value=json.dumps(content).encode(),
            headers=tuple((each, text.encode()) for each, text in headers.items()),
        )

    def produce(self, inputs: Sequence[Input], *, wait: float = FLUSH) -> list[Input]:
        """Write events and wait for Kafka. Acknowledged ones are in the ledger, and must come out."""
        acknowledged: list[Input] = []
        for each in inputs:

            def on_delivery(error: object, _: object, each: Input = each) -> None:
                if error is None:
                    acknowledged.append(each)

            self._producer.produce(
                self.prefix + each.topic,
                key=each.record_key,
                value=each.value,
                headers=list(each.headers),
                on_delivery=on_delivery,
            )
            self._producer.poll(0)
        deadline = time.monotonic() + wait
        while self._producer.flush(0.5) and time.monotonic() < deadline:
            pass
        self.ledger += acknowledged
        assert len(acknowledged) == len(inputs), "Kafka did not acknowledge the load: the test proves nothing"
        return acknowledged
