"""Confluent's wire format: a byte 0, the schema's id in four bytes, then what the schema describes."""

#: The first byte of a framed key or value. No JSON begins with it, and no schema has the id 0.
MAGIC = b"\x00"

#: Bytes before the content.
HEAD = 5


def schema_id_of(data: bytes | None) -> int | None:
    """Return the id of the schema that a key or value names; None where it is not framed."""
    if data is None or len(data) < HEAD or data[:1] != MAGIC:
        return None
    return int.from_bytes(data[1:HEAD], "big") or None


def frame(schema_id: int, content: bytes) -> bytes:
    """Return content in the frame of a schema; of Protobuf it begins with the message's indexes."""
    return MAGIC + schema_id.to_bytes(HEAD - 1, "big") + content


def message_indexes(content: bytes) -> tuple[tuple[int, ...], int]:
    """Return which message of a Protobuf file follows, and where it begins.

    The path of indexes: of a message of the file, of a message inside it, and so on. Raises ValueError.
    """
    count, at = _varint(content, 0)
    if count == 0:
        return (0,), at
    if not 0 < count <= 100:
        raise ValueError(f"it names a message nested {count} deep")
    indexes = []
    for _ in range(count):
        index, at = _varint(content, at)
        indexes.append(index)
    return tuple(indexes), at


def message_name(content: bytes) -> tuple[str, int] | None:
    """Return the message that Apicurio's serializers name in place of indexes, and where it begins.

    They write a message before it, with its size: one text, the name. None for anything that is not so.
    """
    size = content[0] if content else 0
    name = content[3 : 1 + size]
    if content[1:3] != bytes((0x0A, max(0, size - 2))) or not name or len(name) != size - 2:
        return None
    return name.decode(errors="replace"), 1 + size


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Read a number in zigzag encoding; return it and where it ends."""
    number = 0
    for shift in range(0, 64, 7):
        if at >= len(content):
            raise ValueError("it ends within the indexes of its message")
        byte = content[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at
    raise ValueError("the indexes of its message are no numbers")
