"""The run of the whole checklist."""

from collections.abc import Iterator

from pipeline.checklist import general, kafka, sqs
from pipeline.checklist.facts import Facts
from pipeline.checklist.line import (
    Finding,
    Item,
    Line,
    fail,
    skip,
)
from pipeline.errors import ConfigurationError, ServiceRefusedError, ServiceUnavailableError

ITEMS: tuple[Item, ...] = (*kafka.ITEMS, *sqs.ITEMS, *general.ITEMS)


def run_checklist(facts: Facts) -> Iterator[Line]:
    """Check each line in order. A service that does not answer fails the lines that ask it."""
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
    """Return the finding of a line; an error becomes FAIL."""
    if item.asks == "kafka" and not facts.settings.kafka_enabled:
        return skip("KAFKA_ENABLED=false: Kafka is not asked", "Set KAFKA_ENABLED=true.")
    if item.asks == "sqs" and not facts.settings.use_sqs_task_processing:
        return skip("USE_SQS_TASK_PROCESSING=false: SQS is not asked", "Set USE_SQS_TASK_PROCESSING=true.")
    try:
        return item.check(facts)
    except ServiceUnavailableError as error:
        return fail(str(error), "Make the service reachable to this process, and check again.")
    except (ConfigurationError, ServiceRefusedError) as error:
        return fail(str(error), "Correct what the message names.")
    except ImportError as error:
        return fail(str(error), "pip install 'celery-stages[web]'")
