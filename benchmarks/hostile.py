"""Hostile inputs and kills: nothing is lost, nothing is read or written but what was named, every exit code is a documented one.

    python benchmarks/hostile.py                      # 300 inputs, 200 kills, 40 disks that fill up
    python benchmarks/hostile.py --inputs 40 --kills 10 --disks 4

Each input is compiled by a process of its own with a limit on time and memory, in which an audit hook (PEP 578) notes every
file that is opened. A secret lies beside the folder; its content must not turn up in any output.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "samples" / "digits"
SECRET = b"canary-7f3a9c canary-7f3a9c canary-7f3a9c!"
SECONDS, MEMORY = 120, 6 << 30  # of processor time, of address space, for one input
OLD = {"out.onnx": b"what was here before", "report.json": b"an old report"}
FAST = ("--preset", "fast", "--samples", "1", "-q")
DOCUMENTED = {0, 1, 2}
PAGE = 4096  # what a file of a memory disk takes at least


@dataclass(frozen=True)
class Case:
    """``make(folder)`` writes hostile files into an empty folder and returns the words of the command line."""

    name: str
    make: Callable[[Path], list[str]]


@dataclass(frozen=True)
class Found:
    """What came of it: an exit code (negative: a signal), what is wrong, and seconds of processor time."""

    name: str
    exit_code: int
    problems: tuple[str, ...]
    seconds: float


# ------------------------------------------------------------------------------------------------ what is fed


def words(model: str | None = None, rules: str = "cpu", data: str | None = None, *more: str) -> list[str]:
    return [
        "compile",
        model or str(DIGITS / "model.onnx"),
        "--rules",
        rules,
        "--data",
        data or str(DIGITS / "calib.npz"),
        *FAST,
        "-o",
        "out.onnx",
        "--report",
        "report.json",
        *more,
    ]


def of_model(name: str, content: Callable[[], bytes | onnx.ModelProto]) -> Case:
    def make(folder: Path) -> list[str]:
        made = content()
        (folder / "m.onnx").write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
        return words("m.onnx", "cpu", None)

    return Case(f"model: {name}", make)


def of_rules(name: str, content: Callable[[], bytes]) -> Case:
    def make(folder: Path) -> list[str]:
        (folder / "r.rules").write_bytes(content())
        return words(None, "r.rules")

    return Case(f"rules: {name}", make)


def of_data(name: str, content: Callable[[], bytes]) -> Case:
    def make(folder: Path) -> list[str]:
        (folder / "d.npz").write_bytes(content())
        return words(None, "cpu", "d.npz")

    return Case(f"samples: {name}", make)


def of_ranges(name: str, content: Callable[[], bytes]) -> Case:
    def make(folder: Path) -> list[str]:
        (folder / "r.json").write_bytes(content())
        return words(None, "cpu", None, "--ranges", "r.json")

    return Case(f"ranges: {name}", make)


def truncated(data: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    for i in range(count):
        at = len(data) * i // count
        yield f"cut at {at}", data[:at]


def flipped(data: bytes, count: int, seed: int, first: int | None = None) -> Iterator[tuple[str, bytes]]:
    """Single bits, in the first bytes where headers are if ``first`` is given."""
    draw = random.Random(seed)
    for _ in range(count):
        changed = bytearray(data)
        at, bit = draw.randrange(min(first or len(data), len(data))), draw.randrange(8)
        changed[at] ^= 1 << bit
        yield f"bit {bit} of byte {at}", bytes(changed)


def graph(text: str, **initializers: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in initializers.items())
    return model


def small() -> onnx.ModelProto:
    return graph(
        "g (float[N,1,28,28] input) => (float[N,1,28,28] y) <float[1] w = {2}> { t = Mul(input, w) y = Relu(t) }"
    )


def edited(change: Callable[[onnx.ModelProto], Any]) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        model = small()
        change(model)
        return model

    return make


def claim(dims: list[int], kind: int = TensorProto.FLOAT, raw: bytes = b"") -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].CopyFrom(TensorProto(name="w", dims=dims, data_type=kind, raw_data=raw))

    return change


def nested(depth: int) -> bytes:
    """``If`` in ``If``, written by hand: protobuf itself refuses to build a message of such depth."""

    def field(number: int, payload: bytes) -> bytes:
        return bytes([number << 3 | 2]) + _varint(len(payload)) + payload

    output = helper.make_empty_tensor_value_info("o").SerializeToString()
    body = field(1, helper.make_node("Identity", ["input"], ["o"]).SerializeToString()) + field(12, output)
    for _ in range(depth):
        node = helper.make_node("If", ["c"], ["o"]).SerializeToString()
        for name in ("then_branch", "else_branch")[: 2 if len(body) < 1000 else 1]:
            attribute = onnx.AttributeProto(name=name, type=onnx.AttributeProto.GRAPH).SerializeToString()
            node += field(5, attribute + field(6, body))
        body = field(1, node) + field(12, output) + field(2, b"body")
    model = small()
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "c"))
    return model.SerializeToString() + field(7, body)  # messages that follow each other are merged


def _varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def named(name: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].name = name
        model.graph.node[0].output[0] = model.graph.node[1].input[0] = name

    return change


def recursive(model: onnx.ModelProto) -> None:
    function = helper.make_function(
        "f",
        "F",
        ["x"],
        ["y"],
        [helper.make_node("F", ["x"], ["y"], domain="f")],
        [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)],
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("f", 1))
    model.graph.node[1].op_type, model.graph.node[1].domain = "F", "f"


STRUCTURES: dict[str, Callable[[onnx.ModelProto], Any]] = {
    "2**62 elements": claim([2**62]),
    "2**124 elements": claim([2**62, 2**62]),
    "negative size": claim([-4]),
    "sizes that wrap to 4 bytes": claim([2**32, 2**32, 1]),
    "too little data": claim([1000], raw=b"1234"),
    "too much data": claim([1], raw=b"1" * 4000),
    "no such type": claim([1], 999, b"1234"),
    "text as weights": claim([1], TensorProto.STRING, b"1234"),
    "4-bit weights without data": claim([2**40], TensorProto.INT4),
    "NaN": lambda m: claim([1], raw=np.array([np.nan], np.float32).tobytes())(m),
    "infinity": lambda m: claim([1], raw=np.array([np.inf], np.float32).tobytes())(m),
    "denormal": lambda m: claim([1], raw=np.array([1e-45], np.float32).tobytes())(m),
    "largest float": lambda m: claim([1], raw=np.array([3.4e38], np.float32).tobytes())(m),
    "cycle": lambda m: m.graph.node[0].input.__setitem__(0, "y"),
    "reads itself": lambda m: m.graph.node[0].input.__setitem__(0, m.graph.node[0].output[0]),
    "two makers": lambda m: m.graph.node[0].output.__setitem__(0, "y"),
    "reads nothing": lambda m: m.graph.node[0].input.__setitem__(0, "nowhere"),
    "empty input name": lambda m: m.graph.node[0].input.__setitem__(0, ""),
    "no such operator": lambda m: setattr(m.graph.node[0], "op_type", "Nonsense"),
    "operator without name": lambda m: setattr(m.graph.node[0], "op_type", ""),
    "operator of a strange domain": lambda m: setattr(m.graph.node[0], "domain", "../../etc"),
    "opset 2**40": lambda m: setattr(m.opset_import[0], "version", 2**40),
    "opset -1": lambda m: setattr(m.opset_import[0], "version", -1),
    "no opset": lambda m: m.ClearField("opset_import"),
    "ir version 2**40": lambda m: setattr(m, "ir_version", 2**40),
    "no outputs": lambda m: m.graph.ClearField("output"),
    "no inputs": lambda m: m.graph.ClearField("input"),
    "input is an initializer": lambda m: m.graph.input.append(helper.make_tensor_value_info("w", 1, [1])),
    "input twice": lambda m: m.graph.input.append(m.graph.input[0]),
    "output twice": lambda m: m.graph.output.append(m.graph.output[0]),
    "initializer twice": lambda m: m.graph.initializer.append(m.graph.initializer[0]),
    "input of 2**62": lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 2**62),
    "input of no type": lambda m: m.graph.input[0].ClearField("type"),
    "a sequence as input": lambda m: m.graph.input[0].type.sequence_type.elem_type.tensor_type.__setattr__("elem_type", 1),
    "escapes in a name": lambda m: named("\x1b[2J\x1b]0;owned\x07")(m),
    "markup in a name": lambda m: named("<script>alert(1)</script>\"'&")(m),
    "right to left": lambda m: named("\u202egnp.exe\u202c")(m),
    "line breaks": lambda m: named("a\nb\rc\0d")(m),
    "percent and braces": lambda m: named("%s%n{0}{x!r}${HOME}")(m),
    "a path as a name": lambda m: named("../../../../tmp/owned")(m),
    "a megabyte of name": lambda m: named("n" * (1 << 20))(m),
    "function that calls itself": recursive,
    "metadata like potc's": lambda m: m.metadata_props.add(key="potc.rules", value="x" * 100_000),
    "a million attributes": lambda m: m.graph.node[0].attribute.extend([helper.make_attribute("a", 1)] * 100_000),
    "attribute of another type": lambda m: m.graph.node[0].attribute.append(helper.make_attribute("axis", "text")),
    "sparse weights that lie": lambda m: m.graph.sparse_initializer.add(dims=[2**40]).values.__setattr__("name", "s"),
}  # fmt: skip

# Small texts of graphs whose results would be large.
BOMBS = {
    "ConstantOfShape": ("z = ConstantOfShape(n)", {"n": np.array([2**40])}),
    "Expand": ("z = Expand(w, n)", {"n": np.array([2**36])}),
    "Tile": ("z = Tile(w, n)", {"n": np.array([2**40])}),
    "Range": ("z = Range(a, b, a)", {"a": np.array(1), "b": np.array(2**60)}),
    "Pad": ("z = Pad(w, n)", {"n": np.array([2**40, 2**40])}),
    "negative ConstantOfShape": ("z = ConstantOfShape(n)", {"n": np.array([-5])}),
    "OneHot": ("z = OneHot(n, d, v)", {"n": np.array([1]), "d": np.array(2**40), "v": np.array([0, 1])}),
    "Resize": ("e = Constant<value = float[0] {}>() z = Resize(input, e, e, n)", {"n": np.array([1, 1, 2**30, 2**30])}),
    "Reshape": ("z = Reshape(input, n)", {"n": np.array([2**62, 4])}),
    "doubling": (
        "\n".join(f"a{i + 1} = Concat<axis = 0>(a{i}, a{i})" for i in range(60)) + "\nz = Identity(a60)",
        {"a0": np.ones(4, np.float32)},
    ),
}


def bomb(body: str, arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    head = "g (float[N,1,28,28] input) => (float[N,1,28,28] y, float[M] z)"
    return graph(f"{head} {{ y = Mul(input, w) {body} }}", w=np.ones(1, np.float32), **arrays)


def outside(name: str, location: Callable[[Path], str], **more: str) -> Case:
    """A model whose weights are to be read from somewhere else."""

    def make(folder: Path) -> list[str]:
        secret = folder.parent / "secret.bin"
        (folder / "link.bin").symlink_to(secret)
        (folder / "up").symlink_to(folder.parent)
        os.link(secret, folder / "hard.bin")
        os.mkfifo(folder / "pipe.bin")
        (folder / "own.bin").write_bytes(bytes(4))
        model = small()
        tensor = TensorProto(name="w", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
        for key, value in {"location": location(folder), "length": "4", **more}.items():
            tensor.external_data.add(key=key, value=value)
        model.graph.initializer[0].CopyFrom(tensor)
        (folder / "m.onnx").write_bytes(model.SerializeToString())
        return words("m.onnx")

    return Case(f"external data: {name}", make)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b" " * (118 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def array(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


def archives() -> Iterator[tuple[str, bytes]]:
    one = np.zeros((2, 1, 28, 28), np.float32)
    header = "{{'descr': '{}', 'fortran_order': {}, 'shape': {}, }}"
    yield (
        "bomb",
        zipped(
            {"input.npy": npy(header.format("<f4", False, "(900000, 1, 28, 28)"), bytes(1 << 28))}, zipfile.ZIP_DEFLATED
        ),
    )
    yield (
        "3.6 TiB claimed",
        zipped({"input.npy": npy(header.format("<f4", False, "(10**9, 1, 28, 28)".replace("10**9", "1000000000")))}),
    )
    yield "2**100 claimed", zipped({"input.npy": npy(header.format("<f4", False, f"({2**100}, 1, 28, 28)"))})
    yield "negative", zipped({"input.npy": npy(header.format("<f4", False, "(-1, 1, 28, 28)"))})
    yield "columns first", zipped({"input.npy": npy(header.format("<f4", True, "(2, 1, 28, 28)"), one.tobytes())})
    yield "a header that is code", zipped({"input.npy": npy("__import__('os').system('touch owned')")})
    yield "a header that is deep", zipped({"input.npy": npy("(" * 100)})
    yield "pickle", zipped({"input.npy": array(np.array([{"a": 1}], object))})
    yield "pickled file", b"\x80\x04cos\nsystem\n(S'touch owned'\ntR."
    yield "traversal", zipped({"../../owned.npy": array(one), "input.npy": array(one)})
    yield "absolute member", zipped({"/tmp/owned.npy": array(one)})
    yield "no members", zipped({})
    yield "70,000 members", zipped({f"m{i}.npy": b"" for i in range(70_000)})
    yield "NaN", zipped({"input.npy": array(one + np.nan)})
    yield "infinity", zipped({"input.npy": array(one + np.inf)})
    yield "wrong shape", zipped({"input.npy": array(np.zeros((2, 3), np.float32))})
    yield "no axes", zipped({"input.npy": array(np.float32(1))})
    yield "no samples", zipped({"input.npy": array(one[:0])})
    yield "dates", zipped({"input.npy": array(np.zeros((2, 1, 28, 28), "datetime64[s]"))})
    yield "texts", zipped({"input.npy": array(np.zeros((2, 1, 28, 28), "U9"))})
    yield "records", zipped({"input.npy": array(np.zeros((2, 1, 28, 28), [("a", "f4")]))})
    yield "an archive in an archive", zipped({"input.npy": zipped({"input.npy": array(one)})})
    encrypted = bytearray(zipped({"input.npy": array(one)}))
    encrypted[6] |= 1
    encrypted[encrypted.rindex(b"PK\x01\x02") + 8] |= 1
    yield "encrypted", bytes(encrypted)


def texts() -> Iterator[tuple[str, bytes]]:
    head = b"potc 1\nuse cpu\n"
    yield "empty", b""
    yield "nulls", bytes(1000)
    yield "no UTF-8", head + b"\xff\xfe"
    yield "deep brackets", head + b"pred p(x) = " + b"(" * 5000 + b"1" + b")" * 5000
    yield "deep not", head + b"pred p(x) = " + b"not " * 20_000 + b"true\n"
    yield "deep minus", head + b"pred p(x) = " + b"-" * 20_000 + b"1 > 0\n"
    yield "long sum", head + b"pred p(x) = " + b"1 + " * 20_000 + b"1 > 0\n"
    yield "long name", head + b"pred " + b"p" * 500_000 + b"(x) = true\n"
    yield "too large", head + b"# " + b"x" * 5_000_000
    yield "long number", head + b"pred p(x) = x.rank == " + b"9" * 10_000 + b"\n"
    yield "large power", head + b"pred p(x) = 9**9**9**9 > 1\n"
    yield "uses itself", b"potc 1\nuse r\n"
    yield "uses a secret", b'potc 1\nuse "../secret.bin"\n'
    yield "uses an absolute path", b'potc 1\nuse "/etc/passwd"\n'
    yield "uses a device", b'potc 1\nuse "/dev/zero"\n'
    yield "runs Python", head + b"extern pred p(x) = os:system\ndevice d extends cpu {}\n"
    yield "many devices", head + b"".join(b"device d%d extends cpu {}\n" % i for i in range(300))
    yield (
        "chain of devices",
        b"potc 1\nuse cpu\ndevice d0 extends cpu {}\n"
        + b"".join(b"device d%d extends d%d {}\n" % (i + 1, i) for i in range(150)),
    )
    yield (
        "meets that grow",
        head + b"device a0 = cpu & cpu\n" + b"".join(b"device a%d = a%d & a%d\n" % (i + 1, i, i) for i in range(30)),
    )
    yield (
        "patterns that grow",
        head
        + b"pattern P0(x) match { y = Relu(x) }\n"
        + b"".join(b"pattern P%d(x) match { a = P%d(x) y = P%d(a) }\n" % (i + 1, i, i) for i in range(40)),
    )
    yield "rewrite without end", head + b"rewrite r { match { y = Relu(x) } emit { a = Relu(x) y = Relu(a) } }\n"
    yield "escapes", head + b"device \x1b[2J {}\n"


def jsons() -> Iterator[tuple[str, bytes]]:
    for name, value in {
        "empty": "", "null": "null", "list": "[]", "deep": "[" * 100_000, "deep objects": '{"a":' * 50_000, "number": "1e999",
        "long number": "9" * 100_000, "NaN": "NaN", "text": '"ranges"', "other kind": '{"potc": "plan", "version": 1}',
        "later version": '{"potc": "ranges", "version": 99}', "no tensors": '{"potc": "ranges", "version": 1}',
        "lone surrogate": '"\\ud800"', "duplicates": '{"potc": "ranges", "potc": 3}',
    }.items():  # fmt: skip
        yield name, value.encode()


def cases(count: int, seed: int = 0) -> list[Case]:
    """At least one of each kind; more cuts and flips fill up to ``count``."""
    found = [of_model(name, edited(change)) for name, change in STRUCTURES.items()]
    found += [
        of_model(f"{name} without end", lambda b=body, a=arrays: bomb(b, a)) for name, (body, arrays) in BOMBS.items()
    ]
    found += [of_model(f"{n} nested graphs", lambda n=n: nested(n)) for n in (10, 40, 90)]
    found += [
        of_model("text", lambda: b"not a model"),
        of_model("zeros", lambda: bytes(10_000)),
        of_model("empty", lambda: b""),
    ]
    found += [
        outside("parent", lambda f: "../secret.bin"),
        outside("absolute", lambda f: str(f.parent / "secret.bin")),
        outside("down and up", lambda f: "a/../../secret.bin"),
        outside("link", lambda f: "link.bin"),
        outside("linked folder", lambda f: "up/secret.bin"),
        outside("hard link", lambda f: "hard.bin"),
        outside("pipe", lambda f: "pipe.bin"),
        outside("folder", lambda f: "."),
        outside("device", lambda f: "/dev/zero"),
        outside("process", lambda f: "/proc/self/environ"),
        outside("null character", lambda f: "own.bin\0.txt"),
        outside("long name", lambda f: "a" * 100_000),
        outside("terabyte", lambda f: "own.bin", length=str(1 << 40)),
        outside("negative", lambda f: "own.bin", offset="-4"),
        outside("no number", lambda f: "own.bin", offset="0x4"),
        outside("long number", lambda f: "own.bin", offset="9" * 10_000),
        outside("other keys", lambda f: "own.bin", __class__="x", raw_data="y"),
    ]
    found += [of_data(name, lambda d=data: d) for name, data in archives()]
    found += [of_rules(name, lambda t=text: t) for name, text in texts()]
    found += [of_ranges(name, lambda t=text: t) for name, text in jsons()]
    model, npz, rules = (
        (p).read_bytes() for p in (DIGITS / "model.onnx", DIGITS / "calib.npz", ROOT / "rules" / "cpu.rules")
    )
    more = max(0, count - len(found))
    kinds = (
        [
            of_model(n, lambda d=d: d)
            for n, d in (*truncated(model, more // 8 + 1), *flipped(model, more // 4 + 1, seed, 6000))
        ],
        [
            of_data(n, lambda d=d: d)
            for n, d in (*truncated(npz, more // 8 + 1), *flipped(npz, more // 8 + 1, seed, 400))
        ],
        [
            of_rules(n, lambda d=d: d)
            for n, d in (*truncated(rules, more // 8 + 1), *flipped(rules, more // 4 + 1, seed))
        ],
    )
    draw = random.Random(seed)
    spare = [c for kind in kinds for c in kind]
    draw.shuffle(spare)
    if count < len(found):
        draw.shuffle(found)
    return (found + spare)[:count]


# ------------------------------------------------------------------------------------------------ what is looked at


def allowed(path: str, folder: Path) -> bool:
    """May a compile open this file for reading? The interpreter, potc and its cache, the system's own, what was named."""
    real = os.path.realpath(path)
    own = (
        sys.prefix,
        sys.base_prefix,
        str(ROOT),
        str(folder.resolve()),
        os.path.expanduser("~/.cache/potc"),
        "/proc/self",
        "/sys",
        "/usr",
        "/lib",
        "/dev/null",
    )
    return real.startswith((*own, os.path.join(tempfile.gettempdir(), "potc-"), f"/proc/{os.getpid()}"))


def run(case: Case) -> Found:
    """In a process of its own: limits hold, and what crashes it does not crash this one."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as place:
        folder = Path(place) / "here"
        folder.mkdir()
        (Path(place) / "secret.bin").write_bytes(SECRET)
        arguments = case.make(folder)
        for name, data in OLD.items():
            (folder / name).write_bytes(data)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        child = os.fork()
        if child == 0:
            os._exit(_compile(arguments, folder, Path(place)))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Found(case.name, status, tuple(_problems(status, folder, Path(place))), seconds)


def _compile(arguments: list[str], folder: Path, place: Path) -> int:
    """The child: potc with an audit hook. The notes are for the parent."""
    from potc.cli.main import main

    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(10 * SECONDS)
    notes: list[str] = []

    def hook(event: str, details: tuple[Any, ...]) -> None:
        if (
            event == "open"
            and isinstance(details[0], str)
            and os.path.isabs(details[0])
            and not allowed(details[0], folder)
        ):
            notes.append(f"opened {details[0]}")
        elif event.startswith(
            ("socket.connect", "subprocess.", "os.exec", "os.system", "os.posix_spawn", "pickle.find_class")
        ):
            notes.append(event)

    sys.addaudithook(hook)
    said, shown = io.StringIO(), io.TextIOWrapper(io.BytesIO(), "utf-8")
    with redirect_stdout(shown), redirect_stderr(said):
        code = main(arguments)
    if "Traceback" in said.getvalue() or code == 70:
        notes.append(f"internal error: {said.getvalue()[:400]}")
    if any(ord(c) < 32 and c not in "\n\t" for c in said.getvalue()):
        notes.append(f"control characters on the terminal: {said.getvalue()[:80]!r}")
    (place / "notes.json").write_text(json.dumps(notes))
    return code


def _problems(status: int, folder: Path, place: Path) -> Iterator[str]:
    if status not in DOCUMENTED:
        yield f"exit code {status}"
    if (place / "notes.json").exists():
        yield from json.loads((place / "notes.json").read_text())
    now = {name: (folder / name).read_bytes() for name in OLD}
    if status and now != OLD:
        yield "an old output was changed by a run that failed"
    if status == 0:
        try:
            onnx.checker.check_model(onnx.load_from_string(now["out.onnx"]))
            json.loads(now["report.json"])
        except Exception as error:
            yield f"a broken output: {error}"
    for path in folder.rglob("*"):
        ordinary = path.is_file() and not path.is_symlink() and path.name != "hard.bin"
        if ordinary and path.name not in ("m.onnx", "r.rules", "d.npz") and SECRET[:14] in path.read_bytes():
            yield f"the secret is in {path.name}"
    left = {p.name for p in folder.iterdir()} - {
        "m.onnx",
        "r.rules",
        "d.npz",
        "r.json",
        "own.bin",
        "link.bin",
        "hard.bin",
        "pipe.bin",
        "up",
        *OLD,
    }
    if (
        left
        or {p.name for p in place.iterdir()} - {"here", "secret.bin", "notes.json"}
        or (place / "secret.bin").read_bytes() != SECRET
    ):
        yield f"files that nobody asked for: {sorted(left)}"


def kills(count: int, seed: int = 0) -> list[str]:
    """Kills a compile that replaces a model with external data and a report, at random times and at calls while it writes.
    Returns what was lost."""
    lost: list[str] = []
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="hostile-") as place:
        os.chdir(place)
        wanted = _reference(words(None, "cpu", None, "--external-data"))
        older = _reference(words(None, "gpu", None, "--external-data"))
        started = time.monotonic()
        _killed(None, None)
        length = time.monotonic() - started
        for index in range(count):
            for path in Path().iterdir():
                path.unlink()
            for name, data in older.items():
                Path(name).write_bytes(data)
            at = draw.uniform(0, length) if index % 2 else None
            call = None if index % 2 else 1 + index // 2 % 22
            _killed(at, call)
            moment = f"at call {call}" if call else f"after {at:.2f} s"
            lost += [f"{moment}: {problem}" for problem in _inconsistent(older, wanted)]
            if call:  # the next run clears up
                _killed(None, None)
                if {
                    p.name: p.read_bytes() for p in Path().iterdir() if p.name not in older or p.name in wanted
                } != wanted:
                    lost.append(f"{moment}: the next run gave other files: {sorted(p.name for p in Path().iterdir())}")
        os.chdir(ROOT)
    return lost


def _reference(arguments: list[str]) -> dict[str, bytes]:
    from potc.cli.main import main

    child = os.fork()
    if child == 0:
        os._exit(main(arguments))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    made = {p.name: p.read_bytes() for p in Path().iterdir()}
    for name in made:
        Path(name).unlink()
    return made


def _killed(after: float | None, call: int | None) -> None:
    child = os.fork()
    if child == 0:
        from potc.cli.main import main

        if call is not None:
            _strike_at(call)
        os._exit(main(words(None, "cpu", None, "--external-data")))
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _strike_at(call: int) -> None:
    """Dies at the n-th call by which files are written, synced and renamed."""
    count = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            if count == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **more)

        return called

    for name in ("fsync", "replace", "link"):
        setattr(os, name, counted(getattr(os, name)))


def _inconsistent(older: dict[str, bytes], newer: dict[str, bytes]) -> Iterator[str]:
    """Every named file is whole, old or new, and the model that is there finds its weights."""
    for name in ("out.onnx", "report.json"):
        if Path(name).read_bytes() not in (older[name], newer[name]):
            yield f"{name} is neither the old nor the new one"
    model = onnx.load_from_string(Path("out.onnx").read_bytes())
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and Path(entry.value).read_bytes() != {**older, **newer}[entry.value]:
                yield "the weights are not those of the model"
                return


# ------------------------------------------------------------------------------------------------ disks that fill up


def full_disks(count: int) -> list[str]:
    """Compiles onto ``count`` disks of growing sizes, the last one large enough, each a file system of its own. Returns what was
    lost. A name space of mounts is needed, which ``unshare`` gives to ordinary users where the kernel lets it."""
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, __file__, "--inside", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return [f"no disk could be filled: {done.stderr.strip()[-400:]}"]
    return json.loads(done.stdout)


def _fill_disks(count: int) -> list[str]:
    """Inside the name space. The disk holds old outputs and what is left of its room; everything is written there."""
    lost: list[str] = []
    codes: Counter[int] = Counter()
    with tempfile.TemporaryDirectory(prefix="hostile-") as place:
        os.chdir(place)
        wanted = _reference(words(None, "cpu", None, "--external-data"))
        older = _reference(words(None, "gpu", None, "--external-data"))
        need = sum(len(d) for d in older.values()) + 2 * sum(len(d) for d in wanted.values()) + 16 * PAGE
        for index in range(count):
            pages = sum(-(-len(d) // PAGE) for d in older.values()) + 2
            room = pages * PAGE + (need * index // max(count - 1, 1))
            disk = Path(place) / f"disk{index}"
            disk.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(disk)], check=True)
            os.chdir(disk)
            for name, data in older.items():
                Path(name).write_bytes(data)
            child = os.fork()
            if child == 0:
                from potc.cli.main import main

                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    os._exit(main(words(None, "cpu", None, "--external-data")))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            codes[code] += 1
            now = {p.name: p.read_bytes() for p in Path().iterdir()}
            if code == 2 and now != older:
                lost.append(f"{room} bytes: the old files are not as they were: {sorted(now)}")
            elif code == 0 and any(now.get(name) != data for name, data in wanted.items()):
                lost.append(f"{room} bytes: exit code 0, and other files than on a large disk: {sorted(now)}")
            elif code not in (0, 2):
                lost.append(f"{room} bytes: exit code {code}")
            os.chdir(place)
            subprocess.run(["umount", str(disk)], check=True)
        os.chdir(ROOT)
    if not (codes[2] and codes[0]):
        lost.append(f"the sizes do not show both, a full disk and one that is not: {dict(codes)}")
    return lost


def main() -> int:
    parser = argparse.ArgumentParser(description="Hostile inputs, kills, full disks")
    parser.add_argument("--disks", type=int, default=40)
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import onnxruntime  # noqa: F401  before the processes fork; no session is open in this one

    import potc.cli.compile
    import potc.compiler  # noqa: F401

    if options.inside:
        print(json.dumps(_fill_disks(options.inside)))
        return 0
    found: list[Found] = []
    for case in cases(options.inputs, options.seed):
        found.append(f := run(case))
        if f.problems:
            print(f"{f.name}: exit code {f.exit_code}, {f.seconds:.1f} s: {'; '.join(f.problems)}", flush=True)
    bad = [f for f in found if f.problems]
    counted = ", ".join(f"{n} x {code}" for code, n in sorted(Counter(f.exit_code for f in found).items()))
    slowest = max(found, key=lambda f: f.seconds, default=None)
    print(f"{len(found)} hostile inputs, {len(bad)} with problems; exit codes: {counted}")
    if slowest:
        print(f"slowest: {slowest.name}, {slowest.seconds:.1f} s of processor time")
    lost = kills(options.kills, options.seed)
    print(*lost, sep="\n", end="\n" if lost else "")
    print(f"{options.kills} kills, {len(lost)} with losses")
    full = full_disks(options.disks) if options.disks else []
    print(*full, sep="\n", end="\n" if full else "")
    print(f"{options.disks} disks of growing size, {len(full)} with losses")
    return 1 if bad or lost or full else 0


if __name__ == "__main__":
    sys.exit(main())
