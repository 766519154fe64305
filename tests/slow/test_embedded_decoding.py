from __future__ import annotations

import math
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.llm.embedded.decoding import MAX_ROWS, Decoder, Drawn, Engine, Request, complete
from trimtab.llm.embedded.model import BLOCK, Cache, Config, Floats, Model, Weights
from trimtab.llm.embedded.vocabulary import Vocabulary

pytestmark = pytest.mark.slow

LETTERS = "abcdefghijklmnop"


def tiny_model(seed: int = 0) -> Model:
    vocabulary = Vocabulary.of([f"x {letter}" for letter in LETTERS])
    config = Config(len(vocabulary), layers=2, width=16, heads=2, context=64)
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> Floats:
        return rng.normal(0, 0.5, shape).astype(np.float32)

    weights = Weights(
        drawn(config.vocabulary, 16), drawn(2, 16, 48), drawn(2, 16, 16), drawn(2, 16, 64), drawn(2, 64, 16)
    )
    return Model(config, weights, vocabulary)


MODEL = tiny_model()

requests = st.builds(
    Request,
    prompt=st.text(" " + LETTERS, max_size=20).map(lambda text: text + "\n"),
    n=st.integers(1, 5),
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    top_p=st.sampled_from([0.5, 1.0]),
    max_tokens=st.integers(1, 20),
    seed=st.integers(-3, 2**40),
)


def slow_logits(model: Model, tokens: list[int]) -> list[float]:
    """The last token's logits, written out place by place."""
    config, weights = model.config, model.weights
    cosine, sine = config.rotations()
    half = config.head_width // 2

    def normed(vector: Floats) -> Floats:
        return vector / math.sqrt(float((vector * vector).mean()) + 1e-6)

    def rotated(vector: Floats, place: int) -> Floats:
        turned = [0.0] * config.head_width
        for i in range(half):
            c, s = float(cosine[place, i]), float(sine[place, i])
            turned[i] = vector[i] * c - vector[half + i] * s
            turned[half + i] = vector[half + i] * c + vector[i] * s
        return np.array(turned)

    streams = [normed(weights.embedding[token].astype(np.float64)) for token in tokens]
    for layer in range(config.layers):
        parts = [(normed(stream) @ weights.qkv[layer]).reshape(3, config.heads, -1) for stream in streams]
        mixed = []
        for place in range(len(tokens)):
            heads = []
            for head in range(config.heads):
                query = rotated(parts[place][0, head], place)
                scores = [query @ rotated(parts[at][1, head], at) for at in range(place + 1)]
                total = sum(math.exp(score) for score in scores)
                heads.append(
                    sum(math.exp(score) / total * parts[at][2, head] for at, score in enumerate(scores))
                )
            mixed.append(np.concatenate(heads))
        streams = [stream + mix @ weights.out[layer] for stream, mix in zip(streams, mixed, strict=True)]
        streams = [
            stream + np.maximum(normed(stream) @ weights.up[layer], 0) ** 2 @ weights.down[layer]
            for stream in streams
        ]
    return list(normed(streams[-1]) @ weights.embedding.T)


def test_reading_a_prompt_computes_the_formula_written_out() -> None:
    tokens = MODEL.tokens("a b c d e\n")
    np.testing.assert_allclose(MODEL.read(tokens)[0][-1], slow_logits(MODEL, tokens.tolist()), rtol=2e-4)


def test_decoding_with_the_cache_draws_what_reading_everything_anew_draws() -> None:
    prompt = "a b c\n"
    drawn = complete(MODEL, [Request(prompt, temperature=0, max_tokens=30)])[0]
    tokens, text = MODEL.tokens(prompt), ""
    for _ in range(drawn.completion_tokens):
        logits = MODEL.read(tokens)[0][-1].copy()
        logits[[MODEL.vocabulary.bos, MODEL.vocabulary.unk]] = -np.inf
        token = int(logits.argmax())
        tokens = np.append(tokens, token)
        text += "" if token == MODEL.vocabulary.eos else MODEL.vocabulary.pieces[token]
    assert drawn.completion_tokens > 1
    assert drawn.completions[0].text == text


def test_a_rows_logits_are_bit_equal_whatever_stands_beside_it() -> None:
    prompts = [MODEL.tokens(f"{letter} b c\n") for letter in LETTERS[:8]]

    def stepped(count: int) -> Floats:
        cache = Cache(MODEL.config, 3 * BLOCK)
        for row in range(count):
            _, keys, values = MODEL.read(prompts[row % 8])
            cache.fill(row, 1, keys, values)
        tokens = np.full(count, MODEL.vocabulary.encode(" d")[0])
        return MODEL.step(tokens, np.full(count, len(prompts[0])), cache)

    few, many = stepped(BLOCK), stepped(3 * BLOCK)
    assert (many[-BLOCK:] == few).all()


@settings(max_examples=40)
@given(st.lists(requests, min_size=1, max_size=6))
def test_what_is_drawn_does_not_depend_on_the_company(asked: list[Request]) -> None:
    assert complete(MODEL, asked) == [complete(MODEL, [request])[0] for request in asked]


def test_more_draws_begin_with_the_fewer_of_the_same_seed() -> None:
    few, many = complete(MODEL, [Request("a\n", n=n, seed=4, max_tokens=12) for n in (3, 9)])
    assert many.completions[:3] == few.completions


def test_another_seed_or_prompt_draws_otherwise_and_no_seed_draws_anew() -> None:
    def texts(prompt: str, seed: int | None) -> tuple[str, ...]:
        drawn = complete(MODEL, [Request(prompt, n=4, seed=seed, max_tokens=12)])[0]
        return tuple(completion.text for completion in drawn.completions)

    found = [texts("a\n", 1), texts("a\n", 2), texts("b\n", 1), texts("a\n", None), texts("a\n", None)]
    assert len(set(found)) == 5


def test_at_temperature_zero_all_draws_are_the_same() -> None:
    drawn = complete(MODEL, [Request("a b\n", n=5, temperature=0, max_tokens=12)])[0]
    assert len(set(drawn.completions)) == 1


def test_a_narrow_nucleus_leaves_only_the_likeliest() -> None:
    narrow = complete(MODEL, [Request("a\n", n=3, top_p=1e-6, max_tokens=12, seed=1)])[0]
    greedy = complete(MODEL, [Request("a\n", temperature=0, max_tokens=12)])[0]
    assert set(narrow.completions) == set(greedy.completions)


def test_the_draws_follow_the_models_distribution() -> None:
    count = MAX_ROWS
    logits = MODEL.read(MODEL.tokens("a\n"))[0][-1].astype(np.float64)
    logits[[MODEL.vocabulary.bos, MODEL.vocabulary.unk]] = -np.inf
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    asked = [Request("a\n", n=count, max_tokens=1, seed=seed) for seed in range(20)]
    texts = [completion.text for drawn in complete(MODEL, asked) for completion in drawn.completions]
    for token in np.argsort(-shares)[:4]:
        piece = "" if token == MODEL.vocabulary.eos else MODEL.vocabulary.pieces[token]
        assert abs(texts.count(piece) / len(texts) - shares[token]) < 0.05


def test_the_stop_text_ends_a_completion_and_is_not_part_of_it() -> None:
    request = Request("a\n", n=8, seed=3, max_tokens=40)
    free = complete(MODEL, [request])[0]
    stop = free.completions[0].text[4:6]
    held = complete(MODEL, [Request("a\n", n=8, seed=3, max_tokens=40, stop=(stop, "never"))])[0]
    for before, after in zip(free.completions, held.completions, strict=True):
        assert after.text == before.text.split(stop)[0]
    assert held.completions[0].finish == "stop"
    assert held.completion_tokens < free.completion_tokens


def test_a_completion_cut_off_by_its_length_says_so_and_its_tokens_are_counted() -> None:
    drawn = complete(MODEL, [Request("a b\n", n=3, max_tokens=2, seed=0)])[0]
    assert drawn.prompt_tokens == 4  # the beginning, two letters, the line break
    assert drawn.completion_tokens <= 6
    assert {completion.finish for completion in drawn.completions} <= {"stop", "length"}
    assert any(completion.finish == "length" for completion in drawn.completions)


def test_an_answer_ends_where_the_context_does() -> None:
    drawn = complete(MODEL, [Request("a" + " b" * 58 + "\n", n=16, max_tokens=500, seed=0)])[0]
    assert drawn.prompt_tokens == 61
    assert drawn.completion_tokens <= 16 * 3


def test_a_prompt_longer_than_the_context_and_too_many_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="context"):
        complete(MODEL, [Request("a" + " b" * 80)])
    with pytest.raises(ValueError, match="n is 0"):
        complete(MODEL, [Request("a\n", n=0)])


def test_more_rows_than_fit_wait_their_turn() -> None:
    asked = [Request("a\n", n=MAX_ROWS, seed=seed, max_tokens=3) for seed in range(3)]
    assert [len(drawn.completions) for drawn in complete(MODEL, asked)] == [MAX_ROWS] * 3
    assert Decoder(MODEL).is_idle


def test_a_caller_that_goes_away_does_not_stop_the_engine() -> None:
    engine = Engine(MODEL)
    assert not engine.submit(Request("a\n", n=4, max_tokens=30)).cancel()
    assert engine.submit(Request("b\n", max_tokens=5)).result(timeout=20).completions
    engine.close()


def test_an_engine_gives_every_caller_what_it_would_get_alone() -> None:
    asked = [Request(f"{letter} a\n", n=3, seed=7, max_tokens=15) for letter in LETTERS]
    engine = Engine(MODEL)
    futures: list[Future[Drawn]] = [engine.submit(request) for request in asked]
    found = [future.result(timeout=20) for future in futures]
    engine.close()
    assert found == complete(MODEL, asked)
