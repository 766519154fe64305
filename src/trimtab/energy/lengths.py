"""Batches of like length: what keeps padding out of a forward pass. No torch, no tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def in_batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices of items of like length, longest first, in batches of at most `tokens` padded tokens.

    Equal lengths keep their order. An item longer than `tokens` is a batch by itself.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        size = max(1, tokens // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size
