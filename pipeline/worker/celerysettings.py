"""Celery's settings that this project's promises depend on: which values count, and why."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import structlog

from pipeline.errors import ConfigurationError
from pipeline.settings import VALUE_SHOWN, Settings
from pipeline.wire.redaction import redact

log = structlog.get_logger(__name__)

#: ``default``: the app's own value counts, and ours where it sets none. ``overruled``: ours counts, and the
#: worker logs that the app's does not. ``required``: the worker does not start with another value.
Effect = Literal["default", "overruled", "required"]

#: The longest run (seconds): SQS holds a message for 12 hours, and it may have waited for some of them.
LONGEST_RUN: Final = 11 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How one setting of Celery is treated."""

    effect: Effect
    #: the value that counts; a function makes it from the settings of the service
    value: Any
    why: str

    def value_for(self, settings: Callable[[], Settings]) -> Any:
        """Return the value; the settings are read only if it depends on them."""
        return self.value(settings()) if callable(self.value) else self.value


def _default(value: Any, why: str) -> Rule:
    return Rule(effect="default", value=value, why=why)


def _overruled(value: Any, why: str) -> Rule:
    return Rule(effect="overruled", value=value, why=why)


def _required(value: Any, why: str) -> Rule:
    return Rule(effect="required", value=value, why=why)


#: The settings with a rule. Every other setting of Celery counts as the app has it.
RULES: Final[Mapping[str, Rule]] = {
    "broker_url": _required("fifo://", "this worker takes tasks from SQS FIFO queues only"),
    "task_serializer": _required("json", "tasks travel as JSON"),
    "result_serializer": _required("json", "results are kept as JSON"),
    "task_compression": _required(None, "tasks travel as JSON text"),
    "worker_consumer": _required(
        "pipeline.worker.consumer:Consumer", "Celery's own deletes messages that it cannot use"
    ),
    "task_protocol": _overruled(2, "tasks are published in Celery's protocol 2"),
    "task_acks_late": _overruled(True, "a message is deleted once its task is settled"),
    "task_reject_on_worker_lost": _overruled(True, "a killed task is tried again, within its retries"),
    "task_acks_on_failure_or_timeout": _overruled(
        True, "a failed task is tried again, or becomes a dead letter"
    ),
    "result_backend": _overruled("pipeline.results.backend:Backend", "results are kept in the jobs table"),
    "broker_transport_options": _overruled({}, "queues, leases and waits are set by SQS_... variables"),
    "accept_content": _overruled(["json"], "tasks travel as JSON"),
    "task_queue_max_priority": _overruled(None, "an SQS FIFO queue has no priorities"),
    "task_default_priority": _overruled(None, "an SQS FIFO queue has no priorities"),
    "task_ignore_result": _default(
        lambda settings: not settings.results, "RESULTS says whether they are kept"
    ),
    "task_default_queue": _default(
        lambda settings: settings.task_queue, "the queue of SQS_TASK_QUEUE_URL, where the bridge sends stages"
    ),
    "broker_connection_retry_on_startup": _default(True, "a broker out of reach at the start is waited for"),
    "worker_prefetch_multiplier": _default(
        1, "the intake holds messages; Celery takes only what it runs at once"
    ),
    "worker_proc_alive_timeout": _default(
        60.0, "a child that imports for longer than Celery's 4 seconds would be started again for ever"
    ),
    "worker_cancel_long_running_tasks_on_connection_loss": _default(
        False, "running tasks keep their lease through a reconnect"
    ),
    "worker_enable_remote_control": _default(
        lambda settings: settings.kafka_enabled, "the control plane is carried by Kafka"
    ),
    "worker_send_task_events": _default(
        True, "a Flower that is started later finds in the log what happened before"
    ),
}


class Defaults(Mapping[str, Any]):
    """The values of ``RULES`` for an app, without those that it sets itself.

    Celery puts them before the values of ``config_from_object``. The environment is read only for a value
    that depends on it, so that code that asks for other settings does without.
    """

    def __init__(self, conf: Any, settings: Callable[[], Settings]) -> None:
        self._names = tuple(name for name in RULES if not conf.value_set_for(name))
        self._conf, self._settings = conf, settings

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        if name == "task_ignore_result" and self._conf.task_always_eager:
            return False  # an eager task has its result without a service
        return RULES[name].value_for(self._settings)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def check_celery_settings(conf: Any) -> None:
    """Raise ``ConfigurationError`` for Celery settings with which no task could run; log those overruled."""
    if faults := [*_faults(conf)]:
        raise ConfigurationError("Change these settings of Celery: " + "; ".join(faults) + ".")
    overruled = {
        name: f"{_shown(conf.get(name))} does not count: {rule.why}"
        for name, rule in RULES.items()
        if rule.effect == "overruled" and conf.get(name) not in (rule.value, None)
    }
    if conf.task_time_limit is None and conf.value_set_for("task_time_limit"):
        overruled["task_time_limit"] = "None does not count, TASK_TIME_LIMIT does: a lease must end"
    if overruled:
        log.warning("worker.settings_overruled", settings=overruled)


def _faults(conf: Any) -> Iterator[str]:
    # The two that receive and send are the first one, unless they or their variables are set.
    urls = {str(getattr(conf, name)): name for name in ("broker_write_url", "broker_read_url", "broker_url")}
    for url, name in urls.items():
        if not url.startswith("fifo://"):
            scheme = url.split(":", 1)[0]
            yield f"{name} names {scheme}, and must be 'fifo://': {RULES['broker_url'].why}"
    for name, rule in RULES.items():
        if rule.effect == "required" and name != "broker_url" and conf.get(name) != rule.value:
            yield f"{name} is {_shown(conf.get(name))}, and must be {rule.value!r}: {rule.why}"
    if (limit := conf.task_time_limit) is not None and limit > LONGEST_RUN:
        yield f"task_time_limit is {limit:g}, and at most {LONGEST_RUN:g}: SQS holds no message longer"


def _shown(value: Any) -> str:
    return redact(repr(value))[:VALUE_SHOWN]
