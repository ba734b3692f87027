"""The needs of a service: each logical topic has its own Kafka topic."""

import pytest

from pipeline import Tick, every
from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.errors import ConfigurationError
from pipeline.infra.needs import check_topics, topic_needs
from pipeline.settings import load_settings
from tests.unit.test_settings import REQUIRED


@pytest.fixture
def registry() -> Registry:
    registry = Registry()

    @stage(consumes="letters", emits="words", registry=registry)
    def read(letter: str) -> str:
        return letter

    @stage(consumes="words", registry=registry)
    def count(word: str) -> None: ...

    return registry


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"KAFKA_TOPIC_ERRORS": "letters"}, ("KAFKA_TOPIC_LETTERS", "KAFKA_TOPIC_ERRORS", "letters")),
        ({"KAFKA_TOPIC_WORDS": "letters"}, ("KAFKA_TOPIC_LETTERS", "KAFKA_TOPIC_WORDS", "letters")),
        (
            {"KAFKA_TOPIC_DLQ": "mail", "KAFKA_TOPIC_JOBS": "mail"},
            ("KAFKA_TOPIC_DLQ", "KAFKA_TOPIC_JOBS", "mail"),
        ),
        (
            {"KAFKA_TOPIC_ORDERS_CONTROL_REPLIES": "orders-dlq"},
            ("KAFKA_TOPIC_DLQ", "KAFKA_TOPIC_ORDERS_CONTROL_REPLIES", "orders-dlq"),
        ),
    ],
)
def test_two_topics_under_one_name_are_refused(
    registry: Registry, variables: dict[str, str], named: tuple[str, str, str]
) -> None:
    """Stages', errors, dead letters, ends of jobs, control plane: both variables and the name are told."""
    settings = load_settings({**REQUIRED, **variables})
    for needed in (check_topics, topic_needs):
        with pytest.raises(ConfigurationError) as caught:
            needed(settings, registry)
        assert all(each in str(caught.value) for each in named)


def test_topics_of_no_stage_have_few_partitions(registry: Registry) -> None:
    """One for errors, dead letters and ends of jobs; stages' topics have those of their own setting."""
    variables = {**REQUIRED, "TOPIC_PARTITIONS": "12"}

    def partitions(**more: str) -> list[int]:
        needs = topic_needs(load_settings({**variables, **more}), registry)
        return [need.partitions for need in needs]

    assert partitions() == [12, 12, 1, 1, 1, 1, 1, 1]
    assert partitions(SERVICE_TOPIC_PARTITIONS="3") == [12, 12, 3, 3, 3, 1, 1, 1]


def test_a_topic_of_several_stages_is_one(registry: Registry) -> None:
    """A topic that one stage emits and the next consumes is no clash, nor is a variable with the default."""
    settings = load_settings({**REQUIRED, "KAFKA_TOPIC_WORDS": "words"})
    names = [need.name for need in topic_needs(settings, registry)]
    assert names[:5] == ["letters", "words", "jobs", "orders-errors", "orders-dlq"]
    assert len(names) == len(set(names)) == 8


def test_bridges_write_to_the_topics_of_scheduled_stages_alone() -> None:
    """A tick is an event there."""
    own = Registry()

    @stage(schedule=every(60), emits="told", registry=own)
    def tell(tick: Tick) -> str:
        return tick.schedule

    @stage(consumes="told", registry=own)
    def hear(text: str) -> None: ...

    needs = {need.name: need for need in topic_needs(load_settings(REQUIRED), own)}
    assert "bridge" in needs["tell-ticks"].written_by
    assert "bridge" not in needs["told"].written_by
