"""Lines of the checklist about the service as a whole."""

import json
import logging
import math
from urllib.parse import urlsplit

from pipeline.capacity import Shape, quotas, steps_of
from pipeline.capacity.bottlenecks import OPEN_WRITES
from pipeline.checklist.facts import TRACEPARENT, Facts, sample_event
from pipeline.checklist.line import (
    NEAR,
    Finding,
    Item,
    fail,
    ok,
    skip,
    warn,
)
from pipeline.deadletters.openjobs import MOST_JOBS
from pipeline.loopback import is_loopback
from pipeline.payloads.bucket import kept_days
from pipeline.settings import MOST_SHARDS
from pipeline.telemetry import logs
from pipeline.wire import events
from pipeline.worker.cancelled import KEY_UNITS, units_a_second

_UPDATE = 'Run "pipeline provision --update".'

#: Seconds within which the sweep comes to the end of the open jobs: a pass of an hour, and a rest of half an
#: hour before it (the alert PipelineSweepBehind).
SWEPT_WITHIN = 7200.0
#: Workers that the list of cancelled jobs must have room for.
WORKERS = 1000

#: The share of what the index takes from which on it is to have more shards.
CROWDED = 0.5

#: Fields that every log line about a task has.
LOG_FIELDS = {"entity_id": "order-7", "stage": "extract", "duration_ms": 12.5}


def _flags(facts: Facts) -> Finding:
    flags = {
        "KAFKA_ENABLED": facts.settings.kafka_enabled,
        "USE_SQS_TASK_PROCESSING": facts.settings.use_sqs_task_processing,
    }
    evidence = ", ".join(f"{name}={str(value).lower()}" for name, value in flags.items())
    if not facts.settings.kafka_enabled:
        return warn(f"{evidence}: nothing is taken from Kafka", "Set KAFKA_ENABLED=true to go live.")
    if not facts.settings.use_sqs_task_processing:
        return warn(
            f"{evidence}: bridges run the stages themselves, and workers receive nothing",
            "Set USE_SQS_TASK_PROCESSING=true to run them on workers: docs/guides/deployment.md#without-sqs.",
        )
    return ok(evidence)


def _logging(_: Facts) -> Finding:
    record = logging.LogRecord("user.code", logging.INFO, __file__, 1, "Processing message", None, None)
    vars(record).update(LOG_FIELDS)
    line = logs.formatter(terminal=False).format(record)
    try:
        written = json.loads(line)
    except ValueError:
        written = {}
    evidence = f"a line of logging.getLogger() with extra= is written as {line}"
    if LOG_FIELDS.items() <= written.items():
        return ok(evidence)
    return fail(evidence, "Lines are made in pipeline/telemetry/logs.py: undo what changed it.")


def _tracing(facts: Facts) -> Finding:
    key, value, headers = events.encode(sample_event("e1", "x"))
    at = events.Coordinates(topic="t", partition=0, offset=0, timestamp_ms=0)
    back = events.decode(key=key, value=value, headers=headers, coordinates=at)
    on_sqs = {
        facts.message(stage, "e1", "x").headers.get("traceparent")
        for stage in facts.registry.by_name.values()
    }
    names = [name for name, _ in headers]
    evidence = f"an event has the headers {', '.join(names)}"
    sound = back.traceparent == TRACEPARENT and {"timestamp", "source"} <= set(names)
    if sound and on_sqs <= {TRACEPARENT}:
        return ok(f"{evidence}; its task carries the same traceparent")
    return fail(evidence, "Headers are made in pipeline/wire/events.py: undo what changed it.")


def _jobs(facts: Facts) -> Finding:
    table = facts.table
    if table.outcome == "missing":
        return fail(f"there is no DynamoDB table {table.name}", 'Run "pipeline provision".')
    if table.faults:
        return fail(f"{table.name}: {'; '.join(table.faults)}", "Correct what it names.")
    if table.differences:
        return warn(f"{table.name}: {'; '.join(table.differences)}", _UPDATE)
    return ok(f"DynamoDB table {table.name} is there, with its index and time to live")


def _recovery(facts: Facts) -> Finding:
    match facts.recovery:
        case None:
            return skip(f"the service of table {facts.table.name} does not tell whether it can be recovered")
        case True:
            return ok(f"table {facts.table.name} can be restored to any second of the last 35 days")
        case False:
            return warn(f"table {facts.table.name}: point-in-time recovery is off", _UPDATE)


def _payloads(facts: Facts) -> Finding:
    bucket = facts.bucket
    if bucket is None:
        return skip(
            "PAYLOAD_BUCKET is not set: an event or task over 1 MiB is a dead letter",
            "Set PAYLOAD_BUCKET to keep such data on S3: docs/guides/large-payloads.md.",
        )
    if bucket.outcome == "missing":
        return fail(f"there is no S3 bucket {bucket.name}", 'Run "pipeline provision".')
    if bucket.differences:
        return warn(f"bucket {bucket.name}: {'; '.join(bucket.differences)}", _UPDATE)
    days = kept_days(facts.settings)
    return ok(
        f"bucket {bucket.name} is there; its rule deletes this service's data after {days} days, when "
        "nothing names it any more"
    )


def _write_capacity(facts: Facts) -> Finding:
    table, wanted = facts.table, facts.settings.dynamodb_warm_writes
    name, found = table.name, table.write_capacity
    if found is None:
        return skip(f"the service of table {name} does not tell how many writes it takes at once")
    steps = steps_of(Shape(stages=3))
    jobs = min(
        found.table / sum(step.writes for step in steps),
        found.index / sum(step.index_writes for step in steps),
    )
    evidence = (
        f"table {name}, {'provisioned' if found.provisioned else 'on demand'}, takes {found.table:,} write "
        f"units a second at once, its index {found.index:,}: {int(jobs):,} jobs of three stages a second"
    )
    if wanted and found.rising:
        return ok(f"{evidence}; DynamoDB is raising it to {wanted:,}")
    if wanted and min(found.table, found.index) < wanted:
        return warn(f"{evidence}; DYNAMODB_WARM_WRITES={wanted}", _UPDATE)
    return ok(evidence)


def _cancelled(facts: Facts) -> Finding:
    units = units_a_second(facts.cancelled)
    workers = int(KEY_UNITS / units)
    evidence = (
        f"{facts.cancelled} jobs cancelled in five minutes: each worker reads {units:.2f} units a second "
        f"of their list, one key of table {facts.table.name}, which serves {workers:,} workers"
    )
    if workers >= WORKERS:
        return ok(evidence)
    return warn(
        evidence, "Cancel fewer jobs at a time: a worker that is refused runs tasks of cancelled jobs."
    )


def _index_shards(facts: Facts) -> Finding:
    shards, rate = facts.settings.dynamodb_index_shards, facts.jobs_a_second
    most = quotas.PARTITION_WRITES.value / OPEN_WRITES
    evidence = (
        f"the newest jobs came at {rate:,.1f} a second; DYNAMODB_INDEX_SHARDS={shards} partitions of the "
        f"index take {shards * most:,.0f}"
    )
    if facts.index_shards > shards:
        others = "with" if facts.open_beyond else "without"
        evidence += (
            f"; lists read the {facts.index_shards} that were used once, the others {others} open jobs"
        )
    if rate < CROWDED * shards * most:
        return ok(evidence)
    wanted = math.ceil(rate / most / CROWDED)
    if wanted > MOST_SHARDS:
        return warn(evidence, "Divide the work among services with tables of their own.")
    return warn(evidence, f"Set DYNAMODB_INDEX_SHARDS={wanted}: docs/reference/limits.md#how-far-it-goes.")


def _sweep(facts: Facts) -> Finding:
    last = facts.sweep
    if last is None or last.ended_at is None:
        return skip("no bridge has looked at all open jobs yet", "Start a bridge.")
    age, most = facts.now - last.whole_at, f"a pass within an hour takes in {MOST_JOBS:,}"
    evidence = (
        f"the sweep last came to the end of {last.open_jobs:,} open jobs {age / 60:.0f} min ago, after "
        f"{last.took / 60:.0f} min; {most}"
    )
    if age > SWEPT_WITHIN:
        return warn(evidence, "Look for sweep.failed in the bridges' log, and whether a bridge runs.")
    if last.open_jobs > MOST_JOBS * NEAR:
        return warn(evidence, "Find out why so many jobs are open, or divide the work among services.")
    return ok(evidence)


def _schedules(facts: Facts) -> Finding:
    known = {each.name: each for each in facts.schedules if each.state != "removed"}
    unknown = [stage.name for stage in facts.registry.scheduled if stage.name not in known]
    if not known and not unknown:
        return skip("there are no schedules", "None is needed.")
    failed = [f"{name}: {each.error}" for name, each in known.items() if each.error]
    unattended = [name for name, each in known.items() if each.state == "unattended"] + unknown
    if unattended:
        return warn(f"no bridge fires {', '.join(unattended)}", "Start a bridge with this code.")
    if failed:
        return warn(f"the last tick started nothing: {'; '.join(failed)}", "docs/guides/runbook.md.")
    paused = [name for name, each in known.items() if each.state == "paused"]
    return ok(f"{len(known)} schedules, {len(paused)} of them paused")


def _endpoints(facts: Facts) -> Finding:
    plain = {name: url for name, url in facts.endpoints.items() if url.startswith("http://")}
    # The names only: a DSN holds a key.
    names = ", ".join(plain)
    if not plain:
        return ok(f"https: {', '.join(facts.endpoints)}")
    mend = f"Name https addresses in {names}."
    if all(is_loopback(urlsplit(url).hostname) for url in plain.values()):
        return warn(f"plain http to this machine: {names}", mend)
    away = [name for name, url in plain.items() if not is_loopback(urlsplit(url).hostname)]
    return fail(f"plain http over the network: {', '.join(away)}", mend)


def _monitoring(facts: Facts) -> Finding:
    read = []
    # Facts are cached, also as errors: a service that is away is not waited for again.
    if facts.settings.kafka_enabled and facts.cluster:
        group = facts.group
        read.append(f'"pipeline monitor kafka" reads group {group.name}: {group.state}, lag {group.lag}')
    if facts.settings.use_sqs_task_processing:
        depths = ", ".join(f"{queue.name}: {queue.depth} messages" for queue in facts.depths.tasks)
        read.append(f'"pipeline monitor sqs" reads {depths}')
    if not read:
        return skip("both sides are switched off")
    return ok("; ".join(read))


def _shutdown(facts: Facts) -> Finding:
    # Celery takes half a second to import, which "pipeline --help" need not wait for.
    from pipeline.worker.bootsteps import Settling
    from pipeline.worker.runtime import CLOSE_TIMEOUT, SETTLE_TIMEOUT

    steps = facts.celery.steps["consumer"]
    evidence = (
        f"at SIGTERM a worker takes no more, lets tasks end (up to {facts.longest_run:g} s), settles them "
        f"({SETTLE_TIMEOUT:g} s) and gives back the rest ({CLOSE_TIMEOUT:g} s); what is cut off comes again"
    )
    if Settling not in steps:
        return fail("the worker has no settlement step", "pipeline.install adds it: undo what took it away.")
    return ok(f"{evidence}. Give its container {facts.grace:g} s before it is killed")


def _health(facts: Facts) -> Finding:
    code, report = facts.health["/health"]
    dependencies = {name: each["status"] for name, each in report["dependencies"].items()}
    evidence = f"/health answered {code} {report['status']}: " + ", ".join(
        f"{name} {status}" for name, status in dependencies.items()
    )
    if report["status"] == "unhealthy":
        reasons = [each["error"] for each in report["dependencies"].values() if each["status"] == "unhealthy"]
        return fail(evidence, "Mend: " + "; ".join(reasons))
    if facts.settings.health_port is None:
        return warn(f"{evidence}; HEALTH_PORT is not set", "Set HEALTH_PORT for bridge and worker.")
    if report["status"] == "degraded":
        return warn(evidence, "Ask /kafka/health and /sqs/health what is missing.")
    return ok(f"{evidence}; bridge and worker serve it on HEALTH_PORT={facts.settings.health_port}")


ITEMS: tuple[Item, ...] = (
    Item(id="general.feature-flags", section="General", title="Feature flags", check=_flags),
    Item(id="general.json-logging", section="General", title="Structured JSON logging", check=_logging),
    Item(id="general.tracing", section="General", title="Distributed tracing headers", check=_tracing),
    Item(id="general.job-tracking", section="General", title="Job tracking", check=_jobs),
    Item(id="general.recovery", section="General", title="Point-in-time recovery", check=_recovery),
    Item(id="general.payloads", section="General", title="Large payloads", check=_payloads),
    Item(id="general.write-capacity", section="General", title="Write capacity", check=_write_capacity),
    Item(id="general.index-shards", section="General", title="Shards of the index", check=_index_shards),
    Item(id="general.cancelled-jobs", section="General", title="List of cancelled jobs", check=_cancelled),
    Item(id="general.sweep", section="General", title="Sweep of open jobs", check=_sweep, asks="sqs"),
    Item(id="general.schedules", section="General", title="Schedules", check=_schedules),
    Item(id="general.tls", section="General", title="TLS endpoints", check=_endpoints),
    Item(id="general.monitoring", section="General", title="Monitoring scripts", check=_monitoring),
    Item(id="general.graceful-shutdown", section="General", title="Graceful shutdown", check=_shutdown),
    Item(id="general.health", section="General", title="Health check endpoints", check=_health),
)
