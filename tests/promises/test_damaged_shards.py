"""A shard with damage in one place, of the current or the older format, gives its data or an error with its name."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from world_models.data.rollouts import FORMAT, Rollouts
from world_models.data.shards import shard_path, strings
from world_models.data.shards.reader import Shard, UnreadableError

Make = Callable[..., Path]
TEXTS = ("format", "env", "preprocess", "action_space", "config", "versions", "digests")

READ_MUTANTS = """
import sys
from pathlib import Path
import numpy as np
from world_models.data.rollouts import Rollouts
source, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
data, path = source.read_bytes(), source.with_name("mutant.h5")
for index in range(count):
    rng = np.random.default_rng([seed, index])
    bad, at, run = bytearray(data), int(rng.integers(len(data))), int(rng.choice([1, 4, 16, 64]))
    if index % 2:
        at = int(rng.integers(4096)) if index % 4 == 1 else len(data) - 1 - int(rng.integers(12000)) % len(data)
    kind = index % 5
    if kind == 0: bad[at] ^= 1 << int(rng.integers(8))
    elif kind == 1: bad[at:at + run] = rng.bytes(len(bad[at:at + run]))
    elif kind == 2: bad[at:at + run] = bytes(len(bad[at:at + run]))
    elif kind == 3: bad[at:at + run] = b"\\xff" * len(bad[at:at + run])
    else: del bad[at:]
    path.write_bytes(bad)
    print(index, flush=True)
    for verify in (True, False):
        try:
            found = Rollouts(path, verify=verify)
            [found[episode] for episode in range(len(found))], found.returns()
        except (ValueError, OSError) as error:
            assert str(path) in str(error) and str(error).isprintable(), error
print("done")
"""


def of_variable_length(path: Path) -> Path:
    """Writes the strings of a shard as the older version did."""
    with h5py.File(path, "r+") as file:
        for owner in (file, file["telemetry"]):
            for name in list(owner.attrs):
                value: Any = owner.attrs[name]
                if isinstance(value, bytes):
                    owner.attrs.create(name, value.decode(), dtype=h5py.string_dtype())
                elif isinstance(value, np.ndarray) and value.dtype.kind == "S":
                    owner.attrs.create(name, [text.decode() for text in value], dtype=h5py.string_dtype())
        policies: Any = file["episode_policy"]
        texts = [text.decode() for text in policies[:]]
        del file["episode_policy"]
        file.create_dataset("episode_policy", data=texts, dtype=h5py.string_dtype())
    return path


def read_mutants(path: Path, seed: int, count: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", READ_MUTANTS, str(path), str(seed), str(count)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize("style", ["fixed", "variable"])
def test_a_damaged_shard_gives_its_data_or_one_line_and_never_hangs_or_crashes(make_rollouts: Make, style: str):
    path = shard_path(make_rollouts([3, 4]), 0)
    if style == "variable":
        of_variable_length(path)
    done = read_mutants(path, seed=16, count=100)
    assert done.stdout.endswith("done\n"), (done.returncode, done.stdout[-20:], done.stderr)


# strings


def test_no_string_in_a_shard_is_of_variable_length(make_rollouts: Make):
    with h5py.File(shard_path(make_rollouts([3, 4]), 0)) as file:
        owners = [file, *(file[name] for name in file)]
        kinds = {
            f"{owner.name} {n}": h5py.h5a.open(owner.id, n.encode()).get_type() for owner in owners for n in owner.attrs
        }
        kinds["episode_policy"] = file["episode_policy"].id.get_type()  # type: ignore[union-attr]
    for name, kind in kinds.items():
        assert not isinstance(kind, h5py.h5t.TypeVlenID), name
        if isinstance(kind, h5py.h5t.TypeStringID):
            assert (kind.is_variable_str(), kind.get_cset()) == (False, h5py.h5t.CSET_UTF8), name
    assert sum(isinstance(kind, h5py.h5t.TypeStringID) for kind in kinds.values()) == len(TEXTS) + 2


@pytest.mark.parametrize("texts", [("", "a"), ("Fahrer ü", "東京"), ("a" * 300, "b")])
def test_names_of_policies_with_any_characters_are_read_back(
    tmp_path: Path, make_rollouts: Make, texts: tuple[str, str]
):
    path = shard_path(make_rollouts([3, 4]), 0)
    with h5py.File(path, "r+") as file:
        del file["episode_policy"]
        file["episode_policy"] = strings.fixed_length(texts)
    assert Rollouts(path).policies == texts


def test_strings_of_variable_length_in_older_shards_are_read(make_rollouts: Make):
    path = shard_path(make_rollouts([3, 4]), 0)
    new = Rollouts(path, verify=True)
    before = new.shards[0].attributes, new.policies, new.telemetry_names, new.digest()
    old = Rollouts(of_variable_length(path), verify=True)
    assert (old.shards[0].attributes, old.policies, old.telemetry_names, old.digest()) == before


def heap_objects(path: Path) -> int:
    """The position of the objects of a file's first heap."""
    return path.read_bytes().index(b"GCOL") + 16


@pytest.mark.parametrize(
    ("offset", "value"),
    [(8, 2**40), (8, 0), (0, 99), (-16, 0), (-8, 2**40)],
    ids=["a huge object", "an object without length", "another number", "no heap", "a huge heap"],
)
def test_a_shard_with_a_damaged_string_heap_is_refused_by_name(make_rollouts: Make, offset: int, value: int):
    path = of_variable_length(shard_path(make_rollouts([3, 4]), 0))
    data = bytearray(path.read_bytes())
    at = heap_objects(path) + offset
    width = 2 if value == 99 else 8
    data[at : at + width] = value.to_bytes(width, "little")
    path.write_bytes(data)
    code = "import sys; from world_models.data.rollouts import Rollouts; Rollouts(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done
    assert str(path) in done.stderr.splitlines()[-1]


def test_a_config_too_long_for_an_attribute_is_refused_with_its_size():
    strings.check_size("the config", "a" * 64_000)
    with pytest.raises(ValueError, match="the config takes 64,001 bytes, and a shard has room for 64,000"):
        strings.check_size("the config", "a" * 64_001)


# attributes of another kind


@pytest.mark.parametrize("name", [*FORMAT.required, "format", "format_version", "complete", "digests"])
@pytest.mark.parametrize(
    "value",
    [h5py.Empty("f4"), 0.5, np.arange(3), np.void(b"\0" * 4), ["a", "b"], "[" * 100_000, "9" * 5000, "null"],
    ids=["nothing", "float", "list", "bytes", "texts", "deep", "digits", "null"],
)
def test_an_attribute_of_another_type_is_refused_by_name(make_rollouts: Make, name: str, value: Any):
    path = shard_path(make_rollouts([3, 4]), 0)
    if isinstance(value, str) and (name in ("config", "env", "versions") or len(value) > 64_000):
        value = h5py.Empty("S1")  # these attributes are texts of any kind
    with h5py.File(path, "r+") as file:
        file.attrs[name] = value
    with pytest.raises(ValueError, match=f"^{path}: ") as caught:
        Rollouts(path)
    assert "\n" not in str(caught.value)


def test_a_policys_name_holds_no_control_characters(make_rollouts: Make):
    path = shard_path(make_rollouts([3, 4]), 0)
    with h5py.File(path, "r+") as file:
        policies: Any = file["episode_policy"]
        policies[0] = b"\x1b[31m"
    with pytest.raises(ValueError, match="episode_policy holds control characters"):
        Rollouts(path)


def test_a_repr_holds_no_control_characters(make_rollouts: Make):
    path = shard_path(make_rollouts([3, 4], env="a\x1b[31mb"), 0)
    assert r"a\x1b[31mb" in repr(Rollouts(path))


# rows


@pytest.mark.parametrize("chunks", [None, (4, 64, 64, 3)])
def test_frames_that_were_never_written_are_refused(make_rollouts: Make, chunks: tuple[int, ...] | None):
    path = shard_path(make_rollouts([3, 4]), 0)
    with h5py.File(path, "r+") as file:
        del file["frames"]
        file.create_dataset("frames", (9, 64, 64, 3), "uint8", chunks=chunks)
    with pytest.raises(ValueError, match=f"^{path}: frames was never written in whole"):
        Rollouts(path)


@pytest.mark.parametrize("name", ["actions", "rewards"])
def test_verify_refuses_numbers_that_are_not_finite(make_rollouts: Make, name: str):
    path = shard_path(make_rollouts([3, 4]), 0)
    with h5py.File(path, "r+") as file:
        data: Any = file[name]
        data[1] = np.inf
        digests = json.loads(file.attrs["digests"])  # type: ignore[arg-type]
        digests[name] = __import__("hashlib").sha256(data[:].tobytes()).hexdigest()
        file.attrs["digests"] = json.dumps(digests)
    with pytest.raises(ValueError, match=f"^{path}: {name} holds numbers that are not finite"):
        Rollouts(path, verify=True)


# other files in its place


def test_a_pipe_with_a_shards_name_is_refused(tmp_path: Path):
    os.mkfifo(shard_path(tmp_path, 0))
    with pytest.raises(ValueError, match=r"shard-00000\.h5: a named pipe, wanted a file"):
        Rollouts(tmp_path)


def test_a_replaced_shard_with_the_same_modification_time_is_opened_again(make_rollouts: Make):
    path, other = (shard_path(make_rollouts([3, 4], name=name, seed=seed), 0) for name, seed in (("a", 0), ("b", 9)))
    mtime_ns = path.stat().st_mtime_ns
    Rollouts(path)[0]
    wanted = Rollouts(other)[0]
    other.replace(path)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    found = Rollouts(path)[0]
    assert found.seed == wanted.seed == 9
    np.testing.assert_array_equal(found.frames, wanted.frames)


def test_a_shard_replaced_by_other_episodes_after_it_was_opened_is_not_read(make_rollouts: Make):
    path, other = (shard_path(make_rollouts([3, 4], name=name, seed=seed), 0) for name, seed in (("a", 0), ("b", 9)))
    shard = Shard(path, FORMAT)
    other.replace(path)
    with pytest.raises(UnreadableError, match="replaced by other data since it was opened"):
        shard.read("frames")


def test_a_shard_that_is_extended_while_it_is_open_can_still_be_read(make_rollouts: Make):
    path, other = (shard_path(make_rollouts(lengths, name=name), 0) for name, lengths in (("a", [3]), ("b", [3, 4])))
    data = Rollouts(path)
    before = data[0].frames
    other.replace(path)
    np.testing.assert_array_equal(data[0].frames, before)
