"""Weight files: safetensors, with a network's list of layers as metadata and its arrays as tensors."""

from __future__ import annotations

import glob
import json
import os
import platform
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gnfast import _checks
from gnfast._arrays import Array

FORMAT = "gnfast"  # the metadata key that says a file is ours; its value is the version of the layout
VERSION = "1"
LAYERS = "layers"  # the metadata key of the layer list, JSON

FLOATS = {"F32", "F64"}  # what networks compute in, as safetensors names it
NUMPYS = FLOATS | {"F16", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "BOOL"}  # dtypes that NumPy has

Record = dict[str, Any]  # one layer: its type and whatever is not an array


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside a file, of the same ending, that takes the file's place when the block ends; gone if it fails.

    Another process sees the old file or the new one, whole. What a process left beside it that was killed while it
    wrote is cleared.
    """
    clear_left(path)
    beside = path.with_name(f".{path.stem}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        yield beside
        beside.replace(path)
    except OSError as error:
        if str(error.filename) == str(beside):
            error.filename = str(path)  # the one that the caller knows
        raise
    finally:
        beside.unlink(missing_ok=True)


def clear_left(path: Path) -> None:
    """Delete what writers of a file left beside it that are no more: those of this machine, of which it knows that."""
    pattern = re.compile(rf"\.{re.escape(path.stem)}\.(\w*)-(\d+)-\w+\.tmp{re.escape(path.suffix)}")
    for left in path.parent.glob(f".{glob.escape(path.stem)}.*.tmp{glob.escape(path.suffix)}"):
        found = pattern.fullmatch(left.name)
        if found and found[1] == _machine() and not _runs(int(found[2])):
            with suppress(OSError):  # another process was faster, or may and we may not
                left.unlink()


def _machine() -> str:
    return re.sub(r"\W", "", platform.node())


def _runs(process: int) -> bool:
    if os.name == "nt":  # whose os.kill ends processes; what is open there cannot be deleted
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write(where: object, layers: list[Record], tensors: Mapping[str, Array]) -> None:
    """Write the file whole or not at all: another process sees the old file or the new one."""
    path = _checks.path(where)
    numpy_format = _checks.optional_import("safetensors.numpy", "saving a network", "safetensors")
    data = numpy_format.save(dict(tensors), metadata={FORMAT: VERSION, LAYERS: json.dumps(layers)})
    try:
        with replacing(path) as beside, beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        reason = f"cannot save the network ({error.strerror}); choose a path in a folder that may be written to"
        raise OSError(error.errno, reason, str(path)) from None


def read(where: object) -> tuple[Path, list[Record], dict[str, Array]]:
    """The path, the layer list and the arrays of a file that `write` made."""
    path = _checks.existing_file(where)
    safetensors = _checks.optional_import("safetensors", "loading a network", "safetensors")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            dtypes = {name: file.get_slice(name).get_dtype() for name in names}
            _check_metadata(path, metadata, dtypes)
            _check_dtypes(path, dtypes)
            return path, json.loads(metadata[LAYERS]), {name: file.get_tensor(name) for name in dtypes}
    except (safetensors.SafetensorError, json.JSONDecodeError, RecursionError) as error:
        why = "its layers are nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} is no safetensors file or is damaged ({why}); pass one that net.save wrote") from None


def _check_metadata(path: Path, metadata: Mapping[str, str], dtypes: Mapping[str, str]) -> None:
    if FORMAT not in metadata or LAYERS not in metadata:
        shown = ", ".join([*dtypes][:4]) + ", ..." * (len(dtypes) > 4)
        foreign = not NUMPYS.issuperset(dtypes.values())
        how = "safetensors.torch.load_file, each with .float().numpy()," if foreign else "safetensors.numpy.load_file"
        raise ValueError(
            f"{path} has tensors ({shown}) but not gnfast's list of layers (metadata {FORMAT!r} and {LAYERS!r}); "
            f"read the arrays with {how} and build the network from them, for instance "
            'gn.Network([gn.Dense(W1, b1), gn.Activation("relu"), gn.Dense(W2, b2)])'
        )
    if metadata[FORMAT] != VERSION:
        raise ValueError(
            f"{path} has layout {metadata[FORMAT]!r} but this gnfast reads layout {VERSION!r}; load it with a newer one"
        )


def _check_dtypes(path: Path, dtypes: Mapping[str, str]) -> None:
    """Refuse weights of other dtypes: NumPy does not know all of them."""
    for name, dtype in dtypes.items():
        if dtype not in FLOATS:
            raise ValueError(
                f"{path} has the tensor {name!r} in {dtype} but networks are in float32 or float64 (F32, F64); convert "
                "it with safetensors.torch, save_file({name: tensor.float() for name, tensor in "
                "load_file(path).items()}, path, metadata), where metadata are the file's"
            )
