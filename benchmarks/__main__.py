"""Benchmarks of the worker and the bridge against their peers: ``python -m benchmarks --help``."""

import signal
import sys
from collections.abc import Sequence
from subprocess import TimeoutExpired

import click
import structlog
from botocore.exceptions import BotoCoreError, ClientError

from benchmarks.ground import running_services
from benchmarks.measure import BenchmarkError
from benchmarks.rows import show
from pipeline.errors import PipelineError

EXAMPLES = """
\b
Examples:
  python -m benchmarks worker                      all peers at 0 and 10 ms round trip
  python -m benchmarks worker --peer ours --rtt 10 --json
  python -m benchmarks worker --services local     ElasticMQ instead of ministack
  python -m benchmarks bridge --events 5000        events to tasks
  python -m benchmarks bridge --peer json --peer avro --rtt 0
  python -m benchmarks flow                        whole jobs, with a split and without
  python -m benchmarks flow --peer ours --job split --jobs 50 --rtt 0 --repeat 1
  python -m benchmarks units                       what a job costs in DynamoDB
  python -m benchmarks split --parts 100000        one job with a large split
  python -m benchmarks hugesplit --parts 100000    memory of a split of millions of parts, without servers
  python -m benchmarks limits                      jobs a second until DynamoDB throttles
  python -m benchmarks parts                       a large split's parts sent, its results read
  python -m benchmarks latency --rtt 0             event to task start at 200 events/s
  python -m benchmarks asynccalls                  calls that wait for a second, on loops
  python -m benchmarks entity                      a stage beside 150,000 tasks of one entity
  python -m benchmarks outage                      the bridge while SQS is away for a minute
  python -m benchmarks soak                        memory over 200,000 tasks
  python -m benchmarks wire                        CPU of one AWS call, lean and botocore's own
  python -m benchmarks openjobs                    a sweep of a million open jobs, simulated
  python -m benchmarks page                        first paint of the jobs page with 10,000 jobs
"""

services_option = click.option(
    "--services",
    "services_name",
    type=click.Choice(["embedded", "local"]),
    default="embedded",
    show_default=True,
    help="embedded (ministack, the faster SQS) or local (Kafka, ElasticMQ, DynamoDB Local).",
)
local_option = click.option(
    "--services",
    "services_name",
    type=click.Choice(["embedded", "local"]),
    default="local",
    show_default=True,
    help="What serves. ministack (embedded) answers waiting polls up to 0.1 s late and slows over time.",
)
six_option = click.option(
    "--services",
    "services_name",
    type=click.Choice(["embedded", "local"]),
    default="local",
    show_default=True,
    help="What serves. Topics have 6 partitions, on the mock cluster of embedded 4, whatever is asked for.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One line of JSON a row.")
rtt_option = click.option(
    "--rtt",
    "rtts",
    type=click.FloatRange(min=0),
    multiple=True,
    default=(0.0, 10.0),
    show_default=True,
    help="Milliseconds to SQS and DynamoDB and back. May be given more than once.",
)
repeat_option = click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Rounds; a row is their median.",
)


class Benchmarks(click.Group):
    """A group that prints an unusable measurement, or a service that does not answer, as one line."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command. Log lines go to standard error: a row of JSON is not among them."""
        before = structlog.get_config()
        structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
        try:
            return super().invoke(ctx)
        except (BenchmarkError, PipelineError) as error:
            raise click.ClickException(str(error)) from error
        except (BotoCoreError, ClientError, OSError, TimeoutExpired) as error:
            raise click.ClickException(
                f"A server of the benchmark did not answer: {type(error).__name__}: {error}. "
                "Run it again on a machine with less load, or with fewer --events."
            ) from error
        finally:
            structlog.configure(**before)


@click.group(cls=Benchmarks, epilog=EXAMPLES)
def main() -> None:
    """Measure worker and bridge against their peers. Compare rows of one run only: machines differ."""
    # SIGTERM ends like Ctrl-C: started processes are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@main.command(epilog=EXAMPLES)
@click.option(
    "--peer",
    "peers",
    type=click.Choice(["ours", "events-off", "one-group", "stock", "raw", "redis"]),
    multiple=True,
)
@click.option("--tasks", type=click.IntRange(min=100), default=2000, show_default=True, help="Tasks a round.")
@rtt_option
@repeat_option
@services_option
@json_option
def worker(
    peers: Sequence[str], tasks: int, rtts: Sequence[float], repeat: int, services_name: str, as_json: bool
) -> None:
    """Measure tasks per second of a worker with two children, task events on, and an empty function."""
    from benchmarks import worker as benchmark

    with running_services(services_name) as services:
        for rows in benchmark.run(services, peers or tuple(benchmark.PEERS), rtts, tasks, repeat):
            show([row.named() for row in rows], as_json)


@main.command(epilog=EXAMPLES)
@click.option(
    "--peer",
    "peers",
    type=click.Choice(["ours", "first", "ours-2", "json", "avro", "raw", "raw-8", "stock"]),
    multiple=True,
    help="first: ours with the first events of jobs, which it opens. json, avro: ours with the same orders.",
)
@click.option(
    "--events",
    type=click.IntRange(min=100),
    default=20_000,
    show_default=True,
    help="Events a round. With few, much of the work is done before the part that is measured.",
)
@rtt_option
@repeat_option
@six_option
@json_option
def bridge(
    peers: Sequence[str], events: int, rtts: Sequence[float], repeat: int, services_name: str, as_json: bool
) -> None:
    """Measure events per second from Kafka to SQS; the peers send as many tasks of their own."""
    from benchmarks import bridge as benchmark

    with running_services(services_name) as services:
        for rows in benchmark.run(services, peers or tuple(benchmark.PEERS), rtts, events, repeat):
            show([row.named() for row in rows], as_json)


@main.command(epilog=EXAMPLES)
@click.option("--peer", "peers", type=click.Choice(["ours", "redis", "stock"]), multiple=True)
@click.option(
    "--job",
    "shapes",
    type=click.Choice(["split", "stages"]),
    multiple=True,
    default=("split", "stages"),
    show_default=True,
    help="Eight tasks (run; split into 4 parts; gather; run), or three stages. May be given more than once.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=500, show_default=True, help="Jobs a round.")
@rtt_option
@repeat_option
@local_option
@json_option
def flow(
    peers: Sequence[str],
    shapes: Sequence[str],
    jobs: int,
    rtts: Sequence[float],
    repeat: int,
    services_name: str,
    as_json: bool,
) -> None:
    """Measure whole jobs: rate, CPU by process, AWS requests and write units by operation.

    Ours runs a bridge and a worker; the peers are Celery's canvas on Redis, and on SQS with results on Redis.
    All workers have two children, and task events on. The round trip is to SQS, DynamoDB and Redis.
    """
    from benchmarks import flow as benchmark

    with running_services(services_name) as services:
        for rows in benchmark.run(services, peers or tuple(benchmark.PEERS), shapes, rtts, jobs, repeat):
            show([row.named() for row in rows], as_json)
            show([call for row in rows for call in row.calls()], as_json)


@main.command(epilog=EXAMPLES)
@click.option("--parts", type=click.IntRange(min=1), default=10_000, show_default=True, help="Of the split.")
@click.option("--jobs", type=click.IntRange(min=1), default=200, show_default=True, help="Without a split.")
@services_option
@json_option
def units(parts: int, jobs: int, services_name: str, as_json: bool) -> None:
    """Measure DynamoDB write units for each task: one job with a large split, and jobs without one."""
    from benchmarks import costs as benchmark

    with running_services(services_name) as services:
        show(benchmark.run(services, parts, jobs), as_json)


@main.command(epilog=EXAMPLES)
@click.option("--parts", type=click.IntRange(min=0), default=50_000, show_default=True, help="Side by side.")
@click.option("--ordered", type=click.IntRange(min=0), default=2000, show_default=True, help="In order.")
@local_option
@json_option
def split(parts: int, ordered: int, services_name: str, as_json: bool) -> None:
    """Run one job with a large split, and one with parts in order; fail unless all ran once, in order."""
    from benchmarks import split as benchmark

    with running_services(services_name) as services:
        show(benchmark.run(services, parts, ordered), as_json)


@main.command(epilog=EXAMPLES)
@click.option("--parts", "count", type=click.IntRange(min=513), default=20_000, show_default=True)
@rtt_option
@repeat_option
@local_option
@json_option
def parts(count: int, rtts: Sequence[float], repeat: int, services_name: str, as_json: bool) -> None:
    """Measure how fast a large split sends its parts and reads its results, with no worker to run them."""
    from benchmarks import parts as benchmark

    with running_services(services_name) as services:
        show(benchmark.run(services, count, rtts, repeat), as_json)


@main.command(epilog=EXAMPLES)
@click.option(
    "--parts",
    type=click.IntRange(min=1_000, max=1_000_000_000),
    default=10_000_000,
    show_default=True,
    help="10 million take about an hour of a core.",
)
@json_option
def hugesplit(parts: int, as_json: bool) -> None:
    """Run one job of millions of parts in this process, on services in memory; tell if memory is level."""
    from benchmarks import hugesplit as benchmark

    show(benchmark.run(parts), as_json)


@main.command(epilog=EXAMPLES)
@click.option(
    "--writes", type=click.IntRange(min=10), default=1_000, show_default=True, help="Units a second of a key."
)
@click.option(
    "--reads", type=click.IntRange(min=10), default=3_000, show_default=True, help="Units a second of a key."
)
@json_option
def limits(writes: int, reads: int, as_json: bool) -> None:
    """Find the rate of jobs at which DynamoDB first refuses a write, on a table in memory that does so.

    The rates are those of partition keys. A real partition holds many keys, and may refuse earlier.
    """
    from benchmarks import limits as benchmark

    show(benchmark.run(writes, reads), as_json)


@main.command(epilog=EXAMPLES)
@click.option("--tasks", type=click.IntRange(min=1000), default=200_000, show_default=True)
@local_option
@json_option
def soak(tasks: int, services_name: str, as_json: bool) -> None:
    """Measure the memory of the worker's parent process over many tasks."""
    from benchmarks import soak as benchmark

    with running_services(services_name) as services:
        show(benchmark.run(services, tasks), as_json)


@main.command(epilog=EXAMPLES)
@click.option("--rate", type=click.FloatRange(min=1), default=200.0, show_default=True, help="Events/s.")
@click.option("--events", type=click.IntRange(min=200), default=4000, show_default=True)
@rtt_option
@local_option
@json_option
def latency(rate: float, events: int, rtts: Sequence[float], services_name: str, as_json: bool) -> None:
    """Measure the time from an event on Kafka to the start of its task, bridge and worker together."""
    from benchmarks import latency as benchmark

    with running_services(services_name) as services:
        for rtt in rtts:
            show(benchmark.run(services, rate, events, rtt), as_json)


@main.command(epilog=EXAMPLES)
@click.option("--calls", type=click.IntRange(min=1), default=4000, show_default=True)
@click.option(
    "--call-seconds", type=click.FloatRange(min=0), default=1.0, show_default=True, help="What each waits."
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1, max=1000),
    default=100,
    show_default=True,
    help="Of each loop.",
)
@local_option
@json_option
def asynccalls(calls: int, call_seconds: float, concurrency: int, services_name: str, as_json: bool) -> None:
    """Measure how many calls a second an async stage makes that only wait, on the loops of one worker."""
    from benchmarks import asynccalls as benchmark

    with running_services(services_name) as services:
        show(benchmark.run(services, calls, call_seconds, concurrency), as_json)


@main.command(epilog=EXAMPLES)
@click.option(
    "--tasks", type=click.IntRange(min=1), default=150_000, show_default=True, help="Of the entity."
)
@click.option("--rate", type=click.FloatRange(min=1), default=50.0, show_default=True, help="Events/s.")
@click.option("--events", type=click.IntRange(min=2), default=2000, show_default=True, help="Measured.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    help="The depth at which the bridge pauses topics; the tasks must be more.",
)
@local_option
@json_option
def entity(tasks: int, rate: float, events: int, limit: int, services_name: str, as_json: bool) -> None:
    """Measure the latency of one stage while another's queue is too deep with the tasks of one entity."""
    from benchmarks import entity as benchmark

    with running_services(services_name) as services:
        show(benchmark.run(services, tasks, rate, events, limit), as_json)


@main.command(epilog=EXAMPLES)
@click.option("--events", type=click.IntRange(min=1000), default=10_000, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=1), default=60.0, show_default=True)
@services_option
@json_option
def outage(events: int, seconds: float, services_name: str, as_json: bool) -> None:
    """Measure the memory of the bridge while SQS is down under full load."""
    from benchmarks import outage as benchmark

    with running_services(services_name) as services:
        show(benchmark.run(services, events, seconds), as_json)


@main.command(epilog=EXAMPLES)
@click.option("--jobs", type=click.IntRange(min=1), default=10_000, show_default=True)
@click.option("--loads", type=click.IntRange(min=1), default=10, show_default=True, help="Of each page.")
@local_option
@json_option
def page(jobs: int, loads: int, services_name: str, as_json: bool) -> None:
    """Measure the first paint of the jobs page in Chromium, with an empty cache."""
    from benchmarks import page as benchmark

    with running_services(services_name) as services:
        show(benchmark.run(services, jobs, loads), as_json)


@main.command(epilog=EXAMPLES)
@click.option(
    "--calls", type=click.IntRange(min=3), default=500, show_default=True, help="In one measurement."
)
@repeat_option
@json_option
def wire(calls: int, repeat: int, as_json: bool) -> None:
    """Measure the CPU of each frequent AWS call, lean and botocore's own, with one thread and with three."""
    from benchmarks import wire as benchmark

    show(benchmark.run(repeat, calls), as_json)


@main.command(epilog=EXAMPLES)
@click.option("--jobs", type=click.IntRange(min=1), default=1_000_000, show_default=True)
@click.option(
    "--known", type=click.IntRange(min=0), help="Open jobs in the pass before; as many if not given."
)
@click.option("--rtt", type=click.FloatRange(min=0), default=5.0, show_default=True, help="Milliseconds.")
@json_option
def openjobs(jobs: int, known: int | None, rtt: float, as_json: bool) -> None:
    """Simulate a pass of the sweep over very many open jobs, on a table that makes them up."""
    from benchmarks import openjobs as benchmark

    show(benchmark.run(jobs, jobs if known is None else known, rtt), as_json)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
