"""The example pipeline counts in pieces exactly what a plain loop counts in the whole."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline import PermanentError, Retry
from pipeline.author.registry import REGISTRY
from pipeline.demo import documents
from pipeline.demo.allowed import LONGEST, VARIABLE, allowed_paths, is_allowed, variable_of
from pipeline.demo.documents import (
    Chunk,
    Document,
    Summary,
    Text,
    analyse,
    chunks,
    extract,
    merge,
    summarise,
)
from pipeline.demo.verify import NotText, count_file
from pipeline.errors import ConfigurationError

#: The size limit of a part's result, with room left in a DynamoDB item of 400 KB.
RESULT_BYTES = 350_000

_files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
_mixed = st.text(st.sampled_from("ab\n \tß_9éΐ中𝄞\u0301\ufeff\r.-Σ"), max_size=300)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the demo was given."""
    monkeypatch.setenv(VARIABLE, variable_of([tmp_path]))
    return tmp_path


def write(folder: Path, data: bytes) -> Path:
    path = folder / "document"
    path.write_bytes(data)
    return path


def in_pieces(path: Path, size: int) -> Summary:
    """All stages, as the worker runs them, with chunks of ``size`` bytes."""
    text = extract(Document(path=str(path)))
    pieces = [
        Chunk(text=text, start=start, end=min(start + size, text.size)) for start in range(0, text.size, size)
    ]
    return summarise(merge(text, [analyse(piece) for piece in pieces]))


def assert_same(path: Path, size: int) -> None:
    summary, plain = in_pieces(path, size), count_file(path)
    assert {name: getattr(summary, name) for name in vars(plain)} == vars(plain)


def test_the_stages_go_together() -> None:
    """The example passes every check that a user's stages pass."""
    REGISTRY.check()
    assert REGISTRY.plan("document-received").stages == dict.fromkeys(
        ("extract", "analyse", "summarise"), ("summarise",)
    )


@_files
@given(_mixed, st.integers(1, 40))
@example("", 1)
@example("\n", 1)
@example("a" * 200, 7)
@example("é" * 200, 3)
@example("𝄞" * 50, 1)
def test_chunked_is_plain_for_utf8(tmp_path: Path, text: str, size: int) -> None:
    """Wherever the edges fall, no character, word or line is counted twice or not at all."""
    assert_same(write(tmp_path, text.encode()), size)


@_files
@given(st.binary(max_size=300).map(lambda data: data.replace(b"\0", b"\n")), st.integers(1, 40))
@example(b"abc\xc3", 2)
@example(b"\xc3\xa9 \xff", 1)
def test_chunked_is_plain_for_any_bytes(tmp_path: Path, data: bytes, size: int) -> None:
    """The encoding is decided for the whole file, however late a byte rules UTF-8 out."""
    assert_same(write(tmp_path, data), size)


@_files
@given(_mixed, st.sampled_from(["utf-8-sig", "latin-1", "cp1252", "koi8-r", "shift_jis"]), st.integers(1, 40))
def test_chunked_is_plain_for_other_encodings(tmp_path: Path, text: str, encoding: str, size: int) -> None:
    """A text in an encoding that nobody named is still counted alike by both."""
    assert_same(write(tmp_path, text.encode(encoding, "ignore")), size)


@pytest.mark.parametrize(
    "data",
    [
        b"word " * 300_000,
        "слово,".encode() * 150_000,
        b"x" * 1_500_000,
        "中".encode() * 500_000,
        b"line\n" * 200_000 + b"\xff",
    ],
    ids=["words", "no blanks", "one word", "one word of three-byte characters", "latin-1 at the very end"],
)
def test_documents_larger_than_any_message(tmp_path: Path, data: bytes) -> None:
    """Over a megabyte, in chunks of the real size, and every piece of JSON stays small."""
    path = write(tmp_path, data)
    event = extract.run(f'{{"path": "{path}"}}')
    assert event is not None
    parts = list(analyse.run_split(event))
    results = [analyse.run_part(part) for part in parts]
    assert len(parts) == -(-len(data) // documents.CHUNK_BYTES)
    assert max(map(len, itertools.chain(parts, results))) < RESULT_BYTES
    analysis = analyse.run_gather(event, results)
    assert analysis is not None
    summary = Summary.model_validate_json(summarise.run(analysis) or "")
    assert {name: getattr(summary, name) for name in vars(count_file(path))} == vars(count_file(path))


def _words(letters: str, length: int, separator: str) -> str:
    """As many different words as fill a chunk."""
    words = ("".join(word) for word in itertools.product(letters, repeat=length))
    return separator.join(itertools.islice(words, documents.CHUNK_BYTES))


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (_words("abcdefghijklmnopqrstuvwxyz0123456789_", 3, " "), "utf-8"),
        (_words("ΐΰ", 16, " "), "utf-8"),
        (_words("ßéµ", 9, " "), "latin-1"),
        (" ".join(map(chr, range(0x4E00, 0x9FFF))), "utf-8"),
    ],
    ids=["short words", "letters that grow", "latin-1", "single characters"],
)
def test_the_terms_of_a_chunk_fit_an_item(tmp_path: Path, text: str, encoding: str) -> None:
    """The chunk with the most different terms still gives a result that can be stored."""
    data = text.encode(encoding)[: documents.CHUNK_BYTES].decode(encoding, "ignore").encode(encoding)
    path = write(tmp_path, data)
    event = extract.run(f'{{"path": "{path}"}}')
    assert event is not None
    size = max(len(analyse.run_part(part).encode()) for part in analyse.run_split(event))
    assert 50_000 < size < RESULT_BYTES, size


def test_an_event_is_bounded_however_many_terms_there_are(tmp_path: Path) -> None:
    """A document of 200,000 different terms gives a small event, with exact totals."""
    path = write(tmp_path, " ".join(f"term{number}" for number in range(200_000)).encode())
    summary = in_pieces(path, documents.CHUNK_BYTES)
    assert summary.distinct_terms == summary.words == 200_000
    assert len(summary.model_dump_json()) < 10_000


def test_an_empty_document_has_no_chunks(tmp_path: Path) -> None:
    """Nothing to count is a result, not a failure."""
    text = extract(Document(path=str(write(tmp_path, b""))))
    assert list(chunks(text)) == []
    assert merge(text, []).words == 0


def test_a_binary_document_is_given_up_on(tmp_path: Path) -> None:
    """A zero byte anywhere: no retry, and the plain loop refuses it too."""
    path = write(tmp_path, b"text " * 500_000 + b"\0")
    with pytest.raises(PermanentError, match="is binary"):
        extract(Document(path=str(path)))
    with pytest.raises(NotText):
        count_file(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [str, Path.mkdir, os.mkfifo], ids=["missing", "folder", "pipe"])
def test_what_is_no_file_is_given_up_on(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """Without waiting for somebody to write into a pipe."""
    make(tmp_path / "it")
    with pytest.raises(PermanentError, match=r"it (cannot be read|is not a regular file)"):
        extract(Document(path=str(tmp_path / "it")))


def test_a_path_that_no_system_takes_is_given_up_on() -> None:
    """A zero byte in the name is refused by the system call itself."""
    with pytest.raises(PermanentError, match="cannot be read"):
        extract(Document(path="a\0b"))


@pytest.fixture
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that the demo was not given."""
    path = tmp_path_factory.mktemp("home") / "credentials"
    path.write_text("aws_secret_access_key")
    return path


def direct(_folder: Path, secret: Path) -> Path:
    return secret


def link(folder: Path, secret: Path) -> Path:
    (folder / "link.txt").symlink_to(secret)
    return folder / "link.txt"


def folder_link(folder: Path, secret: Path) -> Path:
    (folder / "folder").symlink_to(secret.parent)
    return folder / "folder" / secret.name


def climbing(folder: Path, secret: Path) -> Path:
    return Path(os.path.join(folder, os.path.relpath(secret, folder)))


def hidden(folder: Path, _secret: Path) -> Path:
    (folder / ".aws").mkdir()
    (folder / ".aws" / "credentials").write_text("aws_secret_access_key")
    return folder / ".aws" / "credentials"


def sibling(folder: Path, _secret: Path) -> Path:
    path = folder.with_name(f"{folder.name}-too")
    path.write_text("secret")
    return path


@pytest.mark.parametrize(
    "way",
    [direct, link, folder_link, climbing, hidden, sibling],
    ids=lambda way: way.__name__,
)
def test_an_event_cannot_name_a_file_that_was_not_given(
    folder: Path, secret: Path, way: Callable[[Path, Path], Path]
) -> None:
    """Each stage that reads refuses such a path in all its forms, and shows nothing of the file."""
    path = str(way(folder, secret))
    text = Text(path=path, size=1, modified_ns=0, encoding="utf-8")
    for read in (lambda: extract(Document(path=path)), lambda: analyse(Chunk(text=text, start=0, end=1))):
        with pytest.raises(PermanentError, match=VARIABLE):
            read()


def test_without_a_given_path_nothing_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that something else than the demo loads read no file."""
    path = write(folder, b"text")
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(PermanentError, match=VARIABLE):
        extract(Document(path=str(path)))


def test_a_given_file_is_read_and_its_neighbour_is_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file on the command line allows that file; a hidden one and a link, too, if a person named them."""
    hidden, neighbour = folder / ".notes", folder / "neighbour"
    for path in (hidden, neighbour):
        path.write_text("text")
    (folder / "link").symlink_to(hidden)
    monkeypatch.setenv(VARIABLE, variable_of([folder / "link"]))
    assert extract(Document(path=str(hidden))).size == 4
    assert extract(Document(path=str(folder / "link"))).size == 4
    with pytest.raises(PermanentError):
        extract(Document(path=str(neighbour)))


_parts = st.lists(st.sampled_from(["a", "b", ".git", "..", "."]), max_size=6)


@given(_parts, _parts)
def test_allowed_is_below_and_not_hidden(top: list[str], rest: list[str]) -> None:
    """A path is allowed exactly if it begins with an allowed one, and no later part of it is hidden."""
    root, path = Path(os.path.normpath(Path("/r", *top))), Path(os.path.normpath(Path("/r", *top, *rest)))
    below = path.parts[: len(root.parts)] == root.parts
    later = path.parts[len(root.parts) :]
    assert is_allowed(path, [Path("/else"), root]) == (below and not any(part[0] == "." for part in later))


def test_more_paths_than_an_environment_holds_are_refused() -> None:
    """The error names the fix, before any process is started."""
    assert variable_of([Path("/a b:c"), Path("/d")]) == "/a b:c\n/d"
    with pytest.raises(ConfigurationError, match="Give the folder"):
        variable_of([Path("/x" * 40)] * (LONGEST // 80))


def test_paths_survive_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks, colons and commas of a name are kept."""
    paths = [Path("/a b:c,d"), Path("/é")]
    monkeypatch.setenv(VARIABLE, variable_of(paths))
    assert allowed_paths() == paths


def test_a_document_that_changed_is_not_added_up(tmp_path: Path) -> None:
    """Chunks of two versions of a file are never one result."""
    path = write(tmp_path, b"one two")
    text = extract(Document(path=str(path)))
    path.write_bytes(b"one two three")
    with pytest.raises(PermanentError, match="was changed"):
        analyse(next(iter(chunks(text))))


def test_a_document_that_is_being_written_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change during the read is no permanent error: the writer will be done."""
    path = write(tmp_path, b"one")
    decide = documents._encoding

    def slow(*arguments: object) -> object:
        path.write_bytes(b"one two")
        return decide(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(documents, "_encoding", slow)
    with pytest.raises(Retry, match="is being written"):
        extract(Document(path=str(path)))


def test_events_hold_a_reference_and_no_text(tmp_path: Path) -> None:
    """The data of a chunk's task does not grow with the chunk."""
    text = Text(path=str(tmp_path), size=10**9, modified_ns=0, encoding="utf-8")
    assert len(next(iter(chunks(text))).model_dump_json()) < len(str(tmp_path)) + 200
