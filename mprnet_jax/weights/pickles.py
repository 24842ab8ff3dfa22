"""Reads the pickles in PyTorch's files without running anything.

Python's own reader imports and calls what a pickle names. This one does neither: it keeps numbers,
text, lists, tuples, and dicts with text for keys; a tensor becomes a description of which numbers
of which storage it shows; any other object becomes an `Unknown`. Functions that no tensor and no
plain data need are refused by name, for who reads such a file elsewhere may run them.
"""

import pickletools
import re
from collections.abc import Iterable
from typing import IO, Any, NamedTuple

from mprnet_jax.errors import UserError

MAX_OPCODES = 5 * 10**5  # an object each at most; the largest official network has 16 thousand
SAVE_ALONE = "torch.save(model.state_dict(), 'weights.pth')"
# By Python's custom, names of classes begin with a capital. Objects of a class are data.
CLASS = re.compile(r"[\w.]+ (\w+\.)*_*[A-Z]\w*")
TENSOR_FUNCTIONS = r"torch\._utils _rebuild_\w+|torch\._tensor _rebuild_from_type_v2"
DATA = re.compile(
    rf"{TENSOR_FUNCTIONS}|torch\.serialization _get_layout"
    r"|torch (b?float|complex|bits|q?u?int)\d\w*|torch (bool|device|per_\w+)"
    r"|numpy\._?core\.multiarray (scalar|_reconstruct)|numpy\._?core\.numeric _frombuffer"
    r"|numpy (dtype|ndarray|(float|complex|u?int)\d+|(bool|str|bytes)_?)"
    r"|numpy\.random\.\w+ __\w+|_codecs encode|copy_?reg _reconstructor"
    r"|(builtins|__builtin__) (bool|bytearray|bytes|complex|dict|float|frozenset|int|list|object"
    r"|set|slice|str|tuple|type|unicode)"
    r"|collections (defaultdict|deque)|datetime (date|time|datetime|timedelta|timezone)"
    r"|functools partial|re _compile|array _array_reconstructor"
)
PROGRAMS = re.compile(r"(importlib|multiprocessing|nt|os|posix|subprocess|sys)(\.\w+)* .*")


class Global(NamedTuple):
    """A class or function that a pickle names. It is not looked up."""

    name: str  # "module name"


class Storage(NamedTuple):
    """Numbers that tensors show."""

    kind: str  # the name of its class in `torch`, such as "FloatStorage"
    key: str  # which of the file's storages


class Tensor(NamedTuple):
    """A tensor: numbers of a storage."""

    storage: Storage
    kind: str  # of its numbers: a class of storages or a dtype in `torch`, by name
    offset: int  # in numbers, as the strides
    size: tuple[int, ...]
    stride: tuple[int, ...]


class OddTensor(NamedTuple):
    """A tensor that is not simply numbers of a storage, such as a sparse one."""

    function: str  # that makes it: "module name"


class Unknown(dict[str, Any]):
    """What stands for an object of another class: its items and attributes by name."""

    __slots__ = ("name",)  # there may be many

    def __init__(self, name: str):
        """Makes one of the class or function `name`."""
        super().__init__()
        self.name = name.replace(" ", ".")


def load(file: IO[bytes], storages: dict[str, Storage]) -> Any:
    """Reads the pickle at the file's position.

    Args:
        file: is left behind the pickle.
        storages: those that the pickle refers to are added, by key.

    Raises:
        UserError: if it names a function that no data need, or has more objects than any network.
        ValueError, LookupError, OverflowError: if it is damaged.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    argument: Any

    def marked() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count == MAX_OPCODES:
            raise UserError(
                f"it has more objects than any network; save the tensors alone: {SAVE_ALONE}"
            )
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "POP" if marks and marks[-1] == len(stack):
                marks.pop()
            case "POP":
                stack.pop()
            case "POP_MARK" | "ADDITEMS":  # of sets, which stay empty
                marked()
            case "DUP":
                stack.append(stack[-1])
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_SET":
                stack.append(Unknown("set"))
            case "LIST":
                stack.append(marked())
            case "TUPLE":
                stack.append(tuple(marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(opcode.name[-1]))]
                stack.append(tuple(items[::-1]))
            case "FROZENSET":
                marked()
                stack.append(Unknown("frozenset"))
            case "DICT":
                items = marked()
                stack.append({})
                set_items(stack[-1], zip(items[::2], items[1::2]))
            case "APPEND":
                extend(stack[-2], [stack.pop()])
            case "APPENDS":
                items = marked()
                extend(stack[-1], items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                set_items(stack[-1], [(key, value)])
            case "SETITEMS":
                items = marked()
                set_items(stack[-1], zip(items[::2], items[1::2]))
            case "GLOBAL":
                stack.append(named(argument))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                if not (isinstance(name, str) and isinstance(module, str)):
                    raise ValueError("it imports something without a name")
                stack.append(named(f"{module} {name}"))
            case "INST":
                stack.append(make(named(argument), tuple(marked())))
            case "OBJ":
                function, *items = marked()
                stack.append(make(function, tuple(items)))
            case "REDUCE" | "NEWOBJ" | "NEWOBJ_EX":
                if opcode.name == "NEWOBJ_EX":
                    stack.pop()
                arguments, function = stack.pop(), stack.pop()
                stack.append(make(function, arguments))
            case "BUILD":
                state = stack.pop()
                attributes = isinstance(state, dict) and "_modules" not in state  # not of a network
                if isinstance(stack[-1], Unknown) and attributes:
                    set_items(stack[-1], state.items())
            case "BINPERSID":
                storage = find_storage(stack.pop())
                if storage.kind != storages.setdefault(storage.key, storage).kind:
                    raise ValueError(f"storage {storage.key!r} is of two types")
                stack.append(storage)
            case "EXT1" | "EXT2" | "EXT4":
                named(opcode.name)
            case _ if not opcode.stack_before and argument is not None:
                stack.append(argument)  # a number, a text or bytes
            case _:
                raise ValueError(f"its pickle has the opcode {opcode.name}")
    raise ValueError("its pickle has no end")


def named(name: str) -> Global:
    """Returns a class or function by name; raises UserError for functions that no data need."""
    if PROGRAMS.fullmatch(name) or not (CLASS.fullmatch(name) or DATA.fullmatch(name)):
        raise UserError(
            f"it imports {name[:120]!r}, which no tensor needs; do not trust it, or, if it is "
            f"yours, save the tensors alone: {SAVE_ALONE}"
        )
    return Global(name)


def make(function: Any, arguments: Any) -> Any:
    """Returns what stands for the result of a call."""
    if not isinstance(function, Global):
        return Unknown("a call")
    match function.name, arguments:
        case "collections OrderedDict", (list(pairs),):  # from Python 2
            made: dict[str, Any] = {}
            for pair in pairs:
                if isinstance(pair, list) and len(pair) == 2:
                    set_items(made, [(pair[0], pair[1])])
            return made
        case "collections OrderedDict", _:
            return {}
        case (
            "torch._utils _rebuild_tensor" | "torch._utils _rebuild_tensor_v2",
            (Storage() as storage, offset, size, stride, *_),
        ):
            return Tensor(storage, storage.kind, *numbers(offset, size, stride))
        case (
            "torch._utils _rebuild_tensor_v3",
            (Storage() as storage, offset, size, stride, _, _, Global() as dtype, *_),
        ):
            module, _, kind = dtype.name.partition(" ")
            if module != "torch":
                raise ValueError(f"{dtype.name} is no type of numbers")
            return Tensor(storage, kind, *numbers(offset, size, stride))
        case (
            "torch._utils _rebuild_parameter"
            | "torch._utils _rebuild_parameter_with_state"
            | "torch._utils _rebuild_device_tensor_from_cpu_tensor",
            (tensor, *_),
        ):
            return tensor
        case "torch._tensor _rebuild_from_type_v2", (Global() as function, _, made_of, *_):
            return make(function, made_of)
    if re.fullmatch(TENSOR_FUNCTIONS, function.name):
        return OddTensor(function.name)
    return Unknown(function.name)


def numbers(offset: Any, size: Any, stride: Any) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Returns where a tensor's numbers are; raises ValueError unless these are integers."""
    if not (isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)):
        raise ValueError("a tensor's size and strides do not match")
    if not all(type(number) is int and 0 <= number < 2**62 for number in (offset, *size, *stride)):
        raise ValueError("a tensor's size or strides are no such numbers")
    return offset, size, stride


def find_storage(reference: Any) -> Storage:
    """Returns the storage that a pickle refers to."""
    match reference:
        case ("storage", Global(name), str(key), _, _, *view) if view in ([], [None]):
            module, _, kind = name.partition(" ")
            if module.split(".")[0] == "torch" and kind.endswith("Storage"):
                return Storage(kind, key)
    raise ValueError("it refers to something that is not a storage")


def set_items(target: Any, items: Iterable[tuple[Any, Any]]) -> None:
    """Adds to a dict those items that have text for keys."""
    if not isinstance(target, dict):
        raise ValueError("its pickle adds items to what is no dict")
    target.update((key, value) for key, value in items if isinstance(key, str))


def extend(target: Any, items: list[Any]) -> None:
    """Adds items to a list; an `Unknown`, such as a deque, is left as it is."""
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Unknown):
        raise ValueError("its pickle appends to what is no list")
