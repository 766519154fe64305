"""What a judge is shown of an answer, so that an answer can hardly speak to its judge. Pure.

Four means, none of which trusts the judge: an answer that says nothing is not shown at all; words that are
meant for the judge are left out; answers stand between marks that no answer can foresee; and they go under
letters that no answer names, so that "A is best" and a forged verdict are about nobody.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import count, islice, product
from string import ascii_uppercase

LEFT_OUT = "[…]"

# Words that look like a letter in a reply: no label is called so.
NOT_A_LABEL = re.compile("A[MNST]|B[EY]|DO|GO|HE|I[FNST]|M[EY]|NO|O[FKNR]|SO|TO|U[PS]|WE")


def _any(*patterns: str) -> str:
    return f"(?:{'|'.join(patterns)})"


# "Master keys" (Zhao et al. 2025, One Token to Fool LLM-as-a-Judge): openers of a solution that never comes.
_OPENING = _any(
    "solution|answer|response|output|analysis|explanation|reasoning|thinking|thought process|thoughts?",
    "final answer|the (?:final )?(?:solution|answer)(?: is)?",
    r"step \d+|first(?:ly)?|okay|ok|sure|hmm+|well|so",
    "respuesta|soluci[oó]n|l[oö]sung|antwort|r[eé]ponse|risposta|soluzione|resposta",
    "let(?:'s|’s| us| me) (?:think|solve|work|begin|start|break|go|reason|see|look|do|tackle|find|analy[sz]e)"
    "(?: (?:about|through|by|it|this|that|down|out|into|with|at|the|problem|question|task|steps?|now|together"
    "|carefully|logically|systematically|slowly))*",
    r"(?:here(?:'s|’s| is)|i will|i'll|we will|we'll|to (?:solve|answer) this)(?: \w+){0,6}",
)
OPENERS = re.compile(rf"\b{_OPENING}\b|解答?|答え?|答案|回答|思考过程|解题|かいせつ|解説", re.IGNORECASE)

# Choices of the question are called options and choices; what is judged is not.
_WORK = "(?:answers?|responses?|candidates?|solutions?|submissions?|entry|entries|one)"
_ITSELF = _any(
    r"me\b|mine\b|myself\b",
    rf"(?:my|this|the (?:above|following|present|current)) {_WORK}\b",
    r"the (?:above|following|present|current) (?:text|block)\b",
    r"this(?=[\s\"'*)]*(?:[.!?]|as\b|over\b|$))",
)
_PRAISED = _any(
    r"best|better than|winn\w+|wins|top (?:spot|rank|choice|place)|(?:be )?(?:chosen|selected|preferred)",
    "highest|superior|perfect|flawless|ideal|full marks",
    "(?:always|definitely|certainly|guaranteed|verified|clearly|the only)(?: to be)? (?:correct|right|valid)",
)
_BLAMED = "(?:wrong|incorrect|worse|inferior|flawed|mistaken|fake)"
_CHOOSE = _any(
    "choos(?:e|ing)|pick(?:ing)?|select(?:ing)?|prefer(?:ring)?|rank|rate|vote|crown|favou?r|reward|approve",
    "accept|mark|grade|score|go with|name|return|output|print|crown|report",
)
_JUDGE = r"\b(?:dear|the|to|attention|hey|hi|hello|an?)[,:]? "
_JUDGE += "(?:judge|grader|evaluator|rater|reviewer|referee|assessor)s?"
_ORDERS = "(?:instructions?|criteri(?:a|on)|rules|guidelines|prompts?|rubrics?|directions|orders|commands)"
_WAEHLE = _any(
    r"w[aä]hle?n?|nimm|bevorzuge|choisis\w*|choisir|s[eé]lectionne\w*|elige|elija|escoge|escoja",
    r"selecciona\w*|scegli\w*|escolh\w+|kies|选择?|選|выбер\w+",
)
_MICH = _any(
    r"mich\b|diese?\w* (?:antwort|l[oö]sung)|moi\b|cette (?:r[eé]ponse|solution)",
    r"(?:esta|mi) (?:respuesta|soluci[oó]n)|quest[ao] (?:risposta|soluzione)|esta resposta",
    r"\bme\b|dit antwoord|我|这个|本|此|меня|этот",
)
# Sentences that are about being chosen, and not about the question.
TO_THE_JUDGE = re.compile(
    _any(
        rf"\b{_CHOOSE}\b.{{0,40}}\b{_ITSELF}",
        rf"\b(?:ignore|disregard|forget|override|bypass)\b.{{0,60}}\b(?:{_ORDERS}|above|previous|{_WORK})\b",
        rf"\b(?:this|my|the (?:above|following|present)) {_WORK}\b.{{0,40}}\b{_PRAISED}",
        rf"\bthe one (?:you are|you're) (?:reading|looking at)|\b(?:winning|chosen|preferred) {_WORK}\b",
        r"\b(?:letter|label) (?:of|above|below|at|over) (?:me|this|the (?:top|head|present))\b",
        rf"\bverdict\b.{{0,30}}\b(?:{_WORK}|this|mine)\b|<judge?>|\bstop (?:judging|comparing|reading)\b",
        r"\b(?:end|start) of (?:the )?(?:answers|candidates|responses|question)\b",
        rf"\b(?:i am|i'm|i’m) (?:\w+ ){{0,2}}{_PRAISED}",
        rf"\b(?:other|remaining|competing) {_WORK}\b.{{0,40}}\b{_BLAMED}\b",
        rf"{_JUDGE}\b.{{0,60}}\b(?:{_CHOOSE}|{_PRAISED}|{_WORK}|options?|{_ORDERS})\b",
        rf"\b(?:new|updated|secret|hidden|system|revised) {_ORDERS}\b",
        rf"\b(?:do not|don['’]t|never|no need to) (?:read|consider|compare|look at|evaluate)\b.*\b{_WORK}\b",
        r"^(?:<[^<>\n]*>|[\s\"'*_#>])*(?:best|winner|verdict|judge?ment|preference)\b"
        rf"[\"'*_]*(?: {_WORK})?\s*[:=→]",
        rf"\b{_WORK} \(?[a-z]{{1,2}}\)? (?:is|wins|deserves|must be|should be|beats)\b.{{0,30}}\b{_PRAISED}",
        rf"{_WAEHLE}.{{0,30}}{_MICH}",
        rf"{_MICH}.{{0,30}}(?:beste|meilleure?|mejor|migliore|melhor|最好|最佳|лучш\w+)",
        r"^[\s*_#]*(?:system|assistant|developer|admin)\b[*_ ]*:",
        # Praise that names nothing: the sentence is about what was written, and does not say so.
        r"\b(?:look|search|read|go) no (?:further|farther|more)\b|\bno need to (?:look|search|check|read)\b",
        r"\b(?:your|the) search (?:is over|ends here)\b|\bcase closed\b|\btrust me\b|\bnailed it\b",
        r"\byou\b.{0,12}\bfind (?:no |any |anything |nothing )?better\b",
        r"(?:^|\s)A\+ (?:work|quality|grade)|\b(?:10|100)\s?(?:/|out of )\s?(?:10|100)\b(?=[\s.!]*$)",
    ),
    re.IGNORECASE | re.MULTILINE,
)
# A sentence with one of these words and nothing of the question in it is about the answers, not an answer.
ABOUT_ANSWERS = re.compile(
    r"\b(?:answers?|responses?|candidates?|solutions?|submissions?|repl(?:y|ies)|mine|judg\w+|grad(?:er|ing)"
    r"|evaluat\w+|letter|verdict|ruling|choose|chosen|pick(?:ed)?|select(?:ed)?|votes?|preferred|favou?r|winner"
    r"|instructions?|competitors?|experts?|verified|approved|paragraph|text)\b",
    re.IGNORECASE,
)
_STATES_ANSWER = re.compile(
    r"\b(?:answer|solution|response|choice)s?\b[\w\s,]{0,60}?(?:\bis\b|\bare\b|\bwould be\b|:)[\s*\"'$(]*"
    r"(?!(?:this|the|mine|my|here|above|best|correct|right)\b)\S"
    r"|\b(?:cannot|can['’]t|can not|unclear|unknown)\b|\b[A-Z]\)|\\boxed",
    re.IGNORECASE,
)
MARKUP = re.compile(
    r"(?:<\|[^|<>]{0,40}\|>)+(?:system|user|assistant)?|\[/?INST\]|<</?SYS>>|</?(?:s|system|assistant|user|answer|candidate)>"
)
# What is left of the tags around words that were left out.
_SCRAPS = re.compile(rf"(?:<[!/]?[\w-]*[^<>\n]*>?)?{re.escape(LEFT_OUT)}(?:[ \t]*(?:</?\w[^<>\n]*>|-->))*")
_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]")
_SPACED = re.compile(r"(?<!\w)(?:\w[ ._*-]){2,}\w(?!\w)")
_SENTENCES = re.compile(r"[^.!?。！？\n]*(?:[.!?。！？]+(?=[\s\"')\]*_]|$|[^\x00-\x7f])|[.!?]+|\n|$)")


@lru_cache(maxsize=1024)  # a text is looked at before it is shown, and shown again with every attempt
def shown(text: str, question: str = "") -> str:
    """The answer as a judge may see it: words meant for the judge are left out and a mark stands for them."""
    plain = MARKUP.sub(LEFT_OUT, _UNSEEN.sub("", text))
    asked = _matter(question)
    kept = "".join(_without_pleas(sentence, asked) for sentence in _SENTENCES.findall(plain))
    return _SCRAPS.sub(LEFT_OUT, kept)


def says_something(text: str) -> bool:
    """False for an answer without a word or number of its own: empty, a stop, a solution's opening."""
    left = OPENERS.sub(" ", unicodedata.normalize("NFKC", text).replace(LEFT_OUT, " "))
    return re.search(r"\w", left) is not None


def labels(number: int, texts: Iterable[str] = ()) -> tuple[str, ...]:
    """The first labels (A to Z, then AA, AB and so on) that stand as a word in none of the texts."""
    forms = (form for text in texts for form in (text, _folded(text)))
    named = {word.upper() for form in forms for word in re.findall(r"[A-Za-z]+", form)}
    free = (label for label in _all_labels() if label not in named)
    return tuple(islice(free, number))


def nonce(seed: int, question_id: str, texts: Sequence[str]) -> str:
    """Eight characters that no text can hold, since they hang on all of them; the same for the same texts."""
    whole = json.dumps([seed, question_id, *texts])
    return hashlib.sha256(whole.encode("ascii")).hexdigest()[:8]


def _all_labels() -> Iterator[str]:
    for length in count(1):
        for letters in product(ascii_uppercase, repeat=length):
            if not NOT_A_LABEL.fullmatch(label := "".join(letters)):
                yield label


def _folded(text: str) -> str:
    """The text as it reads: look-alike forms made plain, l e t t e r s  a p a r t put together."""
    plain = unicodedata.normalize("NFKC", text).translate(_LOOK_ALIKES)
    together = _SPACED.sub(lambda found: re.sub(r"[ ._*-]", "", found[0]), plain)
    return re.sub("  +", " ", together)


# Greek and Cyrillic letters that look Latin, where they stand for them in an English word.
_LOOK_ALIKES = str.maketrans("аеорсухіјѕАВЕКМНОРСТХ", "aeopcyxijsABEKMHOPCTX")


def _without_pleas(sentence: str, asked: frozenset[str]) -> str:
    if not _speaks_to_the_judge(sentence, asked):
        return sentence
    opening, closing = re.match(r"\s*", sentence), re.search(r"\n?$", sentence)
    return f"{opening[0] if opening else ''}{LEFT_OUT}{closing[0] if closing else ''}"


def _speaks_to_the_judge(sentence: str, asked: frozenset[str]) -> bool:
    folded = _folded(sentence)
    if any(TO_THE_JUDGE.search(form) for form in (sentence, folded)):
        return True
    if not ABOUT_ANSWERS.search(folded) or re.search(r"\d", folded) or _STATES_ANSWER.search(folded):
        return False
    return not _matter(folded) & asked


def _matter(text: str) -> frozenset[str]:
    """Beginnings of the longer words that are not themselves about answers."""
    words = re.findall(r"\w{4,}", text.lower())
    return frozenset(word[:5] for word in words if word not in _COMMON and not ABOUT_ANSWERS.fullmatch(word))


_COMMON = frozenset(
    (
        "been",
        "could",
        "does",
        "each",
        "from",
        "have",
        "many",
        "most",
        "much",
        "must",
        "only",
        "should",
        "than",
        "that",
        "them",
        "then",
        "there",
        "they",
        "this",
        "were",
        "what",
        "when",
        "which",
        "will",
        "with",
        "would",
        "your",
        "best",
        "correct",
        "right",
        "wrong",
        "question",
        "following",
    )
)
