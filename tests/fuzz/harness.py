"""Ways to damage sound files; and what a parser may do with the result: work, or say why not."""

import io
import os
import resource
import signal
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

NUM_EXAMPLES = settings().max_examples
slow = settings(max_examples=NUM_EXAMPLES // 8)
"""For parsers that take a tenth of a second."""

SECONDS, MEMORY = 20, 1 << 30
"""What one call may take."""

TOKENS = (
    *(bytes([code]) for code in b"\0\1\2\n\r\t \x7f\x80\xff/\\\"',;:#%~[]{}01"),
    *b"\x1b[31m|\xc3\x28|\xed\xa0\x80|..|../../x|/tmp/x|&a|*a|-1|1e999|nan|NaN|null|true".split(
        b"|"
    ),
    *b"999999999999999999999999|{}|[]|!!int ''|!!timestamp x|!!bool x".split(b"|"),
    *(b"[" * 500, bytes(8), b"\xff" * 8, b"\xff\xff\xff\x7f", b"\0\0\0\x80"),
)


class TookTooLong(BaseException):
    """No `except Exception` of a parser may hide it."""


@contextmanager
def bounded() -> Iterator[None]:
    """The block may take SECONDS, and MEMORY bytes beside those that the process has."""

    def too_long(number: int, frame: Any) -> None:
        raise TookTooLong(f"more than {SECONDS} s")

    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def works_or_says(call: Callable[[], Any], named: str = "") -> Exception | None:
    """Make the call; the error of the project's kind that it ends with, if any.

    Its message must have `named` in it. Any other error is a finding, and so is one that names the
    place in a text that could not be decoded, but not the file.
    """
    try:
        with bounded():
            call()
    except (ValueError, OSError) as error:
        assert not isinstance(error, UnicodeError), repr(error)
        assert named in str(error), f"{error!r} does not name {named}"
        return error
    return None


@st.composite
def damaged(draw: DrawFn, *sound: bytes) -> bytes:
    """One of the sound contents after one to four edits."""
    data = draw(st.sampled_from(sound))
    for _ in range(draw(st.integers(1, 4))):
        data = _edited(draw, data)
    return data


def _edited(draw: DrawFn, data: bytes) -> bytes:
    ends = st.one_of(
        st.integers(0, min(64, len(data))), st.integers(max(0, len(data) - 64), len(data))
    )
    start = draw(st.one_of(st.integers(0, len(data)), ends))
    stop = min(len(data), start + draw(st.one_of(st.integers(0, 8), st.integers(0, 600))))
    head, part, tail = data[:start], data[start:stop], data[stop:]
    how = draw(st.sampled_from(("bit", "set", "token", "cut", "drop", "twice", "move", "raw")))
    if how == "bit" and start < len(data):
        return head + bytes([data[start] ^ 1 << draw(st.integers(0, 7))]) + data[start + 1 :]
    if how == "set":
        return (
            head + bytes([draw(st.sampled_from((0, 1, 0x20, 0x7F, 0x80, 0xFF)))]) * len(part) + tail
        )
    if how == "token":
        token = draw(st.sampled_from(TOKENS))
        return head + token + (tail if draw(st.booleans()) else data[start + len(token) :])
    if how == "cut":
        return head
    if how == "drop":
        return head + tail
    if how == "twice":
        return head + part + part + tail
    if how == "move":
        place = draw(st.integers(0, len(head) + len(tail)))
        rest = head + tail
        return rest[:place] + part + rest[place:]
    return head + draw(st.binary(max_size=12)) + tail


TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ("", "..", "/x", "a\nb", "\x1b[2J", "\r", "\0", "\ud800", "\udcff", "a" * 300, "1")
    ),
)
NUMBERS = st.one_of(
    st.sampled_from(
        (0, 1, -1, 2**31, 2**63, -(2**63), 10**30, 0.5, 1e308, float("inf"), float("nan"))
    ),
    st.integers(-5, 5),
    st.floats(),
)
PLAIN: SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=6,
)
"""Values as JSON and YAML have them."""


@st.composite
def altered(draw: DrawFn, value: Any, odd: SearchStrategy[Any] = PLAIN) -> Any:
    """Dicts and lists with an entry that is missing, of another kind, moved, or too many."""
    if isinstance(value, Mapping) and value and draw(st.integers(0, 5)):
        value = dict(value)
        key = draw(st.sampled_from(sorted(value, key=str)))
        how = draw(st.sampled_from(("inside", "inside", "instead", "drop", "more", "swap")))
        if how == "inside":
            value[key] = draw(altered(value[key], odd))
        elif how == "instead":
            value[key] = draw(odd)
        elif how == "drop":
            del value[key]
        elif how == "more":
            value[draw(st.text(max_size=5))] = draw(odd)
        else:
            other = draw(st.sampled_from(sorted(value, key=str)))
            value[key], value[other] = value[other], value[key]
        return value
    if isinstance(value, (list, tuple)) and value and draw(st.integers(0, 5)):
        place = draw(st.integers(0, len(value) - 1))
        how = draw(st.sampled_from(("inside", "instead", "drop", "twice")))
        inner = {
            "inside": lambda: [draw(altered(value[place], odd))],
            "instead": lambda: [draw(odd)],
            "drop": list,
            "twice": lambda: [value[place]] * 2,
        }[how]()
        return [*value[:place], *inner, *value[place + 1 :]]
    return draw(odd)


SHAPES = st.sampled_from(((), (0,), (1,), (3,), (2, 2), (3, 3), (5, 2), (5, 3), (1, 1, 1)))
KINDS = st.sampled_from(("i8", "i4", "u1", "u8", "f4", "f8", "c16", "bool", "U3", "S3", "M8[s]"))


@st.composite
def odd_arrays(draw: DrawFn) -> np.ndarray:
    """Arrays of any kind and of small shapes."""
    shape, kind = draw(SHAPES), draw(KINDS)
    if kind[0] in "ifu" and draw(st.booleans()):
        value = draw(st.sampled_from((-1, 0, 1, 127, 2**31 - 1, 2**62)))
        return np.full(shape, value, "i8").astype(kind)
    return np.zeros(shape, kind) if kind != "f8" else np.full(shape, np.nan)


@st.composite
def npz_files(draw: DrawFn, sound: Mapping[str, np.ndarray]) -> bytes:
    """Archives of arrays, whose checksums are right, but whose content need not be."""
    members = {key: _npy(value) for key, value in sound.items()}
    for _ in range(draw(st.integers(1, 2))):
        key = draw(st.sampled_from(sorted(sound)))
        how = draw(st.sampled_from(("other", "damaged", "drop", "like", "objects", "huge")))
        if how == "drop":
            members.pop(key, None)
        elif how == "other":
            members[key] = _npy(draw(odd_arrays()))
        elif how == "damaged":
            members[key] = draw(damaged(_npy(sound[key])))
        elif how == "like":
            members[key] = _npy(sound[draw(st.sampled_from(sorted(sound)))])
        elif how == "objects":
            members[key] = _npy(np.array([{}, None], object))
        else:
            members[key] = huge_npy()
    compression = draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    return zipped({f"{key}.npy": data for key, data in members.items()}, compression)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def huge_npy() -> bytes:
    """An array whose header claims 2^50 numbers."""
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1125899906842624,), }\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text


def zipped(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of them."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def listing(folder: str | os.PathLike[str]) -> set[str]:
    """Every file below a folder."""
    return {os.path.join(top, name) for top, _, names in os.walk(folder) for name in names}
