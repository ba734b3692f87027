"""The example pipeline: read documents, count their words in chunks, summarise them.

    document-received ─► extract ─► document-extracted ─► analyse ─► document-analysed
                                                          ├ chunks      (split)
                                                          ├ analyse     (one task a chunk)
                                                          └ merge       (gather)
    document-analysed ─► summarise ─► document-summarised

Events hold the path of a document and its counts, not the document: a worker reads the bytes of its chunk,
so a document may be larger than a message.
"""

import codecs
import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Literal

from pydantic import BaseModel, Field

from pipeline import PermanentError, Retry, stage
from pipeline.demo.allowed import VARIABLE, allowed_paths, is_allowed

#: The bytes of one chunk. Its terms are at most 200 KB of JSON (worst case: letters that become three when
#: case is folded), and a part's result must fit a DynamoDB item.
CHUNK_BYTES: Final = 64 * 1024
#: Characters of a longer word that form its term: a file may be one endless word.
TERM_CHARACTERS: Final = 64
#: Terms of an event; the others are in its totals and its digest.
TOP_TERMS: Final = 50

_WORD: Final = re.compile(r"\w+")
_LONGEST_CHARACTER: Final = 4  # bytes, in UTF-8
_BLOCK: Final = 1024 * 1024

Encoding = Literal["utf-8", "latin-1"]


class Document(BaseModel):
    """A document to count."""

    path: str = Field(min_length=1)


class Text(BaseModel):
    """A text document."""

    path: str
    #: In bytes.
    size: int
    #: When the file was last changed, in nanoseconds: chunks of two versions must not be mixed.
    modified_ns: int
    #: For the whole file: UTF-8, else Latin-1, in which any byte is a character.
    encoding: Encoding


class Chunk(BaseModel):
    """The bytes of a text from ``start`` up to ``end``."""

    text: Text
    start: int
    end: int


class Counts(BaseModel):
    """The counts of a chunk."""

    lines: int
    words: int
    characters: int
    #: The number of each term.
    terms: dict[str, int]


class Analysis(BaseModel):
    """The counts of a document."""

    path: str
    chunks: int
    lines: int
    words: int
    characters: int
    #: The number of different terms.
    distinct_terms: int
    #: SHA-256 over all terms and their counts: a document may have more terms than an event can hold.
    terms_digest: str
    #: The most frequent with their counts; ties in alphabetical order.
    top_terms: list[tuple[str, int]]


class Summary(Analysis):
    """An analysis with two averages."""

    #: Different terms per hundred words.
    variety: float
    words_per_line: float


@stage(consumes="document-received", emits="document-extracted")
def extract(document: Document) -> Text:
    """Read the document once; detect whether it is text, and its encoding."""
    with _open(document.path) as file:
        before = os.fstat(file.fileno())
        encoding = _encoding(file, document.path)
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise Retry(5, f"{document.path} is being written: it changed while it was read")
    return Text(path=document.path, size=after.st_size, modified_ns=after.st_mtime_ns, encoding=encoding)


@stage(consumes="document-extracted", emits="document-analysed")
def analyse(chunk: Chunk) -> Counts:
    """Count the lines, characters and words that begin in the chunk.

    Chunks begin at any byte. A character belongs to the chunk with its first byte, a word to the chunk with
    its first character, so the counts of all chunks are those of the document.
    """
    before, own, after = _read(chunk)
    terms: Counter[str] = Counter()
    for match in _WORD.finditer(own + after):
        if match.start() >= len(own):
            break
        if match.start() == 0 and _WORD.fullmatch(before):
            continue
        terms[match[0][:TERM_CHARACTERS].casefold()] += 1
    is_open = chunk.end == chunk.text.size and not (own or before).endswith("\n")
    return Counts(
        lines=own.count("\n") + is_open, words=terms.total(), characters=len(own), terms=dict(terms)
    )


@analyse.split
def chunks(text: Text) -> Iterator[Chunk]:
    """Divide the document without reading it."""
    for start in range(0, text.size, CHUNK_BYTES):
        yield Chunk(text=text, start=start, end=min(start + CHUNK_BYTES, text.size))


@analyse.gather
def merge(text: Text, counts: Iterable[Counts]) -> Analysis:
    """Add up the chunks; an empty document has none."""
    number = lines = words = characters = 0
    terms: Counter[str] = Counter()
    for count in counts:
        number += 1
        lines += count.lines
        words += count.words
        characters += count.characters
        terms.update(count.terms)
    return Analysis(
        path=text.path,
        chunks=number,
        lines=lines,
        words=words,
        characters=characters,
        distinct_terms=len(terms),
        terms_digest=_digest(terms),
        top_terms=sorted(terms.items(), key=lambda item: (-item[1], item[0]))[:TOP_TERMS],
    )


@stage(consumes="document-analysed", emits="document-summarised")
def summarise(analysis: Analysis) -> Summary:
    """Add the averages."""
    return Summary(
        **analysis.model_dump(),
        variety=round(100 * analysis.distinct_terms / (analysis.words or 1), 2),
        words_per_line=round(analysis.words / (analysis.lines or 1), 2),
    )


def _open(path: str) -> BinaryIO:
    """Open a regular file that the demo was given. Non-blocking: a pipe without a writer would never open."""
    try:
        # Anybody who may write the topic chooses the path: links and ".." are resolved before it is judged.
        real = Path(os.path.realpath(path))
        if not is_allowed(real, allowed_paths()):
            raise PermanentError(f"{path} is not below a path of {VARIABLE}: the demo was not given it")
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, PermissionError, NotADirectoryError, ValueError) as error:
        raise PermanentError(f"{path} cannot be read: {error}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PermanentError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")


def _encoding(file: BinaryIO, path: str) -> Encoding:
    decoder = codecs.getincrementaldecoder("utf-8")()
    encoding: Encoding = "utf-8"
    while block := file.read(_BLOCK):
        if b"\0" in block:
            raise PermanentError(f"{path} is binary: it holds a zero byte")
        if encoding == "utf-8" and not _decodes(decoder, block):
            encoding = "latin-1"
    return encoding if encoding == "latin-1" or _decodes(decoder, b"", final=True) else "latin-1"


def _decodes(decoder: codecs.IncrementalDecoder, block: bytes, final: bool = False) -> bool:
    try:
        decoder.decode(block, final)
    except UnicodeDecodeError:
        return False
    return True


def _read(chunk: Chunk) -> tuple[str, str, str]:
    """Return the character before the chunk, its own, and those that may complete its last term."""
    text = chunk.text
    with _open(text.path) as file:
        now = os.fstat(file.fileno())
        if (now.st_size, now.st_mtime_ns) != (text.size, text.modified_ns):
            raise PermanentError(f"{text.path} was changed after it was read: submit it again")
        begin = max(0, chunk.start - _LONGEST_CHARACTER)
        file.seek(begin)
        raw = file.read(chunk.end - begin + _LONGEST_CHARACTER * (TERM_CHARACTERS + 1))
    first = _character_at(raw, chunk.start - begin, text.encoding)
    last = _character_at(raw, chunk.end - begin, text.encoding)
    before = raw[:first].decode(text.encoding, "ignore")[-1:]
    after = raw[last:].decode(text.encoding, "ignore")[:TERM_CHARACTERS]
    return before, raw[first:last].decode(text.encoding), after


def _character_at(raw: bytes, index: int, encoding: Encoding) -> int:
    """Return the first index from ``index`` at which a character begins; in UTF-8 10xxxxxx continues one."""
    while encoding == "utf-8" and index < len(raw) and raw[index] & 0b11000000 == 0b10000000:
        index += 1
    return index


def _digest(terms: Counter[str]) -> str:
    digest = hashlib.sha256()
    for term, count in sorted(terms.items()):
        digest.update(f"{term} {count}\n".encode())
    return digest.hexdigest()
