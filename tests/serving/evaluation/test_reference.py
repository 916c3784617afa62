"""Measures of an answer beside the right one."""

import time

import pytest

from serving.evaluation.reference import measure, rouge_l, verdict


@pytest.mark.parametrize(
    ("answer", "right", "value"),
    [
        ("Positive.", "positive", 1.0),
        ("**Positive**", "positive", 1.0),
        ("Answer: positive", "positive", 1.0),
        ("The answer is B", "B", 1.0),
        ("(b)", "B", 1.0),
        ("not positive", "positive", 0.0),
        ("", "positive", 0.0),
        ("…", "positive", 0.0),
        ("He has 17 pens.", "17", 1.0),
        ("3 + 14 = 17.0", "17", 1.0),
        ("1,200", "1200", 1.0),
        ("17 minus 3 is 14", "17", 0.0),
        ("none", "17", 0.0),
        ("So it is 42.", "He bought 6 packs of 7 pens each, so he has 6 * 7 = 42", 1.0),
        ("He bought 6 packs of 7 pens each, so he has 6 * 7 = 41", "He bought 6 packs of 7 pens each: 42", 0.0),
        ("正面", "正面", 1.0),
        ("答案：正面", "正面", 1.0),
    ],
)
def test_short_answers_are_right_or_wrong(answer: str, right: str, value: float) -> None:
    assert measure(answer, right) == value


def test_sentences_are_compared_by_their_words() -> None:
    right = "Metformin may cause nausea, diarrhoea and, rarely, lactic acidosis in some patients."
    near = "Metformin can cause nausea and diarrhoea, and rarely lactic acidosis."
    assert measure(right, right) == 1.0
    assert measure(near, right) > 0.6 > 0.3 > measure("It is a question for your doctor, I am afraid.", right)


def test_the_longest_common_subsequence_is_that_of_a_table() -> None:
    first, second = list("abcdefab"), list("badcfeba")
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    assert rouge_l(" ".join(first), " ".join(second)) == 2 * table[-1][-1] / (len(first) + len(second))


@pytest.mark.slow  # the library imports nltk
def test_rouge_is_that_of_the_library() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    said, right = "The cat sat on the mat, and 7 dogs ran.", "the dog sat on a mat; then 7 cats ran away"
    assert rouge_l(said, right) == pytest.approx(scorer.score(right, said)["rougeL"].fmeasure)


def test_the_nearer_one_wins() -> None:
    assert verdict("negative", "positive", "positive") == 1.0
    assert verdict("positive", "negative", "positive") == -1.0
    assert verdict("neutral", "negative", "positive") == 0.0


def test_long_answers_cost_little() -> None:
    long = "word " * 50_000
    assert verdict(long, "x " * 50_000, "word " * 50_000) == -1.0


def test_a_minus_sign_of_typography_is_one() -> None:
    right = "After all of it has been added up the sum is \u22125."
    assert (measure("It is \u22125.", right), measure("It is 5.", right)) == (1.0, 0.0)


def test_digits_before_a_word_cost_what_their_length_says() -> None:
    right = "so it is " + 16_000 * "1" + "a in the end of the whole"
    started = time.thread_time()
    measure("one", right)
    assert time.thread_time() - started < 2  # eight seconds and more, were each digit a new beginning
