"""Templates and their filters: numbers, times and data as text; every value is escaped."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

STATIC = Path(__file__).parent / "static"

#: Characters of data that a page shows; the API has all.
MAX_TEXT = 20_000

#: Stands for an unknown value.
UNKNOWN = "\N{EN DASH}"

#: The units of an age with their seconds, longest first.
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def make_templates(clock: Callable[[], float] = time.time) -> Environment:
    """Return the templates with their filters; ``clock`` is the reference of ages."""
    templates = Environment(
        loader=PackageLoader("pipeline.web.pages"),
        # Job data comes from others: every value is escaped, in every template.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "number": number,
        "share": share,
        "rate": rate,
        "duration": duration,
        "ago": lambda seconds: ago(seconds, clock()),
        "moment": moment,
        "iso": iso,
        "readable": readable,
        "short": short,
        "last": last,
    }
    return templates


@cache
def fingerprint(name: str) -> str:
    """Return a hash of a static file's content, for its address: browsers may keep the file."""
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]


# ─── Filters ───


def number(value: int | None) -> str:
    """Return 12,345; a dash if unknown."""
    return UNKNOWN if value is None else f"{value:,}"


def share(value: float | None) -> str:
    """Return a share from 0 to 1 in per cent; small ones are not rounded to 0."""
    if value is None:
        return UNKNOWN
    return f"{value * 100:.2g} %" if 0 < value < 0.1 else f"{value * 100:.0f} %"


def rate(per_second: float | None) -> str:
    """Return tasks a second, or a minute below one."""
    if per_second is None:
        return UNKNOWN
    if per_second == 0:
        return "0/s"
    if per_second >= 100:
        return f"{per_second:,.0f}/s"
    return f"{per_second:.3g}/s" if per_second >= 1 else f"{per_second * 60:.2g}/min"


def duration(seconds: float | None) -> str:
    """Return 340 ms, 2.5 s, 4 min 10 s or 3 h 2 min; a dash if unknown."""
    if seconds is None:
        return UNKNOWN
    if 0 < seconds < 0.001:
        return "< 1 ms"
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if whole < 3_600:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(whole // 60, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


def ago(seconds: float, now: float) -> str:
    """Return the age of a moment in one unit."""
    past = now - seconds
    for length, unit in _UNITS:
        if past >= length:
            return f"{int(past // length)} {unit} ago"
    return f"{int(past)} s ago" if past >= 1 else "just now"


def moment(seconds: float) -> str:
    """Return 2026-11-24 09:30:00, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def iso(seconds: float) -> str:
    """Return a moment for HTML's ``datetime``."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def readable(data: str | Mapping[str, Any] | None) -> str:
    """Return JSON indented, other text as it is; cut to ``MAX_TEXT``."""
    if data is None:
        return ""
    try:
        value = json.loads(data) if isinstance(data, str) else data
        text = json.dumps(value, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = str(data)
    cut = len(text) - MAX_TEXT
    return text if cut <= 0 else f"{text[:MAX_TEXT]}\n… {cut:,} characters more"


def short(name: str) -> str:
    """Return the first group of a UUID, for lists; other names as they are."""
    return name[:8] if len(name) == 36 and name.count("-") == 4 else name


def last(name: str) -> str:
    """Return a class's name without its module."""
    return name.rsplit(".", 1)[-1]
