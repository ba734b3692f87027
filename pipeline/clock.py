"""The clock that leases are measured on: it goes on while the machine is suspended."""

import time

# macOS has no CLOCK_BOOTTIME, but its CLOCK_MONOTONIC counts suspended time (clock_gettime(3) there).
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime() -> float:
    """Seconds since boot, suspended time included.

    ``time.monotonic`` stands still on Linux while a laptop or a virtual machine sleeps, so a lease that
    SQS gave away meanwhile would still look held.
    """
    return time.clock_gettime(_CLOCK)
