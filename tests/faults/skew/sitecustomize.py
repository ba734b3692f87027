"""Shifts Python's wall clock by FAULTS_SKEW seconds, in every process with this folder on its PYTHONPATH.

Not libfaketime: librdkafka waits on absolute moments of the same clock and hangs under it (tried, 0.9.10).
"""

import os
import time

_true_time, _true_time_ns = time.time, time.time_ns
_skew = float(os.environ["FAULTS_SKEW"])


def _time() -> float:
    return _true_time() + _skew


def _time_ns() -> int:
    return _true_time_ns() + int(_skew * 1e9)


time.time, time.time_ns = _time, _time_ns
