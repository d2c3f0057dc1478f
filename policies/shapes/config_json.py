"""Reading a HuggingFace `config.json`: typed values whose errors name file and key.

It does not know what any key means; `policies.shapes.architectures` does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policies.shapes.dtypes import canonical_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object a file holds.

    Raises:
        ValueError: if it holds none; names the file.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError(
            f"{path}: holds no text; expected a config.json, or the folder of a model that has one"
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable JSON file: {error}") from error
    match config:
        case dict():
            return config
    raise ValueError(f"{path}: expected a JSON object, found {type(config).__name__}")


@dataclass(frozen=True, slots=True)
class ConfigJson:
    """A parsed config.json, or an object inside it; `where` names it in errors."""

    values: dict[str, Any]
    where: str

    def has(self, key: str) -> bool:
        """Whether a key is there and not null."""
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """A whole number of at least `least`; `default` where the key is missing or null."""
        expected = "a positive integer" if least == 1 else f"an integer of at least {least}"
        value = self.values.get(key)
        if value is None:
            if default is not None:
                return default
            raise ValueError(f"{self.where}: key {key!r} is missing; expected {expected}")
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{self.where}: {key} is {value!r}; expected {expected}")
        return value

    def flag(self, key: str) -> bool:
        """True or false; false where the key is missing."""
        value = self.values.get(key, False)
        if value is True or value is False:
            return bool(value)
        raise ValueError(f"{self.where}: {key} is {value!r}; expected true or false")

    def layer_numbers(self, key: str, layers: int) -> list[int] | None:
        """A list of layer numbers from 0 on; None where the key is missing or null."""
        value = self.values.get(key)
        if value is None:
            return None
        match value:
            case list() if all(isinstance(n, int) and 0 <= n < layers for n in value):
                return value
        raise ValueError(
            f"{self.where}: {key} is {value!r}; expected a list of layers from 0 to {layers - 1}"
        )

    def one_of(self, key: str, known: Sequence[Any], default: Any) -> Any:
        """A value that must be one of those known; `default` where the key is missing."""
        value = self.values.get(key, default)
        if value not in known:
            expected = " or ".join(repr(v) for v in known)
            raise ValueError(f"{self.where}: {key} is {value!r}; expected {expected}")
        return value

    def inner(self, key: str) -> ConfigJson:
        """The object under a key."""
        match self.values.get(key):
            case dict() as value:
                return ConfigJson(value, f"{self.where}: {key}")
            case other:
                raise ValueError(f"{self.where}: {key} is {other!r}; expected a JSON object")

    def dtype(self, default: str = "float32") -> str:
        """The full name of the checkpoint's data type."""
        # transformers 5 writes `dtype`, older versions `torch_dtype`; without either, float32.
        name = self.values.get("dtype") or self.values.get("torch_dtype") or default
        try:
            return canonical_dtype(str(name))
        except ValueError as error:
            raise ValueError(f"{self.where}: dtype: {error}") from error

    def matrix_dtype(self, dtype: str) -> str:
        """The data type of the layers' matrices: the checkpoint's, unless they are quantised to FP8.

        Raises:
            ValueError: for any other quantisation.
        """
        quantised = self.values.get("quantization_config")
        if quantised is None:
            return dtype
        if isinstance(quantised, dict) and quantised.get("quant_method") == "fp8":
            return "float8_e4m3fn"
        raise ValueError(
            f"{self.where}: quantization_config is set, and quant_method is not 'fp8'; load the "
            "unquantised model's config and give the precision as weight_dtype (fp8)"
        )

    def refuse_sliding_window(self) -> None:
        """Raise ValueError where attention is limited to a window."""
        # Qwen keeps a window size it does not use; Mistral's window is used whenever it is set.
        window = self.values.get("sliding_window")
        if window is not None and self.values.get("use_sliding_window", True):
            raise ValueError(
                f"{self.where}: sliding_window is {window!r}; sliding-window attention is not "
                "modelled, expected null or use_sliding_window: false"
            )
