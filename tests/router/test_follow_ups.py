"""Turns with and without a topic of their own, and what those without one want. None of them stands in the router's
own lists."""

import pytest

from router.follow_ups import FollowUp, FollowUps, follow_up_phrases
from specs.encoding.encoder import STATIC_ENCODER, load_encoder
from specs.prompts import everyday_prompts
from specs.routed_rows import FOLLOW_UP_CHARS

EXPLANATIONS = """\
why's that?
why did you say maybe
Why is this one negative?
explain please
Explain that in one sentence, please.
could you explain how you decided
How did you come up with this number?
where does that figure come from?
can you show how it is computed
Let me see the intermediate results.
What is your reasoning here?
which word gave it away?
what evidence supports this
hmm, that seems off
I think you got that wrong.
are you 100% sure about it?
how sure can we be?
can you check that once more?
what does this label stand for
what do you mean with maybe?
What does this tell me?
is this bad news for me?
so what are the implications
what should I do about that
give me some background
more context please
can you add a little more detail
please write two or three sentences on that
say this in a way my grandmother would understand
put it in layman's terms
rewrite your answer in Dutch
translate this to Polish
make a bullet list out of that
sum it up for me
what would be a good example for this?
what's the counterargument
are there cases where this is not true?
I still don't understand
you lost me at the second step
that was too short
Please don't answer with one word only.
no, that is not what I meant
thank you very much!
nice, thanks for your help
alright
good job
sorry, I don't get what you're saying
go on, please
what happened then?
anything else I should consider?
Warum denn?
Wie bist du auf dieses Ergebnis gekommen?
Das musst du mir genauer erklären.
vielen Dank!
Pourquoi cette réponse ?
Explique ton calcul
¿Por qué no la otra?
¿Me lo puedes explicar paso a paso?
Perché hai scelto questa risposta?
Por que essa resposta?
Почему не другой вариант?
Объясни, пожалуйста.
为什么是这个答案？
请详细说明理由。
なぜその答えですか？
and why exactly?
what convinced you?
I'd like to hear your reasons
on what basis did you decide this
which part points to that?
spell out the logic for me
could you derive that?
how was this number obtained
run me through how you computed it
that's not what I got
I would have picked the other option
hmm are you positive about that
did you double check?
is that your final word? I have doubts
what's the significance of this
so what?
what does "objective" refer to
define that term for me
what's the background to this
can you say a little more
expand please
write a paragraph about it
can I have that as an essay?
sketch the argument in a few lines
make it easier to read
too complicated, simplify
shorten it to one line
put it into Spanish
give that back in French please
as a table please
draw up a comparison of the options
what would a sceptic say?
name one exception
any advice?
should I see a doctor about this?
is it worth investing then?
do I need to worry about that?
how bad is it?
what's the next step for me
and then what?
carry on
please finish your thought
that's helpful, cheers
awesome
you're wrong about that
huh?
come again?
I don't see it
that is confusing
what did I ask you at first?
Weshalb?
Kannst du das begründen?
Was genau meinst du damit?
Je ne suis pas convaincu, explique.
Comment as-tu calculé ça ?
No me queda claro, explícalo otra vez.
¿En qué te basas?
Non ho capito, me lo spieghi?
Não entendi, explica de novo.
Не понимаю, объясни ещё раз.
为什么不选另一个？
请把步骤写出来。
理由を教えてください。
""".splitlines()

CONTINUATIONS = """\
and this one: I would not watch it again
next: The company raised its outlook for the year.
and the next?
ok, now this one:
here's the next item
one more please:
another sentence: Sales were in line with expectations
this one as well:
now do number 4
and number five?
the third question, please
same question about this text:
do the same with this sentence: margins narrowed
label the following one too
please classify the next one
and for 2018?
and in 2011?
what about 2016
and the year before that?
and for the first quarter?
what about the prior year
and in percentage terms?
and the sum of both?
what's the total then?
and for the parent company?
what about the second patient
and for adults?
with seven instead of four?
and if there were twenty?
what if the price was 5 dollars?
only the letter please
just give me the number
just the label, nothing else
yes or no please
so is it A or D?
so which option is it?
which one would you choose
try it again
please answer that once more
redo it
oops, wrong text, this is the right one:
und dieser?
und für das Jahr 2015?
der nächste Satz:
und noch einer:
et celle-ci ?
la phrase suivante :
¿y esta otra?
¿y en 2014?
la siguiente pregunta:
e la prossima?
e a seguinte?
следующее предложение:
а за 2016 год?
那这一句呢？
下一个问题：
次の文：
then this one: Profit doubled in the spring quarter
and here: She was not amused by the ending.
also for: Orders came in lower than planned
one more, same thing
the one after, please
let's do another
moving on, item 6
next exercise please
how is it for 2010?
and five years earlier?
the same but for net income
and the operating margin?
and per share?
what's it for the second half?
what about the subsidiary?
and for women?
what if we doubled it
and if it were only three hours?
suppose he lost four of them
now use 60 instead
reply with the letter only
I only need the number
one word please: yes or no
B or C?
so it's the second option?
which label then?
have another go
check this one too:
classify: Guidance was withdrawn
ignore that, take this text instead:
jetzt der hier:
und im dritten Quartal?
encore une phrase :
otra frase:
un altro:
и ещё один:
再判断这一句：
那第三题呢？
もう一つ：
""".splitlines()

TOPICS = """\
Plan a three day trip to Rome
Who won the world cup in 1998?
Recommend a good science fiction novel
What's the weather like in spring in Oslo?
Draft an email to my landlord about the heating
Give me ideas for a birthday party for a five year old
Write a Python class for a linked list
Write a poem about the first snow
how can I keep squirrels off my balcony
What is a good substitute for eggs in pancakes?
Help me choose between two phones
Invent a bedtime story with a dragon
How do I change a flat tyre?
Which planets have rings?
Who wrote The Hobbit?
What is the longest river in Europe?
Teach me a card trick
I can't sleep at night, what could help?
Explain how vaccines were discovered
Why do owls turn their heads so far?
Write a regular expression for phone numbers
Suggest a slogan for a bakery
Describe a sunset over the desert
What does the word serendipity mean?
Which museum in Madrid should I see first?
Schreibe eine Einladung zu einer Gartenparty
Propose un menu pour ce soir
Recomiéndame una película de terror
推荐一本好看的小说
What's a fun fact about octopuses?
""".splitlines()


@pytest.fixture(scope="module")
def follow_ups() -> FollowUps:
    return FollowUps(load_encoder(STATIC_ENCODER))


def told(follow_ups, turns, kind):
    """Share of the turns that are told to be of this kind."""
    return sum(follow_ups.kind(turn) is kind for turn in turns) / len(turns)


def test_the_turns_are_none_of_the_phrases():
    phrases = follow_up_phrases()
    known = {phrase.lower() for group in (*phrases.values(), everyday_prompts()) for phrase in group}
    assert not known & {turn.lower() for turn in (*EXPLANATIONS, *CONTINUATIONS, *TOPICS)}


def test_each_section_is_large():
    phrases = follow_up_phrases()
    assert len(phrases[FollowUp.EXPLANATION]) >= 160
    assert len(phrases[FollowUp.CONTINUATION]) >= 120
    assert not set(phrases[FollowUp.EXPLANATION]) & set(phrases[FollowUp.CONTINUATION])


def test_what_asks_for_words_is_told(follow_ups):
    assert told(follow_ups, EXPLANATIONS, FollowUp.EXPLANATION) >= 0.75
    assert told(follow_ups, EXPLANATIONS, FollowUp.CONTINUATION) <= 0.03
    assert told(follow_ups, EXPLANATIONS, None) <= 0.15  # harmless: such a turn leaves for the base model as well


def test_what_goes_on_with_the_task_is_told(follow_ups):
    assert told(follow_ups, CONTINUATIONS, FollowUp.CONTINUATION) >= 0.75
    assert told(follow_ups, CONTINUATIONS, FollowUp.EXPLANATION) <= 0.05


@pytest.mark.parametrize("item", ["$TSLA recalls 40,000 cars, shares slide 5%", "sales were flat in Spain", "3 apples"])
@pytest.mark.parametrize("begin", ["And this one:", "and this one:", "Next:", "The next one:", "Same for this one:"])
def test_a_short_next_item_does_not_hide_its_beginning(follow_ups, begin, item):
    assert follow_ups.kind(f"{begin} {item}") is FollowUp.CONTINUATION


def test_a_new_topic_is_no_follow_up(follow_ups):
    assert told(follow_ups, TOPICS, None) >= 0.8


def test_case_and_a_full_stop_say_nothing(follow_ups):
    for turn in (*EXPLANATIONS, *CONTINUATIONS, *TOPICS):
        assert follow_ups.kind(turn.lower()) is follow_ups.kind(f"{turn.lower()}."), turn


@pytest.mark.parametrize(
    ("begin", "end", "kind"),
    [
        ("Why? I had thought that the opposite was true, because ", "", FollowUp.EXPLANATION),
        ("Next: ", "", FollowUp.CONTINUATION),
        ("", "\nPlease explain.", FollowUp.EXPLANATION),
        ("", "", None),
    ],
)
def test_of_a_long_turn_the_ends_tell(follow_ups, begin, end, kind):
    middle = "the old harbour was rebuilt by the town council, and boats from the islands came back in spring " * 3
    assert len(middle) > FOLLOW_UP_CHARS
    assert follow_ups.kind(begin + middle + end) is kind


@pytest.mark.parametrize("turn", ["", " ", "?", "\n" * 500, "\ud800", "." * 1_000, "؟" * 300, "🙂" * 200])
def test_odd_turns_are_told_without_an_error(follow_ups, turn):
    follow_ups.kind(turn)


class CountingEncoder:
    """The encoder, with the texts that it was given."""

    def __init__(self, encoder) -> None:
        self.encoder, self.texts = encoder, []

    def encode(self, texts):
        self.texts += texts
        return self.encoder.encode(texts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("turn", "texts"),
    [
        ("Write a poem about autumn.", ["write a poem about autumn"]),
        (
            f"The town is old. {'It was rebuilt by the council, and ' * 5}in spring. The boats are blue.",
            ["the town is old", "the boats are blue"],
        ),
        ("the harbour was rebuilt, and " * 8, ["the harbour was rebuilt, and"]),
        ("", []),
    ],
)
def test_no_text_is_encoded_twice(turn, texts):
    counting = CountingEncoder(load_encoder(STATIC_ENCODER))
    follow_ups = FollowUps(counting)
    counting.texts.clear()
    assert follow_ups.kind(turn) is None
    assert [text[-len(wanted) :] for text, wanted in zip(counting.texts, texts, strict=True)] == texts
