from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer

from shapes import tokenizer
from shapes.captions import WORDS, caption
from shapes.scenes import sample


@pytest.fixture(scope="module")
def words() -> CLIPTokenizer:
    return tokenizer.build()


def test_each_word_of_the_captions_is_one_token(words: CLIPTokenizer) -> None:
    for word in WORDS:
        assert words.tokenize(word) == [word + "</w>"]


def test_the_longest_caption_fits(words: CLIPTokenizer) -> None:
    rng = np.random.default_rng(0)
    captions = [caption(sample(rng, 2, test=False), rng) for _ in range(2000)]
    assert max(len(ids) for ids in words(captions).input_ids) <= tokenizer.MAX_LENGTH


def test_an_unknown_word_is_tokenised_by_its_bytes(words: CLIPTokenizer) -> None:
    tokens = words.tokenize("a zébra")
    assert tokens[0] == "a</w>"
    assert len(tokens) > 3
    assert words.unk_token_id not in words.convert_tokens_to_ids(tokens[1:])


def test_the_tokenizer_survives_saving(words: CLIPTokenizer, tmp_path: Path) -> None:
    words.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    prompt = "a red circle on white"
    assert loaded(prompt, padding="max_length").input_ids == words(prompt, padding="max_length").input_ids
    assert loaded.model_max_length == tokenizer.MAX_LENGTH


def test_merges_are_learned_until_every_word_is_one_token() -> None:
    merges = tokenizer.learn(["aba", "ab"])
    for word in ("aba", "ab"):
        parts = [*word[:-1], word[-1] + "</w>"]
        for merge in merges:
            parts = tokenizer.merged(parts, merge)
        assert parts == [word + "</w>"]
