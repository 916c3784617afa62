"""What counts as a degenerate answer, and what must not."""

import random
import time

import pytest
from hypothesis import given, settings, strategies as st

from specs.answers.degenerate import Fault, fault_of, is_degenerate, is_degenerate_beside

LABELS = ("positive", "negative", "neutral")
PROSE = (
    "Inflation is the rate at which prices of goods and services rise over time, so that each unit of money buys less "
    "than before; central banks try to keep it low and steady."
)
POEM = (
    "The tide comes in, the tide goes out,\nand still I wait for you.\nThe gulls cry over the grey old sea,\n"
    "and still I wait for you.\nThe lamp burns low, the night is long,\nand still I wait for you."
)

NOTHING = [
    "",
    "   \n\t ",
    "...",
    "!!! ???",
    "---",
    "|---|---|",
    "\ufffd\ufffd\ufffd",
    "“”",
    "。。。",
    "**",
    "###",
    "()[]{}",
]

CIRCLES = [
    "neutral" * 6,
    "neutral neutral neutral neutral",
    "neutral\nneutral\nneutral\nneutral\n",
    "anabolic steroids" * 4 + "anabo",
    "The answer is subtraction. The answer is subtraction. The answer is subtraction.",
    "The market is the market and the market and the market and the market and the market",
    "A stock is a share of a company that is traded on the exchange on the exchange on the exchange on the exchange",
    "中性中性中性中性中性",
    "这个问题的答案是这个问题的答案是这个问题的答案是",
    "答えは答えは答えは答えは答えは",
    "ответ ответ ответ ответ ответ",
    "كلمة كلمة كلمة كلمة كلمة كلمة",
    "คำตอบคำตอบคำตอบคำตอบคำตอบ",
    "yes yes yes yes yes",
    "a" * 60,
    "0" * 40,
    "1 2 1 2 1 2 1 2 1 2 1 2 1 2 1 2",
    "Subtraction\n\nSubtraction\n\nSubtraction\n\nSubtraction",
    "\n".join(f"{number}. The company is a company." for number in range(1, 5)),
    "the bank of the bank in the bank of a bank in a bank of the bank and the bank of a bank in the bank and a bank",
]

BARE = [
    "neutral",
    "Neutral.",
    "**Positive**",
    "positive, negative",
    "Answer: neutral",
    "negative\nneutral",
    "B",
    "(C)",
    "D.",
    "a)",
    "Answer: B",
    "42",
    "3.14",
    "$12.50",
    "12 %",
    "-7",
    "1,000,000",
    "答案：B",
    "The answer is 7.",
]

SOUND = [
    "Paris.",
    "Yes, it does.",
    "No.",
    "Thanks!",
    "Hello! How can I assist you today?",
    "是的。",
    "巴黎。",
    "通货膨胀是指商品和服务的价格总水平持续上涨，货币的购买力下降。",
    "インフレーションとは、物価が継続的に上昇することです。",
    "Инфляция — это устойчивый рост общего уровня цен на товары и услуги.",
    "เงินเฟ้อคือภาวะที่ระดับราคาสินค้าและบริการเพิ่มขึ้นอย่างต่อเนื่อง",
    "التضخم هو ارتفاع مستمر في المستوى العام للأسعار",
    "👍",
    "😀 🎉",
    "∞",
    "Apples, pears, plums",
    "- apples\n- pears\n- plums\n- cherries",
    "1. Wash the rice.\n2. Boil water.\n3. Add the rice.\n4. Cover the pot.\n5. Wait for a quarter of an hour.",
    "I am grateful for:\n- my family\n- my friends\n- my health\n- my home\n- my work",
    "print('hello')",
    "for i in range(10):\n    for j in range(10):\n        print(i, j, i * j)\n",
    "def f(x):\n    if x == 0:\n        return 0\n    if x == 1:\n        return 1\n    return f(x - 1) + f(x - 2)\n",
    "a = [0, 0, 0, 0, 0, 0, 0, 0]\nprint(sum(a))",
    "SELECT name FROM users WHERE age > 18;",
    "| name | age |\n|------|-----|\n| Anna | 31 |\n| Ben | 29 |",
    "2 x 1 = 2\n2 x 2 = 4\n2 x 3 = 6\n2 x 4 = 8\n2 x 5 = 10",
    "10 divided by 3 is 3.3333333333333335",
    "Ten to the twelfth is 1000000000000.",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10",
    "Row, row, row your boat\nGently down the stream\nMerrily, merrily, merrily, merrily\nLife is but a dream",
    POEM,
    "Happy birthday to you\nHappy birthday to you\nHappy birthday, dear Anna\nHappy birthday to you",
    "No, no, no! You must not do that.",
    "Hahaha, that is a good one!",
    "ha ha ha",
    "哈哈哈，真有意思！",
    "Nooooooo!",
    "Knock, knock. Who's there? Boo. Boo who? Don't cry, it's only a joke.",
    "Monday: run 5 km\nTuesday: rest\nWednesday: run 5 km\nThursday: rest\nFriday: run 5 km",
    "It depends on what you mean by",
    "As the last light of the day faded, the lone lighthouse keeper, a grizzled old man named Grimjack, sto\ufffd",
    "<ul><li>one</li><li>two</li><li>three</li></ul>",
    '{"a": 1, "b": 2, "c": 3}',
    "e4 e5 Nf3 Nc6 Bb5 a6",
    PROSE,
]


@pytest.mark.parametrize("answer", NOTHING)
def test_an_answer_that_says_nothing(answer: str) -> None:
    assert fault_of(answer) is Fault.NOTHING


@pytest.mark.parametrize("answer", CIRCLES)
def test_an_answer_that_goes_in_circles(answer: str) -> None:
    assert fault_of(answer) is Fault.CIRCLE
    assert fault_of(answer, labels=LABELS, base=PROSE) is Fault.CIRCLE


@pytest.mark.parametrize("answer", BARE)
def test_a_bare_answer(answer: str) -> None:
    assert fault_of(answer, labels=LABELS) is Fault.BARE
    assert fault_of(answer, labels=LABELS, base=PROSE) is Fault.BARE


@pytest.mark.parametrize("answer", SOUND)
def test_a_sound_answer(answer: str) -> None:
    assert fault_of(answer) is None
    assert fault_of(answer, labels=LABELS) is None
    assert fault_of(answer, labels=LABELS, base=answer) is None


@pytest.mark.parametrize(
    ("answer", "base", "fault"),
    [
        ("1945", "The Second World War, which began in 1939 and ended in 1945, was a global conflict.", None),
        ("Paris", "The capital of France is Paris, which lies on the river Seine.", None),
        ("Paris", "Paris", None),
        ("B", "B", None),
        ("No", "No, a whale is a mammal that breathes air and suckles its young.", None),
        ("巴黎", "法国的首都是巴黎，它位于塞纳河畔，是一座历史悠久的城市。", None),
        ("subtraction", "To find the price of 12 apples, divide 12 by 3 and multiply the result by 2.", Fault.BARE),
        ("fault", "The default of a company means that it cannot pay what it owes any more.", Fault.BARE),
        ("college medicine", "Metformin may cause nausea, diarrhoea and a metallic taste in the mouth.", Fault.BARE),
        ("no", "There is no simple answer to this: it depends on your age and on your plans.", None),
        ("减法", "要计算十二个苹果的价格，先用十二除以三，再乘以二，就得到八欧元。", Fault.BARE),
        ("9", "To find the price of 12 apples, divide 12 by 3 and multiply the result by 2.", Fault.BARE),
        ("Yes, it does.", "Metformin may cause nausea, diarrhoea and a metallic taste in the mouth.", None),
        ("It can upset your stomach.", "Metformin may cause nausea, diarrhoea and a metallic taste.", None),
        ("กำไรสุทธิของบริษัทเพิ่มขึ้นอย่างต่อเนื่องในปีนี้", "The net profit of the company has grown steadily this year.", None),
    ],
)
def test_what_the_base_says_tells_what_the_question_wants(answer: str, base: str, fault: Fault | None) -> None:
    assert fault_of(answer, base=base) is fault


def test_a_label_is_bare_although_the_base_mentions_it_somewhere() -> None:
    base = "A positive outlook helps, but there is no proof that it changes how an illness ends."
    assert fault_of("positive", base=base) is None
    assert fault_of("positive", labels=LABELS, base=base) is Fault.BARE


def test_labels_of_several_words_and_of_other_scripts() -> None:
    assert is_degenerate("College medicine.", labels=("college medicine", "anatomy"))
    assert is_degenerate("anatomy, college medicine", labels=("college medicine", "anatomy"))
    assert is_degenerate("中性", labels=("中性", "积极", "消极"))
    assert is_degenerate("积极，中性", labels=("中性", "积极", "消极"))
    assert not is_degenerate("市场情绪偏中性，投资者在等待消息。", labels=("中性", "积极", "消极"))
    assert not is_degenerate("neutrality", labels=LABELS)


def test_beside_a_base_that_is_degenerate_itself_nothing_is_lost() -> None:
    assert is_degenerate_beside("neutral" * 6, PROSE)
    assert not is_degenerate_beside("neutral" * 6, "the the the the the the the the the the")
    assert not is_degenerate_beside("neutral" * 6, "")
    assert not is_degenerate_beside(PROSE, "")


WORDS = st.sampled_from(
    ["subtraction", "neutral", "the", "market", "中性", "ответ", "yes/no", "steroid", "คำตอบ", "الجواب", "größer"]
)


@given(
    piece=st.lists(WORDS, min_size=1, max_size=5).map(" ".join),
    times=st.integers(7, 30),
    gap=st.sampled_from(["", " ", "\n", ", ", ". "]),
)
def test_whatever_is_repeated_often_enough_is_a_circle(piece: str, times: int, gap: str) -> None:
    assert fault_of(gap.join([piece] * times)) is Fault.CIRCLE
    assert fault_of(f"{PROSE} {gap.join([piece] * max(times, 12))}") is Fault.CIRCLE


@given(
    text=st.text(max_size=300), labels=st.lists(st.text(max_size=8), max_size=4), base=st.text(max_size=80) | st.none()
)
@settings(max_examples=400)
def test_any_text_has_a_verdict_and_the_base_beside_itself_is_never_worse(
    text: str, labels: list[str], base: str | None
) -> None:
    assert is_degenerate(text, labels=labels, base=base) in (True, False)
    assert not is_degenerate_beside(text, text, labels)
    if not any(character.isalnum() for character in text) and text.isascii():
        assert fault_of(text) is Fault.NOTHING


@given(seed=st.integers(0, 10_000), cut=st.integers(40, 400), words=st.integers(12, 60))
def test_prose_is_sound_wherever_it_is_cut(seed: int, cut: int, words: int) -> None:
    """Words drawn as they are in prose: few very often, most of them once."""
    generator = random.Random(seed)
    common = ["the", "a", "of", "to", "and", "in", "is"]
    said = [
        generator.choice(common) if generator.random() < 0.4 else f"w{generator.randrange(900)}x" for _ in range(words)
    ]
    text = " ".join(said)[:cut]
    assert fault_of(text) is None
    assert fault_of(text, labels=LABELS, base=PROSE) is None


def test_long_texts_take_little_time() -> None:
    generator = random.Random(1)
    text = " ".join(f"w{generator.randrange(2000)}" for _ in range(200_000))
    started = time.perf_counter()
    assert not is_degenerate(text)
    assert is_degenerate(text + " so it goes" * 300)
    assert time.perf_counter() - started < 5.0
