"""Stages: the decorator, its refusals and messages, and the registry."""

import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, Field

from pipeline import settings
from pipeline.author.decorator import RESERVED_TOPICS, stage
from pipeline.author.registry import Registry
from pipeline.author.stages import Stage
from pipeline.errors import InvalidInputError, PermanentError, StageDefinitionError
from pipeline.worker.runtime import is_strict
from tests.builders import lease, pipeline_header, stage_lease
from tests.unit import late_annotations


class Text(BaseModel):
    words: list[str]


class Counts(BaseModel):
    total: int = Field(alias="n")


@dataclass
class Report:
    total: int


def make(
    function: Callable[..., Any], registry: Registry | None = None, consumes: str = "a", **options: Any
) -> Stage[Any, Any]:
    made: Stage[Any, Any] = stage(consumes=consumes, registry=registry or Registry(), **options)(function)
    return made


def joined(*hops: tuple[str, str, str | None]) -> Registry:
    """A registry of stages given as (name, consumes, emits)."""
    registry = Registry()
    for name, consumes, emits in hops:

        def work(data: int) -> int:
            return data

        work.__qualname__ = name
        make(work, registry, consumes, name=name, emits=emits)
    return registry


def divided(registry: Registry | None = None) -> Stage[Any, Any]:
    @stage(consumes="a", emits="b", registry=registry or Registry())
    def count(word: str) -> Counts:
        """Count one."""
        return Counts(n=len(word))

    @count.split
    def words(text: Text) -> Iterator[str]:
        yield from text.words

    @count.gather
    def merge(text: Text, counts: Iterable[Counts]) -> Report | None:
        total = sum(one.total for one in counts)
        return Report(total) if text.words else None

    return count


# ─── use ───


def test_calling_a_stage_runs_its_function() -> None:
    """A unit test of a stage needs nothing but the stage."""
    count = divided()
    assert count("abc") == Counts(n=3)
    assert (count.__name__, count.__doc__) == ("count", "Count one.")


def test_a_stage_runs_from_json_to_json() -> None:
    """The worker hands JSON in and gets JSON out, by the annotations."""

    def work(text: Text) -> Report:
        return Report(len(text.words))

    assert make(work).run('{"words": ["a", "b"]}') == '{"total":2}'


def test_a_divided_stage_runs_from_json_to_json() -> None:
    """The function reads what the split writes, and the gather reads what the function writes."""
    count = divided()
    parts = list(count.run_split(b'{"words": ["a", "bcd"]}'))
    results = [count.run_part(part) for part in parts]
    assert (parts, results) == (['"a"', '"bcd"'], ['{"n":1}', '{"n":3}'])
    assert count.run_gather('{"words": ["a", "bcd"]}', results) == '{"total":4}'


def test_the_gather_sees_its_results_as_a_stream() -> None:
    """A job of a million parts is never in memory: a result is read when the gather asks for it."""
    read: list[int] = []

    def results() -> Iterator[str]:
        for number in range(5):
            read.append(number)
            yield '{"n":1}'

    @stage(consumes="a", registry=Registry())
    def count(word: str) -> Counts:
        return Counts(n=1)

    @count.split
    def words(text: Text) -> Iterator[str]:
        yield from text.words

    @count.gather
    def first(text: Text, counts: Iterable[Counts]) -> int:
        return next(iter(counts)).total

    assert count.run_gather('{"words": []}', results()) == "1"
    assert read == [0]


def test_the_split_makes_its_parts_one_by_one() -> None:
    """A split that yields for ever is not read to its end before the first part is sent."""

    @stage(consumes="a", registry=Registry())
    def count(number: int) -> int:
        return number

    @count.split
    def numbers(start: int) -> Iterator[int]:
        while True:
            yield start
            start += 1

    @count.gather
    def total(start: int, results: Iterable[int]) -> int:
        return sum(results)

    parts = count.run_split("7")
    assert [next(parts), next(parts)] == ["7", "8"]


def test_none_ends_the_path_where_the_annotation_says_so() -> None:
    """Returning None is an answer."""
    assert divided().run_gather('{"words": []}', []) is None

    def end(data: int) -> None:
        return None

    assert make(end).run("1") is None


def test_a_forgotten_return_does_not_end_the_path() -> None:
    """None from a function that promises a value is an error, or its job would end in silence."""

    def forgot(data: int) -> int:
        return typing.cast(int, None)

    with pytest.raises(PermanentError, match=r"forgot .*: the result is not int: it returned None"):
        make(forgot).run("1")


@pytest.mark.parametrize("data", ['"no"', "", "{", "[" * 10_000, '{"words": 1}', '{"words": [1]}', b"\xff"])
def test_data_of_another_shape_is_permanent(data: str | bytes) -> None:
    """Trying again would not change the data: InvalidInputError, naming function and field."""

    def work(text: Text) -> None: ...

    with pytest.raises(InvalidInputError, match=r"@stage function .*work \(.*test_stages:\d+\): the data is"):
        make(work).run(data)


def test_a_faulty_value_is_shown_as_it_stands_in_the_json() -> None:
    """A number is told from a text, and a long value is cut."""

    def work(data: dict[str, int | None]) -> None: ...

    with pytest.raises(InvalidInputError) as raised:
        make(work).run('{"a": "one", "b": {"c": "1"}, "d": "' + 200 * "x" + '"}')
    told = str(raised.value)
    assert 'it is "one";' in told
    assert 'it is {"c":"1"};' in told
    assert told.endswith(f'it is "{79 * "x"}…')


@pytest.mark.parametrize("value", ["text", {"total": 1}, Counts(n=1), "\ud800"])
def test_a_result_of_another_shape_is_permanent(value: Any) -> None:
    """A wrong result is found where it is made, not in the next stage."""

    def work(data: int) -> Report:
        return typing.cast(Report, value)

    with pytest.raises(PermanentError, match="the result is not Report"):
        make(work).run("1")


def test_annotations_may_name_what_comes_later() -> None:
    """A stage may stand above the classes it uses, and its module may have lazy annotations."""
    late_annotations.REGISTRY.check()
    assert late_annotations.early.run('{"later": {"value": 3}}') == '{"value":3}'


def test_what_is_left_out_is_left_to_the_settings() -> None:
    """None means: not said here."""

    def work(data: int) -> None: ...

    made = make(work)
    assert (made.name, made.emits, made.queue, made.ordered) == ("work", None, None, False)
    assert (made.retries, made.retry_delay, made.time_limit, made.soft_time_limit) == (None,) * 4


def test_reserved_topics_are_those_of_the_settings() -> None:
    """The engine's own topics have one list."""
    assert {settings.ERRORS_TOPIC, settings.DLQ_TOPIC, settings.JOBS_TOPIC} == set(RESERVED_TOPICS)


# ─── what is refused when it is decorated ───


async def is_async_generator(data: int) -> typing.AsyncIterator[int]:
    yield 1


def is_generator(data: int) -> Iterator[int]:
    yield 1


def no_parameter() -> None: ...


def two_parameters(a: int, b: int) -> None: ...


def star(*data: int) -> None: ...


def keyword(*, data: int) -> None: ...


def no_annotation(data) -> None: ...  # type: ignore[no-untyped-def]


def no_return(data: int): ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize(
    ("function", "fault", "mend"),
    [
        (is_async_generator, "it is a generator", "add @….split"),
        (is_generator, "it is a generator", "add @….split"),
        (no_parameter, "it must take 1 parameter", "any other with a default"),
        (two_parameters, "it must take 1 parameter", "any other with a default"),
        (star, "it must take 1 parameter", "any other with a default"),
        (keyword, "it must take 1 parameter", "any other with a default"),
        (no_annotation, "its parameter 'data' has no annotation", "Add one"),
        (no_return, "its return value has no annotation", "Add one"),
        (int, "it is no function", "Decorate a def"),
    ],
)
def test_a_function_that_cannot_be_a_stage(function: Any, fault: str, mend: str) -> None:
    """Refused at import, with the function, its place, the fault and the mend."""
    with pytest.raises(StageDefinitionError) as caught:
        make(function)
    message = str(caught.value)
    assert fault in message
    assert mend in message
    assert function.__qualname__ in message
    assert f"({function.__module__}:" in message


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"name": "a.b"}, "name='a.b' is no valid name"),
        ({"name": ""}, "name='' is no valid name"),
        ({"name": "x" * 65}, "is no valid name"),
        ({"consumes": "a b"}, "consumes='a b' is no valid name"),
        ({"consumes": "ä"}, "consumes='ä' is no valid name"),
        ({"consumes": ""}, "consumes='' is no valid name"),
        ({"emits": "x" * 201}, "is no valid name"),
        ({"emits": ""}, "emits='' is no valid name"),
        ({"queue": "fast"}, "queue='fast' is no valid name"),
        ({"consumes": "errors"}, "the topic 'errors' is the engine's own"),
        ({"emits": "dlq"}, "the topic 'dlq' is the engine's own"),
        ({"ordered": "strictly"}, """ordered='strictly'. Use True, False or "strict"."""),
        ({"ordered": 1}, "ordered=1"),
        ({"retries": -1}, "retries=-1"),
        ({"retries": 1.5}, "retries=1.5"),
        ({"retries": True}, "retries=True"),
        ({"retry_delay": -0.1}, "retry_delay=-0.1"),
        ({"retry_delay": float("nan")}, "retry_delay=nan"),
        ({"time_limit": 0}, "time_limit=0"),
        ({"time_limit": 12 * 3600}, "SQS holds no message longer"),
        ({"soft_time_limit": -1}, "soft_time_limit=-1"),
        ({"time_limit": 10, "soft_time_limit": 10}, "soft_time_limit=10 is not below time_limit=10"),
        ({"tolerate": 1}, "tolerate=1"),
        ({"tolerate": -0.1}, "tolerate=-0.1"),
        ({"tolerate": float("nan")}, "tolerate=nan"),
        ({"tolerate": "5%"}, "tolerate='5%'"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be(options: dict[str, Any], fault: str) -> None:
    """Refused at import, with the function, the option, its value and what is allowed."""

    def work(data: int) -> int:
        return data

    with pytest.raises(StageDefinitionError, match=r"@stage function .*work \(.*\): ") as caught:
        make(work, **options)
    assert fault in str(caught.value)


@pytest.mark.parametrize(("ordered", "strict"), [(False, False), (True, False), ("strict", True)])
def test_a_strict_stage_is_ordered_and_its_plan_says_no_more(ordered: Any, strict: bool) -> None:
    """A plan is read by every version; how a lane goes on is the worker's own business."""
    registry = Registry()

    @stage(consumes="a", ordered=ordered, registry=registry)
    def work(data: int) -> None: ...

    assert (work.ordered, work.strict) == (bool(ordered), strict)
    assert work.route.ordered is bool(ordered)
    leases = [stage_lease(task="work", header=pipeline_header(stage="work")), lease("plain")]
    assert [is_strict(registry, each) for each in leases] == [strict, False]


def test_two_stages_with_one_name() -> None:
    """Refused at import, naming both."""
    registry = joined(("work", "a", "b"))

    def other(data: int) -> int:
        return data

    with pytest.raises(StageDefinitionError, match=r"other .* the name 'work' is taken by .*work .* name="):
        make(other, registry, name="work")


def test_a_module_that_is_read_again_replaces_its_stages() -> None:
    """Reloading a module is no second definition."""
    registry = Registry()
    divided(registry)
    again = divided(registry)
    assert registry.by_name == {"count": again}


def test_a_second_split_or_gather() -> None:
    """One stage, one way to divide its work."""
    count = divided()
    with pytest.raises(StageDefinitionError, match="has a split already"):
        count.split(is_generator)
    with pytest.raises(StageDefinitionError, match="has a gather already"):
        count.gather(two_parameters)  # type: ignore[arg-type]


def test_a_gather_that_takes_one_parameter() -> None:
    """The gather is checked like the stage's function."""

    @stage(consumes="a", registry=Registry())
    def work(data: int) -> int:
        return data

    def alone(data: int) -> int:
        return data

    with pytest.raises(StageDefinitionError, match=r"@work.gather function .*alone .*must take 2 parameters"):
        work.gather(alone)  # type: ignore[arg-type]


# ─── what is refused when all modules are read ───


def refused(registry: Registry) -> str:
    with pytest.raises(StageDefinitionError) as caught:
        registry.check()
    return str(caught.value)


def test_a_split_without_gather() -> None:
    """Nobody would know when its parts are done."""
    registry = Registry()

    @stage(consumes="a", registry=registry)
    def work(data: int) -> int:
        return data

    @work.split
    def parts(data: int) -> Iterator[int]:
        yield data

    message = refused(registry)
    assert "has a split and no gather" in message
    assert "@work.gather" in message


def test_a_gather_without_split() -> None:
    """There is nothing to gather."""
    registry = Registry()

    @stage(consumes="a", registry=registry)
    def work(data: int) -> int:
        return data

    @work.gather
    def total(data: int, results: Iterable[int]) -> int:
        return sum(results)

    message = refused(registry)
    assert "has a gather and no split" in message
    assert "@work.split" in message


class Opaque:
    pass


@pytest.mark.parametrize(
    "annotation", [Opaque, Iterator[Opaque], "int | Opaque", typing.TypeVar("T", bound=Opaque)]
)
def test_an_annotation_that_json_cannot_hold(annotation: Any) -> None:
    """Refused before the first task, with the type and what to use instead."""
    registry = Registry()

    def work(data: int) -> int:
        return data

    work.__annotations__["data"] = annotation
    make(work, registry)
    message = refused(registry)
    assert "Opaque" in message
    assert "Use a pydantic model" in message
    assert "work (" in message


def test_an_annotation_that_nobody_defines() -> None:
    """A name that is imported for type checking only is found before the first task."""
    registry = Registry()

    def work(data: int) -> int:
        return data

    work.__annotations__["data"] = "Missing"
    make(work, registry)
    message = refused(registry)
    assert "its annotations name 'Missing'" in message
    assert "outside TYPE_CHECKING" in message


@pytest.mark.parametrize("annotation", ["int[1]", "a b", "int.missing"])
def test_an_annotation_that_cannot_be_read(annotation: str) -> None:
    """An annotation that is not a type is refused like one without a schema."""
    registry = Registry()

    def work(data: int) -> int:
        return data

    work.__annotations__["data"] = annotation
    make(work, registry)
    assert "an annotation cannot be read" in refused(registry)


def misfit(
    part: Any = int, item: Any = int, given: Any = str, taken: Any = str, result: Any = float
) -> Registry:
    """A divided stage with these annotations."""
    registry = Registry()

    def work(data: Any) -> Any: ...
    def parts(data: Any) -> Any: ...
    def total(data: Any, results: Any) -> None: ...

    work.__annotations__.update({"data": part, "return": float})
    parts.__annotations__.update({"data": given, "return": Iterator[item] if item else list[int]})
    total.__annotations__.update({"data": taken, "results": Iterable[result] if result else list[float]})
    made = make(work, registry)
    made.split(parts)
    made.gather(total)
    return registry


@pytest.mark.parametrize(
    ("registry", "fault"),
    [
        (misfit(item=str), r"split function .*parts .* makes str, @stage function .*work .* takes int"),
        (misfit(result=str), r"@stage function .*work .* returns float, .*gather .*total .* gathers str"),
        (misfit(taken=int), r"split function .*parts .* takes str, .*gather .*total .* takes int"),
        (misfit(item=None), r"parts .*: its return annotation is list\[int\]. Annotate Iterator\[T\]"),
        (misfit(result=None), r"total .*: the annotation of 'results' is list\[float\]. Annotate Iterable"),
    ],
)
def test_functions_that_do_not_go_together(registry: Registry, fault: str) -> None:
    """One function must return what the next takes; otherwise the error names both."""
    with pytest.raises(StageDefinitionError, match=fault):
        registry.check()


def test_a_wider_annotation_goes_together() -> None:
    """A part may be a subclass, or a member of a union, of what the function takes."""
    misfit(part=int | None, item=bool, result=float | None, taken=Any).check()


def test_a_stage_that_emits_nothing_on_a_topic() -> None:
    """A stage that can only return None has nothing for its topic."""
    registry = Registry()

    def work(data: int) -> None: ...

    make(work, registry, emits="b")
    assert "no event would ever reach 'b'" in refused(registry)


def test_a_cycle_of_topics() -> None:
    """A job would never end; the message shows the way round."""
    message = refused(joined(("one", "a", "b"), ("two", "b", "c"), ("three", "c", "a")))
    assert "one -> two -> three -> one" in message
    assert "another topic" in message


def test_a_stage_that_feeds_itself() -> None:
    """The shortest cycle."""
    assert "one -> one" in refused(joined(("one", "a", "a")))


def test_two_emitters_of_one_topic_in_one_job() -> None:
    """Later stages would run twice in one job; the error names both."""
    registry = joined(("top", "a", "b"), ("left", "b", "c"), ("right", "b", "c"), ("end", "c", None))
    message = refused(registry)
    assert "left (" in message
    assert "right (" in message
    assert "both emit 'c'" in message


def test_two_emitters_of_one_topic_in_two_jobs() -> None:
    """Two ways into one stage are fine where no job takes both."""
    joined(("mail", "a", "c"), ("upload", "b", "c"), ("end", "c", None)).check()


def test_two_topics_with_one_variable() -> None:
    """KAFKA_TOPIC_A_B cannot set two topics."""
    message = refused(joined(("one", "a-b", None), ("two", "a.b", None)))
    assert "KAFKA_TOPIC_A_B" in message


# ─── the registry ───


def test_the_plan_of_a_job() -> None:
    """Each stage that can be reached, with the terminal stages at or below it."""
    registry = joined(
        ("top", "a", "b"),
        ("left", "b", "c"),
        ("right", "b", "d"),
        ("end", "c", None),
        ("other", "x", "c"),
    )
    assert registry.plan("a").stages == {
        "top": ("end", "right"),
        "left": ("end",),
        "right": ("right",),
        "end": ("end",),
    }
    assert registry.plan("c").stages == {"end": ("end",)}
    assert registry.plan("d").stages == {}


def test_consumers_of_a_topic() -> None:
    """Every stage that an event makes a task for."""
    registry = joined(("one", "a", "b"), ("two", "a", "c"), ("three", "b", None))
    assert [s.name for s in registry.stages_on("a")] == ["one", "two"]
    assert registry.stages_on("nobody") == ()
    assert registry.topics == ("a", "b", "c")
    assert registry.consumed_topics == ("a", "b")


def test_what_has_no_parts_tolerates_none() -> None:
    """Refused at the check, which knows whether a split was added."""

    def work(data: int) -> int:
        return data

    made = make(work, tolerate=0.5)
    with pytest.raises(StageDefinitionError, match=r"tolerate=0\.5, and it has no parts that could fail"):
        made.check()


def test_a_stage_that_asks_for_tombstones_takes_none() -> None:
    """Their data is None, which its annotation, or its split's, must accept."""

    def forget(data: int) -> None: ...

    def keep(data: int | None) -> None: ...

    with pytest.raises(StageDefinitionError, match=r"forget .*tombstones=True, but it takes int"):
        make(forget, tombstones=True).check()
    kept = make(keep, tombstones=True)
    kept.check()
    assert kept.run(b"null") is None


def test_the_schema_of_a_stage_is_what_its_events_hold() -> None:
    """Of a divided stage that is what its split takes."""
    assert divided().input_schema()["properties"]["words"]["type"] == "array"

    def keep(data: typing.Annotated[int, Field(ge=0)]) -> None: ...

    assert make(keep).input_schema() == {"type": "integer", "minimum": 0}
