"""The mailbox of a worker: it carries out the commands that the service allows, and refuses the others."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import structlog
from celery.app.control import Control as CeleryControl
from kombu import pidbox

from pipeline.control.commands import refusal
from pipeline.control.signing import Signer, Verifier
from pipeline.settings import Settings

log = structlog.get_logger(__name__)


class Node(pidbox.Node):  # type: ignore[misc]
    """The mailbox of one worker. A refused command has an answer like a failed one, and a line in the log."""

    #: why the command that is dispatched is not believed
    _fault: str | None = None

    def handle_message(self, body: Mapping[str, Any], message: Any = None) -> Any:
        """Dispatch a command, if it is for this worker."""
        if self._verifier is not None:
            text = message.body.decode()
            self._fault = self._verifier.fault(body["method"], text, message.delivery_tag, message.headers)
        return super().handle_message(body, message)

    def handle(self, method: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Carry out a command; return its answer."""
        allowed = self._settings.control_commands
        why = self._fault or refusal(method, arguments or {}, allowed, self.state)
        if why is None:
            return super().handle(method, arguments)
        log.warning("control.refused", command=method, reason=why)
        return {"error": f"refused: {why}"}

    @property
    def _settings(self) -> Settings:
        settings: Settings = self.mailbox.app.pipeline.settings
        return settings

    @cached_property
    def _verifier(self) -> Verifier | None:
        signer = Signer.of(self._settings)
        return Verifier(signer) if signer else None


class Mailbox(pidbox.Mailbox):  # type: ignore[misc]
    """The mailboxes of an app."""

    node_cls = Node
    #: set by ``Control``, because kombu makes it without the app
    app: Any = None


class Control(CeleryControl):  # type: ignore[misc]
    """Celery's ``app.control`` with these mailboxes."""

    Mailbox = Mailbox

    def __init__(self, app: Any = None) -> None:
        super().__init__(app)
        self.mailbox.app = app
