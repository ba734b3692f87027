"""Requests to SQS are packed within its limits, and its answers are decisions."""

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import MessageRefusedError, ServiceRefusedError, ServiceUnavailableError
from pipeline.sqs import MAX_MESSAGE_BYTES, OutgoingMessage, SqsQueue
from pipeline.sqs.errors import entry_error, sqs_error
from pipeline.sqs.messages import pack
from pipeline.sqs.queue import SENT_AT_ONCE

KIB = 1024


def _message(size: int = 1, group: str = "g", n: int = 0) -> OutgoingMessage:
    return OutgoingMessage(body="x" * size, group_id=group, deduplication_id=str(n))


messages = st.lists(
    st.builds(
        _message,
        size=st.sampled_from([1, 100 * KIB, 400 * KIB, MAX_MESSAGE_BYTES]),
        group=st.sampled_from("abc"),
    ),
    max_size=60,
)


@given(messages)
def test_every_message_is_in_one_request_within_the_limits(given_messages: list[OutgoingMessage]) -> None:
    """Ten messages and 1 MiB at most; all of them, in order."""
    requests = pack(given_messages)
    assert [at for request in requests for at in request] == list(range(len(given_messages)))
    for request in requests:
        assert 1 <= len(request) <= 10
        assert sum(given_messages[at].size for at in request) <= MAX_MESSAGE_BYTES


@given(messages)
def test_with_one_per_group_the_order_of_each_group_is_kept(given_messages: list[OutgoingMessage]) -> None:
    """No request has two of a group, and of two of a group the earlier goes in an earlier request."""
    requests = pack(given_messages, one_per_group=True)
    place = {at: number for number, request in enumerate(requests) for at in request}
    assert sorted(place) == list(range(len(given_messages)))
    last: dict[str, int] = {}
    for at, message in enumerate(given_messages):
        assert place[at] > last.get(message.group_id, -1)
        last[message.group_id] = place[at]
    for request in requests:
        assert len(request) <= 10
        assert sum(given_messages[at].size for at in request) <= MAX_MESSAGE_BYTES


def test_size_counts_bytes_and_attributes() -> None:
    """Body, and each attribute's name, type and value, in UTF-8."""
    message = OutgoingMessage(body="ü", group_id="g", deduplication_id="d", attributes={"näme": "v"})
    assert message.size == 2 + 5 + len("String") + 1


def _answer(code: str, status: int = 400) -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": "why"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(response, "SendMessageBatch")


@pytest.mark.parametrize(
    "error",
    [
        _answer("RequestThrottled"),
        _answer("AWS.SimpleQueueService.RequestThrottled"),
        _answer("com.amazonaws.sqs#RequestThrottled"),
        _answer("OverLimit", 403),
        _answer("AWS.SimpleQueueService.QueueDeletedRecently"),
        _answer("KMS.ThrottlingException"),
        _answer("ExpiredToken", 403),
        _answer("Whatever", 500),
        _answer("Whatever", 503),
        _answer("Whatever", 429),
        EndpointConnectionError(endpoint_url="http://sqs"),
        ConnectTimeoutError(endpoint_url="http://sqs"),
        ReadTimeoutError(endpoint_url="http://sqs"),
        CredentialRetrievalError(provider="iam-role", error_msg="timed out"),
        ResponseParserError("<html>"),
    ],
)
def test_what_passes_by_itself_is_unavailable(error: Any) -> None:
    """Throttling, server errors and lost connections: the same request may succeed later."""
    assert type(sqs_error(error, "send to q")) is ServiceUnavailableError


@pytest.mark.parametrize(
    "error",
    [
        _answer("AccessDenied", 403),
        _answer("AccessDeniedException"),
        _answer("AWS.SimpleQueueService.NonExistentQueue"),
        _answer("com.amazonaws.sqs#QueueDoesNotExist"),
        _answer("InvalidParameterValue"),
        _answer("SignatureDoesNotMatch", 403),
        NoCredentialsError(),
        NoRegionError(),
    ],
)
def test_what_stays_as_it_is_is_refused(error: Any) -> None:
    """Missing queues, permissions and wrong requests: asking again gives the same."""
    converted = sqs_error(error, "send to q")
    assert type(converted) is ServiceRefusedError
    assert "Could not send to q" in str(converted)


def test_an_entry_is_refused_when_the_sender_is_at_fault() -> None:
    """Except for throttling, of which SQS says the same."""
    assert (
        type(entry_error({"Code": "InvalidMessageContents", "SenderFault": True}, "a")) is MessageRefusedError
    )
    assert (
        type(entry_error({"Code": "RequestThrottled", "SenderFault": True}, "a")) is ServiceUnavailableError
    )
    assert type(entry_error({"Code": "InternalError", "SenderFault": False}, "a")) is ServiceUnavailableError


class FakeClient:
    """Answers send_message_batch as told: the codes of entries by deduplication id."""

    def __init__(self, failing: dict[str, str], unanswered: frozenset[str] = frozenset()) -> None:
        self.failing = failing
        self.unanswered = unanswered
        self.requests: list[list[str]] = []

    def send_message_batch(self, QueueUrl: str, Entries: list[dict[str, Any]]) -> Any:  # noqa: N803
        self.requests.append([entry["MessageDeduplicationId"] for entry in Entries])
        answer: dict[str, list[Any]] = {"Successful": [], "Failed": []}
        for entry in Entries:
            name = entry["MessageDeduplicationId"]
            if name in self.unanswered:
                continue
            if name in self.failing:
                failed = {"Id": entry["Id"], "Code": self.failing[name], "SenderFault": False}
                answer["Failed"].append(failed)
            else:
                answer["Successful"].append({"Id": entry["Id"]})
        return answer


def _queue(client: FakeClient) -> SqsQueue:
    return SqsQueue(client, "https://sqs/1/q.fifo")  # type: ignore[arg-type]


def test_after_a_failure_nothing_more_of_its_group_is_sent() -> None:
    """Else the second would be received before the first; other groups go on."""
    client = FakeClient({"1": "InternalError"})
    sent = [_message(group=group, n=n) for n, group in enumerate("babab")]
    answers = _queue(client).send(sent, one_per_group=True)
    assert [type(answer) for answer in answers] == [
        type(None),
        ServiceUnavailableError,
        type(None),
        ServiceUnavailableError,
        type(None),
    ]
    assert client.requests == [["0", "1"], ["2"], ["4"]]


class BusyClient(FakeClient):
    """Answers no request before ``together`` are under way; notes the most at once, of all and of a group."""

    def __init__(self, failing: dict[str, str], together: int = 1) -> None:
        super().__init__(failing)
        self.most = 0
        self.most_of_a_group = 0
        self._under_way: list[set[str]] = []
        self._lock = threading.Lock()
        self._together = threading.Barrier(together)

    def send_message_batch(self, QueueUrl: str, Entries: list[dict[str, Any]]) -> Any:  # noqa: N803
        groups = {entry["MessageGroupId"] for entry in Entries}
        with self._lock:
            self._under_way.append(groups)
            self.most = max(self.most, len(self._under_way))
            of_groups = Counter(group for request in self._under_way for group in request)
            self.most_of_a_group = max(self.most_of_a_group, *of_groups.values())
        self._together.wait(60)
        with self._lock:
            self._under_way.remove(groups)
            return super().send_message_batch(QueueUrl, Entries)


def test_requests_of_different_groups_go_at_once_but_only_so_many() -> None:
    """The requests of a page's parts take a few round trips; no thread is left behind."""
    before = set(threading.enumerate())
    client = BusyClient({}, together=SENT_AT_ONCE)
    answers = _queue(client).send([_message(group=str(n), n=n) for n in range(200 * SENT_AT_ONCE)])
    assert answers == [None] * 200 * SENT_AT_ONCE
    assert client.most == SENT_AT_ONCE
    assert set(threading.enumerate()) <= before


@given(
    st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=40), st.sets(st.integers(0, 39)), st.booleans()
)
def test_a_group_goes_in_order_however_requests_are_sent(
    groups: Sequence[str], failing: set[int], one_per_group: bool
) -> None:
    """No two requests of one group at once; with one_per_group nothing follows a failure of its group."""
    client = BusyClient({str(n): "InternalError" for n in failing})
    sent = [_message(group=group, n=n) for n, group in enumerate(groups)]
    answers = _queue(client).send(sent, one_per_group=one_per_group)
    assert client.most_of_a_group == 1
    asked = [int(entry) for request in client.requests for entry in request]
    for group in set(groups):
        own = [n for n in range(len(groups)) if groups[n] == group]
        failures = [n for n in own if n in failing]
        last = failures[0] if failures and one_per_group else own[-1]
        assert [n for n in asked if groups[n] == group] == [n for n in own if n <= last]
        assert [answers[n] is None for n in own] == [n <= last and n not in failing for n in own]


def test_a_request_that_fails_as_a_whole_fails_its_own_entries_only() -> None:
    """The answers of requests that went at once are in the order of their messages."""

    class Torn(FakeClient):
        def send_message_batch(self, QueueUrl: str, Entries: list[dict[str, Any]]) -> Any:  # noqa: N803
            if Entries[0]["MessageDeduplicationId"] == "20":
                raise ReadTimeoutError(endpoint_url="https://sqs")
            return super().send_message_batch(QueueUrl, Entries)

    answers = _queue(Torn({"7": "InternalError"})).send([_message(group=str(n), n=n) for n in range(45)])
    assert [n for n, answer in enumerate(answers) if answer is not None] == [7, *range(20, 30)]


def test_an_entry_without_an_answer_is_not_taken_for_sent() -> None:
    """In neither list: it is to be sent again."""
    client = FakeClient({}, unanswered=frozenset({"1"}))
    answers = _queue(client).send([_message(group=str(n), n=n) for n in range(3)])
    assert [type(answer) for answer in answers] == [type(None), ServiceUnavailableError, type(None)]
