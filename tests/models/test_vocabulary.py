"""A vocabulary reads as transformers' tokenizer does, also with tokens that it does not have."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from diptych.errors import CheckpointInvalid
from diptych.models.parts import TokenizerFiles
from diptych.models.vocabulary import Vocabulary, load_vocabulary
from diptych.nano.pair import expert_path

TOKENS = ("<moon>", "<moon>_1", "<s0>")
FOLDER = expert_path("base") / "tokenizer"


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return load_vocabulary(TokenizerFiles(folder=FOLDER), "nano", window=77)


@pytest.fixture(scope="module")
def taught() -> CLIPTokenizer:
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(FOLDER)
    tokenizer.add_tokens(list(TOKENS))
    return tokenizer


def texts() -> st.SearchStrategy[str]:
    pieces = st.sampled_from([*TOKENS, "<MOON>", "a red star", " ", "<", ">", "s0", ",", "_1", "x"])
    return st.lists(pieces, max_size=8).map("".join)


@given(text=texts())
def test_reads_learned_tokens_as_a_tokenizer_that_has_them(
    vocabulary: Vocabulary, taught: CLIPTokenizer, text: str
) -> None:
    vocab = taught.get_vocab()
    learned = {token: [vocab[token]] for token in TOKENS}
    assert (
        vocabulary.tokenize(text, learned)[0]
        == taught(text, add_special_tokens=False, verbose=False).input_ids
    )


def test_tells_where_each_token_begins(vocabulary: Vocabulary) -> None:
    ids, begins = vocabulary.tokenize("red <moon> star", {"<moon>": [-1, -2]})
    assert [ids[1:3], begins] == [[-1, -2], [0, 4, 4, 11]]


@pytest.mark.parametrize("letter", ["i", "I", "\u0131", "\u0130"])
def test_letters_that_pass_for_one_another_name_a_token(
    vocabulary: Vocabulary, letter: str
) -> None:
    assert vocabulary.tokenize(f"<{letter}d>", {"<id>": [-1]})[0] == [-1]


def test_refuses_a_tokenizer_without_its_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match=r"misses vocab\.json, merges\.txt"):
        load_vocabulary(TokenizerFiles(folder=tmp_path), "here", window=77)


def test_refuses_a_tokenizer_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("[")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(CheckpointInvalid):
        load_vocabulary(TokenizerFiles(folder=tmp_path), "here", window=77)


def test_pads_with_the_word_a_single_file_needs() -> None:
    files = TokenizerFiles(folder=FOLDER, pad_token="!")
    vocabulary = load_vocabulary(files, "nano", window=77)
    (window,) = vocabulary.windows([], 1)
    assert window[2] == vocabulary.tokenizer.token_to_id("!")
