import io

import pytest
import sentencepiece
import torch

from kaleido_core.errors import DataError
from kaleido_core.text.tokenizer import MAX_TOKENS, Tokenizer, clean_text

SENTENCES = ("a fox runs over the hill", "the hare sleeps under a tree", "a fox and a hare jump over the brook")


@pytest.fixture(scope="session")
def spiece():
    """A tiny SentencePiece model with UMT5's special ids: pad 0, end 1, unknown 2."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
        sentence_iterator=iter(SENTENCES * 10),
        model_writer=model,
        vocab_size=320,
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def test_texts_are_cleaned_as_the_official_code_does(golden):
    for text, expected in golden.info("t5_cases")["text_cleaning"]["cases"]:
        assert clean_text(text) == expected


def test_what_was_escaped_twice_is_unescaped_even_beside_a_bare_bracket():
    # ftfy leaves a text with "<" alone: it may be HTML.
    assert clean_text("1 < 2 &amp;amp; 3") == "1 < 2 & 3"


def test_a_text_ends_with_its_mark_and_is_padded_with_zeros(spiece):
    tokenizer = Tokenizer.from_bytes(spiece, length=32)
    ids, mask = tokenizer(["a fox jumps", ""])
    assert ids.shape == mask.shape == (2, 32) and ids.dtype == mask.dtype == torch.int64
    for row, real in zip(ids, mask, strict=True):
        length = int(real.sum())
        assert real.tolist() == [1] * length + [0] * (32 - length)
        assert row[length - 1] == 1 and not row[length:].any()
        assert (row[: length - 1] > 1).all()
    assert mask.sum(1).tolist()[1] == 1, "an empty text is its end mark"
    assert tokenizer.processor.decode(ids[0, : int(mask[0].sum())].tolist()) == "a fox jumps"


def test_a_long_text_is_cut_and_still_ends_with_its_mark(spiece):
    text = " ".join(SENTENCES)
    whole, _ = Tokenizer.from_bytes(spiece, length=100)([text])
    ids, mask = Tokenizer.from_bytes(spiece, length=10)([text])
    assert ids[0, -1] == 1 and mask.all()
    assert torch.equal(ids[0, :-1], whole[0, :9])


def test_texts_that_differ_only_in_white_space_and_html_are_one(spiece):
    ids, _ = Tokenizer.from_bytes(spiece)(["a fox &amp; a hare", "  a fox\n&amp;amp;\ta   hare "])
    assert ids.shape == (2, MAX_TOKENS) and torch.equal(ids[0], ids[1])


def test_a_file_gives_what_its_bytes_give(spiece, tmp_path):
    path = tmp_path / "spiece.model"
    path.write_bytes(spiece)
    from_file, from_bytes = Tokenizer.from_file(path, length=16), Tokenizer.from_bytes(spiece, length=16)
    assert torch.equal(from_file(list(SENTENCES))[0], from_bytes(list(SENTENCES))[0])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.model is not a file.*SentencePiece"):
        Tokenizer.from_file(tmp_path / "nowhere.model")
