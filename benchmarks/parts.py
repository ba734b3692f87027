"""The parts benchmark: how fast the page tasks of a large split send its parts, and its gather reads results.

Emitting is measured, without the receive, the record and the delete of a page task: four settlement threads
emit what page tasks leave, and each page task that was sent comes back at once. SQS is a server that answers
at once: one that stores messages on the same cores would be measured instead. The gather reads small results,
and does nothing with them.
"""

import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any
from unittest.mock import patch

import click

from benchmarks.fill import first_event
from benchmarks.ground import make_ground
from benchmarks.measure import BenchmarkError
from benchmarks.proxy import run_proxy
from benchmarks.stages import square
from benchmarks.wire import answering_server
from pipeline.author.registry import REGISTRY
from pipeline.jobs import JobStore, PartRef, PartResult, SealedSplit, split_ref
from pipeline.kafka import EventProducer
from pipeline.ledger import Dispatch, Ledger
from pipeline.patience import Patience, raise_first
from pipeline.services.environment import Services
from pipeline.settings import Settings, load_settings
from pipeline.sqs import OutgoingMessage, ReceivedMessage, SqsQueue, sqs_client
from pipeline.transport.lease import Lease
from pipeline.wire import taskmessage
from pipeline.wire.taskmessage import TaskHeader, sealed_header
from pipeline.worker.child.outcome import Succeeded
from pipeline.worker.settle.emit import Emitter
from pipeline.worker.settle.parts import page_tasks
from pipeline.worker.settle.plans import Plans
from pipeline.worker.settle.settlement import THREADS
from pipeline.worker.settle.work import Work


def run(services: Services, parts: int, rtts: Sequence[float], repeat: int) -> list[dict[str, Any]]:
    """Return a row for each round trip: the medians of ``repeat`` rounds."""
    rows = []
    for rtt in rtts:
        rounds = []
        for number in range(repeat):
            click.echo(f"round trip {rtt:g} ms, round {number + 1} of {repeat}", err=True)
            rounds.append(_measure(services, parts, rtt))
        middle = {name: round(statistics.median(each[name] for each in rounds), 3) for name in rounds[0]}
        rows.append({"benchmark": "parts", "rtt_ms": rtt, "parts": parts, "runs": repeat, **middle})
    return rows


def _measure(services: Services, parts: int, rtt: float) -> dict[str, float]:
    ground, header = make_ground(services), _header()
    _store_results(JobStore(ground.settings), header, parts)
    with (
        answering_server() as sqs,
        run_proxy({**ground.servers, "sqs": sqs}, rtt) as proxy,
        patch.dict(os.environ, {f"AWS_ENDPOINT_URL_{name.upper()}": url for name, url in proxy.urls.items()}),
    ):
        settings = load_settings({**ground.environment_through(proxy.urls), "MAX_PARTS": str(parts)})
        store = JobStore(settings)
        seal = store.splits.seal(
            split_ref(header), sealed_header(header, {}), str(parts), map(str, range(parts)), layout=2
        )
        before, began = proxy.counts()["sqs"].total, time.monotonic()
        cpu = time.process_time()
        _send(settings, store, header, seal)
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        requests = proxy.counts()["sqs"].total - before
        began = time.monotonic()
        if sum(1 for _ in store.splits.results(split_ref(header), parts)) != parts:
            raise BenchmarkError("The gather did not read the result of each part")
        gathering = time.monotonic() - began
    return {
        "open": len(page_tasks(seal, None)),
        "parts_per_second": parts / seconds,
        "requests_per_part": requests / parts,
        "cpu_ms_per_part": 1000 * cpu / parts,
        "gathered_per_second": parts / gathering,
    }


def _header() -> TaskHeader:
    event = first_event(square.consumes, b"0")
    assert event.job_id is not None
    assert event.submitted_at is not None
    message = taskmessage.for_event(square, event, event.job_id, event.submitted_at)
    header = TaskHeader.read(message.headers)
    assert header is not None
    return header


def _store_results(store: JobStore, header: TaskHeader, parts: int) -> None:
    """Store a small result of each part, as its workers do."""
    for first in range(0, parts, 1_000):
        refs = [_part(header, ordinal, parts) for ordinal in range(first, min(parts, first + 1_000))]
        results = [PartResult(ref=ref, result=f'"{"x" * 98}"', run_seconds=0.1, attempts=1) for ref in refs]
        raise_first(store.splits.put_results(results))


def _part(header: TaskHeader, ordinal: int, parts: int) -> PartRef:
    ref = split_ref(header)
    return PartRef(job_id=ref.job_id, stage=ref.stage, split_id=ref.split_id, ordinal=ordinal, total=parts)


def _send(settings: Settings, store: JobStore, header: TaskHeader, seal: SealedSplit) -> None:
    """Emit all page tasks of a split: first those that it sends, then those that each of them sends."""
    patience, producer = Patience(), EventProducer(settings, "benchmark")
    tasks = SqsQueue(sqs_client(settings), settings.sqs_task_queue_url)
    dispatch = Dispatch(settings, REGISTRY, lambda _name: tasks, patience)
    ledger = Ledger(settings, store, producer, patience, dispatch)
    emitter = Emitter(settings, REGISTRY, Plans(REGISTRY, ledger), store, ledger, dispatch, patience)

    def emit(page: int) -> int:
        for error in emitter.emit([_work(header, page)]):
            if error is not None:
                raise error
        return page

    with ThreadPoolExecutor(THREADS) as pool:
        under_way = {pool.submit(emit, page) for page in page_tasks(seal, None)}
        while under_way:
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for each in done:
                under_way |= {pool.submit(emit, page) for page in page_tasks(seal, each.result())}
    producer.close(1.0)


def _work(header: TaskHeader, page: int) -> Work:
    """Return the work of a page task that was received and has run."""
    sent = OutgoingMessage(**taskmessage.for_pages(square, header, page, {}).to_sqs())
    received = ReceivedMessage(
        message_id=sent.deduplication_id,
        receipt_handle="",
        body=sent.body,
        group_id=sent.group_id,
        deduplication_id=sent.deduplication_id,
        receive_count=1,
        sent_at=time.time(),
        attributes={},
        requested_at=0.0,
    )
    lease = Lease.of(received, "tasks", float("inf"))
    return Work(lease=lease, outcome=Succeeded(result=None, summary="", seconds=0.0))
