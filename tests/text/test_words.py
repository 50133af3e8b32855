import dataclasses

import numpy as np
import pytest

from nova_jax.checkpoints.model_card import card_from_experiment
from nova_jax.config import PRESETS, Experiment
from nova_jax.data.digits.captions import paraphrase, vocabulary
from nova_jax.data.sources import known_words
from nova_jax.text import PhraseEncoder, WordEncoder, make_text_encoder


def test_shapes_padding_and_empty_prompt():
  embeds, lengths = WordEncoder().encode(["the digit seven moves left", ""])
  assert embeds.shape == (2, 16, 64) and embeds.dtype == np.float32
  assert lengths.tolist() == [5, 0] and lengths.dtype == np.int32
  assert np.all(embeds[0, :5].any(-1)) and not embeds[0, 5:].any() and not embeds[1].any()


def test_known_values():
  """Embeddings must never change: checkpoints are trained on them."""
  embeds, _ = WordEncoder().encode(["the digit seven moves left"])
  np.testing.assert_array_equal(embeds[0, 2, :4], np.float32([0.39825928, -0.38045365, 1.1823364, 0.27260587]))
  embeds, _ = PhraseEncoder().encode(["the digit seven moves left"])
  np.testing.assert_array_equal(embeds[0, 2, :4], np.float32([0.6060715, 0.121417865, 1.0001749, 1.0051608]))


@pytest.mark.parametrize("kind", [WordEncoder, PhraseEncoder])
def test_unit_variance(kind):
  embeds, lengths = kind(dim=256).encode(["alpha beta gamma delta epsilon zeta eta theta iota kappa"] * 2)
  assert np.std(embeds[0, 2 : lengths[0] - 2]) == pytest.approx(1, abs=0.05)


def test_case_and_punctuation():
  encoder = WordEncoder()
  plain, spaced = (encoder.encode([text]) for text in ("Moving LEFT: the 7!", "moving left : the 7 !"))
  np.testing.assert_array_equal(plain[0], spaced[0])
  assert plain[1] == [6]


def test_words_and_their_order_tell():
  encoder = WordEncoder()
  (a, b, c), _ = encoder.encode(["one follows two", "two follows one", "six follows two"])
  assert not np.allclose(a.sum(0), b.sum(0), atol=1e-3)  # Even as a bag of tokens.
  assert not np.array_equal(a[0], c[0]) and np.array_equal(a[2], c[2])
  same, other = np.sum(a[0] * encoder.encode(["one"])[0][0, 0]), np.sum(a[0] * encoder.encode(["six"])[0][0, 0])
  assert same > 2 * other  # A word stays recognisable among its neighbours.


def test_phrases_say_what_a_word_belongs_to():
  """The word that is two places away is plainer than the next one is in "words"."""
  texts = [f"the digit {digit} moves left in front of the digit four" for digit in ("one", "six")]
  change = {kind: np.square(np.subtract(*kind(max_length=12).encode(texts)[0])).sum(-1) for kind in (
      WordEncoder, PhraseEncoder)}
  assert [list(np.flatnonzero(found)) for found in change.values()] == [[1, 2, 3], [0, 1, 2, 3, 4]]
  assert change[PhraseEncoder][4] > 2 * change[WordEncoder][3]
  assert PhraseEncoder().digest != WordEncoder().digest
  short, lengths = PhraseEncoder().encode(["one", "one two", ""])  # Shorter than what is looked at around a word.
  assert lengths.tolist() == [1, 2, 0] and np.isfinite(short).all()


def test_prompt_too_long_is_named():
  encoder = WordEncoder(max_length=4)
  encoder.encode(["just four words here"])
  with pytest.raises(ValueError, match="'five words are too many' has 5 tokens, at most 4"):
    encoder.encode(["fine", "five words are too many"])
  with pytest.raises(ValueError) as error:
    encoder.encode(["word " * 1000])
  assert len(str(error.value)) < 150


def test_by_name():
  encoder = make_text_encoder("words", PRESETS["digits"])
  assert (encoder.dim, encoder.max_length) == (64, PRESETS["digits"].text_len)
  with pytest.raises(ValueError, match="did you mean 'words'"):
    make_text_encoder("word", PRESETS["digits"])


def test_words_that_were_never_seen_are_named():
  encoder = make_text_encoder("words", PRESETS["digits"], vocabulary(False))
  (note,) = encoder.notes("The digit fox, moves left: twice")
  assert "'The digit fox, moves left: twice'" in note and "fox, twice; it knows digit, down, eight" in note
  assert not encoder.notes("the DIGIT seven moves left") and not WordEncoder().notes("a fox")
  (note,) = encoder.notes("?!")
  assert "say nothing to it: ?, !;" in note
  (note,) = encoder.notes(paraphrase(3, "up", 4))
  assert not make_text_encoder("words", PRESETS["digits"], vocabulary(True)).notes(paraphrase(3, "up", 4))
  assert encoder.digest == make_text_encoder("words", PRESETS["digits"]).digest


def test_a_card_says_the_words_of_the_digits():
  digits = Experiment(PRESETS["digits"])
  assert known_words(digits) == vocabulary(False) and "slides" not in known_words(digits)
  free = dataclasses.replace(digits, data=dataclasses.replace(digits.data, paraphrase_fraction=0.5))
  assert "slides" in known_words(free)
  assert known_words(dataclasses.replace(digits, data=dataclasses.replace(digits.data, name="caches"))) == ()
  assert card_from_experiment(digits, known_words(digits)).words == vocabulary(False)
