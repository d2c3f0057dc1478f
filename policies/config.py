"""The config: one YAML file drives simulation, serving and tuning. Every key has a default.

The defaults are Qwen3-8B's shapes on one H200 with the options of SGLang 0.5.23. Here is what decides
(`policy`), and which model on which device; the sections of the worlds (`latency`, `host`,
`runtime`) are carried untouched and checked by the world that reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from policies.accidents import Accidents
from policies.config_errors import described
from policies.engines import NAMES, engine
from policies.yaml_text import YamlError, read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class ConfigError(ValueError):
    """A config that cannot be used: names the key, the value and what would be accepted."""


class Section(BaseModel):
    """A section of the config: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PriorityConfig(Section):
    """Section `policy.priority`."""

    enabled: bool = False
    """Requests of a better class go first. Queue orders that sort by the prefix cache, and random and
    routing-key, ignore classes in sorting, as SGLang does, and so does fair; preemption follows them
    all the same."""
    low_values_first: bool = False
    """Small numbers are the better classes."""
    preemption: bool = True
    """A waiting request may preempt running ones."""
    preemption_threshold: NonNegativeInt = 10
    """Only those whose class is worse by more than this."""


class NewTokenRatioConfig(Section):
    """Section `policy.new_token_ratio`; see `policies.admission.new_token_ratio`."""

    conservativeness: PositiveFloat = 1.0
    """Scales the ratio to start from, which is 1 at most: above 1 fewer requests are admitted and fewer
    retracted (SGLang's --schedule-conservativeness)."""
    init: PositiveFloat = 0.7
    """Ratio to start from, and to go back to when nothing is left to do."""
    min_factor: Annotated[float, Field(ge=0, le=1)] = 0.14
    """The smallest ratio, as a share of the one to start from."""
    decay_steps: PositiveInt = 600
    """Decode steps in which it falls from the largest to the smallest, while memory suffices."""
    retract_decode_steps: NonNegativeInt = 20
    """Decode steps that memory is to last for after a retraction: the ratio then is the share that the
    requests kept will have produced of what they may."""


def _accidents(value: Any) -> Any:
    if value == "none":
        return Accidents.none()
    if value == "reference":
        return Accidents()
    if isinstance(value, str):
        raise ValueError("expected reference, none or a mapping of switches")  # noqa: TRY004
    return value


class PolicyConfig(Section):
    """Section `policy`: everything that decides."""

    order: str = "fcfs"
    """Queue order: who is next."""
    order_options: dict[str, Any] = {}
    """Options of the queue order."""
    priority: PriorityConfig = PriorityConfig()
    """Priorities over the queue order."""
    batching: str = "prefill-first"
    """How prefill and decode share a step."""
    batching_options: dict[str, Any] = {}
    """Options of the batching."""
    overlap: Literal["overlapped", "serial"] = "overlapped"
    """Whether the host schedules a step while the device runs the one before."""
    page_size: PositiveInt = 1
    """Tokens a KV page."""
    cache: Literal["radix", "blocks", "none"] = "radix"
    """Prefix cache: a radix tree (prefill-first, mixed, static), hashed blocks (decode-first) or none."""
    eviction: str = "lru"
    """Which cached leaf is evicted first."""
    eviction_options: dict[str, Any] = {}
    """Options of the eviction."""
    retraction: str = "fewest-outputs"
    """Who gives memory back when a decode step does not fit."""
    chunked_prefill_size: PositiveInt | Literal["auto"] | None = "auto"
    """Prefill tokens a step; null switches chunking off; auto goes by the device's memory."""
    max_prefill_tokens: PositiveInt = 16384
    """Prefill tokens a step when chunking is off; a single request may exceed it."""
    prefill_max_requests: PositiveInt | None = None
    """Requests admitted in a step."""
    prefill_decode_interval: NonNegativeInt = 0
    """Steps without prefill after one with."""
    prefill_decode_interval_min_batch: NonNegativeInt = 0
    """The interval holds only while at least so many requests run."""
    max_running_requests: PositiveInt | Literal["auto"] = "auto"
    """Requests that hold KV at once; auto goes by the pool, as in SGLang, or under decode-first by the
    device, as in vLLM."""
    max_queued_requests: PositiveInt | None = None
    """Requests that may wait; more are refused."""
    max_loras_per_batch: PositiveInt | None = None
    """Adapters a batch may hold; requests that would exceed it are passed over. Under prefill-first,
    mixed and static the base model counts as one, as in SGLang; under decode-first it does not, as in
    vLLM. Null for no limit."""
    context_limit: PositiveInt | None = None
    """Tokens of prompt and output of one request; null for what the pool holds."""
    new_token_ratio: NewTokenRatioConfig = NewTokenRatioConfig()
    """Share of the output tokens still possible that memory is reserved for."""
    waiting_refresh_interval: NonNegativeInt = 32
    """Every so many rounds, orders that do not look at the cache refresh the recency of what waiting
    requests have cached (lru only); 0 never."""
    waiting_refresh_requests: NonNegativeInt = 128
    """The first so many waiting requests are refreshed."""
    accidents: Annotated[Accidents, BeforeValidator(_accidents)] = Accidents()
    """Accidents of the reference engine to reproduce: `reference`, `none`, or switches."""

    @field_validator("chunked_prefill_size", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return None if value == -1 else value  # SGLang's way to say off

    @model_validator(mode="after")
    def _strategies(self) -> Self:
        from policies.combinations import check

        check(self)
        return self


class ModelConfig(Section):
    """Section `model`."""

    path: str = "Qwen/Qwen3-8B"
    """A bundled name (`twin models`), a folder with a config.json, or a GGUF file."""
    weight_dtype: Literal["auto", "bf16", "fp16", "fp32", "fp8"] = "auto"
    """Precision of the weights; auto is the checkpoint's."""
    kv_dtype: Literal["bf16", "fp16", "fp32", "fp8"] = "bf16"
    """Precision of the KV cache."""


class DeviceConfig(Section):
    """Section `device`."""

    name: str = "h200"
    """A bundled datasheet (`twin devices`), or the path of a JSON or YAML file with another GPU's, as
    `twin devices h200` prints them."""


class KVConfig(Section):
    """Section `kv`: how much KV there is."""

    capacity_tokens: PositiveInt | None = None
    """Tokens the pool holds; null computes it from model, precision and device memory."""
    mem_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """In simulation, the share of the GPU's memory for weights and KV, the rest being for activations and
    CUDA graphs; null computes it as SGLang does, from the memory and the size of prefill chunks. In the
    runtime on a GPU, the share for all but CUDA graphs; null is 0.9. On a CPU, the share of the free memory
    for KV; see runtime.kv_gib."""


class WorkloadConfig(Section):
    """Section `workload`: what clients ask for, beyond what a trace says."""

    max_new_tokens: PositiveInt | None = None
    """Overrides every request's max_new_tokens. Above a request's true output it ends by itself."""
    ignore_eos: bool | None = None
    """Overrides the trace: whether a request runs to its max_new_tokens whatever the model says."""
    loop: Literal["auto", "open", "closed"] = "auto"
    """Whether requests come at the trace's times, or wait for the answers they depend on; auto is closed
    where the workload has such requests, or a concurrency is set."""
    concurrency: PositiveInt | None = None
    """Closed loop: so many sessions (or requests without one) are under way at once, the first at
    time 0; null for what the workload says, or each session at its own time."""

    def sending(self, *, closed: bool, concurrency: object) -> tuple[bool, int | None]:
        """How a workload is sent: whether in closed loop, and how many sessions at once there.

        Args:
            closed: whether the workload has requests that wait for others.
            concurrency: what the workload says of it, if that is a number.

        Raises:
            ConfigError: for a concurrency in open loop.
        """
        if self.loop == "open" and self.concurrency is not None:
            raise ConfigError(
                f"workload.concurrency is {self.concurrency}, but workload.loop is open: a concurrency is "
                "kept in a closed loop only; leave one of them out"
            )
        waits = closed or self.concurrency is not None
        own = concurrency if isinstance(concurrency, int) else None
        at_once = own if self.concurrency is None else self.concurrency
        return self.loop == "closed" or (self.loop == "auto" and waits), at_once


class Config(Section):
    """The whole config."""

    policy: PolicyConfig = PolicyConfig()
    model: ModelConfig = ModelConfig()
    device: DeviceConfig = DeviceConfig()
    kv: KVConfig = KVConfig()
    workload: WorkloadConfig = WorkloadConfig()
    latency: Any = None
    host: Any = None
    runtime: Any = None
    preset: Literal["sglang", "vllm"] | None = None
    """The engine whose defaults stand below every key that is not set; see `policies.engines`."""
    seed: NonNegativeInt = 0
    """Of all that is drawn: a generated workload, how a trace's arrival batches are spread, and in the
    runtime random weights and sampling."""

    @model_validator(mode="before")
    @classmethod
    def _over_preset(cls, data: Any) -> Any:
        """Lay the preset under what is given; a name that is none is the field's to refuse."""
        name = data.get("preset") if isinstance(data, dict) else None
        if name is None or name not in NAMES:
            return data
        from policies.engines.base import laid_under

        return laid_under(engine(name).preset, data)

    def to_yaml(self) -> str:
        """The config as YAML, every key written out."""
        import yaml

        said = "" if self.preset is None else f"# defaults of {engine(self.preset).product}\n"
        return said + yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


C = TypeVar("C", bound=Config)


def load_config(cls: type[C], path: str | Path | None = None, settings: Sequence[str] = ()) -> C:
    """Read a config.

    Args:
        cls: the config class of the world that reads it.
        path: a YAML file, or None for the defaults.
        settings: `key=value` settings with dotted keys that override the file; values are YAML.

    Raises:
        ConfigError: for a missing or malformed file, an unknown key, or an impossible value.
    """
    data: dict[str, Any] = {}
    if path is not None:
        path = Path(path)
        try:
            loaded = read_yaml(path.read_text(encoding="utf-8"))
        except OSError as error:
            msg = f"{path}: cannot be read ({error.strerror}); give the path of a YAML config"
            raise ConfigError(msg) from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: is not YAML: {error}") from None
        except YamlError as error:
            raise ConfigError(f"{path}: {error}") from None
        if loaded is not None and not isinstance(loaded, dict):
            msg = f"{path}: holds a {type(loaded).__name__}; a config is a mapping of sections"
            raise ConfigError(msg)
        data = loaded or {}
    return make_config(cls, data, settings, source=str(path) if path else None)


def as_config(
    cls: type[C], config: C | Mapping[str, Any] | str | Path | None, settings: Sequence[str] = ()
) -> C:
    """A config from whatever form it is given in, with settings over it.

    Args:
        cls: the config class of the world that reads it.
        config: a config, nested mappings, or the path of a YAML file; None for the defaults.
        settings: as for `load_config`.

    Raises:
        ConfigError: as `load_config` does.
    """
    if config is None or isinstance(config, str | Path):
        return load_config(cls, config, settings)
    if isinstance(config, cls):
        if not settings:
            return config
        config = config.model_dump(mode="json")
    return make_config(cls, cast("Mapping[str, Any]", config), settings=settings)


def make_config(
    cls: type[C],
    data: Mapping[str, Any],
    settings: Sequence[str] = (),
    source: str | None = None,
) -> C:
    """A config from a mapping of sections.

    Args:
        cls: the config class of the world that reads it.
        data: nested mappings, as the YAML file holds them.
        settings: `key=value` settings with dotted keys over it; values are YAML.
        source: where it came from, for messages.

    Raises:
        ConfigError: for an unknown key or an impossible value.
    """
    merged = _copy(data)
    for setting in settings:
        _set(merged, setting)
    try:
        return cls.model_validate(merged)
    except ValidationError as error:
        where = f"{source}: " if source else ""
        raise ConfigError("\n".join(where + line for line in described(cls, error))) from None


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings copied, other values shared."""
    return {k: _copy(v) if isinstance(v, dict) else v for k, v in data.items()}


def _set(data: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        msg = f"setting {setting!r} is not of the form section.key=value"
        raise ConfigError(msg)
    at = data
    for part in parts[:-1]:
        inner = at.get(part)
        if inner is None:
            inner = at[part] = {}
        elif not isinstance(inner, dict):
            msg = f"setting {setting!r}: {part!r} is the value {inner!r}, not a section"
            raise ConfigError(msg)
        at = inner
    try:
        at[parts[-1]] = read_yaml(text)
    except YamlError as error:
        raise ConfigError(f"setting {setting!r}: {text!r} {error}") from None
