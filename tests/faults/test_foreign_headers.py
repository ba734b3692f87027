"""Faults of headers: events shaped by others' tools, or with names of this project's own headers."""

import json
from dataclasses import replace

from tests.faults.load import Fate, Input
from tests.faults.world import World

#: Headers that a redriven event has; an event from outside may have them too, and they prove nothing.
FORGED = {
    "redrive": json.dumps(
        {"generation": 999, "topic": "elsewhere", "partition": 0, "offset": 7, "timestamp_ms": 1}
    ),
    "dlq_handled": "0:0",
    "dlq_how": "purged",
    "dlq_topic": "elsewhere",
    "dlq_offset": "9999999999",
    "dlq_stage": "ship",
    "dlq_error": "none",
}
#: By name, headers of an event that is as good as any: what they claim is not believed, and harms nothing.
HARMLESS: dict[str, dict[str, str]] = {
    "a job of another service": {"ce_jobid": "job-1", "ce_stage": "weigh"},
    "a stage's event on a topic that it does not emit to": {"ce_jobid": "job-2", "ce_stage": "count_crate"},
    "a plan that there is not": {"ce_planid": "0" * 16},
    "a plan that is none": {"ce_planid": "newest"},
    "a trace that is none": {"traceparent": "00-zz", "tracestate": "\x7f" * 600},
    "a redrive": FORGED,
    "headers of Kafka Connect": {
        "__connect.errors.topic": "parcels",
        "traceparent": '{"schema":{"type":"string"},"payload":"00-zz"}',
        "tenant": '"a"',
    },
    "headers of Spring and of Debezium": {
        "__TypeId__": "com.example.Parcel",
        "spring_json_header_types": '{"tenant":"java.lang.String"}',
        "id": "7b3c7c1e",
        "eventType": "ParcelSent",
    },
    "an attribute without a value": {"ce_time": "", "ce_traceparent": ""},
    "headers of a library": {"x-datadog-trace-id": "1", "b3": "0", "kafka_replyTopic": "parcels"},
}
#: By name, headers with which an event cannot become a task.
REJECTED: dict[str, dict[str, str]] = {
    "a moment that no service can hold": {"ce_submittedat": "1e-200"},
    "no number": {"ce_submittedat": "nan"},
    "a moment without end": {"ce_submittedat": "1e400"},
    "a moment before all": {"ce_submittedat": "-1"},
    "a job's id that is no key": {"ce_jobid": "a/b c"},
    "a rejected event that claims to be handled": {"ce_specversion": "9.9", "dlq_handled": "0:0"},
}


def test_headers_of_others_are_not_believed(world: World) -> None:
    """Events with them run as any other does, once; those that cannot run are kept, and none hides."""
    inputs = [_with(world, name, headers, "complete") for name, headers in HARMLESS.items()]
    inputs += [_with(world, name, headers, "rejected") for name, headers in REJECTED.items()]
    world.load.produce(inputs)
    world.load.send()
    world.verify(runs=1)


def test_a_processor_that_keeps_headers_makes_events_of_their_own(world: World) -> None:
    """Five events that a tool makes of one, its headers kept, are five jobs: none is taken for done."""
    one = world.load.item("parcels", entity="split")
    world.load.produce([one])
    kept = {name: value.decode() for name, value in one.headers if name in ("ce_specversion", "ce_type")}
    copies = [
        _with(world, f"copy-{n}", kept | {"ce_jobid": one.job_id, "ce_stage": "weigh"}, "complete")
        for n in range(5)
    ]
    world.load.produce(copies)
    world.verify(runs=1)


def _with(world: World, entity: str, headers: dict[str, str], fate: Fate) -> Input:
    """Return an event of its own with other headers too."""
    plain = world.load.item("parcels", entity=entity, fate=fate)
    given = dict(plain.headers) | {name: value.encode() for name, value in headers.items()}
    return replace(plain, headers=tuple(given.items()))
