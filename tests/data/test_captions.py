import pytest

from nova_jax.data.digits import captions

FORMS = [captions.caption] + [lambda d, m, v=v: captions.paraphrase(d, m, v) for v in range(captions.NUM_PARAPHRASES)]


def test_canonical_words():
  assert captions.caption(7, "left") == "the digit seven moves left"


def test_every_wording_tells_all_forty_apart():
  for form in FORMS:
    texts = {form(digit, direction) for digit in range(10) for direction in captions.DIRECTIONS}
    assert len(texts) == 40


def test_wordings_differ_and_fit_the_word_encoder():
  texts = [form(8, "down") for form in FORMS]
  assert len(set(texts)) == len(texts)
  assert max(len(text.split()) for text in texts) <= 10


def test_article_agrees():
  assert captions.paraphrase(8, "up", 0) == "an 8 drifting to the top"
  assert captions.paraphrase(7, "left", 0) == "a 7 drifting to the left"


@pytest.mark.parametrize("digit, direction, named", [(10, "left", "10"), (3, "north", "north")])
def test_unknown_is_refused(digit, direction, named):
  with pytest.raises(ValueError, match=named):
    captions.caption(digit, direction)
