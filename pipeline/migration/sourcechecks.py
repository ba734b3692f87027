"""Calls in source files that do something else here, found without running them."""

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.errors import ConfigurationError
from pipeline.migration.finding import Finding, Level
from pipeline.transport.publishing import DAY, LATEST

#: Folders that hold no code of the project.
_SKIPPED: Final = frozenset({"site-packages", "node_modules", "__pycache__"})

#: Methods that publish, and those that only keep options for a publish.
_PUBLISHES: Final = frozenset({"apply_async", "send_task", "signature", "subtask", "set", "publish_many"})
_SENDS: Final = frozenset({"delay", "apply_async", "send_task"})
_DECORATORS: Final = frozenset({"task", "shared_task", "periodic_task"})
#: Methods of a result that read it.
_READS: Final = frozenset(
    {"get", "join", "collect", "ready", "state", "status", "result", "successful", "failed"}
)
_RESULTS: Final = "needs RESULTS=true, or ignore_result=False of the task, here and in the worker"

#: Remote control commands that change a worker.
_COMMANDS: Final = frozenset(
    {"add_consumer", "autoscale", "cancel_consumer", "pool_grow", "pool_restart", "pool_shrink", "rate_limit"}
    | {"revoke", "revoke_by_stamped_headers", "shutdown", "terminate", "time_limit"}
)

#: Packages that work in another way here, or not at all.
_IMPORTS: Final[Mapping[str, tuple[Level, str, str]]] = {
    "celery_batches": ("error", "its tasks keep messages past their leases", "use a stage, or a plain task"),
    "celery.contrib.abortable": (
        "warning",
        "its tasks ask the result backend at each check",
        "needs RESULTS=true",
    ),
    "django_celery_results": (
        "warning",
        "its result backend does not count",
        "read results from the jobs table",
    ),
    "django_celery_beat": (
        "note",
        "its schedules are fired by celery beat alone",
        "keep celery beat for them",
    ),
    "redbeat": ("note", "it needs Redis for its schedules", "use beat_schedule, which the bridge fires"),
    "gevent": ("warning", "workers of that pool are refused", "use prefork, threads or async tasks"),
    "eventlet": ("warning", "workers of that pool are refused", "use prefork, threads or async tasks"),
    "kombu": (
        "warning",
        "exchanges, bindings and other brokers do not exist here",
        "publish with Celery's tasks",
    ),
}


def check_sources(paths: Iterable[Path]) -> Iterator[Finding]:
    """Yield what the Python files at ``paths``, files or folders, do that differs here.

    Raises ``ConfigurationError`` for a path that does not exist.
    """
    for path in paths:
        if not path.exists():
            raise ConfigurationError(f"There is no file or folder {path}.")
        for file in sorted(_files(path)):
            yield from check_source(_shown(file), file.read_bytes())


def check_source(name: str, text: bytes) -> Iterator[Finding]:
    """Yield the findings of one file, in the order of its lines; a file that is no Python is one."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f"{name}:{getattr(error, 'lineno', None) or 1}"
        yield Finding(level="warning", about="source", what=f"cannot be parsed: {error}", where=where)
        return
    found = [finding for node in ast.walk(tree) for finding in _of_node(node, name)]
    found += _waits(tree, name)
    yield from sorted(found, key=lambda finding: int((finding.where or ":0").rsplit(":", 1)[1]))


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for child in path.iterdir():
        if child.is_dir():
            if not (child.name in _SKIPPED or child.name.startswith(".") or (child / "pyvenv.cfg").exists()):
                yield from _files(child)
        elif child.suffix == ".py":
            yield child


def _shown(path: Path) -> str:
    here, whole = Path.cwd(), path.resolve()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)


def _of_node(node: ast.AST, file: str) -> Iterator[Finding]:
    match node:
        case ast.Import(names=names):
            for alias in names:
                yield from _imported(alias.name, node, file)
        case ast.ImportFrom(module="kombu", names=[ast.alias(name="Queue")]):
            pass  # as task_queues needs it
        case ast.ImportFrom(module=str(module), level=0):
            yield from _imported(module, node, file)
        case ast.Call(func=ast.Attribute(attr=method)) if method in _PUBLISHES:
            yield from _options(node, f"{method}()", _OPTIONS, file)
        case ast.FunctionDef(decorator_list=decorators) | ast.AsyncFunctionDef(decorator_list=decorators):
            for call in decorators:
                if isinstance(call, ast.Call) and _last_name(call.func) in _DECORATORS:
                    # The others are attributes of the task, which the app shows.
                    yield from _options(call, node.name, {"acks_late": _OPTIONS["acks_late"]}, file)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        yield from _control(node, node.func, file)


def _imported(module: str, node: ast.AST, file: str) -> Iterator[Finding]:
    for name, (level, what, mend) in _IMPORTS.items():
        if module == name or module.startswith(f"{name}."):
            yield _finding(level, f"import {module}", what, mend, node, file)


# ─── Options of a publish or of a task ───


def _is_later(value: Any) -> bool:
    return isinstance(value, int | float) and value > LATEST


def _any(value: Any) -> bool:
    return value is not None


#: A value that only a run of the code would show.
_UNKNOWN: Final = object()

#: Which values of an option are findings, of which level; what is said, and what to do.
Option = tuple[Callable[[Any], bool], Level, str, str]

_OPTIONS: Final[Mapping[str, Option]] = {
    "acks_late": (
        lambda value: value is False,
        "warning",
        "does not count: a message is deleted when its task has ended",
        "make the task safe to repeat",
    ),
    "compression": (_any, "error", "is refused: tasks travel as JSON text", "leave it out"),
    "connection": (_any, "warning", "publishes to a broker of its own", "leave it out"),
    "countdown": (
        _is_later,
        "error",
        f"is refused beyond {LATEST // DAY} days: SQS keeps a message for 14",
        "use a schedule",
    ),
    "exchange": (_any, "error", "names an exchange, and there are none", "name a queue"),
    "priority": (
        _any,
        "warning",
        "is ignored: FIFO queues have none",
        "give urgent tasks a queue and workers of their own",
    ),
    "producer": (_any, "warning", "publishes to a broker of its own", "leave it out"),
    "routing_key": (_any, "error", "names a binding, and there are none", "name a queue"),
    "serializer": (
        lambda value: value not in (None, "json", _UNKNOWN),
        "error",
        "is refused: tasks travel as JSON",
        'serializer="json", and arguments that are JSON',
    ),
}


def _options(call: ast.Call, about: str, options: Mapping[str, Option], file: str) -> Iterator[Finding]:
    for keyword in call.keywords:
        option = options.get(keyword.arg or "")
        if option is None:
            continue
        is_finding, level, what, mend = option
        value = keyword.value.value if isinstance(keyword.value, ast.Constant) else _UNKNOWN
        if is_finding(value):
            shown = f"{keyword.arg}={ast.unparse(keyword.value)[:40]}"
            yield _finding(level, about, f"{shown} {what}", mend, keyword.value, file)


# ─── Results and remote control ───


def _waits(tree: ast.AST, file: str) -> Iterator[Finding]:
    """Yield reads of results: of a call that sends, of a name that holds one, and of ``AsyncResult(…)``."""
    scopes = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef)
    for scope in (node for node in ast.walk(tree) if isinstance(node, scopes)):
        held = {
            target.id
            for node in _own_nodes(scope, scopes)
            if isinstance(node, ast.Assign) and _is_result(node.value)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in _own_nodes(scope, scopes):
            if isinstance(node, ast.Attribute) and node.attr in _READS:
                source = node.value
                if _is_result(source) or (isinstance(source, ast.Name) and source.id in held):
                    yield _finding("warning", f".{node.attr}", "reads a result", _RESULTS, node, file)


def _own_nodes(scope: ast.AST, scopes: tuple[type[ast.AST], ...]) -> Iterator[ast.AST]:
    """Yield the nodes of a scope without those of functions in it."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, scopes):
            yield child
            yield from _own_nodes(child, scopes)


def _is_result(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = _last_name(node.func)
    return name in ("AsyncResult", "GroupResult") or (isinstance(node.func, ast.Attribute) and name in _SENDS)


def _control(call: ast.Call, method: ast.Attribute, file: str) -> Iterator[Finding]:
    owner = _last_name(method.value)
    if owner == "control" and method.attr in _COMMANDS:
        mend = f"CONTROL_COMMANDS={method.attr}"
        yield _finding(
            "warning", f"control.{method.attr}", "is obeyed only where a setting lists it", mend, call, file
        )
    elif owner == "control" and method.attr in ("purge", "discard_all"):
        what = "deletes all tasks of a queue, those of stages too; SQS allows it once a minute"
        yield _finding("warning", f"control.{method.attr}", what, "", call, file)
    elif method.attr in ("scheduled", "reserved") and owner in ("inspect", "i"):
        what = "shows what a worker holds: delayed tasks wait on SQS"
        yield _finding("note", f"inspect.{method.attr}", what, "", call, file)


def _last_name(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=function):
            return _last_name(function)
    return ""


def _finding(level: Level, about: str, what: str, mend: str, node: Any, file: str) -> Finding:
    return Finding(level=level, about=about, what=what, mend=mend, where=f"{file}:{node.lineno}")
