"""Runs the whole checklist."""

from collections.abc import Iterator

from pipeline.checklist import general, kafka, sqs
from pipeline.checklist.facts import Facts
from pipeline.checklist.line import Finding, Item, Line, failed, skipped
from pipeline.errors import ConfigurationError, ServiceRefusedError, ServiceUnavailableError

ITEMS: tuple[Item, ...] = (*kafka.ITEMS, *sqs.ITEMS, *general.ITEMS)


def run_checklist(facts: Facts) -> Iterator[Line]:
    """Each line in the checklist's order. A service that does not answer fails the lines that ask it."""
    for item in ITEMS:
        found = find(item, facts)
        yield Line(
            id=item.id,
            section=item.section,
            title=item.title,
            status=found.status,
            evidence=found.evidence,
            mend=found.mend,
        )


def find(item: Item, facts: Facts) -> Finding:
    """What a line's check finds, also where the answer is an error."""
    if item.asks == "kafka" and not facts.settings.kafka_enabled:
        return skipped("KAFKA_ENABLED=false: Kafka is not asked", "Set KAFKA_ENABLED=true.")
    if item.asks == "sqs" and not facts.settings.use_sqs_task_processing:
        return skipped("USE_SQS_TASK_PROCESSING=false: SQS is not asked", "Set USE_SQS_TASK_PROCESSING=true.")
    try:
        return item.check(facts)
    except ServiceUnavailableError as error:
        return failed(str(error), "Make the service reachable to this process, and check again.")
    except (ConfigurationError, ServiceRefusedError) as error:
        return failed(str(error), "Correct what the message names.")
    except ImportError as error:
        return failed(str(error), "pip install 'pipeline[web]'")
