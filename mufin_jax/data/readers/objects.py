"""Lists of integers from an npy file of objects, without running the code that the file names.

NumPy stores an object array as a pickle, and loading a pickle runs any code that it names. An array
of integers, lists and integer arrays needs few opcodes. This reader interprets these over inert
values and rejects all others.
"""

import dataclasses
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from mufin_jax.runtime.errors import InputError, reason

_RECONSTRUCT = {f"numpy.{core}.multiarray _reconstruct" for core in ("core", "_core")}
_FROM_BUFFER = {f"numpy.{core}.numeric _frombuffer" for core in ("core", "_core")}
_SCALAR = {f"numpy.{core}.multiarray scalar" for core in ("core", "_core")}
_INTEGERS = {"i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_IGNORED = {"PROTO", "FRAME", "STOP"}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


@dataclasses.dataclass
class _Call:
    """A call that the pickle requests, with its arguments; it is never made."""

    name: str
    arguments: tuple = ()
    state: Any = None


def read_lists(path: Path) -> list[list[int]]:
    """Return the entries of a one-dimensional object array; an integer n counts as [n].

    A plain integer array of one or two dimensions is accepted too. Negative numbers mean "no image"
    and are left out.

    Raises:
        InputError: if the file is damaged, or contains anything except integers in lists or arrays.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            shape, _, dtype = read_header(file)
            if not dtype.hasobject:
                if dtype.kind not in "iu" or shape[0] * dtype.itemsize > size:
                    raise ValueError(f"{shape} of {dtype} in {size:,} bytes")
                file.seek(0)
                return [_entry(value) for value in np.load(file, allow_pickle=False).tolist()]
            array = _interpret(file.read())
        entries = _elements(array)
        if len(shape) != 1 or len(entries) != shape[0]:
            raise ValueError(f"expected one dimension of {len(entries)} entries, found {shape}")
        lists, room = [], size  # the file may name one list many times
        for entry in entries:
            lists.append(_entry(entry))
            room -= len(lists[-1])
            if room < 0:
                raise ValueError(f"more integers than its {size:,} bytes")
        return lists
    except Exception as error:  # damage causes many kinds of exceptions, most of them in the header
        raise InputError(
            f"{path.name} is not an array of lists of integers ({reason(error)})"
        ) from None


def _interpret(pickled: bytes) -> Any:
    """Interpret the opcodes over inert values."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    for opcode, argument, _ in pickletools.genops(pickled):
        name = opcode.name
        if name in _IGNORED:
            continue
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]  # pyright: ignore[reportArgumentType]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])  # pyright: ignore[reportArgumentType]
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name == "APPEND":
            value = stack.pop()
            stack[-1].append(value)
        elif name == "APPENDS":
            values = since_mark()
            stack[-1].extend(values)
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "GLOBAL":
            stack.append(_Call(str(argument)))
        elif name == "STACK_GLOBAL":
            module, attribute = stack[-2:]
            stack[-2:] = [_Call(f"{module} {attribute}")]
        elif name == "REDUCE":
            function, arguments = stack[-2:]
            stack[-2:] = [_Call(function.name, arguments)]
        elif name == "BUILD":
            state = stack.pop()
            stack[-1].state = state
        else:
            raise ValueError(f"it uses the pickle operation {name}, which lists never need")
    return stack[-1]


def _entry(value: Any) -> list[int]:
    values = [value] if isinstance(value, int) else value
    if isinstance(values, _Call):
        values = _elements(values)
    integers = [_integer(value) for value in values]
    return [integer for integer in integers if integer >= 0]


def _integer(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        if not -(2**63) <= value < 2**63:
            raise ValueError("an integer of more than 64 bits")
        return value
    if isinstance(value, _Call) and value.name in _SCALAR:
        kind, data = value.arguments
        return int(np.frombuffer(_raw(data), _dtype(kind))[0])
    raise ValueError(f"found {getattr(value, 'name', type(value).__name__)} instead of an integer")


def _elements(array: Any) -> list[Any]:
    """Return the elements of a reconstructed array or scalar."""
    if isinstance(array, _Call) and array.name in _SCALAR:
        return [_integer(array)]
    if isinstance(array, _Call) and array.name in _FROM_BUFFER:
        data, kind, *_ = array.arguments
        return np.frombuffer(_raw(data), _dtype(kind)).tolist()
    if not isinstance(array, _Call) or array.name not in _RECONSTRUCT:
        raise ValueError(f"found {getattr(array, 'name', type(array).__name__)}")
    _, _, kind, _, data = array.state
    if isinstance(data, list):
        return data
    return np.frombuffer(_raw(data), _dtype(kind)).tolist()


def _dtype(kind: Any) -> np.dtype:
    if not isinstance(kind, _Call) or kind.name != "numpy dtype":
        raise ValueError("an array without a dtype")
    if kind.arguments[0] not in _INTEGERS:
        raise ValueError(f"an array of {kind.arguments[0]!r} instead of integers")
    order = kind.state[1] if kind.state[1] in "<>" else "="
    return np.dtype(kind.arguments[0]).newbyteorder(order)


def _raw(data: Any) -> Any:
    """Return bytes; old protocols write them as a call that encodes a latin-1 string."""
    if isinstance(data, _Call) and data.name == "_codecs encode":
        return data.arguments[0].encode("latin-1")
    return data
