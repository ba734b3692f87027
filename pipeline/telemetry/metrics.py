"""The Prometheus metrics of every process. ``docs/reference/telemetry.md`` lists them.

Bridges and the parent processes of workers count; ``/metrics`` of a process serves its own counts.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

#: This project's metrics only: the library's default registry also holds those of the Python process.
REGISTRY = CollectorRegistry()

#: Seconds: from a cached lookup to the answer of a large model.
_RUN_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600)
_STEP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30)
_EVENT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300, 3600)
#: From a field that is looked at to a run that is named as slow, and beyond.
_CONSUMER_BUCKETS = (0.0001, 0.001, 0.01, 0.1, 1, 10, 60)
_JOB_BUCKETS = (1, 5, 15, 60, 300, 900, 3600, 14_400, 86_400)

# ─── Worker ───
TASKS_RECEIVED = Counter(
    "pipeline_tasks_received", "Task messages received from SQS.", ["queue"], registry=REGISTRY
)
TASKS_STARTED = Counter("pipeline_tasks_started", "Runs given to the pool.", ["task"], registry=REGISTRY)
#: outcome: done, already_done, retried, dead, returned (did not run), discarded (a plain task without a
#: result to keep), cancelled (its job was, so it did not run)
TASKS_SETTLED = Counter(
    "pipeline_tasks_settled",
    "Tasks that settlement is through with.",
    ["stage", "outcome"],
    registry=REGISTRY,
)
TASKS_FAILED = Counter(
    "pipeline_tasks_failed", "Failed runs, those that are tried again too.", ["stage"], registry=REGISTRY
)
RUN_SECONDS = Histogram(
    "pipeline_task_run_seconds", "Run time of tasks.", ["stage"], buckets=_RUN_BUCKETS, registry=REGISTRY
)
#: step: emit, record, close
STEP_SECONDS = Histogram(
    "pipeline_settlement_step_seconds",
    "Time of a settlement step, for a batch of tasks.",
    ["step"],
    buckets=_STEP_BUCKETS,
    registry=REGISTRY,
)
LEASES_LOST = Counter(
    "pipeline_leases_lost", "Messages held that SQS gave to others.", ["queue"], registry=REGISTRY
)
CONTROL_EVENTS_DROPPED = Counter(
    "pipeline_control_events_dropped",
    "Events for Flower that did not reach Kafka.",
    registry=REGISTRY,
)
TASK_EVENTS_SHARE = Gauge(
    "pipeline_task_events_share", "Share of jobs whose task events are sent.", registry=REGISTRY
)
TASK_EVENTS_SHARE.set(1)
HELD = Gauge("pipeline_held", "Messages held, by how far they are.", ["phase"], registry=REGISTRY)
LANES = Gauge("pipeline_lanes", "Message groups of which messages are held.", registry=REGISTRY)
CANCELLED_UNITS = Counter(
    "pipeline_cancelled_jobs_read_units",
    "About how many read units the list of cancelled jobs took, which is one key of the table.",
    registry=REGISTRY,
)
#: state: complete, failed
JOB_SECONDS = Histogram(
    "pipeline_job_seconds",
    "From a job's submission to its end.",
    ["state"],
    buckets=_JOB_BUCKETS,
    registry=REGISTRY,
)

# ─── Bridge ───
EVENTS_POLLED = Counter("pipeline_events_polled", "Events read from Kafka.", ["topic"], registry=REGISTRY)
REGISTRY_AWAY = Gauge(
    "pipeline_schema_registry_away",
    "1 while the schema registry does not give a schema that records need, else 0.",
    registry=REGISTRY,
)
EVENTS_PASSED = Counter(
    "pipeline_events_passed", "Events the bridge is through with, rejected ones too.", registry=REGISTRY
)
EVENTS_REJECTED = Counter(
    "pipeline_events_rejected", "Events that could not become tasks.", ["topic"], registry=REGISTRY
)
TOMBSTONES = Counter(
    "pipeline_tombstones",
    "Records without a value that no stage asks for.",
    ["topic"],
    registry=REGISTRY,
)
CONSUMER_SECONDS = Histogram(
    "pipeline_consumer_seconds",
    "Run time of consumers, on one record.",
    ["consumer"],
    buckets=_CONSUMER_BUCKETS,
    registry=REGISTRY,
)
CONSUMER_SLOW = Counter(
    "pipeline_consumer_slow", "Runs of a consumer that took too long.", ["consumer"], registry=REGISTRY
)
RECORDS_PASSED_OVER = Counter(
    "pipeline_records_passed_over",
    "Records of which a consumer makes no event.",
    ["consumer"],
    registry=REGISTRY,
)
EVENTS_EXPIRED = Counter(
    "pipeline_events_expired",
    "Offsets that the topic's retention deleted before they were read.",
    ["topic"],
    registry=REGISTRY,
)
PARTITIONS_STUCK = Counter(
    "pipeline_partitions_stuck",
    "Partitions whose events the Kafka client did not get, so that it was replaced.",
    ["topic"],
    registry=REGISTRY,
)
TASKS_SENT = Counter(
    "pipeline_tasks_sent", "Tasks that SQS took from a bridge.", ["queue"], registry=REGISTRY
)
SEND_ENTRIES = Histogram(
    "pipeline_send_entries", "Tasks in one request to SQS.", buckets=tuple(range(1, 11)), registry=REGISTRY
)
EVENT_SECONDS = Histogram(
    "pipeline_event_to_sqs_seconds",
    "From an event's timestamp in Kafka to SQS having its task.",
    buckets=_EVENT_BUCKETS,
    registry=REGISTRY,
)
EVENTS_HELD = Gauge(
    "pipeline_events_held",
    "Events a bridge holds, from the poll until their tasks are out.",
    registry=REGISTRY,
)
EVENT_BYTES_HELD = Gauge("pipeline_event_bytes_held", "Bytes of the events it holds.", registry=REGISTRY)
UNCOMMITTED = Gauge(
    "pipeline_uncommitted_events",
    "Events read and not committed: what a crash would repeat.",
    ["topic", "partition"],
    registry=REGISTRY,
)
UNCOMMITTED_SECONDS = Gauge(
    "pipeline_uncommitted_seconds",
    "Since the oldest of them was read, where tasks go to SQS.",
    ["topic", "partition"],
    registry=REGISTRY,
)
PARTITION_LAG = Gauge(
    "pipeline_partition_lag",
    "Events of a partition that its bridge has not read.",
    ["topic", "partition"],
    registry=REGISTRY,
)

TOPIC_PAUSED = Gauge(
    "pipeline_topic_paused",
    "1 while a bridge reads nothing of a topic, because a queue that it feeds is too deep.",
    ["topic"],
    registry=REGISTRY,
)

# ─── Dependencies: read when the metrics are read ───
DEPENDENCY = Gauge(
    "pipeline_dependency",
    "How a dependency is: 1 healthy, 0.5 degraded, 0 unhealthy.",
    ["dependency"],
    registry=REGISTRY,
)
#: state: available, in_flight, delayed, dead
QUEUE_MESSAGES = Gauge(
    "pipeline_queue_messages", "About how many messages a queue holds.", ["queue", "state"], registry=REGISTRY
)
LAG = Gauge(
    "pipeline_consumer_lag", "Events the bridges' group has not committed.", ["topic"], registry=REGISTRY
)

# ─── Workers: pipeline web ───
BROKER_CONNECTIONS = Gauge(
    "pipeline_broker_connections",
    "About how many connections workers hold to the broker that leads the control topics, with MSK's IAM.",
    registry=REGISTRY,
)

# ─── DynamoDB: every process ───
#: reason: DynamoDB's own, such as TableWriteKeyRangeThroughputExceeded; the error's code where it gives none;
#: unprocessed: a batch that wrote a part of its items
THROTTLED = Counter(
    "pipeline_dynamodb_throttled",
    "Requests that DynamoDB throttled, each try of one.",
    ["operation", "reason"],
    registry=REGISTRY,
)

#: resource: table, or the name of an index
WRITE_UNITS = Counter(
    "pipeline_table_write_units",
    "Write units that this process took of the table and of its indexes.",
    ["resource"],
    registry=REGISTRY,
)
WRITE_CAPACITY = Gauge(
    "pipeline_table_write_capacity",
    "Write units a second that table and index take at once, where DynamoDB tells.",
    ["resource"],
    registry=REGISTRY,
)

# ─── S3: bridges and the parent processes of workers ───
#: role: task, event, part, result
PAYLOADS_KEPT = Counter(
    "pipeline_payloads_kept",
    "Data that was put on S3, too large for its service.",
    ["role"],
    registry=REGISTRY,
)
PAYLOAD_BYTES = Counter("pipeline_payload_bytes", "Bytes of it.", ["role"], registry=REGISTRY)
PAYLOADS_FAILED = Counter(
    "pipeline_payloads_failed",
    "Puts on S3 that failed, each try.",
    ["role"],
    registry=REGISTRY,
)
PAYLOAD_SECONDS = Histogram(
    "pipeline_payload_seconds",
    "Time to put one on S3.",
    buckets=_STEP_BUCKETS,
    registry=REGISTRY,
)

# ─── Schedules: one bridge at a time ───
#: outcome: fired, failed (it can never start anything), missed (counted once for ticks in a row)
SCHEDULE_TICKS = Counter(
    "pipeline_schedule_ticks", "Ticks of schedules.", ["schedule", "outcome"], registry=REGISTRY
)

# ─── The sweep: one bridge at a time ───
#: kind: as ``pipeline.deadletters.jobsweep.Kind``
SWEEP_FINDINGS = Counter(
    "pipeline_sweep_findings", "What sweeps found, each time they did.", ["kind"], registry=REGISTRY
)
#: 0 in a process that has not swept; where another one sweeps now, this one's last values stay.
SWEEP_PASSED = Gauge(
    "pipeline_sweep_passed_timestamp_seconds",
    "When the sweep last came to the end of the open jobs; before that, when it began.",
    registry=REGISTRY,
)
SWEEP_OPEN_JOBS = Gauge(
    "pipeline_sweep_open_jobs",
    "The open jobs that the sweep's last whole pass saw; those of the present one once they are more.",
    registry=REGISTRY,
)

_at_scrape: dict[str, Callable[[], None]] = {}


def at_scrape(name: str, update: Callable[[], None]) -> None:
    """Call ``update`` before each read of the metrics: for gauges of values that are counted elsewhere."""
    _at_scrape[name] = update


def exposition() -> bytes:
    """Return all metrics in Prometheus's text format."""
    for update in list(_at_scrape.values()):
        update()
    return generate_latest(REGISTRY)


@contextmanager
def time_step(step: str) -> Iterator[None]:
    """Measure how long a settlement step takes, also one that fails."""
    started = time.monotonic()
    try:
        yield
    finally:
        STEP_SECONDS.labels(step).observe(time.monotonic() - started)
