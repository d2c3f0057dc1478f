"""What stands ready before any request: model, KV cache, attention, sampler, graphs and limits.

Built once from a config. Every `auto` and every null that stands for a computed value has become a number
here, and `describe` tells them for a run's manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from policies.config import ConfigError
from policies.shapes.dtypes import canonical_dtype
from runtime.attention.base import sequences
from runtime.attention.choose import AttentionChoiceError, choose
from runtime.config import policy_for, step_tokens
from runtime.forward import Forward
from runtime.inputs import StepInputs
from runtime.kv_cache import KVCache
from runtime.memory import host_memory_bytes, kv_capacity
from runtime.planner import Planner
from runtime.sampling.sampler import Sampler
from runtime.weights.load import load_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from policies.config import PolicyConfig
    from runtime.answers import Answers
    from runtime.attention.choose import Choice
    from runtime.config import RuntimeConfig
    from runtime.weights.load import LoadedModel

MOST_SAMPLED = (
    2048  # rows that sample in one step, where the policy leaves their number to the pool
)


class OutOfMemoryError(ConfigError):
    """The device's memory does not suffice to start."""


@dataclass(frozen=True, slots=True)
class Stack:
    """See the module.

    Attributes:
        config: what it was built from.
        loaded: the model and its tokenizer.
        policy: every `auto` resolved.
        capacity: tokens the KV pool holds.
        attention: which backend, and why.
        forward: a step on the device.
        product: the device's name.
    """

    config: RuntimeConfig
    loaded: LoadedModel
    policy: PolicyConfig
    capacity: int
    attention: Choice
    forward: Forward
    product: str

    @classmethod
    def build(cls, config: RuntimeConfig, loaded: LoadedModel | None = None) -> Stack:
        """Load the model and set up everything around it.

        Args:
            config: what to run.
            loaded: the model, if it is loaded already, on the device it is to run on.

        Raises:
            ConfigError: where the model cannot be loaded or does not fit, or an option cannot work
                with it or on this device.
        """
        device = find_device(config.runtime.device) if loaded is None else loaded.model.device
        try:
            if loaded is None:
                loaded = _load(config, device)
            return cls._around(config, loaded)
        except torch.OutOfMemoryError as error:
            said = str(error).partition("\n")[0]
            raise OutOfMemoryError(
                f"{config.model.path} does not fit on {device}: {said}; free the device's memory, take "
                "a smaller model, or give KV less (kv.mem_fraction, kv.capacity_tokens)"
            ) from error

    @classmethod
    def _around(cls, config: RuntimeConfig, loaded: LoadedModel) -> Stack:
        model, shape = loaded.model, loaded.config
        device = model.device
        _check_kv_dtype(config, model.dtype)
        cuda = device.type == "cuda"
        if cuda:
            properties = torch.cuda.get_device_properties(device)
            memory_bytes, product = properties.total_memory, properties.name
        else:
            memory_bytes, product = host_memory_bytes(), "CPU"
        page = config.policy.page_size
        try:
            attention = choose(config.runtime.attention, device, shape.head_dim, model.dtype, page)
        except AttentionChoiceError as error:
            raise ConfigError(f"runtime.attention: {error}") from None
        if config.runtime.compile:
            model.compile_layers(dynamic=True)
        largest = max_step(config, memory_bytes, product, shape.max_position_embeddings)
        running = config.policy.max_running_requests
        capacity = kv_capacity(
            config,
            model,
            attention.build,
            step_tokens=largest,
            sampled_rows=MOST_SAMPLED if running == "auto" else running,
        )
        policy = policy_for(
            config.policy,
            capacity=capacity,
            memory_bytes=memory_bytes,
            product=product,
            max_context=shape.max_position_embeddings,
        )
        rows = policy.max_running_requests
        assert isinstance(rows, int)
        cache = KVCache(
            shape.layers,
            capacity // page + 1,
            page,
            shape.kv_heads,
            shape.head_dim,
            model.dtype,
            device,
        )
        forward = Forward(
            model,
            attention.build(cache, shape.heads),
            Sampler(rows, shape.vocab_size, device, eos_ids=shape.eos_ids),
            rows,
            device,
        )
        stack = cls(config, loaded, policy, capacity, attention, forward, product)
        stack.warm_up()
        if cuda and config.runtime.cuda_graphs:
            stack.capture()
        return stack

    @property
    def rows(self) -> int:
        """Rows that requests may have, from 1."""
        rows = self.policy.max_running_requests
        assert isinstance(rows, int)
        return rows

    @property
    def context(self) -> int:
        """Tokens of prompt and output of one request."""
        assert self.policy.context_limit is not None
        return min(self.policy.context_limit, self.capacity)

    def warm_up(self) -> None:
        """Run a prefill and a decode step, for what is compiled or allocated the first time.

        Only before the first request: it writes to pages that nobody holds yet.
        """
        forward, page = self.forward, self.policy.page_size
        length = min(16, self.context - 1)
        pages = [list(range(1, length // page + 2))]
        if forward.stream is not None:
            forward.stream.wait_stream(torch.cuda.current_stream(forward.device))
        with torch.inference_mode(), torch.cuda.stream(forward.stream):  # None: where it is
            for new, total in ((length, length), (1, length + 1)):
                seqs = sequences([new], [total], pages, page, forward.device)

                def tensor(values: range | list[int]) -> torch.Tensor:
                    return torch.tensor(values, dtype=torch.int64, device=forward.device)

                step = StepInputs(
                    tokens=tensor([0] * new),
                    positions=tensor(range(total - new, total)),
                    seqs=seqs,
                    sample_at=tensor([new - 1]),
                    sample_rows=tensor([0]),
                    sample_positions=tensor([total]),
                    host_rows=np.zeros(1, dtype=np.int64),
                )
                forward(step, ())
        if forward.stream is not None:
            forward.stream.synchronize()

    def capture(self) -> None:
        """Capture decode steps in CUDA graphs."""
        from runtime.graphs import DecodeGraphs, bucket_sizes

        stream = self.forward.stream
        assert stream is not None, "graphs need a CUDA device"
        page = self.policy.page_size
        self.forward.graphs = DecodeGraphs(
            self.forward.model,
            self.forward.attention,
            bucket_sizes(min(self.config.runtime.cuda_graph_max_batch, self.rows)),
            max_pages=-(-self.context // page) + 1,
            page_size=page,
            stream=stream,
        )

    def planner(
        self, allocate: Callable[[int], torch.Tensor], answers: Answers | None = None
    ) -> Planner:
        """What makes schedulers for it.

        Args:
            allocate: gives host memory for inputs.
            answers: what takes the place of samples, if anything does.
        """
        graphs = self.forward.graphs
        padded = None if graphs is None else graphs.padded
        return Planner(self.policy, self.capacity, self.context, allocate, padded, answers)

    def describe(self) -> dict[str, Any]:
        """What was resolved, for a manifest."""
        from runtime.versions import versions

        graphs = self.forward.graphs
        return {
            "config": self.config.model_dump(mode="json"),
            "resolved": {
                "chunked_prefill_size": self.policy.chunked_prefill_size,
                "max_running_requests": self.rows,
                "context_limit": self.context,
                "batching_options": self.policy.batching_options,
                "dtype": str(self.loaded.model.dtype).removeprefix("torch."),
                "attention": {"name": self.attention.name, "reason": self.attention.reason},
                "cuda_graphs": [] if graphs is None else list(graphs.sizes),
                "threads": torch.get_num_threads(),
            },
            "seed": self.config.seed,
            "hardware": {"device": self.product, "model": self.loaded.source},
            "kv_capacity_tokens": self.capacity,
            "versions": versions(self.forward.device),
        }


def find_device(name: str) -> torch.device:
    """The device that a config means.

    Raises:
        ConfigError: for a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = device.index or 0
        if index >= count:
            there = f"there are {count}" if count else "there is no CUDA GPU here"
            raise ConfigError(f"runtime.device: {name} cannot be used, {there}; auto takes the CPU")
        return torch.device("cuda", index)
    return device


def max_step(config: RuntimeConfig, memory_bytes: int, product: str, max_context: int) -> int:
    """The most tokens of one step: of its prompts, or one of each running request."""
    tokens = step_tokens(config.policy, memory_bytes, product, max_context)
    running = config.policy.max_running_requests
    return max(tokens, running) if isinstance(running, int) else tokens


def _load(config: RuntimeConfig, device: torch.device) -> LoadedModel:
    try:
        return load_model(
            config.model.path,
            dtype=config.model.weight_dtype,
            device=device,
            load_format=config.runtime.load_format,
            seed=config.seed,
        )
    except torch.OutOfMemoryError:
        raise
    except (ValueError, OSError) as error:
        raise ConfigError(f"model.path: {error}") from error


def _check_kv_dtype(config: RuntimeConfig, weights: torch.dtype) -> None:
    wanted = config.model.kv_dtype
    if wanted == "auto":
        return
    own = str(weights).removeprefix("torch.")
    if canonical_dtype(wanted) != own:
        raise ConfigError(
            f"model.kv_dtype: {wanted} with weights in {own}: the runtime keeps KV in the weights' "
            "precision; leave it out, or set model.weight_dtype to match"
        )
