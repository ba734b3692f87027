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

The annotations are the schema. Calling a stage just runs its function. Each function may be async.
"""

import functools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar, overload

from pipeline.author import awaiting
from pipeline.author.annotations import Signature, fits, lost_fields
from pipeline.author.codec import Codec, describe
from pipeline.author.timing import Tick, Timing
from pipeline.author.topicschema import Format, TopicSchema, topic_schema
from pipeline.errors import InvalidInputError, PermanentError, StageDefinitionError
from pipeline.wire.events import entity_fault
from pipeline.wire.plans import Route
from pipeline.wire.taskmessage import Role

In = TypeVar("In")
Out = TypeVar("Out")
EventData = TypeVar("EventData")
Gathered = TypeVar("Gathered")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of the decorator; None leaves one to the settings."""

    name: str
    #: Logical name of the topic whose events make this stage's tasks.
    consumes: str
    #: Logical name of the topic that takes its results; None for a stage that ends its path.
    emits: str | None
    #: Name of the SQS FIFO queue; None for SQS_TASK_QUEUE_URL.
    queue: str | None
    #: Whether the tasks of one entity run one at a time, in the order of its events; "strict": each starts
    #: only when the one before is recorded.
    ordered: bool | Literal["strict"]
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
    #: Whether a record without a value makes a task, with None as its data.
    tombstones: bool = False
    #: How its events are written on the topic.
    format: Format = "json"
    #: The entity of what is emitted, as a function of it; None for that of the event that came in.
    entity: Callable[[Any], str] | None = None
    #: When it runs without an event of others; None for never.
    schedule: Timing | None = None
    #: The data of a tick's event, as a function of the tick; None for the tick itself.
    schedule_data: Callable[[Tick], Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Emission:
    """Data and entity of the event that a run or a gather emits."""

    #: JSON; None where the path ends.
    data: str | None
    #: The entity of the event; None for that of the event that came in.
    entity: str | None = None


class NewPart(NamedTuple):
    """A part as its split makes it."""

    #: JSON.
    data: str
    #: Its own entity; None for that of the event.
    entity: str | None = None


class Stage(Generic[In, Out]):
    """A stage, as ``stage`` makes it. Calling it calls its function."""

    #: The function's name, set by functools.update_wrapper.
    __name__: str

    def __init__(self, function: Callable[[In], Out], options: Options) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.options = options
        self.name, self.consumes, self.emits = options.name, options.consumes, options.emits
        self.queue = options.queue
        self.ordered, self.strict = bool(options.ordered), options.ordered == "strict"
        self.retries, self.retry_delay = options.retries, options.retry_delay
        self.time_limit, self.soft_time_limit = options.time_limit, options.soft_time_limit
        self.tolerate = options.tolerate
        self.tombstones = options.tombstones
        self.format = options.format
        self.schedule = options.schedule
        self._part = Signature(function, 1, "@stage")
        self._split: Signature | None = None
        self._part_entity: Callable[[In], str] | None = None
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

    def is_async(self, role: Role) -> bool:
        """Whether the function of a role is async: its runs wait on an event loop."""
        signature = {"split": self._split, "gather": self._gather}.get(role) or self._part
        return awaiting.is_async(signature.function)

    @property
    def route(self) -> Route:
        """The stage without its code, as plans hold it."""
        return Route(
            name=self.name,
            consumes=self.consumes,
            emits=self.emits,
            is_split=self.is_split,
            ordered=self.ordered,
            queue=self.queue,
            tombstones=self.tombstones,
        )

    @overload
    def split(
        self, function: Callable[[EventData], AsyncIterator[In]]
    ) -> Callable[[EventData], AsyncIterator[In]]: ...

    @overload
    def split(
        self, function: Callable[[EventData], Coroutine[Any, Any, Iterable[In]]]
    ) -> Callable[[EventData], Coroutine[Any, Any, Iterable[In]]]: ...

    @overload
    def split(self, function: Callable[[EventData], Iterable[In]]) -> Callable[[EventData], Iterable[In]]: ...

    @overload
    def split(self, *, entity: Callable[[In], str]) -> "SplitDecorator[In]": ...

    def split(self, function: Any = None, *, entity: Callable[[In], str] | None = None) -> Any:
        """Decorate the function that divides an event's data into the parts this stage runs on.

        ``entity``: a pure function of a part: its entity, by which an ordered stage orders it among the parts
        of all jobs. Without one it is the event's.
        """
        if function is None:
            return functools.partial(self._add_split, entity)
        return self._add_split(None, function)

    def _add_split(self, entity: Callable[[In], str] | None, function: Any) -> Any:
        if self._split:
            raise StageDefinitionError(
                f"{self.where}: it has a split already, {self._split.where}. Keep one."
            )
        self._split, self._part_entity = Signature(function, 1, f"@{self.name}.split"), entity
        return function

    @overload
    def gather(
        self, function: Callable[[EventData, AsyncIterable[Out]], Coroutine[Any, Any, Gathered]]
    ) -> Callable[[EventData, AsyncIterable[Out]], Coroutine[Any, Any, Gathered]]: ...

    @overload
    def gather(
        self, function: Callable[[EventData, Iterable[Out]], Gathered]
    ) -> Callable[[EventData, Iterable[Out]], Gathered]: ...

    def gather(self, function: Any) -> Any:
        """Decorate the function that makes one result from the event's data and the results of all parts.

        It runs once, when every part is done; the results come in the order of the parts, as a stream. Where
        the stage tolerates failures, ``current_task().missing`` has the ordinals of those without a result.
        """
        if self._gather:
            raise StageDefinitionError(
                f"{self.where}: it has a gather already, {self._gather.where}. Keep one."
            )
        self._gather = Signature(function, 2, f"@{self.name}.gather")
        return function

    # ─── runs in a worker: JSON in, JSON out ───

    def emission(self, data: str | bytes) -> Emission:
        """Run the function on an event's data."""
        return self._emission(awaiting.call(self.function, self._part.parameter(0).load(data)))

    def emission_of_gather(self, data: str | bytes, results: Iterable[str | bytes]) -> Emission:
        """Run the gather on the event's data and the parts' results, in order."""
        gather, codec = self._divided()[1], self._part.returned
        loaded = (codec.load(result) for result in results)
        stream = awaiting.stream(loaded) if awaiting.is_async(gather.function) else loaded
        return self._emission(awaiting.call(gather.function, gather.parameter(0).load(data), stream))

    def parts(self, data: str | bytes) -> Iterator[NewPart]:
        """Run the split on an event's data; yield each part as soon as it is made."""
        split, codec = self._divided()[0], self._part.parameter(0)
        for part in awaiting.iterate(awaiting.call(split.function, split.parameter(0).load(data))):
            yield NewPart(codec.dump(part), self._entity_of(part, self._part_entity, split.where))

    def run(self, data: str | bytes) -> str | None:
        """Run the function on an event's data. Return None where it returned None, which ends the path."""
        return self.emission(data).data

    def run_split(self, data: str | bytes) -> Iterator[str]:
        """Run the split on an event's data; yield the JSON of each part as soon as it is made."""
        return (part.data for part in self.parts(data))

    def run_part(self, data: str | bytes) -> str:
        """Run the function on one part."""
        return self._part.returned.dump(awaiting.call(self.function, self._part.parameter(0).load(data)))

    def run_gather(self, data: str | bytes, results: Iterable[str | bytes]) -> str | None:
        """Run the gather on the event's data and the parts' results, in order. None ends the path."""
        return self.emission_of_gather(data, results).data

    def _emission(self, value: Any) -> Emission:
        last = self._gather or self._part
        value = last.returned.listed(value)
        data = self.dump_output(value)
        if data is None:
            return Emission(data=None)
        return Emission(data=data, entity=self._entity_of(value, self.options.entity, last.where))

    def _entity_of(self, item: Any, function: Callable[[Any], str] | None, where: str) -> str | None:
        """Return the entity of an item; raise ``PermanentError`` for one that cannot be a key."""
        if function is None:
            return None
        entity = function(item)
        if fault := entity_fault(entity):
            raise PermanentError(f"{where}: what its entity= gave is none: {fault}")
        return entity

    @property
    def input(self) -> Codec:
        """The codec of an event's data, as the split takes it, or the function where there is no split."""
        return (self._split or self._part).parameter(0)

    def load_input(self, data: str | bytes) -> Any:
        """Return an event's data as the split takes it, or as the function does where there is no split."""
        return self.input.load(data)

    def dump_input(self, value: Any) -> str:
        """Return the JSON of an event's data; raise ``InvalidInputError`` for a value of another type."""
        return self.input.dump_data(value)

    def tick_data(self, tick: Tick) -> str:
        """Return the JSON of the data of a tick's event. Raise what ``schedule_data`` raises."""
        if self.options.schedule_data is None:
            return Codec(Tick, self.where).dump(tick)
        return self.dump_input(self.options.schedule_data(tick))

    def is_split_by(self, function: Callable[..., Any]) -> bool:
        """Whether a function is the split of this stage."""
        return self._split is not None and self._split.function is function

    def input_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the data of its events."""
        return self.input.schema()

    def dump_output(self, value: Any) -> str | None:
        """Return the data of the event that this stage emits; None where the path ends here."""
        text = self._written.dump(value)
        return None if value is None else text

    def load_output(self, data: str | bytes) -> Any:
        """Return the value of what ``dump_output`` wrote."""
        return self._written.load(data)

    def output_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the data of the events that it emits."""
        return self._written.written_schema()

    @functools.cached_property
    def topic_schema(self) -> TopicSchema | None:
        """The schema that the topic it emits to carries; None for a topic of plain JSON.

        Raises ``StageDefinitionError`` where the format has no type for the annotation.
        """
        return None if self.format == "json" else topic_schema(self._written, self.format)

    @property
    def _written(self) -> Codec:
        return (self._gather or self._part).returned

    # ─── checks ───

    def check(self) -> None:
        """Raise ``StageDefinitionError`` where the functions of this stage do not go together."""
        self._part.check()
        self._part.parameter(0).check()
        self._check_tombstones()
        if self._split or self._gather:
            self._check_divided(*self._divided())
        elif self.tolerate:
            raise StageDefinitionError(
                f"{self.where}: tolerate={self.tolerate:g}, and it has no parts that could fail. "
                "Add @….split and @….gather, or leave tolerate= out."
            )
        self._check_end(self._gather or self._part)

    def _check_tombstones(self) -> None:
        if not self.tombstones:
            return
        try:
            self.load_input("null")
        except InvalidInputError as error:
            first = self._split or self._part
            taken = describe(first.parameter(0).annotation)
            raise StageDefinitionError(
                f"{first.where}: tombstones=True, but it takes {taken} and a tombstone's data is None. "
                f"Annotate {taken} | None, or leave tombstones= out."
            ) from error

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
        if lost := lost_fields(split.returned_item().annotation, part.annotation):
            raise StageDefinitionError(
                f"{split.where} makes {describe(split.returned_item().annotation)}, {self.where} takes "
                f"{describe(part.annotation)}: {', '.join(lost)} would be lost. Annotate both alike."
            )
        split.parameter(0).check()
        part.check_read_again()
        result.check_read_again()

    def check_handover(self, consumer: "Stage[Any, Any]") -> None:
        """Raise ``StageDefinitionError`` where ``consumer`` cannot read the events of this stage."""
        self._written.check_read_by(consumer.input)

    def _check_end(self, last: Signature) -> None:
        last.returned.check()
        if self.emits:
            last.returned.check_written()
        if self.emits and last.returned.annotation in (None, type(None)):
            raise StageDefinitionError(
                f"{last.where}: it returns None, so no event would ever reach {self.emits!r}. "
                "Annotate what it returns, or leave emits= out."
            )


class AsyncStage(Stage[In, Out]):
    """A stage whose function is async. Calling it returns a coroutine, to be awaited."""

    # It returns what its function does: a unit test awaits it.
    def __call__(self, data: In) -> Coroutine[Any, Any, Out]:  # type: ignore[override]
        """Call the function; nothing else happens."""
        return self.function(data)  # type: ignore[return-value]


class SplitDecorator(Protocol[In]):
    """Decorates a split: the function keeps its type."""

    @overload
    def __call__(
        self, function: Callable[[EventData], AsyncIterator[In]], /
    ) -> Callable[[EventData], AsyncIterator[In]]: ...

    @overload
    def __call__(
        self, function: Callable[[EventData], Coroutine[Any, Any, Iterable[In]]], /
    ) -> Callable[[EventData], Coroutine[Any, Any, Iterable[In]]]: ...

    @overload
    def __call__(
        self, function: Callable[[EventData], Iterable[In]], /
    ) -> Callable[[EventData], Iterable[In]]: ...
