"""One layer's MLP, dense or a mixture of experts: its weights, and which of them a step touches.

How many experts a step reads depends on what its tokens are routed to, which is not known ahead. It
is taken to be uniform: each token goes to `experts_per_token` of `experts`, every subset as likely,
tokens apart. A token then misses an expert with probability 1 - k/E, so n tokens touch

    E * (1 - (1 - k/E)^n)

of them on average (the occupancy problem; used for serving by Huang et al., "MoESD", 2025). Between
one token and all experts the truth depends on the router: with 16 tokens of Qwen3-30B-A3B, kernels
measured under an exactly even routing take 1.5 times as long as this suggests, and under a power law
of exponent 1.2 three quarters as long; from 64 tokens on all three agree.

Figures are of one layer. Nothing here knows batches, precision or hardware.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GatedMLP:
    """`down(act(gate(x)) * up(x))`."""

    hidden_size: int
    inner_size: int
    bias: bool = False

    @property
    def matrix_parameters(self) -> int:
        """Elements of gate, up and down."""
        return 3 * self.hidden_size * self.inner_size

    @property
    def vector_parameters(self) -> int:
        """Elements of biases."""
        return 2 * self.inner_size + self.hidden_size if self.bias else 0

    @property
    def product_traffic(self) -> int:
        """Elements that the matrix products read and write per token, weights apart."""
        return (self.hidden_size + 2 * self.inner_size) + (self.inner_size + self.hidden_size)

    @property
    def elementwise_traffic(self) -> int:
        """Elements that the activation and its product read and write per token."""
        return 3 * self.inner_size


@dataclass(frozen=True, slots=True)
class MixtureOfExperts:
    """A router, `experts` gated MLPs of which each token takes some, and one that all take.

    `shared_inner_size` is the width of the shared experts together, 0 for none. `router_bias` is a
    learned correction per expert (DeepSeek-V3).
    """

    hidden_size: int
    experts: int
    experts_per_token: int
    inner_size: int
    shared_inner_size: int = 0
    router_bias: bool = False

    def __post_init__(self) -> None:
        """A token takes some of the experts there are."""
        if not 1 <= self.experts_per_token <= self.experts:
            raise ValueError(
                f"{self.experts_per_token} experts per token of {self.experts}; expected 1 or "
                "more, and no more than there are"
            )

    @property
    def expert(self) -> GatedMLP:
        """One routed expert."""
        return GatedMLP(self.hidden_size, self.inner_size)

    @property
    def shared(self) -> GatedMLP | None:
        """The shared experts, which compute as one."""
        if self.shared_inner_size == 0:
            return None
        return GatedMLP(self.hidden_size, self.shared_inner_size)

    @property
    def routed_parameters(self) -> int:
        """Elements of all routed experts."""
        return self.experts * self.expert.matrix_parameters

    @property
    def active_parameters(self) -> int:
        """Elements of the routed experts that one token takes."""
        return self.experts_per_token * self.expert.matrix_parameters

    @property
    def shared_parameters(self) -> int:
        """Elements of the shared experts."""
        return 0 if self.shared is None else self.shared.matrix_parameters

    @property
    def router_parameters(self) -> int:
        """Elements of the router, its correction included; it is never quantised."""
        return self.experts * (self.hidden_size + self.router_bias)

    def expected_experts(self, tokens: int) -> float:
        """Routed experts that a step of so many tokens touches on average; see the module."""
        return self.experts * (1 - power(1 - self.experts_per_token / self.experts, tokens))

    @property
    def product_traffic(self) -> int:
        """Elements that the experts one token takes read and write for it, weights apart."""
        return self.experts_per_token * self.expert.product_traffic

    @property
    def elementwise_traffic(self) -> int:
        """Elements the kernels between read and write per token: activations, and the sum."""
        per_token = self.experts_per_token * (3 * self.inner_size + self.hidden_size)
        shared = 0 if self.shared is None else self.shared.elementwise_traffic
        return per_token + shared + self.hidden_size


def power(base: float, exponent: int) -> float:
    """By squaring: products are rounded alike on every platform, which `pow` of libm is not."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result
