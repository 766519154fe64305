"""`ScriptedLLM`: a black box whose lines are written beforehand, for tests and examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from trimtab.errors import LLMError, NoRecordError
from trimtab.llm.stops import before_stop
from trimtab.types import Completion, Completions, Prompt, Sampling, Usage

Script = Callable[[Prompt, int], str] | Mapping[str, Sequence[str]] | Sequence[str]


class ScriptedLLM:
    """Answers as the script says, and remembers what it was asked.

    Args:
        script: a function of the prompt and the number of the draw, which is `sampling.seed` (0 without one)
            plus the number of the draw in its request: the same request is answered the same again. Or a
            map from question id to its answers, used in turn by that number. Or a sequence of answers, each
            given once, in order, whatever is asked.
        name: what is recorded as the model's name.
        failures: by number of the call, from 1: the error raised in place of an answer.

    Stop sequences are applied. Tokens are counted as words.
    """

    def __init__(
        self, script: Script, *, name: str = "scripted", failures: Mapping[int, LLMError] | None = None
    ) -> None:
        self._script = script
        self._name = name
        self._failures = dict(failures or {})
        self._told = 0
        self.calls = 0
        self.prompts: list[Prompt] = []

    @property
    def name(self) -> str:
        """What is recorded as the model's name."""
        return self._name

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """`sampling.n` answers of the script; usage counts one call.

        Raises:
            LLMError: the one meant for this call.
            NoRecordError: the script has no line for this.
        """
        self.calls += 1
        self.prompts.append(prompt)
        if self.calls in self._failures:
            raise self._failures[self.calls]
        first = (sampling.seed or 0) + sampling.start
        texts = [before_stop(self._line(prompt, first + at), sampling.stop) for at in range(sampling.n)]
        asked = sum(len(message.content.split()) for message in prompt.messages)
        usage = Usage(asked, sum(len(text.split()) for text in texts), calls=1)
        return Completions(tuple(Completion(text) for text in texts), usage, self._name)

    def _line(self, prompt: Prompt, draw: int) -> str:
        if isinstance(self._script, Mapping):
            return self._of_question(self._script, prompt.question_id, draw)
        if isinstance(self._script, Sequence):
            return self._next(self._script)
        return self._script(prompt, draw)

    def _of_question(self, script: Mapping[str, Sequence[str]], question_id: str | None, draw: int) -> str:
        answers = script.get(question_id or "", ())
        if not answers:
            raise NoRecordError(f"{self._name}: the script has no answer for question '{question_id}'.")
        return answers[draw % len(answers)]

    def _next(self, script: Sequence[str]) -> str:
        if self._told == len(script):
            raise NoRecordError(f"{self._name}: the script ended after {len(script)} answers.")
        self._told += 1
        return script[self._told - 1]
