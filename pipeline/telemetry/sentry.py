"""Reports to Sentry: one issue for each dead letter, none for retries. Off without SENTRY_DSN.

Sentry's integrations stay off: they would report each failed attempt in each child, and each log line about
it.
"""

from collections.abc import Mapping
from typing import Any

import structlog

from pipeline import __version__
from pipeline.settings import Settings

log = structlog.get_logger(__name__)

#: Seconds to wait for unsent reports when the process ends.
FLUSH = 2.0


class Sentry:
    """Sends the reports of one process. Never raises, never waits."""

    def __init__(self, settings: Settings) -> None:
        self._service = settings.service_name
        self._client = _client(settings)

    def report(
        self, *, error: str, message: str, traceback: str, stage: str | None, tags: Mapping[str, Any]
    ) -> None:
        """Report a failure; ``error`` is the exception's class with its module."""
        if self._client is None:
            return
        module, _, name = error.rpartition(".")
        self._client.capture_event(
            {
                "level": "error",
                "logger": "pipeline",
                "exception": {"values": [{"type": name, "value": message, "module": module or None}]},
                # Failures of one class in one stage are one issue, whatever their messages.
                "fingerprint": [self._service, stage or "", error],
                "tags": {key: str(value) for key, value in tags.items()},
                "extra": {"traceback": traceback},
            }
        )

    def close(self) -> None:
        """Send unsent reports, for a bounded time."""
        if self._client is not None:
            self._client.close(timeout=FLUSH)


def _client(settings: Settings) -> Any:
    if settings.sentry_dsn is None:
        return None
    try:
        import sentry_sdk
    except ImportError:
        log.error("sentry.off", reason="SENTRY_DSN is set: pip install 'celery-stages[sentry]'")
        return None
    try:
        return sentry_sdk.Client(
            dsn=settings.sentry_dsn.get_secret_value(),
            release=f"pipeline@{__version__}",
            server_name=settings.service_name,
            default_integrations=False,
            auto_enabling_integrations=False,
            include_local_variables=False,
        )
    except ValueError:
        # The error's own message may hold the DSN, which is a secret.
        log.error("sentry.off", reason="SENTRY_DSN is not a Sentry DSN")
        return None
