"""Reading of Protobuf as JSON, by Protobuf's own mapping."""

import base64
import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from pipeline.errors import InvalidEventError
from pipeline.registry.client import Schema
from pipeline.registry.frames import message_indexes, message_name

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

#: Seconds for protoc to read one schema; it takes some tenths of a second.
COMPILE_TIMEOUT = 30.0

#: Google's compiler, with all files that the schema needs in its result.
PROTOC = (sys.executable, "-m", "grpc_tools.protoc", "--include_imports")

#: A path below a folder, as other files import it, if no piece of it is "..".
_IMPORTED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,200}")

#: How Apicurio's serializers write that a message is the entry of a map, which protoc refuses in a text; and
#: a name that it takes in its place, and that is in what it returns.
_MAP_ENTRY, _MARK = re.compile(r"\boption\s{1,9}map_entry\s{0,9}=\s{0,9}true\s{0,9};"), "_entry_of_a_map_"

#: The file of the schema itself; its name is nowhere in a record.
_MAIN = "schema_of_the_record.proto"

_Read = Callable[[bytes], bytes]


def protobuf_reader(schema: Schema) -> _Read:
    """Return the function that reads a record of ``schema`` as JSON; raises InvalidEventError.

    Names are those of the schema. Fields without presence are there with their default. 64-bit integers are
    text, as in Protobuf's JSON mapping. The function raises ValueError, or what Protobuf's library raises.
    """
    from google.protobuf import json_format, message_factory

    messages = _messages(schema)
    classes: dict[tuple[int, ...], Any] = {}

    def as_json(content: bytes) -> bytes:
        path, begin = _message_of(content, messages)
        if path not in classes:
            classes[path] = message_factory.GetMessageClass(_at(messages, path))
        message = classes[path]()
        message.ParseFromString(content[begin:])
        found = json_format.MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        return to_json(found)

    return as_json


def _message_of(content: bytes, messages: "list[Descriptor]") -> tuple[tuple[int, ...], int]:
    """Return the path of the message in a record, and where it begins; raises ValueError."""
    named = message_name(content)
    # Indexes could be the letters of a message's name only in a file with dozens of messages in each other.
    paths = [(at,) for at, each in enumerate(messages) if named and each.name == named[0]]
    return (paths[0], named[1]) if named and paths else message_indexes(content)


def _at(messages: "list[Descriptor]", path: tuple[int, ...]) -> "Descriptor":
    """Return the message at a path of indexes, as the file has them; raises ValueError."""
    found: Descriptor | None = None
    for index in path:
        if not 0 <= index < len(messages):
            raise ValueError(f"its schema has no message {'.'.join(map(str, path))}")
        found = messages[index]
        messages = list(found.nested_types)
    assert found is not None
    return found


def _messages(schema: Schema) -> "list[Descriptor]":
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message import DecodeError

    try:
        files = _descriptors(schema) or _compiled(schema)
        pool = DescriptorPool()
        _add(pool, _MAIN, files, set())
        found = pool.FindFileByName(_MAIN)
    except (TypeError, ValueError, KeyError, DecodeError, RecursionError) as error:
        raise InvalidEventError(f"not a Protobuf schema: {error}") from error
    return [found.message_types_by_name[each.name] for each in files[_MAIN].message_type]


def _descriptors(schema: Schema) -> "dict[str, FileDescriptorProto] | None":
    """Return the files of a schema that a registry has as descriptors; None if it has them as text."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    files = {}
    for name, text in ((_MAIN, schema.text), *((each.name, each.text) for each in schema.references)):
        try:
            files[name] = FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
        except ValueError:
            return None
        files[name].name = name
    return files


def _compiled(schema: Schema) -> "dict[str, FileDescriptorProto]":
    """Return the files of a schema as protoc reads them, in a process of its own."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    with tempfile.TemporaryDirectory(prefix="pipeline-proto-") as name:
        folder = Path(name)
        texts = {_MAIN: schema.text, **{each.name: each.text for each in schema.references}}
        for path, text in texts.items():
            if not _is_below(path):
                raise ValueError(f"it imports {path!r}, which is no path of a file")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(_MAP_ENTRY.sub(f'reserved "{_MARK}";', text))
        result = folder / "result"
        done = subprocess.run(
            [*PROTOC, f"-I{folder}", *_common_types(), f"--descriptor_set_out={result}", _MAIN],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMPILE_TIMEOUT,
            check=False,
        )
        if done.returncode != 0:
            raise ValueError(done.stdout.replace(f"{folder}/", "").strip()[-500:])
        files = {file.name: file for file in FileDescriptorSet.FromString(result.read_bytes()).file}
    for file in files.values():
        _set_map_entries(file.message_type)
    return files


def _set_map_entries(messages: "Iterable[DescriptorProto]") -> None:
    """Make the marked messages entries of maps; raises ValueError for one that cannot be."""
    for message in messages:
        _set_map_entries(message.nested_type)
        if _MARK in message.reserved_name:
            if [(field.name, field.number) for field in message.field] != [("key", 1), ("value", 2)]:
                raise ValueError(f"the entry of a map, {message.name}, has other fields than key and value")
            message.reserved_name.remove(_MARK)
            message.options.map_entry = True


def _is_below(path: str) -> bool:
    return _IMPORTED.fullmatch(path) is not None and ".." not in path


def _common_types() -> list[str]:
    """Return the option by which protoc finds google/type; its own well-known types it has."""
    import google.type

    return [f"-I{Path(folder).parents[1]}" for folder in google.type.__path__]


def _add(pool: Any, name: str, files: "dict[str, FileDescriptorProto]", seen: set[str]) -> None:
    """Add a file and all that it imports."""
    if name in seen:
        return
    seen.add(name)
    file = files.get(name) or _known(name)
    for imported in file.dependency:
        _add(pool, imported, files, seen)
    pool.Add(file)


def _known(name: str) -> "FileDescriptorProto":
    """Return a file that comes with Protobuf, Google's common types or Confluent's client."""
    from google.protobuf import descriptor_pool
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    package = {"confluent/": "confluent_kafka.schema_registry.", "google/": ""}
    prefix = next((found for begin, found in package.items() if name.startswith(begin)), None)
    if prefix is None or not _is_below(name):
        raise ValueError(f"it imports {name}, which its registry does not have as a reference")
    try:
        importlib.import_module(prefix + name.removesuffix(".proto").replace("/", ".") + "_pb2")
    except ImportError as error:
        raise ValueError(f"it imports {name}, which is not known here") from error
    file = FileDescriptorProto()
    descriptor_pool.Default().FindFileByName(name).CopyToProto(file)
    return file
