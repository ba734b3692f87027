"""The schema of a topic is made from an annotation, and values are written by it."""

import dataclasses
import enum
import io
import json
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from pydantic import AwareDatetime, Base64Bytes, BaseModel, ConfigDict, Field, NaiveDatetime, TypeAdapter
from typing_extensions import TypedDict

from pipeline.author.codec import Codec
from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.author.topicschema import TopicSchema, topic_schema
from pipeline.errors import PermanentError, StageDefinitionError

Money = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]


class Colour(enum.Enum):
    """The colours there are."""

    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: int
    label: str = "here"


class Card(BaseModel):
    kind: Literal["card"] = "card"
    number: str


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"
    number: str


class Box(TypedDict):
    width: float
    depth: float | None


class Row(BaseModel):
    """A row of everything."""

    price: Money = Field(description="In euros.")
    placed: AwareDatetime
    local: NaiveDatetime
    day: date
    at: time
    took: timedelta
    ident: uuid.UUID
    raw: Base64Bytes
    paid: Card | Cash
    either: int | str | None
    box: Box
    points: list[Point]
    pair: tuple[int, int]
    shares: dict[str, float] = {}
    colour: Colour = Colour.RED
    other: Colour | None = None
    within: "Row | None" = None


def avro(annotation: Any) -> TopicSchema:
    """The Avro schema of an annotation."""
    return topic_schema(Codec(annotation, "it"), "avro")


def read(schema: TopicSchema, body: bytes) -> Any:
    """What another library reads of a body."""
    stream = io.BytesIO(body)
    value = fastavro.schemaless_reader(stream, json.loads(schema.text), None)
    assert not stream.read(), "bytes are left"
    return value


ROW = {
    "price": "12.5",
    "placed": "2024-01-01T01:00:00.25+01:00",
    "local": "2024-01-01T01:00:00",
    "day": "1969-12-31",
    "at": "01:02:03.000004",
    "took": "PT5S",
    "ident": "7f0f2b4e-5d0c-4c1b-9d43-0a3c2f1e6b58",
    "raw": "YWJj",
    "paid": {"kind": "cash", "number": "7"},
    "either": "x",
    "box": {"width": 1.5, "depth": None},
    "points": [{"x": -5}],
    "pair": [1, 2],
}


def test_a_row_of_everything_is_read_by_another_library() -> None:
    """Every type that an annotation may have becomes its Avro type, and fastavro reads the same values."""
    schema = avro(Row)
    codec = Codec(Row, "it")
    value = read(schema, schema.body(codec.dump(codec.load(json.dumps(ROW))).encode()))
    assert value == {
        "price": Decimal("12.50"),
        "placed": datetime(2024, 1, 1, 0, 0, 0, 250_000, UTC),
        "local": datetime(2024, 1, 1, 1, 0),
        "day": date(1969, 12, 31),
        "at": time(1, 2, 3, 4),
        "took": "PT5S",
        "ident": uuid.UUID(str(ROW["ident"])),
        "raw": b"abc",
        "paid": {"kind": "cash", "number": "7"},
        "either": "x",
        "box": {"width": 1.5, "depth": None},
        "points": [{"x": -5, "label": "here"}],
        "pair": [1, 2],
        "shares": {},
        "colour": "red",
        "other": None,
        "within": None,
    }


def test_descriptions_defaults_and_names_are_in_the_schema() -> None:
    """Docstrings are docs, defaults are defaults, and a class that comes again is named."""
    fields = {field["name"]: field for field in json.loads(avro(Row).text)["fields"]}
    assert json.loads(avro(Row).text)["doc"] == "A row of everything."
    assert fields["price"]["doc"] == "In euros."
    assert fields["shares"]["default"] == {}
    assert fields["colour"]["type"]["symbols"] == ["red", "blue"]
    assert fields["other"] == {"name": "other", "type": ["null", "Colour"], "default": None}
    assert fields["within"] == {"name": "within", "type": ["null", "Row"], "default": None}
    assert "default" not in fields["either"]


@pytest.mark.parametrize(("first", "second"), [(Card(number="1"), "Card"), (Cash(number="1"), "Cash")])
def test_a_union_of_models_keeps_the_model(first: BaseModel, second: str) -> None:
    """The record of a union is that of the value, also where two have the same fields."""
    schema = avro(Card | Cash)
    body = schema.body(first.model_dump_json().encode())
    parsed = fastavro.parse_schema(json.loads(schema.text))
    found = fastavro.schemaless_reader(io.BytesIO(body), parsed, None, return_record_name=True)
    assert found == (second, first.model_dump())


def test_the_same_data_gives_the_same_bytes() -> None:
    """An event that is sent again has the same value, and its schema the same text."""
    data = Codec(Row, "it").dump(Row.model_validate_json(json.dumps(ROW))).encode()
    assert avro(Row).body(data) == avro(Row).body(data)
    assert avro(Row) == avro(Row)
    assert hash(avro(Row)) == hash(avro(Row))


VALUES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers(-(2**63), 2**63 - 1)),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (str, st.text()),
    (bool, st.booleans()),
    (list[int | None], st.lists(st.none() | st.integers(-(2**63), 2**63 - 1))),
    (dict[str, float], st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False))),
    (Money, st.decimals("-9999999999.99", "9999999999.99", places=2)),
    (AwareDatetime, st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))),
    (NaiveDatetime, st.datetimes()),
    (date, st.dates()),
    (time, st.times()),
    (uuid.UUID, st.uuids()),
]


@pytest.mark.parametrize(("annotation", "values"), VALUES, ids=[str(each) for each, _ in VALUES])
def test_any_value_comes_back(annotation: Any, values: st.SearchStrategy[Any]) -> None:
    """Whatever value of a type is written, fastavro reads that value."""
    schema, adapter = avro(annotation), TypeAdapter(annotation)

    @settings(max_examples=50, deadline=None)
    @given(values)
    def comes_back(value: Any) -> None:
        assert read(schema, schema.body(adapter.dump_json(value))) == value

    comes_back()


def test_a_zone_becomes_utc() -> None:
    """A time with a zone is the same instant."""
    schema = avro(AwareDatetime)
    local = datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    assert read(schema, schema.body(json.dumps(local.isoformat()).encode())) == local


def test_a_value_that_does_not_fit_is_a_permanent_failure() -> None:
    """The reason names the field, its value and what the schema takes."""

    class Order(BaseModel):
        amounts: list[int]
        placed: datetime

    schema = avro(Order)
    with pytest.raises(
        PermanentError, match=r"amounts\.1 is '9{19}', which is not long \(it has more than 64"
    ):
        schema.body(json.dumps({"amounts": [1, 10**19 - 1], "placed": "2024-01-01T00:00:00Z"}).encode())
    with pytest.raises(PermanentError, match=r"placed is .* has no time zone: give it one"):
        schema.body(b'{"amounts": [], "placed": "2024-01-01T00:00:00"}')
    with pytest.raises(PermanentError, match="the field placed of record Order is missing"):
        schema.body(b'{"amounts": []}')
    with pytest.raises(PermanentError, match="record Order has no field more"):
        schema.body(b'{"amounts": [], "placed": "2024-01-01T00:00:00Z", "more": 1}')
    with pytest.raises(PermanentError, match="more than 10 digits before the point"):
        avro(Money).body(b'"12345678901"')
    with pytest.raises(PermanentError, match="more than 2 digits after the point"):
        avro(Money).body(b'"1.005"')


class Anything(BaseModel):
    what: Any


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    x: int


class Dashed(BaseModel):
    order_id: int = Field(alias="order-id")


class Partial(TypedDict):
    x: NotRequired[int]


class Holder(BaseModel):
    inner: list[Partial]


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (Anything, "what takes any value. Annotate the type"),
        (Loose, "the result may have any key. Annotate the type of its values, or list its fields"),
        (Dashed, "order-id has the field name 'order-id'. Use letters, digits and _"),
        (Holder, r"inner\.\*\.x is NotRequired.*Annotate … \| None"),
        (Decimal, "Decimal of any precision. Annotate Annotated.*max_digits=12"),
        (bytes, "is bytes, which JSON holds as a text. Annotate str"),
        (tuple[int, str], "is a tuple of different types. Use a model"),
        (list[int] | list[str], "union with two types that Avro writes as array"),
        (str | date | uuid.UUID, "union with two types that Avro writes as string"),
        (dict[str, Any], "the result may have any key"),
        (list[Any], r"\* takes any value"),
    ],
    ids=str,
)
def test_a_type_that_avro_has_not_is_refused_at_definition(annotation: Any, said: str) -> None:
    """The error names the function, the field and the fix."""
    with pytest.raises(StageDefinitionError, match=f"it: .* cannot be written as Avro: .*{said}"):
        avro(annotation)


def test_json_schema_takes_all_that_pydantic_does() -> None:
    """The values stay JSON; the schema is that of what is written."""
    schema = topic_schema(Codec(Anything | None, "it"), "json-schema")
    assert json.loads(schema.text)["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert json.loads(schema.text)["definitions"]["Anything"]["properties"] == {"what": {"title": "What"}}
    assert schema.body(b'{"what": 1}') == b'{"what": 1}'
    assert schema.content_type == "application/json"


def test_json_schema_is_of_the_dialect_that_registries_know() -> None:
    """A validator of draft 7 finds its definitions, and checks the places of a tuple."""
    text = topic_schema(Codec(tuple[Point, str], "it"), "json-schema").text
    validator = Draft7Validator(json.loads(text))
    assert validator.is_valid([{"x": 1, "label": "a"}, "b"])
    assert not validator.is_valid([{"x": "one", "label": "a"}, "b"])
    assert not validator.is_valid([{"x": 1, "label": "a"}, 2])
    assert not validator.is_valid([{"x": 1, "label": "a", "more": 1}, "b"])


# ─── the option of a stage ───


def define(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A stage from "a" to "b" in a registry of its own."""
    return stage(**{"consumes": "a", "emits": "b", "registry": Registry(), **options})


def test_a_stage_has_the_schema_of_its_result() -> None:
    """The result of a gather is what is emitted, so its annotation is the schema."""

    def price(order: Point) -> Money | None:
        return None

    made = define(format="avro")(price)
    assert json.loads(made.topic_schema.text)["logicalType"] == "decimal"
    assert define()(price).topic_schema is None


def test_wrong_options_are_refused() -> None:
    """A format must be known, and needs a topic."""

    def work(data: int) -> int:
        return data

    with pytest.raises(StageDefinitionError, match=r"format='protobuf'. Use one of json, avro, json-schema"):
        define(format="protobuf")(work)
    with pytest.raises(StageDefinitionError, match=r"it emits nothing. Add emits="):
        define(format="avro", emits=None)(work)


@pytest.mark.parametrize(
    ("form", "result", "said"),
    [("json", int, "as json, and .* as avro"), ("avro", str, "by another schema than")],
)
def test_one_topic_has_one_schema(form: Any, result: type, said: str) -> None:
    """Two stages that emit one topic must write alike: its readers know one schema."""
    registry = Registry()

    def first(data: int) -> int:
        return data

    def second(data: int) -> Any:
        return data

    second.__annotations__["return"] = result
    define(format="avro", registry=registry)(first)
    define(format=form, registry=registry, consumes="c")(second)
    with pytest.raises(StageDefinitionError, match=said):
        registry.check()


def test_an_inexpressible_result_is_refused_with_the_stages() -> None:
    """The check of all stages names the function."""
    registry = Registry()

    def work(data: int) -> Decimal:
        return Decimal(data)

    define(format="avro", registry=registry)(work)
    with pytest.raises(StageDefinitionError, match=r"@stage function .*work .*max_digits=12"):
        registry.check()
