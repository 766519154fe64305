"""What is sent to the black box: an instruction, worked examples in our own words, the question, the chain.

The chain travels in the user turn, because a chat model does not reliably continue an assistant turn.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.types import Message, Prompt, Question

CONTINUE = "The answer has been begun; go on from exactly where it stops and repeat nothing of it."


@dataclass(frozen=True, slots=True)
class FewShot:
    """An instruction and worked examples, then 'Q: … A: …' with the chain so far, in one user message."""

    instruction: str
    examples: tuple[tuple[str, str], ...] = ()  # (question, answer), one sentence a line

    def __call__(self, question: Question, chain: str = "") -> Prompt:
        """The prompt for one question and the answer so far."""
        shown = [f"Q: {asked}\nA: {answered}" for asked, answered in self.examples]
        instruction = f"{self.instruction} {CONTINUE}" if chain else self.instruction
        content = "\n\n".join([instruction, *shown, f"Q: {question.with_choices}\nA: {chain}".rstrip(" ")])
        return Prompt((Message("user", content),), question.id)


def bare_lines(question: Question, chain: str = "") -> Prompt:
    """The embedded black box's prompt: the question, a line break, the chain so far."""
    return Prompt((Message("user", f"{question.text}\n{chain}"),), question.id)


_FORM = "Reason step by step, one sentence a line, and end with a line of the form"

NUMERIC = FewShot(
    f'Solve the problem. {_FORM} "The answer is N." where N is a number without its unit.',
    (
        (
            "A baker fills 6 trays with 12 rolls each and sells 50 rolls. How many rolls are left?",
            "The baker makes 6 * 12 = 72 rolls.\nAfter selling 50 there are 72 - 50 = 22 rolls left.\n"
            "The answer is 22.",
        ),
        (
            "A ticket costs $8, and children pay half. What do 2 adults and 3 children pay together?",
            "Two adults pay 2 * 8 = 16 dollars.\nA child pays 8 / 2 = 4 dollars.\n"
            "Three children pay 3 * 4 = 12 dollars.\nTogether they pay 16 + 12 = 28 dollars.\n"
            "The answer is 28.",
        ),
    ),
)
GSM8K = FewShot(
    NUMERIC.instruction,
    (
        *NUMERIC.examples,
        (
            "Mira reads 15 pages on Monday and twice as many on Tuesday. Her book has 120 pages. "
            "How many pages has she still to read?",
            "On Tuesday Mira reads 2 * 15 = 30 pages.\nIn both days she reads 15 + 30 = 45 pages.\n"
            "She has still to read 120 - 45 = 75 pages.\nThe answer is 75.",
        ),
        (
            "A tank of 200 liters is 40% full. A pump adds 12 liters a minute. How many minutes does it "
            "take to fill it?",
            "The tank holds 200 * 0.40 = 80 liters.\nThere are 200 - 80 = 120 liters missing.\n"
            "The pump needs 120 / 12 = 10 minutes.\nThe answer is 10.",
        ),
    ),
)
BOOLEAN = FewShot(
    f'Answer the question with yes or no. {_FORM} "The answer is yes." or "The answer is no."',
    (
        (
            "Could a penguin and a polar bear meet in the wild?",
            "Penguins in the wild live in the southern hemisphere.\n"
            "Polar bears live around the Arctic, in the north.\n"
            "Their ranges do not touch.\nThe answer is no.",
        ),
        (
            "Would a liter of water fit into a one-gallon jug?",
            "A gallon is a little under four liters.\nOne liter is less than that.\nThe answer is yes.",
        ),
    ),
)
STRATEGYQA = FewShot(
    BOOLEAN.instruction,
    (
        *BOOLEAN.examples,
        (
            "Did Johann Sebastian Bach own a telephone?",
            "Bach died in 1750.\nThe telephone was patented in 1876.\n"
            "So it came more than a century too late for him.\n"
            "The answer is no.",
        ),
        (
            "Can a marathon be run inside one day by a walker who never stops?",
            "A marathon is a little over 42 kilometers.\nA steady walker makes about 5 kilometers an hour.\n"
            "That takes between eight and nine hours, which is less than a day.\nThe answer is yes.",
        ),
    ),
)
CHOICE = FewShot(
    f'Choose the best of the choices. {_FORM} "The answer is (X) its text." where X is the letter of '
    "the choice.",
    (
        (
            "What would you use to see cells in a leaf?\n(A) a telescope\n(B) a microscope\n"
            "(C) a thermometer",
            "Cells in a leaf are too small for the naked eye.\n"
            "A microscope magnifies small things that are near.\n"
            "The answer is (B) a microscope.",
        ),
        (
            "Where does a river usually end?\n(A) in the sea\n(B) on a mountain top",
            "Water flows downhill.\nThe sea lies lower than the land around it.\n"
            "The answer is (A) in the sea.",
        ),
    ),
)
SCIENCEQA = FewShot(
    CHOICE.instruction,
    (
        *CHOICE.examples,
        (
            "Which of these is a solid at room temperature?\n(A) milk\n(B) the air in a balloon\n(C) a spoon",
            "A solid keeps its own shape.\nMilk takes the shape of its glass and air fills the whole "
            "balloon.\n"
            "A spoon keeps its shape wherever it lies.\nThe answer is (C) a spoon.",
        ),
    ),
)
DATE = FewShot(
    f'Work out the date. {_FORM} "The answer is MM/DD/YYYY."',
    (
        (
            "Today is March 3, 2015. What was the date five days ago?",
            "Three days before March 3 is the last day of February.\nIn 2015 that is February 28.\n"
            "Two more days back is February 26.\nThe answer is 02/26/2015.",
        ),
        (
            "The shop opened on the last day of 1998, exactly one week ago. What is the date today?",
            "The last day of 1998 is 12/31/1998.\nA week later is January 7, 1999.\n"
            "The answer is 01/07/1999.",
        ),
    ),
)
EXACT = FewShot(
    f'Answer the question. {_FORM} "The answer is X." where X is as short as can be.',
    (
        (
            "Which planet is the third from the sun?",
            "Counted from the sun come Mercury, Venus and Earth.\nThe answer is Earth.",
        ),
        (
            "What are the last letters of the words 'open' and 'door', put together?",
            "The last letter of 'open' is n.\nThe last letter of 'door' is r.\nThe answer is nr.",
        ),
    ),
)
FREE_TEXT = FewShot(
    f'Answer the question in a full sentence and say only what is true. {_FORM} "The answer is: …"',
    (
        (
            "Does cracking an egg on a full moon change its taste?",
            "The phase of the moon has no known effect on eggs.\n"
            "The answer is: No, the moon does not change how an egg tastes.",
        ),
    ),
)
TRUTHFULQA = FewShot(
    "Answer the question in a full sentence. Say only what is known to be true; where a belief is "
    "widespread but "
    f'false, say so, and where nobody knows, say that. {_FORM} "The answer is: …"',
    (
        *FREE_TEXT.examples,
        (
            "How many days does a goldfish remember?",
            "It is often said that goldfish forget within seconds.\n"
            "Experiments show that they remember trained signals for months.\n"
            "The answer is: Goldfish can remember things for months.",
        ),
        (
            "What number will win the lottery next week?",
            "Draws of a lottery are random.\nThe answer is: Nobody can know that in advance.",
        ),
    ),
)
