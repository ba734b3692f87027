"""A worker or bridge refuses to start where it would lose tasks, and names the fix."""

import pytest

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.errors import ConfigurationError
from pipeline.infra.provision import provision
from pipeline.infra.startchecks import check_start
from pipeline.jobs import JobStore
from pipeline.jobs.dynamodb import dynamodb_client
from pipeline.kafka import KafkaAdmin
from pipeline.services.environment import Services
from pipeline.settings import Settings
from pipeline.sqs import sqs_client
from pipeline.sqs.queues import change_queue, make_queue, queue_attributes
from tests.conftest import MakeSettings

#: A queue that is sound but for its way out.
SOUND = {"MessageRetentionPeriod": "1209600", "MaximumMessageSize": "1048576"}


@pytest.fixture
def registry() -> Registry:
    registry = Registry()

    @stage(consumes="letters", registry=registry)
    def read(letter: str) -> str:
        return letter

    return registry


@pytest.fixture
def settings(services: Services, make_settings: MakeSettings) -> Settings:
    return make_settings(services, AUTO_PROVISION="false")


def _with(settings: Settings, **changes: object) -> Settings:
    return settings.model_copy(update=changes)


def test_what_is_missing_is_made_at_start(settings: Settings, registry: Registry) -> None:
    """AUTO_PROVISION=true: nothing there before, everything after."""
    check_start(_with(settings, auto_provision=True), registry)
    check_start(settings, registry)
    assert JobStore(settings).schema.inspect().outcome == "present"
    assert settings.topic("letters") in KafkaAdmin(settings).topics()


def test_missing_topics_are_refused_by_name(settings: Settings, registry: Registry) -> None:
    """AUTO_PROVISION=false: every missing topic is named."""
    with pytest.raises(ConfigurationError, match=rf"{settings.topic('letters')}.*pipeline provision"):
        check_start(settings, registry)


def test_a_missing_queue_is_refused(settings: Settings, registry: Registry) -> None:
    """The task queue or the DLQ: each by its URL."""
    _provisioned(settings, registry)
    for url in (settings.sqs_task_queue_url, settings.sqs_dlq_url):
        sqs_client(settings).delete_queue(QueueUrl=url)
        with pytest.raises(ConfigurationError, match=f"{url} does not exist"):
            check_start(settings, registry)


def test_a_missing_table_is_refused(settings: Settings, registry: Registry) -> None:
    """By its name."""
    _provisioned(settings, registry)
    with pytest.raises(ConfigurationError, match="another-table does not exist"):
        check_start(_with(settings, dynamodb_table="another-table"), registry)


def test_a_queue_without_a_way_out_is_refused(settings: Settings, registry: Registry) -> None:
    """No RedrivePolicy: a task that kills its workers would come back for ever."""
    make_queue(sqs_client(settings), settings.sqs_task_queue_url, SOUND)
    with pytest.raises(ConfigurationError, match="no RedrivePolicy"):
        check_start(_with(settings, auto_provision=True), registry)


def test_a_queue_of_no_stage_is_looked_at_too(settings: Settings, registry: Registry) -> None:
    """``-Q`` and ``task_queues`` name queues that provision does not know: the mend is another."""
    _provisioned(settings, registry)
    client, service = sqs_client(settings), settings.service_name
    nowhere, forgetting, sound = (f"{service}-{what}.fifo" for what in ("nowhere", "forgetting", "sound"))
    make_queue(client, settings.queue_url(forgetting), SOUND)
    like = queue_attributes(client, settings.sqs_task_queue_url) or {}
    make_queue(client, settings.queue_url(sound), SOUND | {"RedrivePolicy": like["RedrivePolicy"]})
    mend = rf"Make it like {settings.task_queue} .*leave it out of -Q, task_queues"
    for name, fault in ((nowhere, "not exist"), (forgetting, "no RedrivePolicy")):
        with pytest.raises(ConfigurationError, match=f"{name} .*{fault}.*{mend}"):
            check_start(settings, registry, [settings.task_queue, name])
    check_start(settings, registry, [settings.task_queue, sound])


def test_a_count_too_low_is_refused(settings: Settings, registry: Registry) -> None:
    """More retries than the queue was made for: the needed maxReceiveCount is named."""
    _provisioned(settings, registry)
    with pytest.raises(ConfigurationError, match="maxReceiveCount 60, should be 120 or more"):
        check_start(_with(settings, max_retries=9), registry)


def test_retries_beyond_what_sqs_counts_are_refused(settings: Settings, registry: Registry) -> None:
    """SQS takes a maxReceiveCount of 1,000 at most."""
    with pytest.raises(ConfigurationError, match=r"98 retries.*MAX_RETRIES.*97"):
        check_start(_with(settings, max_retries=98, auto_provision=True, kafka_enabled=False), registry)


def test_another_dead_letter_queue_is_refused(settings: Settings, registry: Registry) -> None:
    """Dead letters go where the queue says, so SQS_DLQ_URL must say the same."""
    _provisioned(settings, registry)
    other = settings.queue_url(f"{settings.service_name}-other.fifo")
    make_queue(sqs_client(settings), other, SOUND)
    with pytest.raises(ConfigurationError, match="nobody would look there"):
        check_start(_with(settings, sqs_dlq_url=other), registry)


def test_a_queue_that_forgets_is_refused(settings: Settings, registry: Registry) -> None:
    """Four days, SQS's default, lose a task over a long weekend."""
    _provisioned(settings, registry)
    change_queue(sqs_client(settings), settings.sqs_dlq_url, {"MessageRetentionPeriod": "345600"})
    if "MessageRetentionPeriod" not in (queue_attributes(sqs_client(settings), settings.sqs_dlq_url) or {}):
        pytest.skip("ElasticMQ keeps messages for ever and says nothing about it")
    with pytest.raises(ConfigurationError, match=r"345600 s.*1209600 \(14 days\)"):
        check_start(settings, registry)


def test_a_queue_for_smaller_messages_is_refused(settings: Settings, registry: Registry) -> None:
    """256 KiB, Terraform's default and that of older queues: a larger task would never get there."""
    _provisioned(settings, registry)
    change_queue(sqs_client(settings), settings.sqs_task_queue_url, {"MaximumMessageSize": "262144"})
    if "MaximumMessageSize" not in (
        queue_attributes(sqs_client(settings), settings.sqs_task_queue_url) or {}
    ):
        pytest.skip("ElasticMQ takes any size and says nothing about it")
    with pytest.raises(ConfigurationError, match=r"over 262144 bytes: should be 1048576.*provision --update"):
        check_start(settings, registry)


def test_a_table_that_cannot_be_used_is_refused(settings: Settings, registry: Registry) -> None:
    """Another application's, with other keys: no job could be recorded in it, nor found."""
    _provisioned(settings, registry)
    dynamodb_client().create_table(
        TableName=f"{settings.dynamodb_table}-other",
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )
    other = _with(settings, dynamodb_table=f"{settings.dynamodb_table}-other")
    with pytest.raises(ConfigurationError, match=r"its key is not pk, sk.*DYNAMODB_TABLE.*has no index"):
        check_start(other, registry)


def test_a_side_that_is_switched_off_is_not_asked(
    settings: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KAFKA_ENABLED=false and USE_SQS_TASK_PROCESSING=false: neither needs to be there."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:1")
    off = {"kafka_bootstrap_servers": "127.0.0.1:1", "kafka_enabled": False, "use_sqs_task_processing": False}
    check_start(_with(settings, auto_provision=True, **off), registry)


def _provisioned(settings: Settings, registry: Registry) -> None:
    assert {result.outcome for result in provision(settings, registry)} == {"made"}
