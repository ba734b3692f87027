"""What a stage writes is read again as the same, or it is refused: at start, or where it was made."""

import dataclasses
import datetime
import enum
import math
import re
import typing
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Annotated, Any, NamedTuple, NewType, Optional

import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    Json,
    JsonValue,
    PlainSerializer,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    SerializeAsAny,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
)
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypeAliasType, TypedDict

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.author.stages import Stage
from pipeline.errors import InvalidInputError, PermanentError, StageDefinitionError


def label(value: Any) -> str:
    """The name of a test: the same in each process."""
    return re.sub(r"tests\.unit\.test_read_again\.|<function | at 0x\w+>", "", str(value))[:60]


def echo(annotation: Any, **options: Any) -> Stage[Any, Any]:
    """A stage that takes and returns an annotation, and emits it."""

    def work(data: Any) -> Any:
        return data

    work.__annotations__.update({"data": annotation, "return": annotation})
    made: Stage[Any, Any] = stage(**{"consumes": "a", "emits": "b", "registry": Registry(), **options})(work)
    return made


def divided(annotation: Any) -> Stage[Any, Any]:
    """A stage whose parts and results have an annotation: the engine writes and reads both."""

    def parts(data: int) -> Any: ...

    def total(data: int, results: Any) -> int:
        return len(list(results))

    parts.__annotations__["return"] = Iterator[annotation]
    total.__annotations__["results"] = Iterable[annotation]
    made = echo(annotation)
    made.split(parts)
    made.gather(total)
    return made


def giving(annotation: Any, value: Any) -> Stage[Any, Any]:
    """A stage that returns a value where an annotation is promised."""

    def work(data: int) -> Any:
        return value

    work.__annotations__["return"] = annotation
    made: Stage[Any, Any] = stage(consumes="a", emits="b", registry=Registry())(work)
    return made


def handover(given: Any, taken: Any) -> Registry:
    """Two stages: the first returns one annotation, the second takes another."""
    registry = Registry()

    def first(data: int) -> Any: ...
    def second(data: Any) -> None: ...

    first.__annotations__["return"] = given
    second.__annotations__["data"] = taken
    stage(consumes="a", emits="b", registry=registry)(first)
    stage(consumes="b", registry=registry)(second)
    return registry


# ─── refused at start: what the engine writes and reads ───


class Base(BaseModel):
    amount: int


class ValidationAlias(BaseModel):
    amount: int = Field(validation_alias="amt")


class SerializationAlias(BaseModel):
    amount: int = Field(serialization_alias="amt")


class OptionalAlias(BaseModel):
    amount: int = Field(default=0, validation_alias="amt")


class AliasInside(BaseModel):
    amount: int = Field(validation_alias=AliasPath("data", "amount"))


class Choices(BaseModel):
    amount: int = Field(validation_alias=AliasChoices("amt", AliasPath("data", "amount")))


class NotByAlias(BaseModel):
    model_config = ConfigDict(validate_by_alias=False, validate_by_name=True)
    amount: int = Field(alias="amt")


class Generated(BaseModel):
    model_config = ConfigDict(alias_generator=None, serialize_by_alias=True)
    amount: int = Field(serialization_alias="AMOUNT")


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    amount: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.amount


class Excluded(BaseModel):
    amount: int = Field(exclude=True)


class Text(BaseModel):
    amount: Json[int]


class Login(BaseModel):
    user: str
    password: SecretStr


class Lines(BaseModel):
    lines: Iterable[int]


class Pairs(BaseModel):
    amounts: dict[tuple[int, int], str]


@dataclasses.dataclass
class DataclassAlias:
    amount: Annotated[int, Field(validation_alias="amt")]


@pydantic_dataclass
class DataclassSecret:
    password: SecretStr


class DictAlias(TypedDict):
    amount: Annotated[int, Field(validation_alias="amt")]


class Other(TypedDict):
    name: str


class Rounded(BaseModel):
    amount: Annotated[Decimal, PlainSerializer(float)]


class Doubled(BaseModel):
    amount: int

    @field_validator("amount")
    @classmethod
    def _double(cls, value: int) -> int:
        return 2 * value


class Hidden(BaseModel):
    amount: int

    @field_serializer("amount")
    def _hide(self, _: int) -> str:
        return "hidden"


class Inverted(BaseModel):
    amount: int

    @model_serializer
    def _invert(self) -> list[int]:
        return [self.amount]


class Encoded(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64")
    data: bytes


class Sometimes(BaseModel):
    amount: int = Field(exclude_if=lambda value: value == 1)


class Dated(BaseModel):
    when: datetime.date

    @field_serializer("when")
    def _write(self, value: datetime.date) -> str:
        return value.strftime("%d/%m/%Y")


class Foreign:
    """A class of somebody else."""


class Arbitrary(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    foreign: Foreign


class Corner(NamedTuple):
    x: int
    y: int


class Nested(BaseModel):
    inner: list[dict[str, ValidationAlias]] | None = None


class Tree(BaseModel):
    amount: int = Field(validation_alias="amt")
    children: "list[Tree]" = []


LOST: list[tuple[Any, str]] = [
    (ValidationAlias, "ValidationAlias.amount is written as 'amount' and read as 'amt'"),
    (SerializationAlias, "SerializationAlias.amount is written as 'amt' and read as 'amount'"),
    (OptionalAlias, "OptionalAlias.amount is written as 'amount' and read as 'amt'"),
    (AliasInside, "AliasInside.amount is written as 'amount' and read as 'a path'"),
    (Choices, "Choices.amount is written as 'amount' and read as 'amt'"),
    (NotByAlias, "NotByAlias.amount is written as 'amt' and read as 'amount'"),
    (Generated, "Generated.amount is written as 'AMOUNT' and read as 'amount'"),
    (Computed, "Computed.double is computed and written, and extra='forbid' refuses it"),
    (Excluded, "Excluded.amount is required and excluded"),
    (Text, "Text.amount is Json"),
    (Json[int], "the value is Json"),
    (Login, "password is SecretStr, which is written as asterisks"),
    (SecretBytes, "SecretBytes, which is written as asterisks"),
    (Secret[int], "which is written as asterisks"),
    (list[Login], "password is SecretStr"),
    (Login | None, "password is SecretStr"),
    (DataclassAlias, "DataclassAlias.amount is written as 'amount' and read as 'amt'"),
    (DataclassSecret, "password is SecretStr"),
    (DictAlias, "DictAlias.amount is written as 'amount' and read as 'amt'"),
    (Pairs, "Pairs.amounts has keys of the type tuple"),
    (dict[tuple[int, int], str], "the value has keys of the type tuple"),
    (dict[frozenset[str], str], "the value has keys of the type frozenset"),
    (Rounded, "amount is Decimal('12345678901234567890.123456789') and read again as"),
    (Annotated[Decimal, PlainSerializer(float)], "it is Decimal('12345678901234567890.123456789')"),
    (Doubled, "amount is 2 and read again as 4"),
    (Annotated[int, AfterValidator(lambda value: value + 1)], "it is 2 and read again as 3"),
    (Hidden, "cannot be read: amount: Input should be a valid integer"),
    (Inverted, "cannot be read"),
    (Encoded, "data is b'YQ==' and read again as b'WVE9PQ=='"),
    (Sometimes, "the JSON {} cannot be read: amount: Field required"),
    (Dated, 'the JSON {"when":"29/02/2024"} cannot be read'),
    (Arbitrary, "Arbitrary.foreign is an object of Python that JSON cannot hold"),
    (Callable[[], int], "the value is an object of Python that JSON cannot hold"),
    (dict[Corner, int], "the value has keys of the type named-tuple"),
    (dict[str, dict[Base, int]], "the value has keys of the type model"),
    (Nested, "ValidationAlias.amount is written as"),
    (Tree, "Tree.amount is written as"),
    (RootModel[list[ValidationAlias]], "ValidationAlias.amount is written as"),
    (Annotated[ValidationAlias | None, Field(description="a line")], "ValidationAlias.amount is written as"),
]


@pytest.mark.parametrize(("annotation", "fault"), LOST, ids=label)
def test_parts_and_results_that_do_not_come_back_are_refused_at_start(annotation: Any, fault: str) -> None:
    """The message names function, annotation, field, the fault and the remedy."""
    with pytest.raises(StageDefinitionError, match=r"@stage function .*work \(.*\): ") as caught:
        divided(annotation).check()
    assert fault in str(caught.value)


@pytest.mark.parametrize(("annotation", "fault"), LOST, ids=label)
def test_an_event_for_a_stage_with_the_same_annotation_is_refused_at_start(
    annotation: Any, fault: str
) -> None:
    """What one stage emits, the next one of the service must be able to read."""
    with pytest.raises(StageDefinitionError) as caught:
        handover(annotation, annotation).check()
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    "annotation", [Login, SecretStr, list[Login], Secret[int], dict[str, SecretStr]], ids=label
)
def test_a_secret_is_not_handed_on_as_asterisks(annotation: Any) -> None:
    """Refused at start, also where no stage of this service reads the event."""
    with pytest.raises(StageDefinitionError, match=r"asterisks.*get_secret_value"):
        echo(annotation).check()


def test_a_secret_may_be_read() -> None:
    """A stage that hands nothing on may take one."""

    def login(data: Login) -> None:
        assert data.password.get_secret_value() == "original"

    made = stage(consumes="a", registry=Registry())(login)
    made.check()
    made.run('{"user": "u", "password": "original"}')


class Shown(BaseModel):
    password: SecretStr

    @field_serializer("password", when_used="json")
    def _show(self, value: SecretStr) -> str:
        return value.get_secret_value()


def test_a_secret_with_a_serializer_of_its_own_is_handed_on() -> None:
    """The author said how it is written."""
    made = divided(Shown)
    made.check()
    assert made.run_part('{"password": "original"}') == '{"password":"original"}'


@pytest.mark.parametrize("annotation", [ValidationAlias, Computed, Excluded, Text], ids=label)
def test_an_event_for_others_may_have_another_form(annotation: Any) -> None:
    """Where no stage of this service reads it, what is written is the author's business."""

    def work(data: int) -> Any: ...

    work.__annotations__["return"] = annotation
    registry = Registry()
    stage(consumes="a", emits="b", registry=registry)(work)
    registry.check()


def test_an_emitted_number_must_be_finite_whoever_reads_it() -> None:
    """Also in a model that this service cannot read itself."""

    class Report(BaseModel):
        amount: float | None = Field(validation_alias="amt")

    made = giving(Report, Report.model_validate({"amt": math.nan}))
    made.check()
    with pytest.raises(PermanentError, match="amount is nan, which JSON cannot hold"):
        made.run("1")
    assert giving(Report, Report.model_validate({"amt": None})).run("1") == '{"amount":null}'


@pytest.mark.parametrize(
    ("given", "wanted", "fault"),
    [
        (int, Login, "it writes JSON a scalar, which is read as object"),
        (list[int], dict[str, int], "it writes JSON array, which is read as object"),
        (Other, Login, "Login.user is required, and Other does not write it"),
        (ValidationAlias, Rounded, None),
        (SerializationAlias, Rounded, "Rounded.amount is required"),
        (Shown, Computed, "Computed.amount is required"),
        (Text, Computed, None),
        (Computed, Rounded, None),
        (Excluded, Rounded, "Rounded.amount is required, and Excluded does not write it"),
        (Rounded | None, Login, "Login.user is required"),
        (Any, Login, None),
        (dict[str, int], Login, None),
        (Inverted, Login, None),
        (int, Annotated[Rounded, AfterValidator(lambda value: value)], "a scalar"),
    ],
    ids=label,
)
def test_one_stage_reads_what_another_writes(given: Any, wanted: Any, fault: str | None) -> None:
    """Names and kinds are compared where both annotations tell them."""
    registry = handover(given, wanted)
    if fault is None:
        registry.check()
    else:
        with pytest.raises(StageDefinitionError) as caught:
            registry.check()
        assert fault in str(caught.value)
        assert "Annotate both alike" in str(caught.value)


class Sub(Base):
    name: str = "sub"


class Same(Base):
    def double(self) -> int:
        return 2 * self.amount


def test_parts_of_a_subclass_with_more_fields_are_refused_at_start() -> None:
    """The part is written as the base that the function takes."""

    def parts(data: int) -> Iterator[Sub]:
        yield Sub(amount=data)

    def total(data: int, results: Iterable[Base]) -> int:
        return len(list(results))

    made = echo(Base)
    made.split(parts)
    made.gather(total)
    with pytest.raises(StageDefinitionError, match=r"makes Sub, .* takes Base: name would be lost"):
        made.check()


# ─── accepted: what comes back ───


class Color(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Point(NamedTuple):
    x: int
    y: float


@dataclasses.dataclass
class Order:
    lines: list[Base]
    note: str = ""


class Both(BaseModel):
    model_config = ConfigDict(populate_by_name=True, extra="forbid")
    amount: int = Field(alias="amt")
    other: int = Field(default=1, validation_alias=AliasChoices("o", "other"))
    cached: int = Field(default=7, exclude=True)


class Area(BaseModel):
    side: float

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> float:
        return self.side**2


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    amount: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.amount


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    when: datetime.date
    pair: tuple[int, int]
    names: set[str]


class Base64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    data: bytes


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    some_name: int


class Family(BaseModel):
    name: str
    children: "list[Family]" = []


class Uncomparable:
    """A type of the author's own, which defines no equality."""

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(
            cls,
            core_schema.str_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value.text),
        )


class Cat(BaseModel):
    kind: typing.Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: typing.Literal["dog"]
    tricks: list[str]


UTC = datetime.UTC
KEPT: list[tuple[Any, Any]] = [
    (int, 10**30),
    (float, 0.1),
    (str, 'ä"\n\u2028'),
    (bytes, b"abc"),
    (bool, True),
    (Decimal, Decimal("0.12345678901234567890123")),
    (float | Decimal, Decimal("0.12345678901234567890123")),
    (datetime.datetime, datetime.datetime(2024, 2, 29, 12, 30, 15, 123456, UTC)),
    (datetime.date, datetime.date(2024, 2, 29)),
    (datetime.timedelta, datetime.timedelta(days=1, microseconds=1)),
    (uuid.UUID, uuid.UUID(int=7)),
    (PurePosixPath, PurePosixPath("/a/b")),
    (HttpUrl, HttpUrl("https://example.org/")),
    (Color, Color.RED),
    (Number, Number.ONE),
    (Point, Point(1, 2.5)),
    (Order, Order([Base(amount=1)])),
    (Both, Both(amt=1, other=2, cached=3)),
    (Area, Area(side=2)),
    (Extra, Extra(amount=1, more=2)),  # type: ignore[call-arg]
    (Strict, Strict(when=datetime.date(2024, 2, 29), pair=(1, 2), names={"a"})),
    (Base64, Base64(data=b"\xff")),
    (Camel, Camel.model_validate({"someName": 1})),
    (JsonValue, {"a": [1, None, {"b": 0.5}]}),
    (Family, Family(name="a", children=[Family(name="b")])),
    (Uncomparable, Uncomparable("a")),
    (list[Uncomparable], [Uncomparable("a")]),
    (Base, Same(amount=1)),
    (Annotated[Cat | Dog, Field(discriminator="kind")], Dog(kind="dog", tricks=["sit"])),
    (set[int], {3, 1, 2}),
    (tuple[int, ...], (1, 2)),
    (dict[int, list[float]], {1: [0.5]}),
    (dict[datetime.date, Color], {datetime.date(2024, 2, 29): Color.RED}),
    (dict[uuid.UUID, str], {uuid.UUID(int=7): "a"}),
    (dict[Color, int], {Color.RED: 1}),
    (complex, 1 + 2j),
    (RootModel[list[int]], RootModel[list[int]]([1])),
    (Any, {"a": [1, 0.5, None, True]}),
    (dict, {"a": (1, 2), "b": {3: "c"}, "d": datetime.date(2024, 2, 29), "e": Color.RED}),  # JSON's own types
    (dict[str, Any], {"a": Base(amount=1), "b": Order([])}),
    (Annotated[str, Field(pattern="^[a-z]{3}$")], "abc"),
    (Annotated[int, Field(ge=10, le=20, multiple_of=5)], 15),
    (typing.Literal["a", None], None),
]


@pytest.mark.parametrize(("annotation", "value"), KEPT, ids=label)
def test_what_comes_back_is_accepted(annotation: Any, value: Any) -> None:
    """At start as a part, a result and an event, and at run time with a value."""
    divided(annotation).check()
    handover(annotation, annotation).check()
    assert giving(annotation, value).dump_output(value) == giving(annotation, value).run("1")


# ─── refused where it was made ───


class Reading(BaseModel):
    value: float | None = None


class Limited(BaseModel):
    amount: int = Field(gt=0)


@pytest.mark.parametrize(
    ("annotation", "value", "fault"),
    [
        (float, math.nan, "it is nan"),
        (float | None, math.nan, "it is nan"),
        (float, math.inf, "it is inf"),
        (Reading, Reading(value=math.inf), "value is inf, which JSON cannot hold"),
        (list[Reading], [Reading(), Reading(value=-math.inf)], r"\[1\].value is -inf"),
        (list[float], [0.5, math.nan], r"\[1\] is nan"),
        (dict[str, float | None], {"a": math.nan}, "a is nan"),
        (dict, {"a": {"b": [1, math.nan]}}, r"a.b\[1\] is nan"),
        (Any, math.nan, "it is nan"),
        (Any, {"a": Reading(value=math.nan)}, "a.value is nan"),
        (Any, Decimal("Infinity"), "it is Infinity"),
        (
            dict[str, Any],
            {"password": SecretStr("x")},
            "password is SecretStr, which is written as asterisks",
        ),
        (Base, Sub(amount=1), "it is Sub and read again as Base, without name. Annotate Sub"),
        (list[Base], [Base(amount=1), Sub(amount=1)], r"\[1\] is Sub and read again as Base"),
        (SerializeAsAny[Base], Sub(amount=1), "it is Sub and read again as Base"),
        (dict[str, Base], {"a": Sub(amount=1)}, "a is Sub and read again as Base"),
        (Order, Order([Sub(amount=1)]), r"lines\[0\] is Sub"),
        (Limited, Limited.model_construct(amount=-1), "amount: Input should be greater than 0"),
        (Annotated[int, Field(gt=0)], -1, "Input should be greater than 0"),
        (Annotated[Decimal, Field(decimal_places=2)], Decimal("0.123"), "no more than 2 decimal places"),
        (Decimal, Decimal("NaN"), "it is NaN"),
        (str | uuid.UUID, str(uuid.UUID(int=7)), "read again as UUID"),
        (datetime.date | str, "2024-02-29", "read again as datetime.date"),
        (bytes, b"\xff", "invalid utf-8"),
    ],
    ids=label,
)
def test_a_value_that_does_not_come_back_is_refused(annotation: Any, value: Any, fault: str) -> None:
    """A dead letter of the stage that made it, which names the field; not of the stage that reads it."""
    with pytest.raises(PermanentError, match=rf"work .*the result is not .*({fault})"):
        giving(annotation, value).run("1")


@pytest.mark.parametrize("run", [Stage.run, Stage.run_part], ids=["result", "result of a part"])
def test_every_result_is_compared(run: Callable[[Stage[Any, Any], str], str]) -> None:
    """Of a stage and of a part."""
    with pytest.raises(PermanentError, match="it is nan"):
        run(giving(float, math.nan), "1")


def test_every_part_is_compared() -> None:
    """A part that does not come back is refused by the split."""

    @stage(consumes="a", registry=Registry())
    def work(data: Base) -> int:
        return data.amount

    @work.split
    def parts(data: int) -> Iterator[Base]:
        yield Sub(amount=1)

    @work.gather
    def total(data: int, results: Iterable[int]) -> int:
        return sum(results)

    with pytest.raises(PermanentError, match="it is Sub and read again as Base"):
        list(work.run_split("1"))


class Strings(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")
    value: float


def test_a_number_that_the_author_writes_as_text_comes_back() -> None:
    """ser_json_inf_nan="strings" is one way to hand on what JSON has no number for."""
    made = divided(Strings)
    made.check()
    assert giving(Strings, Strings(value=math.inf)).run("1") == '{"value":"Infinity"}'
    assert math.isnan(made.function(made.load_input("1") and Strings(value=math.nan)).value)


# ─── None ───


class Bill(BaseModel):
    total: int


@pytest.mark.parametrize(
    "annotation",
    [
        Bill | None,
        Optional[Bill],  # noqa: UP045
        Annotated[Bill | None, Field(description="None where nothing is to be paid")],
        Annotated[Annotated[Bill | None, "a"], "b"],
        NewType("PerhapsBill", Optional[Bill]),  # noqa: UP045
        NewType("Perhaps", NewType("PerhapsBill", Optional[Bill])),  # noqa: UP045
        TypeAliasType("MaybeBill", Optional[Bill]),  # noqa: UP045
        Annotated[Bill, "a"] | None,
        int | Annotated[None, "nothing"],
        typing.Literal["a", None],
        Annotated[int | None, AfterValidator(lambda value: value)],
        Any,
        object,
        None,
    ],
    ids=label,
)
def test_none_ends_the_path_wherever_the_annotation_has_it(annotation: Any) -> None:
    """Inside Annotated, NewType, an alias, a literal."""
    assert giving(annotation, None).run("0") is None


@pytest.mark.parametrize(
    "annotation",
    [Bill, Annotated[Bill, "a"], NewType("A", Bill), list[int | None], RootModel[int | None]],
    ids=label,
)
def test_none_inside_is_no_none(annotation: Any) -> None:
    """A list of perhaps nothing is a list."""
    with pytest.raises(PermanentError, match="it returned None"):
        giving(annotation, None).run("0")


# ─── iterables ───


@pytest.mark.parametrize(
    "annotation",
    [
        Iterable[int],
        Iterator[int],
        Generator[int, None, None],
        typing.Iterable[int],
        Annotated[Iterable[int], Field(max_length=3)],
        Iterable[int] | None,
        list[Iterable[int]],
        NewType("Numbers", Iterable[int]),
        TypeAliasType("Numbers", Iterable[int]),
    ],
    ids=label,
)
def test_items_of_an_iterable_are_checked_before_the_function_runs(annotation: Any) -> None:
    """Wrong data is a dead letter at once, not an error in the middle of the function."""
    ran = []

    def add(numbers: Any) -> None:
        ran.append(numbers)

    add.__annotations__["numbers"] = annotation
    made = stage(consumes="a", registry=Registry())(add)
    made.check()
    with pytest.raises(InvalidInputError, match=r"1: Input should be a valid integer"):
        made.run('[[1, "x"]]' if "list[" in str(annotation) else '[1, "x"]')
    assert ran == []


def test_an_iterator_is_handed_over_as_one() -> None:
    """The function may call next on it."""

    def first(numbers: Iterator[int]) -> int:
        return next(numbers)

    assert stage(consumes="a", registry=Registry())(first).run("[7, 8]") == "7"


def test_a_generator_may_be_the_result() -> None:
    """Its items are written as a list, and checked."""

    def numbers(data: int) -> Iterable[int]:
        return (each for each in (data, data + 1))

    def wrong(data: int) -> Iterable[int]:
        return (typing.cast(int, each) for each in (data, "x"))

    assert stage(consumes="a", registry=Registry())(numbers).run("7") == "[7,8]"
    with pytest.raises(PermanentError, match="the result is not"):
        stage(consumes="a", registry=Registry())(wrong).run("7")


@pytest.mark.parametrize("annotation", [Lines, list[Lines], dict[str, Lines | None]], ids=label)
def test_an_iterable_inside_a_model_is_refused_at_start(annotation: Any) -> None:
    """Its items would be checked too late."""
    with pytest.raises(StageDefinitionError, match=r"Lines.lines is an Iterable.*Annotate list"):
        echo(annotation).check()


# ─── numbers of others ───


@pytest.mark.parametrize(
    ("annotation", "data", "fault"),
    [
        (dict, '{"a": 1e999}', "a is inf, .* written as 1e999"),
        (dict, '{"a": [-1e999]}', r"a\[0\] is -inf"),
        (Any, "1e400", "it is inf"),
        (float, "1" + 400 * "0", "it is inf"),
        (Reading, '{"value": 1e999}', "value is inf"),
        (float, "NaN", "nan"),
        (Any, "[Infinity]", "inf"),
        (
            Decimal,
            "0.12345678901234567890123",
            "0.123456789012345678.* loses digits .* Write it as a text",
        ),
        (dict[str, Decimal], '{"a": 1234567890123.123456789}', "a: 1234567890123.123456789 loses digits"),
    ],
)
def test_a_number_that_cannot_be_read_as_written_is_refused(annotation: Any, data: str, fault: str) -> None:
    """A dead letter, not another number."""
    with pytest.raises(InvalidInputError, match=fault):
        echo(annotation).load_input(data)


@pytest.mark.parametrize(
    ("annotation", "data", "value"),
    [
        (Decimal, '"0.12345678901234567890123"', Decimal("0.12345678901234567890123")),
        (Decimal, "0.1", Decimal("0.1")),
        (Decimal, "12345678901234567890123", Decimal(12345678901234567890123)),
        (float, "0.12345678901234567890123", 0.12345678901234567890123),
        (int, 30 * "9", int(30 * "9")),
        (str, '"1e999 NaN Infinity"', "1e999 NaN Infinity"),
        (Base, '{"amount": 1, "other": 1e999}', Base(amount=1)),
        (float, "1e300", 1e300),
        (int, "1764400000000000000", 1764400000000000000),
    ],
)
def test_a_number_that_is_read_as_written_is_accepted(annotation: Any, data: str, value: Any) -> None:
    """Long numbers as such are no fault."""
    assert echo(annotation).load_input(data) == value
