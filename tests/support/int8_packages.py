"""A package with an int8 model that was not quantized: it is the f32 model again, for tests of all that reads and serves it."""

import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
from resealed_packages import Fields, put, reseal
from safetensors.numpy import load_file, save

from graft.service.artifact import file_record
from graft.service.manifest import GOLDEN, GRAPH, HEAD, INT8_FILES, INT8_NAMES, NEIGHBORS, WEIGHTS

OWN_FIELDS = ("backbone", "temperature", "label_frequencies", "calibration", "scores")


def add_int8(package: Path, edit: Callable[[Fields], object] = id) -> Path:
    """Adds the int8 model to a package that may share its files with others; `edit` changes its record."""
    for name in (GRAPH, NEIGHBORS):
        shutil.copyfile(package / name, package / INT8_NAMES[name])
    tensors = load_file(package / WEIGHTS)
    put(package / INT8_NAMES[HEAD], save({name: tensor for name, tensor in tensors.items() if name.startswith("head.")}))
    with np.load(package / GOLDEN) as golden:
        arrays = dict(golden)
    (package / GOLDEN).unlink()  # it may be a link to the file of another test
    np.savez(package / GOLDEN, **arrays, logits_int8=arrays["logits_f32"])

    def add_record(fields: Fields) -> None:
        own = {name: fields[name] for name in OWN_FIELDS} | {"fidelity": fields["fidelity"]["f32"]}
        fields["int8"] = deepcopy(own)
        edit(fields["int8"])
        fields["files"] |= {name: file_record(package / name).model_dump() for name in (*INT8_FILES, GOLDEN)}

    reseal(package, add_record)
    return package
