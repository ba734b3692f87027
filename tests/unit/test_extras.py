"""Commands without extras: a command runs without packages that it does not need."""

import subprocess
import sys

import pytest

#: Refuses what the extras "web", "flower", "otel", "sentry", "vault", "msk" and "schemas" bring.
WITHOUT = """
import sys
for name in ("fastapi", "uvicorn", "jinja2", "flower", "opentelemetry", "sentry_sdk", "hvac",
             "aws_msk_iam_sasl_signer", "httpx2", "fastavro", "authlib", "grpc_tools"):
    sys.modules[name] = None
from pipeline.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "command",
    ["demo", "dev", "web", "submit", "jobs", "dlq", "replay", "check", "monitor", "provision", "stack"],
)
def test_every_command_is_there_without_the_extras(command: str) -> None:
    """Its help is shown; only what it then needs can be missing."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, command, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
