"""Every setting of Celery, and what it does in an app of this project.

docs/reference/celery-settings.md shows the same table; tests compare it with this one, and this one with the
settings of the installed Celery.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from celery.app.defaults import DEFAULTS

from pipeline.worker.celerysettings import RULES

#: ``same``: as Celery documents it. ``default``: as Celery documents it, with another default.
#: ``overruled``: the app's value does not count. ``required``: another value does not work. ``unused``:
#: nothing here reads it. ``differs``: the text says how.
Kind = Literal["same", "default", "overruled", "required", "unused", "differs"]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """The effect of one setting here."""

    kind: Kind
    text: str
    #: The values with which a worker starts and does what they say; None: any value.
    allowed: tuple[Any, ...] | None = None


_NO_CONNECTION: Final = "there is no connection to a broker: errors of SQS are waited out"
_NO_EXCHANGES: Final = "there are no exchanges: a task goes to a queue by name"
_RABBITMQ: Final = "of RabbitMQ"
_CONTROL: Final = "remote control and events go over Kafka topics of the service"
_LOGS: Final = "log lines have this project's format (LOG_LEVEL)"
_AWS: Final = "the address and login of SQS come from the environment (AWS_...)"
_PREFETCH: Final = "the intake decides how much it holds, by the speed of the tasks"

_CHORDS: Final = "a chord is counted in the jobs table: nothing polls or joins for it"
_OUTAGE: Final = "DynamoDB is waited for"

#: Settings that do what Celery's documentation says.
_SAME: Final = frozenset(
    f"{group}_{name}" if group else name
    for group, names in {
        "": "enable_utc imports include timezone",
        "beat": "cron_starting_deadline max_loop_interval schedule_filename sync_every",
        "broker": "pool_acquire_timeout pool_limit",
        "result": "cache_max expires extended failure_expires",
        "task": "allow_error_cb_on_chord_header always_eager annotations create_missing_queues "
        "default_rate_limit eager_propagates publish_retry publish_retry_policy remote_tracebacks "
        "repr_maxlevels send_sent_event soft_time_limit store_eager_result store_errors_even_if_ignored "
        "track_started",
        "worker": "agent autoscaler concurrency disable_rate_limits enable_soft_shutdown_on_idle "
        "hijack_root_logger lost_wait max_memory_per_child max_tasks_per_child pool_putlocks "
        "pool_restarts pool_start_method redirect_stdouts redirect_stdouts_level soft_shutdown_timeout "
        "timer timer_precision",
    }.items()
    for name in names.split()
)

#: Settings that nothing here reads, with the reason.
_UNUSED: Final[Mapping[str, str]] = {
    "broker_transport": "broker_url says it",
    **dict.fromkeys(("broker_host", "broker_port", "broker_user", "broker_password", "broker_vhost"), _AWS),
    **dict.fromkeys(("broker_login_method", "broker_use_ssl"), _AWS),
    **dict.fromkeys(("broker_connection_timeout", "broker_connection_retry"), _NO_CONNECTION),
    **dict.fromkeys(("broker_connection_max_retries", "broker_channel_error_retry"), _NO_CONNECTION),
    **dict.fromkeys(("broker_failover_strategy", "broker_heartbeat"), _NO_CONNECTION),
    "broker_heartbeat_checkrate": _NO_CONNECTION,
    "broker_native_delayed_delivery_queue_type": "SQS itself keeps delayed tasks",
    **{f"control_queue_{name}": _CONTROL for name in ("ttl", "expires", "exclusive", "durable")},
    **{f"event_queue_{name}": _CONTROL for name in ("ttl", "expires", "exclusive", "durable", "prefix")},
    **dict.fromkeys(("result_exchange", "result_exchange_type", "result_persistent"), _RABBITMQ),
    "result_backend_transport_options": "of other result backends",
    **dict.fromkeys(("result_compression", "result_accept_content"), "results are kept as JSON"),
    **{f"result_chord_{name}": _CHORDS for name in ("expires", "join_timeout", "retry_interval")},
    **{f"result_backend_{name}": _OUTAGE for name in ("always_retry", "max_retries")},
    **{f"result_backend_{name}_sleep_between_retries_ms": _OUTAGE for name in ("base", "max")},
    "task_acks_on_failure": "a failed task is tried again, or becomes a dead letter",
    "task_acks_on_timeout": "a task whose time is over is tried again, or becomes a dead letter",
    "task_retry_on_worker_lost": "a killed task is tried again by its own message, within its retries",
    **dict.fromkeys(("task_create_missing_queue_type", "task_default_queue_type"), _RABBITMQ),
    **dict.fromkeys(("task_create_missing_queue_exchange_type", "task_default_delivery_mode"), _RABBITMQ),
    "task_inherit_parent_priority": "an SQS FIFO queue has no priorities",
    "worker_deduplicate_successful_tasks": "a task whose result is recorded does not run again in any case",
    **dict.fromkeys(("worker_log_color", "worker_log_format", "worker_log_datefmt"), _LOGS),
    **dict.fromkeys(("worker_task_log_format", "worker_task_log_datefmt"), _LOGS),
    "worker_eta_task_limit": "a task that is due later waits on SQS, and not in a worker",
    **dict.fromkeys(("worker_disable_prefetch", "worker_enable_prefetch_count_reduction"), _PREFETCH),
    "worker_detect_quorum_queues": _RABBITMQ,
}

#: Groups of settings of result backends that are not used.
_BACKENDS: Final = (
    *("arangodb", "azureblockblob", "cache", "cassandra", "cosmosdbsql", "couchbase", "database"),
    *("elasticsearch", "gcs", "mongodb", "redis", "s3"),
)

_DIFFERS: Final[Mapping[str, Effect]] = {
    "broker_read_url": Effect(kind="differs", text="unset, or fifo://"),
    "broker_write_url": Effect(kind="differs", text="unset, or fifo://"),
    "control_exchange": Effect(
        kind="required", text="leave it: Kafka's topics are found by this name", allowed=("celery",)
    ),
    "event_exchange": Effect(
        kind="required", text="leave it: Kafka's topics are found by this name", allowed=("celeryev",)
    ),
    "event_serializer": Effect(kind="required", text="events are JSON", allowed=("json",)),
    **{
        f"beat_{name}": Effect(kind="differs", text="of celery beat; not tested with this project")
        for name in ("enable_remote_control", "remote_control_max_tick_age")
    },
    "beat_scheduler": Effect(
        kind="differs",
        text="of celery beat, which goes on working for plain tasks",
    ),
    "beat_schedule": Effect(
        kind="differs",
        text="fired by the bridges, or with BRIDGE_BEAT=false by celery beat",
    ),
    **{
        f"security_{name}": Effect(
            kind="required", text="unset: signed messages are no JSON", allowed=(None,)
        )
        for name in ("certificate", "cert_store", "key", "key_password")
    },
    "security_digest": Effect(kind="unused", text="signed messages are no JSON"),
    "task_default_exchange": Effect(kind="required", text=f"unset: {_NO_EXCHANGES}", allowed=(None,)),
    "task_default_exchange_type": Effect(kind="required", text=_NO_EXCHANGES, allowed=("direct",)),
    "task_default_routing_key": Effect(kind="required", text=f"unset: {_NO_EXCHANGES}", allowed=(None,)),
    "task_queues": Effect(kind="differs", text="by name, with .fifo on SQS; exchanges do not count"),
    "task_routes": Effect(kind="differs", text='by {"queue": "…"}; there are no exchanges or priorities'),
    "task_time_limit": Effect(
        kind="differs", text="None means TASK_TIME_LIMIT; at most 11 hours, because a lease must end"
    ),
    "worker_direct": Effect(
        kind="required", text="a worker's own queue is none of SQS FIFO", allowed=(False, None)
    ),
    "worker_pool": Effect(
        kind="required",
        text="prefork, threads or solo; Kafka's client would block gevent and eventlet",
        allowed=(None, "prefork", "processes", "threads", "solo"),
    ),
    "worker_state_db": Effect(
        kind="differs", text="as in Celery; a worker that starts also reads the revokes from Kafka"
    ),
}


def effects() -> dict[str, Effect]:
    """Return what each setting of the installed Celery does here, by name, sorted.

    Raises ``KeyError`` for a setting that this table does not have.
    """
    return {name: _effect(name) for name in sorted(DEFAULTS)}


def _effect(name: str) -> Effect:
    if name in RULES:
        return _of_rule(name)
    if name in _DIFFERS:
        return _DIFFERS[name]
    if name in _UNUSED:
        return Effect(kind="unused", text=_UNUSED[name])
    if name.split("_", 1)[0] in _BACKENDS:
        return Effect(kind="unused", text="of another result backend")
    if name in _SAME:
        return Effect(kind="same", text="as in Celery")
    raise KeyError(name)


def _of_rule(name: str) -> Effect:
    rule = RULES[name]
    match rule.effect:
        case "default":
            value = "" if callable(rule.value) else f"{rule.value!r}: "
            return Effect(kind="default", text=f"{value}{rule.why}")
        case "overruled":
            return Effect(kind="overruled", text=rule.why, allowed=(rule.value, None))
        case "required":
            return Effect(kind="required", text=f"{rule.value!r}: {rule.why}", allowed=(rule.value,))
