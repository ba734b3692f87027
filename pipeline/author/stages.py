"""A stage: one hop from a topic to the next, and the function that does its work.

    @stage(consumes="document-received", emits="document-extracted")
    def extract(document: Document) -> Text: ...

A stage whose work is divided has a split and a gather as well:

    @stage(consumes="document-extracted", emits="document-analysed")
    def analyse(chunk: Chunk) -> Counts: ...

    @analyse.split
    def chunks(text: Text) -> Iterator[Chunk]: ...

    @analyse.gather
    def merge(text: Text, counts: Iterable[Counts]) -> Report: ...

The annotations are the schema. Calling a stage just runs its function.
"""

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from pipeline.annotations import Codec, Signature, describe, fits
from pipeline.errors import StageDefinitionError
from pipeline.registry import REGISTRY, Registry

__all__ = ["REGISTRY", "Options", "Registry", "Stage", "stage"]

In = TypeVar("In")
Out = TypeVar("Out")
EventData = TypeVar("EventData")
Gathered = TypeVar("Gathered")

#: A stage's name is a Celery task name, to which ".split" and ".gather" are added, and a part of keys.
_STAGE_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
#: Kafka takes 249 of these characters; the rest is left for a prefix.
_TOPIC_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
#: SQS takes 80 of these characters, with the suffix.
_QUEUE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,75}\.fifo")
#: The engine's own topics, as config.settings names them (which imports this package).
RESERVED_TOPICS: Final = ("errors", "dlq", "jobs")
#: SQS holds a message for 12 hours at most from its first receive (ChangeMessageVisibility, API reference).
_LONGEST: Final = 11 * 3600


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the decorator was told; None leaves it to the settings."""

    name: str
    #: Logical name of the topic whose events make this stage's tasks.
    consumes: str
    #: Logical name of the topic that takes its results; None for a stage that ends its path.
    emits: str | None
    #: Name of the SQS FIFO queue; None for SQS_TASK_QUEUE_URL.
    queue: str | None
    #: Whether the tasks of one entity run one at a time, in the order of its events.
    ordered: bool
    #: Attempts after the first; None for MAX_RETRIES.
    retries: int | None
    #: Seconds before the first retry, from which the backoff grows; None for RETRY_DELAY.
    retry_delay: float | None
    #: Seconds after which a run is killed; None for TASK_TIME_LIMIT.
    time_limit: float | None
    #: Seconds after which SoftTimeLimitExceeded is raised in a run; None for no such limit.
    soft_time_limit: float | None
    #: The share of its parts that may fail, and the gather runs with the others; 0 for none.
    tolerate: float = 0


class Stage(Generic[In, Out]):
    """A stage. Made by ``stage``; callable like its function, which it leaves as it is."""

    #: The function's own; functools.update_wrapper sets it.
    __name__: str

    def __init__(self, function: Callable[[In], Out], options: Options) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.options = options
        self.name, self.consumes, self.emits = options.name, options.consumes, options.emits
        self.queue, self.ordered = options.queue, options.ordered
        self.retries, self.retry_delay = options.retries, options.retry_delay
        self.time_limit, self.soft_time_limit = options.time_limit, options.soft_time_limit
        self.tolerate = options.tolerate
        self._part = Signature(function, 1, "@stage")
        self._split: Signature | None = None
        self._gather: Signature | None = None

    def __call__(self, data: In) -> Out:
        """Run the function; nothing else happens."""
        return self.function(data)

    def __repr__(self) -> str:
        return f"<stage {self.name}: {self.consumes} -> {self.emits or 'end'}>"

    @property
    def where(self) -> str:
        """Function, module and line, for messages."""
        return self._part.where

    @property
    def is_split(self) -> bool:
        """Whether an event makes many tasks, and their results one event."""
        return self._split is not None

    def split(self, function: Callable[[EventData], Iterable[In]]) -> Callable[[EventData], Iterable[In]]:
        """Decorate the function that divides an event's data into the parts this stage runs on."""
        if self._split:
            raise StageDefinitionError(
                f"{self.where}: it has a split already, {self._split.where}. Keep one."
            )
        self._split = Signature(function, 1, f"@{self.name}.split")
        return function

    def gather(
        self, function: Callable[[EventData, Iterable[Out]], Gathered]
    ) -> Callable[[EventData, Iterable[Out]], Gathered]:
        """Decorate the function that makes one result of the event's data and all parts' results.

        It runs once, when every part is done; the results come in the order of the parts, as a stream. Where
        the stage tolerates failures, ``current_task().missing`` has the ordinals of those without a result.
        """
        if self._gather:
            raise StageDefinitionError(
                f"{self.where}: it has a gather already, {self._gather.where}. Keep one."
            )
        self._gather = Signature(function, 2, f"@{self.name}.gather")
        return function

    # ─── what the worker runs: JSON in, JSON out ───

    def run(self, data: str | bytes) -> str | None:
        """Run the function on an event's data. None: it returned None, which ends the path."""
        return self.dump_output(self.function(self._part.parameter(0).load(data)))

    def run_split(self, data: str | bytes) -> Iterator[str]:
        """Run the split on an event's data; each part as it is made."""
        split, codec = self._divided()[0], self._part.parameter(0)
        for part in split.function(split.parameter(0).load(data)):
            yield codec.dump(part)

    def run_part(self, data: str | bytes) -> str:
        """Run the function on one part."""
        return self._part.returned.dump(self.function(self._part.parameter(0).load(data)))

    def run_gather(self, data: str | bytes, results: Iterable[str | bytes]) -> str | None:
        """Run the gather on the event's data and the parts' results, in order. None ends the path."""
        gather, codec = self._divided()[1], self._part.returned
        stream = (codec.load(result) for result in results)
        return self.dump_output(gather.function(gather.parameter(0).load(data), stream))

    def load_input(self, data: str | bytes) -> Any:
        """An event's data as the split takes it, or the function where there is no split."""
        return (self._split or self._part).parameter(0).load(data)

    def input_schema(self) -> dict[str, Any]:
        """The JSON Schema of the data of its events."""
        return (self._split or self._part).parameter(0).schema()

    def dump_output(self, value: Any) -> str | None:
        """The data of the event that this stage emits. None: the path ends here, as the annotation allows."""
        codec = (self._gather or self._part).returned
        text = codec.dump(value)
        return None if value is None else text

    # ─── checks ───

    def check(self) -> None:
        """Raise ``StageDefinitionError`` where the functions of this stage do not go together."""
        self._part.check()
        self._part.parameter(0).check()
        self._part.returned.check()
        if self._split or self._gather:
            self._check_divided(*self._divided())
        elif self.tolerate:
            raise StageDefinitionError(
                f"{self.where}: tolerate={self.tolerate:g}, and it has no parts that could fail. "
                "Add @….split and @….gather, or leave tolerate= out."
            )
        self._check_end(self._gather or self._part)

    def _divided(self) -> tuple[Signature, Signature]:
        if not self._split or not self._gather:
            has, lacks = ("split", "gather") if self._split else ("gather", "split")
            raise StageDefinitionError(
                f"{self.where}: it has a {has} and no {lacks}, so nobody would know when its parts are done. "
                f"Add a function decorated with @{self.name}.{lacks}."
            )
        return self._split, self._gather

    def _check_divided(self, split: Signature, gather: Signature) -> None:
        part, result = self._part.parameter(0), self._part.returned
        pairs: list[tuple[Codec, Codec, str, str]] = [
            (split.returned_item(), part, f"{split.where} makes", f"{self.where} takes"),
            (result, gather.parameter_item(1), f"{self.where} returns", f"{gather.where} gathers"),
            (split.parameter(0), gather.parameter(0), f"{split.where} takes", f"{gather.where} takes"),
        ]
        for given, wanted, gives, takes in pairs:
            if not fits(given.annotation, wanted.annotation):
                raise StageDefinitionError(
                    f"{gives} {describe(given.annotation)}, {takes} {describe(wanted.annotation)}. "
                    "Annotate both alike."
                )
        split.parameter(0).check()
        gather.returned.check()

    def _check_end(self, last: Signature) -> None:
        if self.emits and last.returned.annotation in (None, type(None)):
            raise StageDefinitionError(
                f"{last.where}: it returns None, so no event would ever reach {self.emits!r}. "
                "Annotate what it returns, or leave emits= out."
            )


def stage(
    *,
    consumes: str,
    emits: str | None = None,
    name: str | None = None,
    queue: str | None = None,
    ordered: bool = False,
    retries: int | None = None,
    retry_delay: float | None = None,
    time_limit: float | None = None,
    soft_time_limit: float | None = None,
    tolerate: float = 0,
    registry: Registry | None = None,
) -> Callable[[Callable[[In], Out]], Stage[In, Out]]:
    """Make a function a stage: a task for each event on ``consumes``, its result an event on ``emits``.

    Both are logical names; the environment may map each to a topic (KAFKA_TOPIC_<NAME>). Times are in
    seconds. What is left out is taken from the settings. With ``tolerate=0.05`` the gather of a split runs
    although up to 5 % of its parts failed. ``registry`` is for tests.
    """

    def decorate(function: Callable[[In], Out]) -> Stage[In, Out]:
        options = Options(
            name=getattr(function, "__name__", "?") if name is None else name,
            consumes=consumes,
            emits=emits,
            queue=queue,
            ordered=ordered,
            retries=retries,
            retry_delay=retry_delay,
            time_limit=time_limit,
            soft_time_limit=soft_time_limit,
            tolerate=tolerate,
        )
        made = Stage(function, options)
        _check_function(function, made.where)
        _check_options(options, made.where)
        (REGISTRY if registry is None else registry).add(made)
        return made

    return decorate


def _check_function(function: Any, where: str) -> None:
    if inspect.isgeneratorfunction(function):
        raise StageDefinitionError(
            f"{where}: it is a generator. Return one value; to make many parts of one event, add @….split."
        )


def _check_options(options: Options, where: str) -> None:
    _check_names(options, where)
    _check_numbers(options, where)


def _check_names(options: Options, where: str) -> None:
    names = (
        ("name", options.name, _STAGE_NAME, "a letter, then letters, digits, - and _, 64 at most"),
        ("consumes", options.consumes, _TOPIC_NAME, "letters, digits, . - and _, 200 at most"),
        ("emits", options.emits, _TOPIC_NAME, "letters, digits, . - and _, 200 at most"),
        ("queue", options.queue, _QUEUE_NAME, "letters, digits, - and _, 75 at most, then .fifo"),
    )
    for option, value, pattern, allowed in names:
        if value is None and option in ("emits", "queue"):
            continue
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise StageDefinitionError(f"{where}: {option}={value!r} is no valid name. Use {allowed}.")
    for topic in (options.consumes, options.emits):
        if topic in RESERVED_TOPICS:
            raise StageDefinitionError(
                f"{where}: the topic {topic!r} is the engine's own. Choose another name."
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
