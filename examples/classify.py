"""Few-shot classification from beginning to end, offline: learn, weigh, ask an LLM where it is unsure, save.

    python examples/classify.py

It writes a tiny task of its own: eight texts a label to learn from, and what each label means. The LLM is a
scripted one, which goes by a few words; any `trimtab.llm.ChatLLM` takes its place. Under a minute.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from trimtab.crosstune import CrossTuneClassifier, FolderFeatures, KeptFeatures, LocalEncoder, LogisticProbe
from trimtab.crosstune.asking import AskSettings, ask_labels
from trimtab.crosstune.rows import LabelledText, Labels
from trimtab.llm import ScriptedLLM
from trimtab.types import Prompt

DESCRIPTIONS = {
    "delivery": ["The parcel is late, lost or damaged.", "Questions on shipping and where an order is."],
    "payment": ["Cards, invoices, refunds and prices.", "Money was taken twice, or was not given back."],
    "account": ["Signing in, passwords and personal data.", "The customer cannot get into the account."],
}
SHOTS = {
    "delivery": [
        "my parcel has not arrived yet",
        "the box was crushed when it came",
        "where is order 1182 now",
        "the courier left it with a neighbour",
        "it was sent to the wrong street",
        "how long does shipping to Norway take",
        "half of the order is missing",
        "the tracking page has stood still for days",
    ],
    "payment": [
        "you charged my card twice",
        "when do I get my refund",
        "the invoice shows the wrong sum",
        "can I pay by bank transfer",
        "the discount was not taken off",
        "my card was declined at checkout",
        "why is tax added to the price",
        "please send me a receipt",
    ],
    "account": [
        "I forgot my password",
        "the code to sign in never comes",
        "change the mail address of my profile",
        "please delete all my data",
        "my login was blocked",
        "someone else uses my account",
        "how do I turn on two-step sign-in",
        "I cannot register with this name",
    ],
}
ASKED = [
    ("the package is stuck at customs", "delivery"),
    ("nobody was home when the driver rang", "delivery"),
    ("the lamp came in pieces", "delivery"),
    ("I was billed for something I sent back", "payment"),
    ("is there a fee for paying by credit card", "payment"),
    ("I want my money back", "payment"),
    ("it says my user name does not exist", "account"),
    ("reset link does not work", "account"),
    ("how can I log out on all devices", "account"),
    ("I moved house last week", "account"),
    ("nothing came, and still I paid", "delivery"),
]
HINTS = {"delivery": ("came", "home", "customs"), "account": ("user", "link", "log out", "moved")}
BELOW = 0.9  # what is less sure is asked of the LLM


def scripted(prompt: Prompt, draw: int) -> str:
    """What the LLM says: it goes by a few words of the text."""
    text = prompt.messages[-1].content.rsplit("The text to label:", 1)[1]
    return next((name for name, words in HINTS.items() if any(word in text for word in words)), "payment")


def share_right(said: Sequence[str | None]) -> str:
    """How many of the asked texts have their own label."""
    right = sum(each == label for each, (_, label) in zip(said, ASKED, strict=True))
    return f"{right} of {len(ASKED)} right"


def main() -> None:
    """The whole story; prints a line a step."""
    texts = [text for each in SHOTS.values() for text in each]
    labels = [label for label, each in SHOTS.items() for _ in each]
    asked = [text for text, _ in ASKED]
    with tempfile.TemporaryDirectory() as folder:
        store = FolderFeatures(Path(folder) / "features")  # every text is read once
        model = CrossTuneClassifier(DESCRIPTIONS, store=store).fit(texts, labels)
        print("CrossTune:           ", share_right(model.predict(asked)))

        probe = LogisticProbe(features=KeptFeatures(LocalEncoder("offline"), store)).fit(texts, labels)
        print("logistic regression: ", share_right(probe.predict(asked)))

        llm, known = ScriptedLLM(scripted), Labels(tuple(DESCRIPTIONS), DESCRIPTIONS)
        shots = [LabelledText(text, label) for text, label in zip(texts, labels, strict=True)]
        zero_shot = asyncio.run(ask_labels(llm, asked, known, how=AskSettings(0)))
        print("the LLM, zero-shot:  ", share_right([said.label for said in zero_shot]))

        sure = model.predict_proba(asked).max(axis=1)
        unsure = [text for text, p in zip(asked, sure, strict=True) if p < BELOW]
        routed = asyncio.run(ask_labels(llm, unsure, known, shots, AskSettings(2)))
        found = dict(zip(asked, model.predict(asked), strict=True))
        found |= {text: said.label for text, said in zip(unsure, routed, strict=True)}
        print("CrossTune, routed:   ", share_right(list(found.values())), f"with {len(unsure)} calls")

        saved = model.save(Path(folder) / "tickets")
        again = CrossTuneClassifier.load(saved, store=store)
        print("saved and loaded:    ", (again.predict_proba(asked) == model.predict_proba(asked)).all())


if __name__ == "__main__":
    main()
