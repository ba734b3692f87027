"""Requests about consumer groups, which may end the process that makes them, are a child's alone."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline
from pipeline.errors import ServiceUnavailableError
from pipeline.kafka import KafkaAdmin, describe_groups, groups, list_groups
from pipeline.observe.topics import KafkaMonitor
from pipeline.services.embedded import start_mock_cluster
from pipeline.settings import Settings

ROOT = Path(pipeline.__file__).parent
CHILD = ROOT / "kafka" / "groupchild.py"

#: DescribeConsumerGroups and ListConsumerGroupOffsets end their process while a broker goes and comes back;
#: the other requests about groups share their code.
DANGEROUS = {
    "describe_consumer_groups",
    "list_consumer_group_offsets",
    "list_consumer_groups",
    "alter_consumer_group_offsets",
    "delete_consumer_groups",
}


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in ROOT.rglob("*.py"):
        yield path, ast.parse(path.read_text())


def test_only_the_child_names_the_requests() -> None:
    """By attribute, name or text: nothing else of the package can make them."""
    found = set()
    for path, tree in modules():
        for node in ast.walk(tree):
            match node:
                case (
                    ast.Attribute(attr=name)
                    | ast.Name(id=name)
                    | ast.alias(name=name)
                    | ast.Constant(value=str(name))
                ) if name in DANGEROUS:
                    found.add(path)
    assert found == {CHILD}


def test_no_module_imports_the_child() -> None:
    """It runs as a process of its own."""
    for path, tree in modules():
        for node in ast.walk(tree):
            match node:
                case ast.Import(names=names):
                    assert not [each for each in names if each.name.endswith("groupchild")], path
                case ast.ImportFrom(module=module, names=names):
                    imported = {module or "", *(each.name for each in names)}
                    assert not [each for each in imported if each.endswith("groupchild")], path


@pytest.fixture(name="settings")
def settings_fixture() -> Settings:
    return Settings(
        service_name="shop",
        kafka_bootstrap_servers="127.0.0.1:1",
        kafka_security_protocol="PLAINTEXT",
        kafka_consumer_group="shop",
        sqs_task_queue_url="http://none/tasks.fifo",
        sqs_dlq_url="http://none/dlq.fifo",
    )


@pytest.fixture
def dying_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that ends as librdkafka's assertion ends it."""
    (tmp_path / "dying_child.py").write_text("import os\nos.abort()\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(groups, "CHILD", "dying_child")


@pytest.mark.usefixtures("dying_child")
def test_the_death_of_the_child_is_an_error_that_says_so(settings: Settings) -> None:
    """The process that asks lives, and is told what happened and that asking again helps."""
    for ask in (lambda: list_groups(settings), lambda: describe_groups(settings, ["shop"])):
        with pytest.raises(ServiceUnavailableError, match=r"consumer groups: .* ended by SIGABRT.*try again"):
            ask()


#: The child, with a line in its log before it answers, as where MSK's signer finds no credentials.
CHATTY = """
import structlog
from pipeline.kafka import groupchild

def answer(request):
    structlog.get_logger().error("kafka.token_failed")
    return ["shop"]

groupchild._answer = answer
groupchild.main()
"""


def test_a_line_in_the_log_of_the_child_is_not_among_its_answer(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The answer is read, and the line is written to where errors go."""
    (tmp_path / "chatty_child.py").write_text(CHATTY)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(groups, "CHILD", "chatty_child")
    assert list_groups(settings) == ["shop"]
    assert "kafka.token_failed" in capfd.readouterr().err


def test_brokers_that_are_away_are_an_error_of_the_request(settings: Settings) -> None:
    """The error is the same as if this process had asked."""
    with pytest.raises(ServiceUnavailableError, match=r"Could not list (consumer )?groups"):
        list_groups(settings, timeout=0.5)


@pytest.mark.usefixtures("dying_child")
def test_a_monitor_shows_the_lag_of_a_group_whose_members_it_cannot_see(settings: Settings) -> None:
    """The death of the child is a line of the group; its partitions and lag are there."""
    cluster, servers = start_mock_cluster()
    mock = settings.model_copy(update={"kafka_bootstrap_servers": servers})
    KafkaAdmin(mock).create("orders", partitions=4, replication=1, config={})
    [group] = KafkaMonitor(mock).groups(["shop"])
    del cluster
    assert (group.state, group.members, group.lag) == ("unknown", (), 0)
    assert group.problem
    assert "SIGABRT" in group.problem
