"""Models and GPUs by the names that other tools write: which of those known here is meant.

A fine-tuned model is taken for the bundled one that its name begins with, and that is told; a GPU is known
by its product's name too.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from policies.config import ConfigError
from policies.model_shape import ModelShape, bundled_models
from simulator.devices import Device, datasheet_of
from simulator.model_file import load_shape
from simulator.validation.assumption import Assumption


class Model(NamedTuple):
    """A model that was found by a name.

    Attributes:
        path: what a config names it by.
        shape: of it.
        assumed: where the shape is that of another.
    """

    path: str
    shape: ModelShape
    assumed: Assumption | None = None


def model_named(name: str | None) -> Model:
    """The model of a name.

    Args:
        name: a bundled name, a path, or one that begins with a bundled name's last part; None where a
            run does not say.

    Raises:
        ConfigError: where it is not known.
    """
    if name is None:
        raise ConfigError("the run does not say its model; give it with --model")
    try:
        return Model(name, load_shape(name))
    except ValueError as error:
        wanted = name.rsplit("/", 1)[-1].lower()
        alike = [m for m in bundled_models() if wanted.startswith(m.rsplit("/", 1)[-1].lower())]
        if not alike:
            raise ConfigError(f"model: {error}; give another with --model") from None
    found = max(alike, key=len)
    why = f"the shape of {name}, by its name"
    return Model(found, ModelShape.load(found), Assumption("model.path", found, why))


def device_named(name: str | None) -> Device:
    """A GPU.

    Args:
        name: as known here, of the product, or the path of a datasheet; None where a run does not say.

    Raises:
        ConfigError: where it is not known.
    """
    if name is None:
        raise ConfigError("the run does not say its GPU; give it with --device")
    bundled = None if Path(name).is_file() else datasheet_of(name)
    try:
        return Device.load(bundled or name)
    except ValueError as error:
        raise ConfigError(f"device: {error}; give another with --device") from None
