"""The C convolutions' source: no compiler warnings, and no reads or writes beyond its arrays.

It is built anew here, with AddressSanitizer and UBSan, so the installed library is not tried, and not touched. A Python
without PyTorch calls it with arrays of exactly the bytes that each layer has, from the allocator that the sanitizer
watches, so that a byte read before or behind one of them ends the process.
"""

import ctypes
import functools
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[3] / "world_models/vae/fast/_winograd.c"
COMPILER = shutil.which("cc")
FLAGS = ("-std=gnu11", "-ffp-contract=fast")  # the package's own
SANITIZE = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-g1",
    "-O0",
)  # this compiles in a third of the time
SIZES = ("taps", "tile", "width", "channels", "stored", "bytes", "size", "features", "relu")
ARRAYS = ("wide", "narrow", "weights", "bias")

Layer = dict[str, int]
Arrays = dict[str, np.ndarray]


class Library:
    """The library, called as `winograd.py` calls it, with memory from C's own allocator."""

    def __init__(self, path: Path):
        self._library, self._c = ctypes.CDLL(str(path)), ctypes.CDLL(None)
        self._library.winograd_work_bytes.restype = ctypes.c_int64
        self._c.malloc.restype = ctypes.c_void_p
        self._c.malloc.argtypes, self._c.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
        self.sets = range(self._library.winograd_best() + 1)

    def call(
        self, function: str, instruction_set: int, layer: Layer, images: int, arrays: dict[str, np.ndarray]
    ) -> None:
        """Copy the arrays to memory of exactly their sizes, call the function, and copy the results back."""
        number_bytes = arrays["weights"].itemsize
        sizes = (ctypes.c_int64 * len(SIZES))(*(layer[name] for name in SIZES))
        memory = {name: self._c.malloc(array.nbytes) for name, array in arrays.items()}
        for name, array in arrays.items():
            ctypes.memmove(memory[name], array.ctypes.data, array.nbytes)
        names = (*ARRAYS, *(f"{name}_gradient" for name in ARRAYS))
        pointers = (ctypes.c_void_p * len(names))(*(memory.get(name) for name in names))
        work_bytes = self._library.winograd_work_bytes(ctypes.byref(sizes), number_bytes)
        work = ctypes.c_void_p()
        assert self._c.posix_memalign(ctypes.byref(work), ctypes.c_size_t(64), ctypes.c_size_t(work_bytes)) == 0
        ctypes.memset(work, 255, work_bytes)  # a NaN in every dtype; it must not be read
        getattr(self._library, f"winograd_{function}")(
            instruction_set, number_bytes, ctypes.byref(sizes), ctypes.c_int64(images), work, ctypes.byref(pointers)
        )
        for name, array in arrays.items():
            ctypes.memmove(array.ctypes.data, memory[name], array.nbytes)
            self._c.free(memory[name])
        self._c.free(work)

    def packed(self, instruction_set: int, layer: Layer, transposed: bool, weights: np.ndarray) -> np.ndarray:
        """The weights in the order for `conv_packed` or `deconv_packed`."""
        sizes = (ctypes.c_int64 * len(SIZES))(*(layer[name] for name in SIZES))
        source, target = (ctypes.c_void_p(self._c.malloc(weights.nbytes)) for _ in range(2))
        ctypes.memmove(source, weights.ctypes.data, weights.nbytes)
        self._library.winograd_pack(
            instruction_set, weights.itemsize, ctypes.byref(sizes), int(transposed), source, target
        )
        found = np.empty_like(weights)
        ctypes.memmove(found.ctypes.data, target, weights.nbytes)
        self._c.free(source)
        self._c.free(target)
        return found


def layer(taps: int, tile: int, size: int, stored: int, features: int, spare: int = 0, relu: int = 1) -> Layer:
    """Sizes of a layer whose wide images have `spare` pixels a side more (or fewer) than its tiles see."""
    seen = 2 * (-(-size // tile) * tile + taps - 1)
    channels = -(-stored // 4) * 4
    values = (taps, tile, seen + spare, channels, stored, 0, size, features, relu)
    return dict(zip(SIZES, values, strict=True))


KINDS = [(2, 2), (2, 3), (3, 2)]
CONVS = [
    layer(taps, tile, size, stored, features, spare)
    for taps, tile in KINDS
    for size, stored, features, spare in ((1, 4, 16, 0), (2, 3, 16, 1), (3, 8, 48, 0), (5, 4, 32, 3), (6, 1, 16, 0))
]
DECONVS = [
    layer(taps, tile, size, stored, features, spare, relu)
    for taps, tile in KINDS
    for size, stored, features, spare, relu in (
        *((1, 4, 16, 0, 1), (2, 3, 16, -1, 0), (3, 8, 48, 0, 1), (5, 1, 32, -3, 1), (6, 7, 16, 0, 0)),
    )
]
CHAIN = [
    layer(2, 3, 12, 3, 32) | {"bytes": 1},
    layer(2, 2, 4, 32, 64, spare=2),
]  # like the first two layers of the model


def arrays_of(
    sizes: Layer, images: int, dtype: type, rng: np.random.Generator, as_bytes: bool
) -> dict[str, np.ndarray]:
    """Random images, weights and gradients of a layer."""
    wide_shape = (images, sizes["width"], sizes["width"], sizes["stored"])
    narrow_shape = (images, sizes["size"], sizes["size"], sizes["features"])
    points = (sizes["tile"] + sizes["taps"] - 1) ** 2
    shapes = {"wide": wide_shape, "narrow": narrow_shape, "weights": (points, 4 * sizes["channels"], sizes["features"])}
    found = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    found |= {f"{name}_gradient": rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    if as_bytes:
        found["wide"] = rng.integers(0, 256, wide_shape, np.uint8)
    return found


def calls(
    sizes: Layer, is_conv: bool, images: int, dtype: type, seed: int
) -> Iterator[tuple[str, Layer, dict[str, Any]]]:
    """Both directions of a layer, with floats and, for a convolution, bytes; a new array for each that is written."""
    function, kinds = ("conv", (False, True)) if is_conv else ("deconv", (False,))
    for as_bytes in kinds:
        rng, here = np.random.default_rng(seed), sizes | {"bytes": int(as_bytes)}
        found = arrays_of(sizes, images, dtype, rng, as_bytes)
        width = sizes["features" if is_conv else "stored"]
        bias = rng.standard_normal(width).astype(dtype)
        there = ("wide", "narrow") if is_conv else ("narrow", "wide")
        yield (
            ("conv" if is_conv else "deconv"),
            here,
            {name: found[name] for name in (*there, "weights")} | {"bias": bias},
        )
        wanted = ["weights_gradient", "narrow_gradient"]
        if not is_conv or (not as_bytes and sizes["stored"] == sizes["channels"]):
            wanted.append("wide_gradient")
        values = ["narrow", "weights", *(["wide"] if is_conv or sizes["relu"] else [])]
        gradients = {name: found[name].copy() for name in wanted} | {"bias_gradient": np.zeros(width, dtype)}
        yield f"{function}_backward", here, {name: found[name] for name in values} | gradients


def torment(path: Path) -> dict[str, Any]:
    """Call every function by every instruction set, on every kind of layer; a sanitizer ends the process."""
    library, count = Library(path), 0
    for dtype, is_conv in itertools.product((np.float64, np.float32), (True, False)):
        for number, sizes in enumerate(CONVS if is_conv else DECONVS):
            for images in (0, 1, 3) if number % 5 else (1, 70):
                for function, here, arrays in calls(sizes, is_conv, images, dtype, number):
                    agree(library, function, here, images, arrays)
                    count += len(library.sets)
    chain(library)
    return {"calls": count, "sets": len(library.sets)}


def agree(library: Library, function: str, sizes: Layer, images: int, arrays: Arrays) -> None:
    """One call with each instruction set. The results differ only by rounding, so each set has computed them."""
    first: Arrays = {}
    for instruction_set in library.sets:
        mine = {name: array.copy() for name, array in arrays.items()}
        library.call(function, instruction_set, sizes, images, mine)
        first = first or mine
        if function in ("conv", "deconv"):
            agree_packed(library, function, instruction_set, sizes, images, arrays, mine)
        for name, array in first.items():
            error = np.abs(mine[name].astype(float) - array).max(initial=0)
            tolerance = 1e-9 if array.dtype == np.float64 else 1e-3
            assert error <= tolerance * max(1.0, float(np.abs(array).max(initial=0))), (function, sizes, name, error)


def agree_packed(
    library: Library, function: str, instruction_set: int, sizes: Layer, images: int, arrays: Arrays, expected: Arrays
) -> None:
    """The same call with weights that were packed before gives the same, bit for bit."""
    mine = {name: array.copy() for name, array in arrays.items()}
    mine["weights"] = library.packed(instruction_set, sizes, function == "deconv", arrays["weights"])
    library.call(f"{function}_packed", instruction_set, sizes, images, mine)
    written = "narrow" if function == "conv" else "wide"
    assert mine[written].tobytes() == expected[written].tobytes(), (function, sizes)


def chain(library: Library) -> None:
    """Two convolutions in a row, as `conv_chain` calls them."""
    rng = np.random.default_rng(0)
    for instruction_set in library.sets:
        wide = rng.integers(0, 256, (2, 26, 26, 3), np.uint8)
        for sizes in CHAIN:
            found, bias = arrays_of(sizes, 2, np.float32, rng, False), np.ones(sizes["features"], np.float32)
            arrays = {"wide": wide, "narrow": found["narrow"], "weights": found["weights"], "bias": bias}
            library.call("conv", instruction_set, sizes, 2, arrays)
            wide = arrays["narrow"]
            assert np.isfinite(wide).all() and wide.any()


Build = Callable[..., Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compiles the source as the package does, with further flags after its own; the warnings go to a file."""
    if COMPILER is None:
        pytest.skip("no C compiler here: cc is not on the path")

    @functools.cache
    def compile_with(*flags: str) -> Path:
        library = tmp_path_factory.mktemp("winograd") / "winograd.so"
        command = [
            str(COMPILER),
            "-shared",
            "-fPIC",
            *FLAGS,
            "-Wall",
            "-Wextra",
            *flags,
            str(SOURCE),
            "-o",
            str(library),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        library.with_suffix(".warnings").write_text(done.stderr)
        return library

    return compile_with


def test_the_library_has_no_memory_errors_for_any_sizes(build: Build, sanitized: dict[str, str]):
    """No access out of bounds, no undefined behaviour, and the same numbers by every instruction set."""
    done = subprocess.run(
        [sys.executable, __file__, str(build(*SANITIZE))], env=sanitized, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-5000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["calls"] >= 200 * found["sets"]


def test_the_sanitizer_finds_an_array_that_is_too_short(build: Build, sanitized: dict[str, str]):
    """Shows that the test above would fail if there were an error."""
    done = subprocess.run(
        [sys.executable, __file__, str(build(*SANITIZE)), "short"], env=sanitized, capture_output=True, text=True
    )
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr


def test_no_compiler_warns_of_the_source(build: Build):
    assert build(*SANITIZE).with_suffix(".warnings").read_text() == ""


def too_short(path: Path) -> None:
    """An image with one pixel fewer than the layer needs."""
    sizes = CONVS[0]
    found = arrays_of(sizes, 1, np.float32, np.random.default_rng(0), False)
    arrays = {name: found[name] for name in ("wide", "narrow", "weights")} | {"bias": np.zeros(16, np.float32)}
    Library(path).call("conv", 0, sizes, 1, arrays | {"wide": arrays["wide"].reshape(-1)[:-4].copy()})


if __name__ == "__main__":
    if sys.argv[2:] == ["short"]:
        too_short(Path(sys.argv[1]))
    else:
        print(json.dumps(torment(Path(sys.argv[1]))))
