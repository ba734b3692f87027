"""A Celery process that refuses to start: its exit code tells whether another start may help."""

import pytest

from pipeline.errors import (
    ConfigurationError,
    PipelineError,
    ServiceRefusedError,
    ServiceUnavailableError,
    StageDefinitionError,
)
from pipeline.worker.celerychecks import start_refused


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("no name"), 2),
        (StageDefinitionError("no annotation"), 2),
        (ServiceUnavailableError("Kafka is away"), 1),
        (ServiceRefusedError("access denied"), 1),
    ],
)
def test_the_exit_code_tells_a_setting_from_a_service(error: PipelineError, code: int) -> None:
    """2: only a change of settings or stages helps. 1: it may be over by the next start."""
    refused = start_refused(error)
    assert refused.exit_code == code
    assert refused.format_message() == str(error)
