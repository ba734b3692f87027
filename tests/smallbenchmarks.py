"""Small runs of every benchmark: the arguments of its command for as little as it takes."""

#: Run by ``tests/unit/test_benchmarks_small.py``.
WITHOUT_SERVERS = {
    "hugesplit": "--parts 1000",
    "limits": "--writes 10 --reads 30",
    "openjobs": "--jobs 100",
    "wire": "--calls 3 --repeat 1",
}

#: Run by ``tests/acceptance/test_benchmarks.py``.
WITH_SERVERS = {
    "worker": "--peer ours --tasks 100 --rtt 0 --repeat 1",
    "bridge": "--peer ours --events 100 --rtt 0 --repeat 1",
    "flow": "--peer ours --job split --jobs 1 --rtt 0 --repeat 1",
    "units": "--parts 1 --jobs 1",
    "split": "--parts 1 --ordered 0",
    "parts": "--parts 513 --rtt 0 --repeat 1",
    "latency": "--rate 200 --events 200 --rtt 0",
    "asynccalls": "--calls 50 --call-seconds 0.1",
    "outage": "--events 1000 --seconds 1",
    "soak": "--tasks 1000",
    "page": "--jobs 1 --loads 1",
}

#: Run in other tests.
ELSEWHERE = {"entity": "tests/integration/test_deep_queue.py"}
