"""The checklist's lines about SQS."""

from pipeline.checklist.facts import Facts
from pipeline.checklist.line import Finding, Item, failed, passed, skipped, warned
from pipeline.checks import check_queue
from pipeline.monitoring.sqs import SqsMonitor
from pipeline.provision import redrive_policy
from pipeline.topology import FIFO, QueueNeed

_PROVISION = 'Run "pipeline provision --update".'
_CODE = "It is set in pipeline/celery.py: undo what changed it."

#: The checklist's own value of WaitTimeSeconds.
LONG_POLL = 5

#: Attributes that make a FIFO queue one of high throughput ("High throughput for FIFO queues", SQS guide).
THROUGHPUT = {"DeduplicationScope", "FifoThroughputLimit"}

#: Environment variables that hold access keys.
ACCESS_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")

#: botocore's words for credentials that a role gave: they expire, and are renewed without a person.
ROLES = ("iam-role", "container-role", "assume-role", "assume-role-with-web-identity")


def _fifo(facts: Facts) -> Finding:
    lacking: list[str] = []
    slow: list[str] = []
    for need in facts.queue_needs:
        # Raises for what a start refuses.
        present = check_queue(need, facts.queues[need.url])
        wrong = need.lacking(present)
        lacking += [
            f"{need.name}: {key} is {present[key]}, should be {value}" for key, value in wrong.items()
        ]
        slow += [need.name] if wrong.keys() & THROUGHPUT else []
    if slow:
        lacking.append(f"SQS takes 300 requests a second of {', '.join(slow)}, not of each message group")
    if lacking:
        return warned("; ".join(lacking), _PROVISION)
    return passed(f"SQS says {FIFO}=true of {', '.join(need.name for need in facts.queue_needs)}")


def _group_ids(facts: Facts) -> Finding:
    stages = list(facts.registry.by_name.values())
    if not stages:
        return skipped("no stage is loaded", "Name the packages of your stages in TASK_MODULES.")
    parallel: list[str] = []
    in_order: list[str] = []
    for stage in stages:
        first, second = (facts.message(stage, event, "entity").group_id for event in ("e1", "e2"))
        if (first == second) != stage.ordered:
            return failed(
                f"stage {stage.name}: two events of one entity have the groups {first} and {second}",
                "The group is made in pipeline/identity.py: undo what changed it.",
            )
        (in_order if stage.ordered else parallel).append(stage.name)
    return passed(
        f"made for two events of one entity: a group each in {', '.join(parallel) or 'no stage'}; "
        f"one group, in order, in {', '.join(in_order) or 'no stage'}"
    )


def _deduplication_ids(facts: Facts) -> Finding:
    stages = list(facts.registry.by_name.values())
    if not stages:
        return skipped("no stage is loaded", "Name the packages of your stages in TASK_MODULES.")
    once, again, other = (
        facts.message(stages[0], event, "x").deduplication_id for event in ("e1", "e1", "e2")
    )
    evidence = f"made for an event of stage {stages[0].name}: {once}; sent again: {again}; another's: {other}"
    if once == again != other:
        return passed(evidence)
    return failed(evidence, "The id is made in pipeline/identity.py: undo what changed it.")


def _visibility(facts: Facts) -> Finding:
    settings = facts.settings
    evidence = (
        f"a worker asks for SQS_LEASE_SECONDS={settings.sqs_lease_seconds} and extends it while a task runs, "
        f"up to {facts.longest_run:g} s"
    )
    for need in _task_queues(facts):
        present = facts.queues[need.url]
        if present is None:
            return failed(f"there is no queue {need.name}", 'Run "pipeline provision".')
        seconds = float(present.get("VisibilityTimeout", 0))
        evidence += f"; {need.name} has VisibilityTimeout={seconds:g}"
        if seconds < facts.longest_run:
            return warned(f"{evidence}, shorter than the longest task, for other consumers", _PROVISION)
    return passed(evidence)


def _long_polling(facts: Facts) -> Finding:
    seconds = facts.settings.sqs_wait_time_seconds
    evidence = f"SQS_WAIT_TIME_SECONDS={seconds}"
    mend = f"Set SQS_WAIT_TIME_SECONDS={LONG_POLL}."
    if seconds == 0:
        return failed(f"{evidence}: short polling, which is billed for each empty receive", mend)
    return passed(evidence) if seconds >= LONG_POLL else warned(f"{evidence}: more empty receives", mend)


def _dlq(facts: Facts) -> Finding:
    dead_letters = facts.queue_needs[0]
    there = facts.queues[dead_letters.url]
    if there is None:
        return failed(f"there is no queue {dead_letters.name}", 'Run "pipeline provision".')
    target = there["QueueArn"]
    found = []
    for need in _task_queues(facts):
        policy = (facts.queues[need.url] or {}).get("RedrivePolicy")
        arn, count = redrive_policy(policy)
        if not arn:
            return failed(
                f"{need.name} has no RedrivePolicy: a task that no worker survives would come back for ever",
                _PROVISION,
            )
        if arn != target:
            return failed(f"{need.name} sends dead letters to {arn}, SQS_DLQ_URL is {target}", _PROVISION)
        evidence = f"{need.name} has RedrivePolicy to {dead_letters.name} with maxReceiveCount={count}"
        if count < need.max_receive_count:
            return failed(
                f"{evidence}, should be {need.max_receive_count} or more: innocent tasks behind a failing "
                "one are received with it",
                _PROVISION,
            )
        found.append(evidence)
    return passed("; ".join(found))


def _delete_on_success(facts: Facts) -> Finding:
    configured = facts.celery.conf
    found = {name: configured[name] for name in ("task_acks_late", "task_reject_on_worker_lost")}
    consumer = str(configured["worker_consumer"])
    evidence = ", ".join(f"{name}={value}" for name, value in found.items())
    evidence += f"; messages are deleted by settlement only (worker_consumer={consumer})"
    if all(found.values()) and consumer == "pipeline.worker.consumer:Consumer":
        return passed(evidence)
    return failed(evidence, _CODE)


def _status(facts: Facts) -> Finding:
    told = [
        f"{tasks.name}: {tasks.available} available, {tasks.in_flight} in flight, {tasks.delayed} delayed"
        for tasks in facts.depths.tasks
    ]
    return passed(f'{"; ".join(told)}; "pipeline monitor sqs --watch" and /sqs/health tell it')


def _dlq_inspection(facts: Facts) -> Finding:
    depth = facts.depths.dlq_depth
    looked_at = SqsMonitor(facts.settings).dead_letters(1)
    evidence = f"{depth} dead letters; looked at {len(looked_at)} with ReceiveMessage, and left it there"
    if depth:
        return warned(evidence, 'See why: "pipeline dlq list".')
    return passed(evidence)


def _roles(facts: Facts) -> Finding:
    keys = [name for name in ACCESS_KEYS if facts.environ.get(name)]
    mend = "Take them out, and give the process a role (or, for development, AWS_PROFILE)."
    if keys:
        return failed(f"access keys in the environment: {', '.join(keys)}", mend)
    source = facts.credentials
    if source is None:
        return failed("boto3 finds no credentials", "Give the process a role.")
    if source == "env":
        return failed("boto3 takes access keys from the environment", mend)
    if source in ROLES:
        return passed(f"boto3's credentials come from a role ({source})")
    return warned(
        f"no access keys in the environment; boto3's credentials come from a person's profile ({source})",
        "For development that is right; in production give the process a role.",
    )


def _task_queues(facts: Facts) -> list[QueueNeed]:
    return [need for need in facts.queue_needs if need.max_receive_count]


ITEMS: tuple[Item, ...] = (
    Item(id="sqs.fifo", section="SQS", title="FIFO queue", check=_fifo, asks="sqs"),
    Item(id="sqs.group-id", section="SQS", title="MessageGroupId per task", check=_group_ids),
    Item(id="sqs.deduplication-id", section="SQS", title="MessageDeduplicationId", check=_deduplication_ids),
    Item(id="sqs.visibility", section="SQS", title="Visibility timeout", check=_visibility, asks="sqs"),
    Item(id="sqs.long-polling", section="SQS", title="Long polling", check=_long_polling),
    Item(id="sqs.dlq", section="SQS", title="Dead Letter Queue", check=_dlq, asks="sqs"),
    Item(id="sqs.delete-on-success", section="SQS", title="Delete only on success", check=_delete_on_success),
    Item(id="sqs.status", section="SQS", title="Queue status monitoring", check=_status, asks="sqs"),
    Item(id="sqs.dlq-inspection", section="SQS", title="DLQ inspection", check=_dlq_inspection, asks="sqs"),
    Item(id="sqs.iam-role", section="SQS", title="IAM role-based access", check=_roles),
)
