"""The decorators ``stage`` and ``consumer``: check their options and add to the registry."""

import inspect
import re
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal, Protocol, TypeVar, overload

from pipeline.author.awaiting import is_async
from pipeline.author.consumers import Consumer, ConsumerOptions
from pipeline.author.records import Record
from pipeline.author.registry import REGISTRY, Registry
from pipeline.author.stages import AsyncStage, Options, Stage
from pipeline.author.timing import Tick, timing_of
from pipeline.author.topicschema import FORMATS, Format
from pipeline.errors import StageDefinitionError

In = TypeVar("In")
Out = TypeVar("Out")

#: A stage's name is a Celery task name, to which ".split" and ".gather" are added, and a part of keys.
_STAGE_NAMES: Final = (
    re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}"),
    "a letter, then letters, digits, - and _, 64 at most",
)
#: Kafka takes 249 of these characters; the rest is left for a prefix.
_TOPIC_NAMES: Final = (
    re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}"),
    "letters, digits, . - and _, 200 at most",
)
#: Kafka's own rule.
_ANY_TOPIC_NAMES: Final = (
    re.compile(r"[A-Za-z0-9._-]{1,249}"),
    "letters, digits, . - and _, 249 at most",
)
#: SQS takes 80 of these characters, with the suffix.
_QUEUE_NAMES: Final = (
    re.compile(r"[A-Za-z0-9_-]{1,75}\.fifo"),
    "letters, digits, - and _, 75 at most, then .fifo",
)
#: The engine's own topics, as pipeline.settings names them (which imports this package).
RESERVED_TOPICS: Final = ("errors", "dlq", "jobs")
#: SQS holds a message for 12 hours at most from its first receive (ChangeMessageVisibility, API reference).
_LONGEST: Final = 11 * 3600


class StageDecorator(Protocol):
    """Makes a function a stage, which keeps the types of the function."""

    @overload
    def __call__(self, function: Callable[[In], Coroutine[Any, Any, Out]], /) -> AsyncStage[In, Out]: ...

    @overload
    def __call__(self, function: Callable[[In], Out], /) -> Stage[In, Out]: ...


def stage(
    *,
    consumes: str | None = None,
    emits: str | None = None,
    name: str | None = None,
    queue: str | None = None,
    ordered: bool | Literal["strict"] = False,
    retries: int | None = None,
    retry_delay: float | None = None,
    time_limit: float | None = None,
    soft_time_limit: float | None = None,
    tolerate: float = 0,
    tombstones: bool = False,
    format: Format = "json",
    entity: Callable[[Any], str] | None = None,
    schedule: Any = None,
    schedule_data: Callable[[Tick], Any] | None = None,
    registry: Registry | None = None,
) -> StageDecorator:
    """Make a function a stage: a task for each event on ``consumes``, its result an event on ``emits``.

    Both are logical names; the environment may map each to a topic (KAFKA_TOPIC_<NAME>). Times are in
    seconds. What is left out is taken from the settings. With ``ordered=True`` the tasks of one entity run
    one at a time, in order; with ``ordered="strict"`` each starts only when the one before is recorded. With
    ``tolerate=0.05`` the gather of a split runs although up to 5 % of its parts failed. With
    ``tombstones=True`` a record without a value makes a task too, with None as its data; otherwise it is
    passed over. With ``format="avro"`` or ``"json-schema"`` the events it emits have a schema, made from its
    annotation, in the schema registry. ``entity`` is a pure function of what the stage emits: the entity of
    that event, for the stages after it; without one it is that of the event that came in.

    ``schedule``: ``every(…)``, ``cron(…)``, seconds, a ``timedelta``, or Celery's ``crontab``: at each of its
    ticks the bridges start a job with an event on ``consumes``, by default a topic of its own,
    ``<name>-ticks``. ``schedule_data`` is a pure function of the tick (``Tick``) that makes the data of that
    event; without one the stage takes the tick. ``registry`` is for tests.
    """

    def decorate(function: Callable[[In], Any]) -> Any:
        own = getattr(function, "__name__", "?") if name is None else name
        if consumes is None and schedule is None:
            raise StageDefinitionError(
                f"@stage function {own}: nothing would ever run it. Add consumes=, the topic of its events, "
                "or schedule=."
            )
        options = Options(
            name=own,
            consumes=f"{own}-ticks" if consumes is None else consumes,
            emits=emits,
            queue=queue,
            ordered=ordered,
            retries=retries,
            retry_delay=retry_delay,
            time_limit=time_limit,
            soft_time_limit=soft_time_limit,
            tolerate=tolerate,
            tombstones=tombstones,
            format=format,
            entity=entity,
            schedule=None if schedule is None else timing_of(schedule),
            schedule_data=schedule_data,
        )
        made: Stage[In, Any] = (AsyncStage if is_async(function) else Stage)(function, options)
        _check_function(function, made.where)
        _check_options(options, made.where)
        (REGISTRY if registry is None else registry).add(made)
        return made

    return decorate


def consumer(
    topic: str,
    *,
    emits: str,
    name: str | None = None,
    tombstones: bool = False,
    registry: Registry | None = None,
) -> Callable[[Callable[[Record[In]], Out]], Consumer[In, Out]]:
    """Make a function a consumer: it runs in the bridge, for each record of ``topic``, a topic of others.

    What it returns becomes events of the stages that consume ``emits``: one, one for each item of a list, or
    none for None. It must be a pure function of the record, for a record may be read again. ``topic`` is the
    name on Kafka, unless KAFKA_TOPIC_<NAME> maps it; nothing makes it or writes to it. The ids of the events
    have the consumer's name in them. With ``tombstones=True`` a record without a value is taken too, with
    None as its data; otherwise it is passed over. ``registry`` is for tests.
    """

    def decorate(function: Callable[[Record[In]], Out]) -> Consumer[In, Out]:
        own = getattr(function, "__name__", "?") if name is None else name
        options = ConsumerOptions(name=own, topic=topic, emits=emits, tombstones=tombstones)
        made = Consumer(function, options)
        _check_consumer(function, options, made.where)
        (REGISTRY if registry is None else registry).add_consumer(made)
        return made

    return decorate


def _check_consumer(function: Any, options: ConsumerOptions, where: str) -> None:
    if is_async(function):
        raise StageDefinitionError(
            f"{where}: it is async. Use a plain def: it is a pure function in the bridge."
        )
    if inspect.isgeneratorfunction(function):
        raise StageDefinitionError(f"{where}: it is a generator. Return a list: an event of each item.")
    _check_name(where, "name", options.name, *_STAGE_NAMES)
    _check_name(where, "topic", options.topic, *_ANY_TOPIC_NAMES)
    _check_name(where, "emits", options.emits, *_TOPIC_NAMES)


def _check_function(function: Any, where: str) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise StageDefinitionError(
            f"{where}: it is a generator. Return one value; to make many parts of one event, add @….split."
        )


def _check_options(options: Options, where: str) -> None:
    _check_names(options, where)
    _check_order(options, where)
    _check_numbers(options, where)
    _check_format(options, where)
    if options.entity and options.emits is None:
        raise StageDefinitionError(
            f"{where}: entity= is for what it emits, and it emits nothing. Add emits=, or leave entity= out."
        )

    if options.schedule_data and options.schedule is None:
        raise StageDefinitionError(
            f"{where}: schedule_data= makes the data of ticks, and it has no schedule. Add schedule=, or "
            "leave schedule_data= out."
        )


def _check_names(options: Options, where: str) -> None:
    _check_name(where, "name", options.name, *_STAGE_NAMES)
    _check_name(where, "consumes", options.consumes, *_TOPIC_NAMES)
    if options.emits is not None:
        _check_name(where, "emits", options.emits, *_TOPIC_NAMES)
    if options.queue is not None:
        _check_name(where, "queue", options.queue, *_QUEUE_NAMES)
    for topic in (options.consumes, options.emits):
        if topic in RESERVED_TOPICS:
            raise StageDefinitionError(
                f"{where}: the topic {topic!r} is the engine's own. Choose another name."
            )


def _check_name(where: str, option: str, value: Any, pattern: re.Pattern[str], allowed: str) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise StageDefinitionError(f"{where}: {option}={value!r} is no valid name. Use {allowed}.")


def _check_order(options: Options, where: str) -> None:
    if not isinstance(options.ordered, bool) and options.ordered != "strict":
        raise StageDefinitionError(f'{where}: ordered={options.ordered!r}. Use True, False or "strict".')


def _check_format(options: Options, where: str) -> None:
    if options.format not in FORMATS:
        raise StageDefinitionError(f"{where}: format={options.format!r}. Use one of {', '.join(FORMATS)}.")
    if options.format != "json" and options.emits is None:
        raise StageDefinitionError(
            f"{where}: format={options.format!r}, and it emits nothing. Add emits=, or leave format= out."
        )


def _check_numbers(options: Options, where: str) -> None:
    retries, limit, soft = options.retries, options.time_limit, options.soft_time_limit
    if retries is not None and (not isinstance(retries, int) or isinstance(retries, bool) or retries < 0):
        raise StageDefinitionError(f"{where}: retries={retries!r}. Use a whole number, 0 for no retry.")
    if options.retry_delay is not None and not 0 <= options.retry_delay <= _LONGEST:
        raise StageDefinitionError(
            f"{where}: retry_delay={options.retry_delay!r}. Use 0 to {_LONGEST} seconds."
        )
    for option, value in (("time_limit", limit), ("soft_time_limit", soft)):
        if value is not None and not 0 < value <= _LONGEST:
            raise StageDefinitionError(
                f"{where}: {option}={value!r}. Use more than 0 and at most {_LONGEST} seconds: "
                "SQS holds no message longer."
            )
    if not isinstance(options.tolerate, int | float) or not 0 <= options.tolerate < 1:
        raise StageDefinitionError(
            f"{where}: tolerate={options.tolerate!r}. Use a share from 0 to less than 1, such as 0.05."
        )
    if limit is not None and soft is not None and soft >= limit:
        raise StageDefinitionError(
            f"{where}: soft_time_limit={soft:g} is not below time_limit={limit:g}, so it would never be "
            "raised. Lower it."
        )
