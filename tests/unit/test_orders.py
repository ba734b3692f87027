"""The stages of this service: what they compute, and that they are those of the tutorial."""

import ast
import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline import CurrentTask, PermanentError
from pipeline.author.context import running
from tasks.mails import mail
from tasks.orders import Bill, Line, Order, bill, lines, price
from tests.ownstages import stages_of

ROOT = Path(__file__).parents[2]

ORDER = Order(customer="ada", lines=[Line(article="chair", amount=2), Line(article="desk", amount=1)])


def test_the_stages_go_together() -> None:
    """The service is one pipeline of two stages, from an order to a mail."""
    registry = stages_of("tasks")
    registry.check()
    assert registry.by_name == {"price": price, "mail": mail}
    assert registry.stages_on(price.emits) == (mail,)


def test_a_line_costs_ten_each() -> None:
    """The price of a line."""
    assert price(Line(article="chair", amount=2)) == 20


def test_nobody_orders_less_than_nothing() -> None:
    """A negative amount is refused without a retry."""
    with pytest.raises(PermanentError, match="chair: nobody can order -1"):
        price(Line(article="chair", amount=-1))


def test_a_bill_adds_up_the_lines_of_an_order() -> None:
    """Split, priced and gathered as the worker does it, from JSON to JSON."""
    order = ORDER.model_dump_json()
    results = [price.run_part(part) for part in price.run_split(order)]
    assert json.loads(price.run_gather(order, results) or "") == {
        "customer": "ada",
        "total": 30,
        "entity": "",
    }
    assert list(lines(ORDER)) == ORDER.lines


def test_a_bill_names_the_entity_of_its_task() -> None:
    """The entity is the key of the order's event."""
    task = CurrentTask(
        job_id="j",
        task_id="t",
        stage="price",
        entity_id="c-7",
        part=None,
        attempt=1,
        topic="order-placed",
        partition=0,
        offset=0,
        deadline=None,
    )
    with running(task):
        assert bill(ORDER, [20, 10]).entity == "c-7"


def test_the_mail_is_the_bill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of a customer holds the bill."""
    monkeypatch.chdir(tmp_path)
    sent = Bill(customer="ada", total=30, entity="c-7")
    mail(sent)
    assert Bill.model_validate_json(Path("mails/ada.mail").read_text()) == sent


@pytest.mark.parametrize("customer", ["../ada", "/etc/ada", "a/b", "..", "", "a\0b", "ada\n", "a" * 51])
def test_a_customer_is_no_path(customer: str) -> None:
    """An event cannot choose the folder that a mail is written to."""
    for model, data in ((Order, {"lines": []}), (Bill, {"total": 1, "entity": ""})):
        with pytest.raises(ValidationError):
            model.model_validate({"customer": customer, **data})


@pytest.mark.parametrize("name", ["orders", "mails"])
def test_the_service_is_that_of_the_tutorial(name: str) -> None:
    """The tutorial's code is the code of tasks/, apart from docstrings and the package's name."""
    tutorial = (ROOT / "docs" / "tutorial.md").read_text()
    [source] = re.findall(rf"```python\n# shop/{name}\.py\n(.*?)```", tutorial, re.DOTALL)
    own = (ROOT / "tasks" / f"{name}.py").read_text()
    assert _statements(source.replace("from shop.", "from tasks.")) == _statements(own)


def _statements(source: str) -> str:
    """The syntax tree of a module without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:]
    return ast.dump(tree)
