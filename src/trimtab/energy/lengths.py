"""Batches by length: what keeps padding out of a forward pass. No torch, no tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# So that a score hangs on its own pair alone and not, in its last bits, on the pairs that share the batch:
# scored texts are padded to a length of their own (decision 0035), and kernels treat rows of one shape alike.
STEP = 16  # tokens: what lengths are rounded up to; other lengths change the order in which kernels add up
LEAST_TOKENS = 256  # of a batch that is cut for the streams' sake: smaller ones are slower for what they hold
ROWS = 4  # what the rows of a head are filled up to: torch adds up otherwise in those left over from four


def rounded(count: int, step: int) -> int:
    """The count, up to the next multiple of the step."""
    return -(-count // step) * step


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


def of_one_length(lengths: Sequence[int], tokens: int, streams: int = 1) -> Iterator[list[int]]:
    """Indices as `in_batches` cuts them, but only items whose rounded lengths are equal share a batch.

    Batches are smaller where there would be too few of them for so many streams.
    """
    tokens = min(tokens, max(LEAST_TOKENS, sum(lengths) // streams)) if streams > 1 else tokens
    by_length: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        by_length.setdefault(rounded(length, STEP), []).append(index)
    for length in sorted(by_length, reverse=True):
        indices = by_length[length]
        yield from ([indices[i] for i in batch] for batch in in_batches([length] * len(indices), tokens))
