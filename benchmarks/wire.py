"""The CPU of one AWS call, lean and botocore's own, on a server that answers at once.

``python -m benchmarks.wire`` is that server, in a process of its own: it prints its port, and ends with its
input.
"""

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from benchmarks.http import Stream
from pipeline.aws.client import make_client
from pipeline.jobs.dynamodb import FREQUENT as OF_DYNAMODB
from pipeline.sqs.client import FREQUENT as OF_SQS
from pipeline.sqs.queue import RECEIVED_ATTRIBUTES

Call = Callable[[], Any]

#: The body of a message: about a kilobyte.
BODY = json.dumps({"id": "x" * 36, "headers": {"ce_id": "b" * 200}, "args": "y" * 700})

_HANDLES = ["r" * 200] * 10

_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "eu-west-1"}

#: The answers, by operation; with as much in them as those of a busy worker.
ANSWERS: dict[str, Any] = {
    "ReceiveMessage": {
        "Messages": [
            {
                "MessageId": "m" * 36,
                "ReceiptHandle": "r" * 200,
                "MD5OfBody": "d" * 32,
                "Body": BODY,
                "Attributes": dict.fromkeys(RECEIVED_ATTRIBUTES, "1700000000000"),
                "MessageAttributes": {"traceparent": {"StringValue": "v" * 55, "DataType": "String"}},
            }
        ]
        * 10
    },
    "UpdateItem": {"Attributes": {"pk": {"S": "j" * 40}, "d": {"NS": [str(n) for n in range(20)]}}},
    "BatchGetItem": {"Responses": {"t": [{"pk": {"S": "j" * 40}, "state": {"S": "running"}}] * 10}},
}

#: The answer of all other batches.
DONE = {"Successful": [{"Id": str(n), "MessageId": "m" * 36} for n in range(10)], "Failed": []}


def run(rounds: int, calls: int) -> list[dict[str, Any]]:
    """Return a row for each call and number of threads: CPU by client, the medians of some rounds."""
    figures: defaultdict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with answering_server() as url:
        clients = {"botocore": _calls(url, lean=False), "lean": _calls(url, lean=True)}
        for _ in range(rounds):
            for operation in clients["lean"]:
                for threads in (1, 3):
                    for name, made in clients.items():
                        cost = _cost(made[operation], calls, threads)
                        figures[operation, threads][name].append(cost)
    return [_row(*key, costs) for key, costs in figures.items()]


def _row(operation: str, threads: int, costs: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: statistics.median(each) for name, each in costs.items()}
    return {
        "benchmark": "wire",
        "call": operation,
        "threads": threads,
        **{f"cpu_ms_{name}": round(cost, 3) for name, cost in medians.items()},
        "ratio": round(medians["botocore"] / medians["lean"], 1),
    }


def _calls(url: str, *, lean: bool) -> dict[str, Call]:
    reached = {"AWS_ENDPOINT_URL_SQS": url, "AWS_ENDPOINT_URL_DYNAMODB": url}
    limits: dict[str, Any] = {"connect_timeout": 3, "read_timeout": 10, "attempts": 1, "connections": 8}
    with patch.dict(os.environ, _CREDENTIALS | reached):
        sqs = make_client("sqs", OF_SQS if lean else (), **limits)
        dynamodb = make_client("dynamodb", OF_DYNAMODB if lean else (), **limits)
    queue = "https://sqs.eu-west-1.amazonaws.com/1/tasks.fifo"
    messages = [
        {"Id": str(n), "MessageBody": BODY, "MessageGroupId": "g", "MessageDeduplicationId": str(n)}
        for n in range(10)
    ]
    handles = [{"Id": str(n), "ReceiptHandle": handle} for n, handle in enumerate(_HANDLES)]
    hidden = [{**entry, "VisibilityTimeout": 30} for entry in handles]
    keys = [{"pk": {"S": "j" * 40}, "sk": {"S": str(n)}} for n in range(10)]
    insert = {"Statement": "INSERT INTO \"t\" VALUE {'pk': ?, 'sk': ?}", "Parameters": list(keys[0].values())}
    update = {
        "UpdateExpression": "ADD #0 :0",
        "ExpressionAttributeNames": {"#0": "d"},
        "ExpressionAttributeValues": {":0": {"NS": ["1", "2", "3"]}},
        "ReturnValues": "ALL_NEW",
    }
    return {
        "SendMessageBatch": lambda: sqs.send_message_batch(QueueUrl=queue, Entries=messages),
        "ReceiveMessage": lambda: sqs.receive_message(
            QueueUrl=queue, MaxNumberOfMessages=10, MessageSystemAttributeNames=RECEIVED_ATTRIBUTES
        ),
        "DeleteMessageBatch": lambda: sqs.delete_message_batch(QueueUrl=queue, Entries=handles),
        "ChangeMessageVisibilityBatch": lambda: sqs.change_message_visibility_batch(
            QueueUrl=queue, Entries=hidden
        ),
        "UpdateItem": lambda: dynamodb.update_item(TableName="t", Key=keys[0], **update),
        "BatchExecuteStatement": lambda: dynamodb.batch_execute_statement(Statements=[insert] * 10),
        "BatchWriteItem": lambda: dynamodb.batch_write_item(
            RequestItems={"t": [{"PutRequest": {"Item": key}} for key in keys]}
        ),
        "BatchGetItem": lambda: dynamodb.batch_get_item(RequestItems={"t": {"Keys": keys}}),
    }


def _cost(call: Call, calls: int, threads: int) -> float:
    """Return the CPU milliseconds of this process for each call."""

    def repeat() -> None:
        for _ in range(calls // threads):
            call()

    workers = [threading.Thread(target=repeat) for _ in range(threads)]
    before = time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return 1000 * (time.process_time() - before) / (calls // threads * threads)


# ─── The server ───


@contextlib.contextmanager
def answering_server() -> Iterator[str]:
    """Run the server for the block; return its URL."""
    command = [sys.executable, "-m", "benchmarks.wire"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        # The end of the block closes its input, which ends it.
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"


def _serve() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    threading.Thread(target=_accept, args=(listening,), daemon=True).start()
    sys.stdin.read()


def _accept(listening: socket.socket) -> None:
    while True:
        connection, _ = listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    answers = {name: _encoded(answer) for name, answer in ANSWERS.items()}
    done, requests = _encoded(DONE), Stream()
    with connection:
        while data := connection.recv(1 << 16):
            for request in requests.feed(data):
                connection.sendall(answers.get(request.target.rpartition(".")[2], done))


def _encoded(answer: Any) -> bytes:
    body = json.dumps(answer).encode()
    head = "HTTP/1.1 200 OK", "Content-Type: application/x-amz-json-1.0", f"Content-Length: {len(body)}"
    return "\r\n".join([*head, "x-amzn-RequestId: r-1", "", ""]).encode() + body


if __name__ == "__main__":
    _serve()
