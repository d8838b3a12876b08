"""Random damage to the content of files, for :mod:`benchmarks.fuzz`."""

import random
import re
import struct

# Numbers that programmes trip over, as they stand in files.
TROUBLE = (
    *(struct.pack("<h", n) for n in (0, -1, 1, 32767, -32768)),
    *(struct.pack("<i", n) for n in (0, -1, 2**31 - 1, -(2**31), 65536)),
    *(struct.pack(">i", n) for n in (1, 2**31 - 1)),
    *(struct.pack("<f", n) for n in (0.0, -1.0, 1e30, 1e-30, float("nan"), float("inf"))),
    struct.pack("<q", 2**62),
    b"\xff\xff\xff\xff",
    b"\xfe\xff\xdd\xe0",
    b"",
)
WORDS = (
    *("", " ", '"', '""', "'", ",", ";", "\t", "\r", "\n", "\r\n", "\0", "\ufeff", "é", "\u202e", "\U0001f980"),
    *("=1+1", "@SUM(A1)", "-1", "+1", "0", "nan", "inf", "1e309", "1,5", "None", "NULL", "true", "9" * 40, "x" * 5000),
    *("../../etc/passwd", "/dev/zero", "/", ".", "..", "C:\\x", "a;b;c", ";", "cine.nii.gz/", "<script>", "%s%n", "{}"),
    *("subject_id", "image", "ed", "session", "labels", "9900001", "patient001", "!!python/object:os.system"),
)


def damage(content: bytes, chance: random.Random) -> bytes:
    """One to six random changes, most of them near the beginning, where headers are."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        place = chance.randrange(min(len(changed), chance.choice((400, 2000, 10**9))) or 1) if changed else 0
        length = chance.choice((1, 2, 4, 8, 64, 1000))
        kind = chance.randrange(8)
        if kind == 0:
            changed[place : place + 1] = bytes([changed[place] ^ (1 << chance.randrange(8))]) if changed else b""
        elif kind <= 3:
            put = chance.choice(TROUBLE)
            changed[place : place + len(put)] = put
        elif kind == 4:
            changed[place : place + length] = chance.randbytes(length)
        elif kind == 5:
            del changed[place : place + length]
        elif kind == 6:
            changed[place:place] = changed[place : place + length]
        else:
            del changed[place + chance.randrange(50) :]
    return bytes(changed)


def damage_text(text: str, chance: random.Random) -> str:
    """Words put in, left out and exchanged."""
    parts = re.split(r"([,\n\t:;])", text)
    for _ in range(chance.choice((1, 1, 2, 4, 10))):
        place = chance.randrange(len(parts))
        kind = chance.randrange(4)
        if kind == 0:
            parts[place] = chance.choice(WORDS)
        elif kind == 1:
            parts.insert(place, chance.choice(WORDS))
        elif kind == 2:
            del parts[place : place + chance.choice((1, 1, 2, 8))]
            parts = parts or [""]
        else:
            other = chance.randrange(len(parts))
            parts[place], parts[other] = parts[other], parts[place]
    return "".join(parts)
