"""Depth-first order of the prefix tree, heaviest branch first (SGLang)."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from policies.orders.base import QueueOrder
from policies.registry import ORDERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from policies.orders.base import QueueView
    from policies.request import Request


@ORDERS.register("dfs-weight")
class DFSWeight(QueueOrder):
    """Requests below one node of the prefix tree run together, the branch with most of them first.

    A node's weight is the number of requests whose match ends at it or below. The tree is walked in
    post-order, children by weight, so requests that match deeper come before those that match less.
    """

    cache_aware = True
    needs_tree = True

    def arrange(self, waiting: Sequence[Request], view: QueueView) -> list[Request]:
        """See `QueueOrder.arrange`."""
        ends = [
            view.match(request).node for request in waiting
        ]  # all first: a match may split nodes
        anchored: dict[int, list[Request]] = defaultdict(list)
        weight: dict[int, int] = defaultdict(int)
        root = None
        for request, end in zip(waiting, ends, strict=True):
            anchored[id(end)].append(request)
            node = end
            while node is not None:
                weight[id(node)] += 1
                root, node = node, node.parent
        if root is None:
            return []
        return [request for node in _post_order(root, weight) for request in anchored[id(node)]]


def _post_order(root: Any, weight: dict[int, int]) -> Iterator[Any]:
    """The nodes that have a weight, children before parents, heavier children first."""
    stack = [(root, False)]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            yield node
            continue
        stack.append((node, True))
        children = [child for child in node.children.values() if id(child) in weight]
        children.sort(key=lambda child: -weight[id(child)])
        stack.extend((child, False) for child in reversed(children))
