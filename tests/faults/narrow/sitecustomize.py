"""Limits Kafka producers to FAULTS_QUEUE records, in every process with this folder on its PYTHONPATH.

The service has no such setting: librdkafka's hundred thousand are never reached in a short test. A file
beside FAULTS_EFFECTS says that one was full.
"""

import os
from pathlib import Path
from typing import Any

import confluent_kafka


class _Narrow(confluent_kafka.Producer):
    def __init__(self, configuration: dict[str, Any], *more: Any, **options: Any) -> None:
        most = int(os.environ["FAULTS_QUEUE"])
        super().__init__({**configuration, "queue.buffering.max.messages": most}, *more, **options)

    def produce(self, *what: Any, **how: Any) -> None:
        try:
            super().produce(*what, **how)
        except BufferError:
            Path(os.environ["FAULTS_EFFECTS"]).with_name("queue-full").touch()
            raise


confluent_kafka.Producer = _Narrow  # type: ignore[assignment, misc]
