"""Admin requests about consumer groups. Run as a process by ``groups.py`` and imported by no module.

No other module may name these requests: they end the process while a broker goes and comes back.
"""

import contextlib
import pickle
import sys
import time
from concurrent.futures import Future
from typing import Any, TypeVar

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from pipeline.errors import ServiceError, ServiceUnavailableError
from pipeline.kafka.configuration import client_configuration
from pipeline.kafka.errors import kafka_error
from pipeline.kafka.groups import Group, GroupAnswer, GroupRequest, Member
from pipeline.kafka.positions import Partition
from pipeline.kafka.security import make_client

#: Seconds between two tries while a group's coordinator is being found, as on a cluster just started.
RETRY_AFTER = 0.2

Answer = TypeVar("Answer")


def main() -> None:
    """Answer the one request on standard input."""
    request: GroupRequest = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by the parent process
    answer: GroupAnswer | ServiceError
    try:
        # A line of the log among the answer would make it unreadable.
        with contextlib.redirect_stdout(sys.stderr):
            answer = _answer(request)
    except ServiceError as error:
        answer = error
    sys.stdout.buffer.write(pickle.dumps(answer))


def _answer(request: GroupRequest) -> GroupAnswer:
    client = make_client(AdminClient, client_configuration(request.settings, "groups"))
    if request.names is None:
        found = _result(
            client.list_consumer_groups(request_timeout=request.timeout), "list groups", request.timeout
        )
        if found.errors:
            raise kafka_error(found.errors[0], "list groups")
        return sorted(group.group_id for group in found.valid)
    return {name: _describe(client, name, request.timeout) for name in request.names}


def _describe(client: AdminClient, name: str, timeout: float) -> Group | ServiceError:
    deadline = time.monotonic() + timeout
    while True:
        answer = client.describe_consumer_groups([name], request_timeout=timeout)[name]
        try:
            found = _result(answer, f"describe group {name}", timeout)
        except ServiceUnavailableError as error:
            if time.monotonic() > deadline:
                return error
            time.sleep(RETRY_AFTER)
        except ServiceError as error:
            return error
        else:
            return Group(name=name, state=found.state.name, members=tuple(map(_member, found.members)))


def _result(answer: "Future[Answer]", action: str, timeout: float) -> Answer:
    try:
        return answer.result(timeout + 1)
    except KafkaException as error:
        raise kafka_error(error, action) from error
    except TimeoutError as error:
        raise ServiceUnavailableError(f"Could not {action}: no answer in {timeout:g} s") from error


def _member(data: Any) -> Member:
    assignment = data.assignment.topic_partitions if data.assignment else ()
    return Member(
        client_id=data.client_id,
        host=data.host,
        partitions=tuple(sorted(Partition(at.topic, at.partition) for at in assignment)),
    )


if __name__ == "__main__":
    main()
