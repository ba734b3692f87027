"""Lines of the checklist about SQS."""

from pipeline.capacity import quotas
from pipeline.checklist.facts import Facts
from pipeline.checklist.line import (
    NEAR,
    Finding,
    Item,
    fail,
    ok,
    skip,
    warn,
)
from pipeline.errors import ConfigurationError
from pipeline.infra.compare import ENCRYPTION, FIFO, POLICY, QueueComparison
from pipeline.infra.startchecks import check_queue
from pipeline.observe.queues import SqsMonitor

_PROVISION = 'Run "pipeline provision --update".'
_CODE = "pipeline.install sets it: undo what changed it."

#: The value of WaitTimeSeconds in the checklist.
LONG_POLL = 5

#: The attribute with the number of messages in flight.
IN_FLIGHT = "ApproximateNumberOfMessagesNotVisible"

#: Attributes of high-throughput FIFO queues ("High throughput for FIFO queues", SQS guide).
THROUGHPUT = {"DeduplicationScope", "FifoThroughputLimit"}

#: Environment variables that hold access keys.
ACCESS_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")

#: botocore's words for credentials of a role: they expire, and are renewed without a person.
ROLES = ("iam-role", "container-role", "assume-role", "assume-role-with-web-identity")


def _fifo(facts: Facts) -> Finding:
    lacking: list[str] = []
    slow: list[str] = []
    for queue in (facts.dead_letter_queue, *facts.task_queues):
        # Raises for what a start refuses.
        check_queue(queue)
        lacking += [
            f"{queue.need.name}: {each.text()}"
            for each in queue.differences
            if each.key not in {*ENCRYPTION, POLICY}
        ]
        slow += [queue.need.name] if {each.key for each in queue.differences} & THROUGHPUT else []
    if slow:
        lacking.append(f"SQS takes 300 requests a second of {', '.join(slow)}, not of each message group")
    if lacking:
        return warn("; ".join(lacking), _PROVISION)
    return ok(f"SQS says {FIFO}=true of {', '.join(need.name for need in facts.queue_needs)}")


def _group_ids(facts: Facts) -> Finding:
    stages = list(facts.registry.by_name.values())
    if not stages:
        return skip("no stage is loaded", "Name the packages of your stages in TASK_MODULES.")
    parallel: list[str] = []
    in_order: list[str] = []
    for stage in stages:
        first, second = (facts.message(stage, event, "entity").group_id for event in ("e1", "e2"))
        if (first == second) != stage.ordered:
            return fail(
                f"stage {stage.name}: two events of one entity have the groups {first} and {second}",
                "The group is made in pipeline/wire/identity.py: undo what changed it.",
            )
        (in_order if stage.ordered else parallel).append(stage.name)
    return ok(
        f"made for two events of one entity: a group each in {', '.join(parallel) or 'no stage'}; "
        f"one group, in order, in {', '.join(in_order) or 'no stage'}"
    )


def _deduplication_ids(facts: Facts) -> Finding:
    stages = list(facts.registry.by_name.values())
    if not stages:
        return skip("no stage is loaded", "Name the packages of your stages in TASK_MODULES.")
    once, again, other = (
        facts.message(stages[0], event, "x").deduplication_id for event in ("e1", "e1", "e2")
    )
    evidence = f"made for an event of stage {stages[0].name}: {once}; sent again: {again}; another's: {other}"
    if once == again != other:
        return ok(evidence)
    return fail(evidence, "The id is made in pipeline/wire/identity.py: undo what changed it.")


def _visibility(facts: Facts) -> Finding:
    settings = facts.settings
    evidence = (
        f"a worker asks for SQS_LEASE_SECONDS={settings.sqs_lease_seconds} and extends it while a task runs, "
        f"up to {facts.longest_run:g} s"
    )
    for queue in facts.task_queues:
        if queue.attributes is None:
            return fail(f"there is no queue {queue.need.name}", 'Run "pipeline provision".')
        seconds = float(queue.attributes.get("VisibilityTimeout", 0))
        evidence += f"; {queue.need.name} has VisibilityTimeout={seconds:g}"
        if seconds < facts.longest_run:
            return warn(f"{evidence}, shorter than the longest task, for other consumers", _PROVISION)
    return ok(evidence)


def _long_polling(facts: Facts) -> Finding:
    seconds = facts.settings.sqs_wait_time_seconds
    evidence = f"SQS_WAIT_TIME_SECONDS={seconds}"
    mend = f"Set SQS_WAIT_TIME_SECONDS={LONG_POLL}."
    if seconds == 0:
        return fail(f"{evidence}: short polling, which is billed for each empty receive", mend)
    return ok(evidence) if seconds >= LONG_POLL else warn(f"{evidence}: more empty receives", mend)


def _dlq(facts: Facts) -> Finding:
    dead_letters = facts.dead_letter_queue
    if dead_letters.attributes is None:
        return fail(f"there is no queue {dead_letters.need.name}", 'Run "pipeline provision".')
    found = []
    for queue in facts.task_queues:
        name, needed = queue.need.name, queue.need.max_receive_count
        evidence = (
            f"{name} has RedrivePolicy to {dead_letters.need.name} with "
            f"maxReceiveCount={queue.max_receive_count}"
        )
        # A queue that does not exist has no RedrivePolicy either.
        if not queue.target:
            return fail(
                f"{name} has no RedrivePolicy: a task that no worker survives would come back for ever",
                _PROVISION,
            )
        if queue.redrive_fault == "another target":
            return fail(
                f"{name} sends dead letters to {queue.target}, SQS_DLQ_URL is {dead_letters.arn}", _PROVISION
            )
        if queue.redrive_fault == "count too low":
            return fail(
                f"{evidence}, should be {needed} or more: innocent tasks behind a failing "
                "one are received with it",
                _PROVISION,
            )
        found.append(evidence)
    return ok("; ".join(found))


def _existing_queues(facts: Facts) -> list[QueueComparison]:
    queues = [facts.dead_letter_queue, *facts.task_queues]
    if missing := [queue.need.name for queue in queues if queue.attributes is None]:
        raise ConfigurationError(f'there is no queue {", ".join(missing)}. Run "pipeline provision".')
    return queues


def _encryption(facts: Facts) -> Finding:
    queues = _existing_queues(facts)
    lacking = [
        f"{queue.need.name}: {each.text('not set')}"
        for queue in queues
        for each in queue.differences
        if each.key in ENCRYPTION
    ]
    if lacking:
        return fail("; ".join(lacking), _PROVISION)
    if not all(ENCRYPTION & (queue.attributes or {}).keys() for queue in queues):
        return skip("this service does not tell how its queues are encrypted")
    key = facts.settings.kms_key_arn
    return ok(f"every queue is encrypted with {key or 'a key of SQS or KMS'}")


def _tls_only(facts: Facts) -> Finding:
    queues = _existing_queues(facts)
    if not all(queue.need.tls_only for queue in queues):
        return skip("queues with http:// URLs have no TLS to ask for")
    lacking = [f"{queue.need.name}: {each.text()}" for queue in queues if (each := queue.difference(POLICY))]
    if lacking:
        return warn("; ".join(lacking), _PROVISION)
    return ok(f"the policy of every queue ({len(queues)}) denies requests without TLS")


def _delete_on_success(facts: Facts) -> Finding:
    configured = facts.celery.conf
    found = {name: configured[name] for name in ("task_acks_late", "task_reject_on_worker_lost")}
    consumer = str(configured["worker_consumer"])
    evidence = ", ".join(f"{name}={value}" for name, value in found.items())
    evidence += f"; messages are deleted by settlement only (worker_consumer={consumer})"
    if all(found.values()) and consumer == "pipeline.worker.consumer:Consumer":
        return ok(evidence)
    return fail(evidence, _CODE)


def _status(facts: Facts) -> Finding:
    depths = [
        f"{tasks.name}: {tasks.available} available, {tasks.in_flight} in flight, {tasks.delayed} delayed"
        for tasks in facts.depths.tasks
    ]
    return ok(f'{"; ".join(depths)}; "pipeline monitor sqs --watch" and /sqs/health tell it')


def _in_flight(facts: Facts) -> Finding:
    most = int(quotas.IN_FLIGHT.value)
    found = {
        queue.need.name: int(queue.attributes[IN_FLIGHT])
        for queue in facts.task_queues
        if queue.attributes and IN_FLIGHT in queue.attributes
    }
    if not found:
        return skip("no queue of tasks tells how many of its messages are in flight")
    counts = ", ".join(f"{name} {messages:,}" for name, messages in found.items())
    evidence = f"in flight: {counts}; at {most:,} SQS gives out no more messages of a queue, without an error"
    if max(found.values()) < NEAR * most:
        return ok(evidence)
    return warn(
        evidence,
        "Give a stage that runs long or waits for retries a queue of its own (@stage(queue=…)): "
        "docs/reference/limits.md#messages-in-flight.",
    )


def _dlq_inspection(facts: Facts) -> Finding:
    depth = facts.depths.dlq_depth
    looked_at = SqsMonitor(facts.settings).dead_letters(1)
    evidence = f"{depth} dead letters; looked at {len(looked_at)} with ReceiveMessage, and left it there"
    if depth:
        return warn(evidence, 'See why: "pipeline dlq list".')
    return ok(evidence)


def _roles(facts: Facts) -> Finding:
    keys = [name for name in ACCESS_KEYS if facts.environ.get(name)]
    mend = "Take them out, and give the process a role (or, for development, AWS_PROFILE)."
    if keys:
        return fail(f"access keys in the environment: {', '.join(keys)}", mend)
    source = facts.credentials
    if source is None:
        return fail("boto3 finds no credentials", "Give the process a role.")
    if source == "env":
        return fail("boto3 takes access keys from the environment", mend)
    if source in ROLES:
        return ok(f"boto3's credentials come from a role ({source})")
    return warn(
        f"no access keys in the environment; boto3's credentials come from a person's profile ({source})",
        "For development that is right; in production give the process a role.",
    )


ITEMS: tuple[Item, ...] = (
    Item(id="sqs.fifo", section="SQS", title="FIFO queue", check=_fifo, asks="sqs"),
    Item(id="sqs.group-id", section="SQS", title="MessageGroupId per task", check=_group_ids),
    Item(id="sqs.deduplication-id", section="SQS", title="MessageDeduplicationId", check=_deduplication_ids),
    Item(id="sqs.visibility", section="SQS", title="Visibility timeout", check=_visibility, asks="sqs"),
    Item(id="sqs.long-polling", section="SQS", title="Long polling", check=_long_polling),
    Item(id="sqs.dlq", section="SQS", title="Dead Letter Queue", check=_dlq, asks="sqs"),
    Item(id="sqs.encryption", section="SQS", title="Encryption at rest", check=_encryption, asks="sqs"),
    Item(id="sqs.tls-only", section="SQS", title="TLS-only queue policies", check=_tls_only, asks="sqs"),
    Item(id="sqs.delete-on-success", section="SQS", title="Delete only on success", check=_delete_on_success),
    Item(id="sqs.status", section="SQS", title="Queue status monitoring", check=_status, asks="sqs"),
    Item(id="sqs.in-flight", section="SQS", title="Messages in flight", check=_in_flight, asks="sqs"),
    Item(id="sqs.dlq-inspection", section="SQS", title="DLQ inspection", check=_dlq_inspection, asks="sqs"),
    Item(id="sqs.iam-role", section="SQS", title="IAM role-based access", check=_roles),
)
