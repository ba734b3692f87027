"""Each process works with the policy printed for it, enforced, and uses all that it is given."""

import fnmatch
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from pipeline.author.loading import load_stages
from pipeline.author.registry import REGISTRY, Registry
from pipeline.cli import main
from pipeline.deadletters import JobSweep
from pipeline.errors import ServiceRefusedError
from pipeline.infra.iam import policy
from pipeline.infra.needs import ROLES, Role, topic_needs
from pipeline.infra.startchecks import check_start
from pipeline.jobs import JobStore, NewJob, StageDone, StageRef
from pipeline.jobs.dynamodb import dynamodb_client
from pipeline.jobs.table import INDEX
from pipeline.kafka import EventProducer, KafkaAdmin, OutgoingRecord
from pipeline.kafka.configuration import client_configuration
from pipeline.payloads import Payloads
from pipeline.payloads.client import s3_client
from pipeline.services.children import Children, children
from pipeline.services.environment import Services
from pipeline.settings import Settings, load_settings
from pipeline.sqs import OutgoingMessage, SqsQueue, sqs_client
from pipeline.sqs.queues import change_queue
from pipeline.wire import events
from tests.conftest import MakeEnvironment
from tests.iamgate import Gate, gate
from tests.payloads import keys
from tests.processes import PATIENCE, wait_until
from tests.securekafka import PASSWORD, USER, SecureKafka, secure_kafka

MODULE, CONSUMERS = "tests.integration.errands", "tests.integration.errandrows"
TOKEN = "only-for-the-tests-of-policies"
CLUSTER = "arn:aws:kafka:us-east-1:000000000000:cluster/test/0f7a5b3c-1"

#: Kafka's operation for each action of MSK (Semantics of IAM authorization policy actions, MSK developer
#: guide). Connect has none.
OPERATIONS = {
    "kafka-cluster:AlterGroup": AclOperation.READ,
    "kafka-cluster:AlterTopic": AclOperation.ALTER,
    "kafka-cluster:AlterTopicDynamicConfiguration": AclOperation.ALTER_CONFIGS,
    "kafka-cluster:CreateTopic": AclOperation.CREATE,
    "kafka-cluster:DescribeGroup": AclOperation.DESCRIBE,
    "kafka-cluster:DescribeTopic": AclOperation.DESCRIBE,
    "kafka-cluster:DescribeTopicDynamicConfiguration": AclOperation.DESCRIBE_CONFIGS,
    "kafka-cluster:ReadData": AclOperation.READ,
    "kafka-cluster:WriteData": AclOperation.WRITE,
    "kafka-cluster:WriteDataIdempotently": AclOperation.IDEMPOTENT_WRITE,
}
#: The command, as a process of its own; the address that "pipeline web" prints.
_CLI = "import sys; from pipeline.cli import main; main(sys.argv[1:])"
_SERVING = re.compile(r"Serving (http://\S+)")

#: Bytes of data that Kafka, SQS and DynamoDB do not take.
LARGE = 1_100_000

KEY = "arn:aws:kms:us-east-1:000000000000:key/0f7a5b3c-1d2e-4f60-8a9b-c0d1e2f3a4b5"

KINDS = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP}


@dataclass(frozen=True)
class Page:
    """A jobs page that runs as a process of its own."""

    url: str

    def ask(self, path: str, body: Any = None) -> Any:
        """The answer of its API; a body makes it an action."""
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{self.url}/api/v1{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.loads(answer.read())

    def look(self, path: str, whole: Callable[[Any], object] = lambda _: True) -> Any:
        """The answer once it is whole; a page of a busy machine waits for its services in vain at first."""
        answers: list[Any] = []

        def is_whole() -> bool:
            try:
                answers.append(self.ask(path))
            except urllib.error.HTTPError as error:
                with error:
                    if error.code != 503:
                        raise
                return False
            return bool(whole(answers[-1]))

        wait_until(is_whole, f"the whole answer of {path}")
        return answers[-1]


@dataclass
class Office:
    """A service whose processes may do what their policies say."""

    environments: dict[Role, dict[str, str]]
    gates: dict[Role, Gate]
    policies: dict[Role, dict[str, Any]]
    settings: Settings
    children: Children
    folder: Path

    def start(self, role: Role, *options: str) -> None:
        with (self.folder / f"{role}.log").open("ab") as log:
            self.children.start(
                [sys.executable, "-m", "celery", "-A", "pipeline", role, *options],
                environment=self.environments[role],
                output=log,
            )

    def run(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
        """A command of the operator; its output."""
        result = CliRunner().invoke(main, arguments, env=self.environments["operator"])
        assert result.exit_code in codes, f"{arguments}: {result.output}\n{self.logs()}"
        return result.stdout

    def page(self, role: Role) -> Page:
        """Start the jobs page with the policy of a role."""
        log = self.folder / f"{role}.log"
        with log.open("wb") as output:
            self.children.start(
                [sys.executable, "-c", _CLI, "web", "--port", "0"],
                environment={**self.environments[role], "WEB_READ_ONLY": str(role == "web-read-only")},
                output=output,
            )
        wait_until(lambda: _SERVING.search(log.read_text()), f"the page of {role}")
        found = _SERVING.search(log.read_text())
        assert found
        return Page(found.group(1))

    def celery(self, *arguments: str) -> None:
        """A command of Celery's, as the operator."""
        command = [sys.executable, "-m", "celery", "-A", "pipeline", *arguments]
        done = subprocess.run(
            command,
            env=self.environments["operator"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def logs(self) -> str:
        return "".join(log.read_text()[-6000:] for log in self.folder.glob("*.log"))

    def state(self, job_id: str) -> str:
        return str(json.loads(self.run("jobs", "show", job_id, "--json"))["state"])


@pytest.fixture(scope="module")
def broker(local_programs: None) -> Iterator[SecureKafka]:
    with secure_kafka() as broker:
        yield broker


@pytest.fixture(autouse=True)
def consumers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this service only, and for these tests only: each loads them anew."""
    monkeypatch.setattr(REGISTRY, "_consumers", {})
    monkeypatch.delitem(sys.modules, CONSUMERS, raising=False)


@pytest.fixture
def office(
    broker: SecureKafka,
    embedded_services: Services,
    make_environment: MakeEnvironment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Office]:
    environment = _service(broker, embedded_services, make_environment, tmp_path, AUTO_PROVISION="false")
    for name, value in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    with _policies(environment, broker) as (policies, gates), children() as started:
        yield Office(
            environments={role: _environment(environment, role, gates[role], broker) for role in ROLES},
            gates=gates,
            policies=policies,
            settings=load_settings(environment),
            children=started,
            folder=tmp_path,
        )


def _service(
    broker: SecureKafka, services: Services, make_environment: MakeEnvironment, folder: Path, **variables: str
) -> dict[str, str]:
    """The environment of a service whose user may do all. The topic of others that it reads is there."""
    environment = make_environment(
        services,
        TASK_MODULES=MODULE,
        CONSUMER_MODULES=CONSUMERS,
        KAFKA_BOOTSTRAP_SERVERS=broker.sasl,
        KAFKA_SECURITY_PROTOCOL="SASL_SSL",
        KAFKA_SASL_MECHANISM="SCRAM-SHA-512",
        KAFKA_SASL_USERNAME=USER,
        KAFKA_SASL_PASSWORD=PASSWORD,
        SSL_CA_LOCATION=str(broker.authority),
        MENDED=str(folder),
        WEB_TOKEN=TOKEN,
        **variables,
    )
    name = environment["SERVICE_NAME"]
    environment |= {"PAYLOAD_BUCKET": name, "KAFKA_TOPIC_THEIR_LISTS": f"their.{name}"}
    settings = load_settings(environment)
    KafkaAdmin(settings).create(
        settings.topic_of_others("their-lists"), partitions=1, replication=1, config={}
    )
    return environment


def _registry() -> Registry:
    return load_stages((MODULE,), consumers=(CONSUMERS,))


@contextmanager
def _policies(
    environment: Mapping[str, str], broker: SecureKafka
) -> Iterator[tuple[dict[Role, dict[str, Any]], dict[Role, Gate]]]:
    """Each process's policy, enforced on Kafka and by a gate while the block runs."""
    settings, registry = load_settings(environment), _registry()
    on_msk = settings.model_copy(update={"kafka_sasl_mechanism": "AWS_MSK_IAM", "msk_cluster_arn": CLUSTER})
    policies = {role: policy(on_msk, registry, role) for role in ROLES}
    _grant(settings, policies)
    with ExitStack() as stack:
        upstream = environment["AWS_ENDPOINT_URL_SQS"]
        gates = {role: stack.enter_context(gate(policies[role], upstream, broker.server)) for role in ROLES}
        yield policies, gates


def _environment(
    environment: Mapping[str, str], role: Role, way: Gate, broker: SecureKafka
) -> dict[str, str]:
    own = {f"AWS_ENDPOINT_URL_{service}": way.url for service in ("SQS", "DYNAMODB", "S3")}
    return {
        **environment,
        **own,
        "AWS_CA_BUNDLE": str(broker.authority),
        "KAFKA_SASL_USERNAME": role,
    }


def _grant(settings: Settings, policies: Mapping[Role, dict[str, Any]]) -> None:
    """Grant on Kafka what the policies grant on MSK."""
    bindings = [
        AclBinding(
            kind, name, ResourcePatternType.LITERAL, f"User:{role}", "*", operation, AclPermissionType.ALLOW
        )
        for role, document in policies.items()
        for kind, name, operation in _grants(document)
    ]
    admin = AdminClient(client_configuration(settings, "test"))
    for answer in admin.create_acls(bindings).values():
        answer.result(20)


def _grants(document: Mapping[str, Any]) -> Iterator[tuple[ResourceType, str, AclOperation]]:
    for statement in document["Statement"]:
        for action in statement["Action"]:
            for arn in statement["Resource"]:
                if action in OPERATIONS:
                    kind, *_, name = arn.split(":", 5)[5].split("/")
                    known = KINDS.get(kind)
                    yield (
                        (known, name, OPERATIONS[action])
                        if known
                        else (
                            ResourceType.BROKER,
                            "kafka-cluster",
                            OPERATIONS[action],
                        )
                    )


def test_each_process_does_its_work_with_its_policy_and_needs_all_of_it(office: Office) -> None:
    """A service's whole life under its policies: nothing is denied, and no grant on AWS is unused."""
    office.run("provision")
    office.start("bridge")
    office.start("worker", "--concurrency", "2", "--loglevel", "INFO")
    page, viewer = office.page("web"), office.page("web-read-only")
    _works(office, page, viewer)
    _takes_what_others_wrote(office)
    _is_looked_at(office)
    _is_shown(page)
    _is_shown(viewer)
    _is_acted_on(office, page)
    _gets_a_key(office)
    assert {role: office.gates[role].denied for role in ROLES} == {role: set() for role in ROLES}
    assert "AUTHORIZATION" not in office.logs()
    assert {role: _unused(office, role) for role in ROLES} == {role: set() for role in ROLES}
    _is_kept_out(office)


@pytest.mark.parametrize("role", ["bridge", "worker"])
def test_a_start_makes_what_is_missing_where_it_may(
    broker: SecureKafka,
    embedded_services: Services,
    make_environment: MakeEnvironment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    role: Role,
) -> None:
    """With AUTO_PROVISION=true the policy allows a first start all that it makes, and nothing is denied."""
    environment = _service(broker, embedded_services, make_environment, tmp_path, AUTO_PROVISION="true")
    with _policies(environment, broker) as (policies, gates):
        for name, value in _environment(environment, role, gates[role], broker).items():
            monkeypatch.setenv(name, value)
        settings, registry = load_settings(os.environ), _registry()
        check_start(settings, registry)
        assert not gates[role].denied
        made = {action for action, _ in gates[role].allowed if re.search("Create|Update|s3:Put", action)}
        given = {action for each in policies[role]["Statement"] for action in each["Action"]}
        assert made <= given
        assert made == {
            "sqs:CreateQueue",
            "dynamodb:CreateTable",
            "dynamodb:UpdateContinuousBackups",
            "dynamodb:UpdateTimeToLive",
            "s3:CreateBucket",
            "s3:PutBucketPolicy",
            "s3:PutBucketPublicAccessBlock",
            "s3:PutLifecycleConfiguration",
        }
        assert {need.name for need in topic_needs(settings, registry)} <= set(KafkaAdmin(settings).topics())


def _works(office: Office, *pages: Page) -> None:
    """A job splits, one part fails, is tried again, given up, redriven; two events cannot become tasks."""
    for what in ("bread", "milk"):
        (office.folder / what).touch()
    data = json.dumps(["bread".ljust(LARGE), "milk", "salt"])
    job_id = json.loads(office.run("submit", "lists", "--data", data, "--json"))["job_id"]
    _spoil(office)
    wait_until(lambda: office.state(job_id) == "failed", "the job's failure", 90)
    wait_until(lambda: len(office.run("dlq", "list", "--json").splitlines()) == 3, "dead letters")
    for page in pages:
        page.look(f"/jobs/{job_id}", lambda shown: shown["failures"][0].get("event"))
        page.look("/dead-letters?place=sqs", lambda shown: shown["rows"])
    (office.folder / "salt").touch()
    office.run("dlq", "redrive", "--job", job_id, "--yes")
    wait_until(lambda: office.state(job_id) == "complete", "the job's end")


def _takes_what_others_wrote(office: Office) -> None:
    """A record of others, and an event whose data another service keeps in the bucket, become jobs."""
    settings = office.settings
    data = json.dumps(["milk"]).encode()
    kept = Payloads(settings.model_copy(update={"service_name": "another"})).put("event", "e-1", data)
    event = events.Event(
        id="e-1",
        source="/another",
        type="lists",
        time=datetime.now(UTC),
        entity_id="another",
        data=b"",
        reference=kept,
        bucket=settings.payload_bucket,
    )
    key, value, headers = events.encode(event)
    records = [
        OutgoingRecord(topic=settings.topic_of_others("their-lists"), key=b"k", value=b'"bread"'),
        OutgoingRecord(topic=settings.topic("lists"), key=key, value=value, headers=headers),
    ]
    producer = EventProducer(settings, "test")
    try:
        assert producer.emit(records, PATIENCE) == [None, None]
    finally:
        producer.close(5)

    def are_complete() -> bool:
        lines = office.run("jobs", "list", "--state", "complete", "--json").splitlines()
        return {"others", "another"} <= {json.loads(line)["entity_id"] for line in lines}

    wait_until(are_complete, "the jobs that others began", 90)
    own, *_ = (each for each in keys(settings) if "/task/" in each)
    with pytest.MonkeyPatch.context() as patch:
        # As the guide of large payloads tells a person to look at data.
        for name, text in office.environments["operator"].items():
            patch.setenv(name, text)
        for object_key in (own, kept.key):
            s3_client().get_object(Bucket=str(settings.payload_bucket), Key=object_key)


def _is_kept_out(office: Office) -> None:
    """A bridge may not write to a topic of others, nor make one."""
    settings = load_settings(office.environments["bridge"])
    topic = settings.topic_of_others("their-lists")
    producer = EventProducer(settings, "test")
    try:
        (error,) = producer.emit([OutgoingRecord(topic=topic, key=b"k", value=b"v")], PATIENCE)
    finally:
        producer.close(5)
    assert isinstance(error, ServiceRefusedError)
    with pytest.raises(ServiceRefusedError):
        KafkaAdmin(settings).create(f"{topic}.new", partitions=1, replication=1, config={})


def _gets_a_key(office: Office) -> None:
    """The service's data is encrypted with a key from now on."""
    office.environments["operator"]["KMS_KEY_ARN"] = KEY
    office.run("provision", "--update", codes=(0, 1))


def _is_shown(page: Page) -> None:
    """All that the jobs page reads."""
    for path in ("/pipeline", "/dead-letters", "/dead-letters?place=errors"):
        page.look(path, lambda shown: shown["away"] == [])
    assert page.look("/jobs?limit=5")["rows"]
    *_, job = (row["job"] for row in page.look("/jobs?state=complete")["rows"])
    assert page.look(f"/jobs/{job['job_id']}/stages/buy/parts")["parts"]


def _is_acted_on(office: Office, page: Page) -> None:
    """All that the jobs page does: submit, redrive, replay, cancel, purge."""
    job_id = page.ask("/jobs", {"start": "lists", "data": ["cheese"], "entity_id": "k"})["job_id"]
    wait_until(lambda: office.state(job_id) == "failed", "the failure of a submitted job", 90)
    (office.folder / "cheese").touch()
    wait_until(lambda: page.ask(f"/jobs/{job_id}/redrive", {})["counts"], "a redrive")
    wait_until(lambda: office.state(job_id) == "complete", "the end of a redriven job")
    assert page.ask(f"/jobs/{job_id}/replay?stage=buy&again=true", {})["sent"] == 1
    # Its first event is in a record on the topic of others.
    lines = map(json.loads, office.run("jobs", "list", "--state", "complete", "--json").splitlines())
    (of_others,) = (job["job_id"] for job in lines if job["entity_id"] == "others")
    assert page.ask(f"/jobs/{of_others}/replay?stage=buy&again=true", {})["sent"] == 1
    large = {"start": "lists", "data": ["wine".ljust(LARGE)], "entity_id": "k"}
    waiting = page.ask("/jobs", large)["job_id"]
    page.ask(f"/jobs/{waiting}/cancel", {})
    queue = office.settings.sqs_dlq_url.rsplit("/", 1)[1]
    wait_until(lambda: page.ask("/dead-letters/purge", {"queue": queue})["finished"], "a purge")


def _spoil(office: Office) -> None:
    """Events that cannot become tasks, one of them of a job that waits for it."""
    settings, registry = office.settings, _registry()
    plan = registry.plan("lists")
    waiting = NewJob(job_id="waiting", entity_id="k", topic="lists", plan=plan, submitted_at=time.time())
    assert JobStore(settings).records.open([waiting, replace(waiting, job_id="lost")]).errors == [None, None]
    producer = EventProducer(settings, "test")
    emitted = {
        "id": "e",
        "source": f"/{settings.service_name}/before",
        "type": "lists",
        "stage": "before",
        "jobid": "waiting",
    }
    headers = ((), tuple((f"ce_{name}", value.encode()) for name, value in emitted.items()))
    topic = settings.topic("lists")
    records = [OutgoingRecord(topic=topic, key=b"k", value=b"no JSON", headers=each) for each in headers]
    try:
        assert producer.emit(records, PATIENCE) == [None, None]
    finally:
        producer.close(5)
    wait_until(lambda: office.state("waiting") == "failed", "the failure of the job that waits")


def _is_looked_at(office: Office) -> None:
    """All that a person does to a running service."""
    settings = office.settings
    sqs, queues = sqs_client(settings), (settings.sqs_task_queue_url, settings.sqs_dlq_url)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in office.environments["bridge"].items():
            patch.setenv(name, value)
        with JobSweep(load_settings(os.environ), _registry()) as sweep:
            wait_until(partial(_finds_all, sweep, settings, set()), "a sweep before the bridge's own one")
    # A change made by hand.
    for url in queues:
        change_queue(sqs, url, {"VisibilityTimeout": "31"})
    office.celery("purge", "--force")
    office.run("replay", "buy", "--from", "1h")
    office.run("jobs", "list")
    wait_until(
        lambda: _is_explained_by_a_person(office), "a letter that the bridge's own sweep leaves over", 60
    )
    office.run("monitor", "kafka", "--topics", settings.topic_prefix, "--show-messages", "1")
    office.run("monitor", "sqs", "--live")
    office.run("check", codes=(0, 1))
    dynamodb_client().update_table(
        TableName=settings.dynamodb_table,
        GlobalSecondaryIndexUpdates=[{"Delete": {"IndexName": INDEX}}],
    )
    office.run("provision", "--update", codes=(0, 1))


def _finds_all(sweep: JobSweep, settings: Settings, found: set[str]) -> bool:
    """Whether all is found in these sweeps; the bridge's own may come before one of them."""
    _move_a_letter(settings)
    _leave_unclosed(settings)
    found |= {finding.kind for finding in sweep.run(0, 100)}
    return {"explained", "lost", "closed"} <= found


def _is_explained_by_a_person(office: Office) -> bool:
    """Whether the operator's sweep explained a letter and closed a job, and not the bridge's before."""
    _move_a_letter(office.settings)
    _leave_unclosed(office.settings)
    office.run("jobs", "sweep", "--idle", "0s", codes=(0, 1))
    name = office.settings.sqs_dlq_url.rsplit("/", 1)[1]
    allowed = office.gates["operator"].allowed
    explained = any(action == "sqs:SendMessage" and arn.endswith(name) for action, arn in allowed)
    return explained and any(action == "dynamodb:PartiQLUpdate" for action, _ in allowed)


def _move_a_letter(settings: Settings) -> None:
    """As SQS does by itself: without a reason."""
    name = uuid.uuid4().hex
    letter = OutgoingMessage(body="x", group_id=name, deduplication_id=name)
    assert SqsQueue(sqs_client(settings), settings.sqs_dlq_url).send([letter]) == [None]


def _leave_unclosed(settings: Settings) -> None:
    """Record the end of a job as a worker does that dies before it closes it."""
    store, job_id = JobStore(settings), uuid.uuid4().hex
    plan = _registry().plan("lists")
    job = NewJob(job_id=job_id, entity_id="k", topic="lists", plan=plan, submitted_at=time.time())
    assert store.records.open([job]).errors == [None]
    ends = [
        StageDone(
            ref=StageRef(job_id=job_id, stage=stage),
            task_id="t",
            ends_path=True,
            run_seconds=0.1,
            finished_at=time.time(),
            worker="w",
        )
        for stage in plan.terminals
    ]
    assert store.tasks.record(ends).closings


def _unused(office: Office, role: Role) -> set[tuple[str, str]]:
    """Return the grants that were not needed: those for which there is no request that they alone allow."""
    given, asked = _given(office, role), office.gates[role].allowed

    def needs(request: tuple[str, str]) -> list[tuple[str, str]]:
        action, arn = request
        return [grant for grant in given if grant[0] == action and fnmatch.fnmatchcase(arn, grant[1])]

    needed = [needs(request) for request in asked]
    return given - {grants[0] for grants in needed if len(grants) == 1}


def _given(office: Office, role: Role) -> set[tuple[str, str]]:
    return {
        (action, arn)
        for statement in office.policies[role]["Statement"]
        for action in statement["Action"]
        for arn in statement["Resource"]
        if not action.startswith("kafka-cluster:")
    }
