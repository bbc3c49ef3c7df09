"""A CLIP tokenizer whose merges make each word of the captions one token; any other text is tokenised by bytes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from shapes.captions import WORDS

MAX_LENGTH = 24  # the longest caption is 19 words, and each is one token between a start and an end

Merge = tuple[str, str]


def build() -> CLIPTokenizer:
    """The tokenizer of the shapes models."""
    merges = learn(WORDS)
    symbols = sorted(ByteLevel.alphabet())
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    tokens += dict.fromkeys("".join(merge) for merge in merges)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=merges, model_max_length=MAX_LENGTH
    )


def learn(words: Iterable[str]) -> list[Merge]:
    """Byte-pair merges, most frequent pair first, until every word is one token."""
    parts = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[Merge] = []
    while pairs := Counter(pair for tokens in parts.values() for pair in itertools.pairwise(tokens)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        parts = {word: merged(tokens, best) for word, tokens in parts.items()}
    return merges


def merged(tokens: Sequence[str], pair: Merge) -> list[str]:
    """The tokens with each occurrence of the pair made one."""
    result: list[str] = []
    for token in tokens:
        if result and (result[-1], token) == pair:
            result[-1] += token
        else:
            result.append(token)
    return result
