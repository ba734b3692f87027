"""The readers that a process has, and the thread that gets those that it needs.

Whoever reads records must not wait for the registry, so a reader that is not there yet is asked for, and the
record is offered again later. Schemas never change under their ids.
"""

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import structlog

from pipeline.errors import InvalidEventError, MessageRefusedError, ServiceError
from pipeline.patience import FIRST_PAUSE, LONGEST_PAUSE
from pipeline.registry.client import SchemaRegistry
from pipeline.registry.readers import Reader
from pipeline.telemetry import metrics

log = structlog.get_logger(__name__)

#: The most readers to keep; those used last stay.
MAX_READERS = 1_000

#: Seconds after a record was written in which its schema may still come to the registry that is asked: a
#: producer registers first, but a registry's own followers learn of it later. Then an unknown id is final.
GRACE = 5.0

#: Seconds for which the registry is not asked again for an unknown id, within the grace and after it.
ASK_AGAIN, REMEMBER = 0.5, 60.0


class KnownReaders:
    """Readers by the ids of their schemas. Threads share it."""

    def __init__(self, registry: SchemaRegistry, clock: Callable[[], float] = time.time) -> None:
        """``registry`` is closed with it."""
        self._registry = registry
        self._clock = clock
        self._condition = threading.Condition()
        #: A reader, or why there can be none.
        self._known: OrderedDict[int, Reader | str] = OrderedDict()
        #: When an id that the registry does not know was first asked for, and last.
        self._missing: OrderedDict[int, tuple[float, float]] = OrderedDict()
        self._wanted: set[int] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="schemas", daemon=True)
        #: Why the registry does not answer; None while it does.
        self.trouble: str | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, after the request under way."""
        self._stopping.set()
        with self._condition:
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._registry.close()

    def find(self, schema_id: int, written_at: float) -> Reader | None:
        """Return a schema's reader; None if it is not there yet: it is being asked for.

        ``written_at``: when its record was, in seconds since 1970. Raises InvalidEventError for a schema that
        the registry does not have, or that cannot be read.
        """
        with self._condition:
            known = self._known.get(schema_id)
            if isinstance(known, Reader):
                self._known.move_to_end(schema_id)
                return known
            if known is not None:
                raise InvalidEventError(known)
            if schema_id in self._missing:
                first, last = self._missing[schema_id]
                since = self._clock() - last
                began = min(first, written_at) if written_at > 0 else first
                if last - began >= GRACE and since < REMEMBER:
                    raise InvalidEventError(
                        f"the schema registry has no schema {schema_id}: register it, or correct "
                        "SCHEMA_REGISTRY_URL, and redrive the event"
                    )
                if since < ASK_AGAIN:
                    return None
            self._wanted.add(schema_id)
            self._condition.notify_all()
            return None

    def get_now(self, schema_id: int) -> None:
        """Ask for a schema on this thread, unless its reader is there; then ``find`` has its answer.

        Raises the ServiceError of a registry that does not give it.
        """
        with self._condition:
            if schema_id in self._known:
                return
            # Nothing may come later for whoever asks now.
            self._missing.setdefault(schema_id, (0.0, 0.0))
        self._get(schema_id)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._get_wanted()

    def _get_wanted(self) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._wanted or self._stopping.is_set())
            wanted = sorted(self._wanted)
        failures, since = 0, time.monotonic()
        while wanted and not self._stopping.is_set():
            schema_id = wanted.pop(0)
            try:
                self._get(schema_id)
            except ServiceError as error:
                failures += 1
                wanted.append(schema_id)
                self._note(error, failures)
                pause = min(FIRST_PAUSE * 2**failures, LONGEST_PAUSE)
                self._stopping.wait(random.uniform(0, pause))  # noqa: S311 - jitter
            else:
                self._note(None, failures, since)
                failures = 0

    def _get(self, schema_id: int) -> None:
        """Ask for one schema; raises the ServiceError of a registry that does not tell."""
        found: Reader | str | None
        try:
            schema = self._registry.schema(schema_id)
            found = Reader(schema_id, schema) if schema else None
        except (MessageRefusedError, InvalidEventError) as error:
            found = str(error)
        with self._condition:
            self._wanted.discard(schema_id)
            if found is None:
                now = self._clock()
                first, _ = self._missing.pop(schema_id, (now, now))
                self._missing[schema_id] = first, now
            else:
                self._missing.pop(schema_id, None)
                self._known[schema_id] = found
            for kept in (self._known, self._missing):
                while len(kept) > MAX_READERS:
                    kept.popitem(last=False)

    def _note(self, error: ServiceError | None, failures: int, since: float = 0.0) -> None:
        self.trouble = str(error) if error else None
        metrics.REGISTRY_AWAY.set(1 if error else 0)
        if error and failures == 2:  # in a row: more than a passing failure
            log.warning("service.unanswered", step="schema registry", error=str(error))
        elif error is None and failures >= 2:
            seconds = round(time.monotonic() - since, 1)
            log.warning("service.answered", step="schema registry", seconds=seconds)
