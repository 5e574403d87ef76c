"""The decode loop: golden replies, caching, batches, sampling, and the states behind `<|seg|>`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from passages import continued, texts
from safetensors.torch import load_file

from unipixel.engine.engine import Engine
from unipixel.engine.generation import ConversationCache, DecodingOptions, PrefillInput, Reply, generate, prefill
from unipixel.engine.tracking import to_rles
from unipixel.masks import decode_rle
from unipixel.model.tracker import Tracker
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import load_model

CASES = ("plain_a", "plain_b", "plain_text", "seg_video", "seg_image", "seg_prompt_and_output", "eos_stop")


@pytest.fixture(scope="module")
def golden(parity_file: Callable[[str], Path]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in load_file(parity_file("generate.safetensors")).items()}


@pytest.fixture(scope="module")
def released(parity_dir: Path) -> UniPixel:
    return load_model(parity_dir)


def golden_passage(model: UniPixel, golden: dict[str, torch.Tensor], case: str) -> PrefillInput:
    ids, pixels = golden[f"{case}/in/input_ids"], golden.get(f"{case}/in/pixel_values_videos")
    grid, seconds = golden.get(f"{case}/in/video_grid_thw"), golden.get(f"{case}/in/second_per_grid_ts")
    with torch.no_grad():
        vision = None if pixels is None else model.encode_vision(pixels.float(), grid)
        embeds = model.embed(ids, None if vision is None else vision.merged)
    positions, following = model.compute_rope_index(ids, None, grid, seconds)
    return PrefillInput(ids[0], embeds[0], positions[:, 0], int(following))


def write(
    model: UniPixel,
    conversation: ConversationCache,
    inputs: list[PrefillInput],
    options: DecodingOptions | None = None,
    *,
    write: bool = True,
) -> tuple[list[Reply], list[tuple[torch.Tensor, torch.Tensor]]]:
    """Replies to inputs, and the states and logits of every step."""
    replies = [Reply() for _ in inputs]
    return replies, list(generate(model, conversation, inputs, replies, options or DecodingOptions(), write=write))


@pytest.mark.parametrize("case", CASES)
def test_greedy_replies_and_their_states_are_those_of_the_original(
    released: UniPixel, golden: dict[str, torch.Tensor], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if f"{case}/in/input_ids" not in golden:
        pytest.skip(f"case {case} is absent from generate.safetensors")
    if f"{case}/in/eos_override" in golden:
        stop = (int(golden[f"{case}/in/eos_override"]),)
        monkeypatch.setattr(released, "config", replace(released.config, eos_token_ids=stop))
    passage = golden_passage(released, golden, case)
    (reply,), steps = write(released, ConversationCache(), [passage], DecodingOptions(max_new_tokens=24))
    assert reply.ids == golden[f"{case}/out/generated_ids"].tolist()
    hidden, logits = (torch.cat(some) for some in zip(*steps, strict=True))
    torch.testing.assert_close(hidden, golden[f"{case}/out/hidden_pre_norm_steps"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits, golden[f"{case}/out/step_logits"], atol=1e-4, rtol=1e-4)
    queries = reply.compute_queries(released, given=True)
    assert len(queries) == int(golden[f"{case}/out/num_seg"])
    if len(queries):
        torch.testing.assert_close(queries, golden[f"{case}/out/seg_tokens"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", ["seg_video", "seg_image", "seg_prompt_and_output"])
def test_masks_of_a_reply_are_those_of_the_original(
    released: UniPixel, golden: dict[str, torch.Tensor], case: str
) -> None:
    if f"{case}/in/frames.0" not in golden:
        pytest.skip(f"case {case} is absent from generate.safetensors")
    passage = golden_passage(released, golden, case)
    (reply,), _ = write(released, ConversationCache(), [passage], DecodingOptions(max_new_tokens=24))
    frames = golden[f"{case}/in/frames.0"].float()
    height, width = golden[f"{case}/in/frame_size.0"].tolist()
    logits = golden[f"{case}/out/video_res_mask_logits"]
    queries = reply.compute_queries(released, given=True)
    with torch.no_grad():
        features = released.segmenter.encode(frames)
        tracker = Tracker(released.segmenter, len(frames))
        for t in range(len(frames)):
            frame = features[t : t + 1]
            decoded = tracker.step(frame) if t else tracker.add_prompts(frame, list(range(len(queries))), queries)
            rles = to_rles(decoded.low_res_masks, (height, width))
            for n, rle in enumerate(rles):
                mask = np.zeros((height, width), bool) if rle is None else decode_rle(rle)
                sure = logits[n, t].abs() > 1e-3
                assert (torch.from_numpy(mask) == (logits[n, t] > 0))[sure].all()


def test_tokens_with_a_cache_are_those_of_reading_everything_again(tiny_engine: Engine) -> None:
    model = tiny_engine.model
    passage = texts(model, (9,))[0]
    (reply,), steps = write(model, ConversationCache(), [passage], DecodingOptions(max_new_tokens=10))
    states = [hidden for hidden, _ in steps]
    for number, state in enumerate(states):
        ids = torch.cat([passage.ids, torch.tensor(reply.ids[:number], dtype=torch.long)])
        with torch.no_grad():
            whole = model.decode(model.embed(ids[None]), torch.arange(len(ids)).expand(3, 1, -1))
        torch.testing.assert_close(state, whole[:, -1], atol=1e-4, rtol=1e-4)


def test_every_row_of_a_left_padded_batch_replies_as_it_does_alone(tiny_engine: Engine) -> None:
    model, decoding = tiny_engine.model, DecodingOptions(max_new_tokens=12)
    passages = texts(model, (5, 17, 11))
    together, steps = write(model, ConversationCache(), passages, decoding)
    for row, passage in enumerate(passages):
        (alone,), own_steps = write(model, ConversationCache(), [passage], decoding)
        for number, (hidden, _) in enumerate(own_steps):
            torch.testing.assert_close(steps[number][0][row], hidden[0], atol=1e-4, rtol=1e-4)
        assert together[row].ids == alone.ids
        queries = [one.compute_queries(model) for one in (together[row], alone)]
        torch.testing.assert_close(*queries, atol=1e-4, rtol=1e-4)


def test_a_second_turn_on_the_cache_replies_as_one_on_the_whole_text(tiny_engine: Engine) -> None:
    model, decoding = tiny_engine.model, DecodingOptions(max_new_tokens=6)
    conversation = ConversationCache()
    first = texts(model, (8,))[0]
    (reply,), _ = write(model, conversation, [first], decoding)
    more = [*conversation.unread, 40, 41, 42]
    (second,), _ = write(model, conversation, [continued(model, conversation, more)], decoding)
    everything = [*first.ids.tolist(), *reply.ids[:-1], *more]
    with torch.no_grad():
        embeds = model.embed(torch.tensor(everything)[None])[0]
    length = len(everything)
    whole = PrefillInput(torch.tensor(everything), embeds, torch.arange(length).expand(3, -1), length)
    (again,), _ = write(model, ConversationCache(), [whole], decoding)
    assert second.ids == again.ids


def test_a_fork_goes_on_by_itself(tiny_engine: Engine) -> None:
    model, decoding = tiny_engine.model, DecodingOptions(max_new_tokens=5)
    conversation = ConversationCache()
    prefill(model, conversation, texts(model, (8,)))
    length = conversation.length
    replies = []
    for _ in range(2):
        fork = conversation.fork()
        (reply,), _ = write(model, fork, [continued(model, fork, [30, 31])], decoding)
        replies.append(reply.ids)
    assert replies[0] == replies[1]
    assert conversation.length == length


def test_a_seg_token_that_ends_the_reply_still_has_its_state(tiny_engine: Engine) -> None:
    model = tiny_engine.model
    passage = texts(model, (9,))[0]
    (long,), _ = write(model, ConversationCache(), [passage], DecodingOptions(max_new_tokens=40))
    place = long.ids.index(model.config.seg_token_id)
    (short,), _ = write(model, ConversationCache(), [passage], DecodingOptions(max_new_tokens=place + 1))
    assert short.ids[-1] == model.config.seg_token_id
    assert len(short.compute_queries(model)) == 1
    torch.testing.assert_close(short.compute_queries(model)[0], long.compute_queries(model)[0])


def test_seg_tokens_of_the_prompt_have_the_states_in_front_of_them(tiny_engine: Engine) -> None:
    model, seg = tiny_engine.model, tiny_engine.model.config.seg_token_id
    ids = torch.tensor([12, 13, seg, 14, seg, 15])
    with torch.no_grad():
        embeds = model.embed(ids[None])
        hidden = model.decode(embeds, torch.arange(6).expand(3, 1, -1))[0]
    passage = PrefillInput(ids, embeds[0], torch.arange(6).expand(3, -1), 6)
    (reply,), steps = write(model, ConversationCache(), [passage], write=False)
    assert steps == [] and reply.ids == []
    torch.testing.assert_close(
        reply.compute_queries(model, given=True),
        model.compute_seg_tokens(hidden[[1, 3]]).detach(),
        atol=1e-5,
        rtol=1e-4,
    )


def test_stopping_in_the_middle_leaves_a_conversation_that_can_go_on(tiny_engine: Engine) -> None:
    model, conversation = tiny_engine.model, ConversationCache()
    reply = Reply()
    steps = generate(model, conversation, texts(model, (7,)), [reply], DecodingOptions(max_new_tokens=20))
    for _ in zip(range(3), steps, strict=False):
        pass
    assert len(reply.ids) == 3 and conversation.unread == reply.ids[-1:]
    assert conversation.length == 7 + 2


def test_sampling_repeats_with_its_seed_and_top_p_of_almost_nothing_is_greedy(tiny_engine: Engine) -> None:
    model = tiny_engine.model

    def ids(**settings: float) -> list[int]:
        (reply,), _ = write(
            model, ConversationCache(), texts(model, (9,)), DecodingOptions(max_new_tokens=12, **settings)
        )
        return reply.ids

    assert ids(temperature=3.0, seed=1) == ids(temperature=3.0, seed=1)
    assert ids(temperature=3.0, seed=1) != ids(temperature=3.0, seed=2)
    assert ids(temperature=1.0, top_p=1e-6) == ids()


def test_sampling_follows_the_distribution_of_the_likeliest_tokens() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    rng = [np.random.default_rng(0)]
    drawn = [DecodingOptions(temperature=1.0, top_p=0.8).choose(logits, rng)[0] for _ in range(4000)]
    share = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(share, [0.625, 0.375, 0, 0], atol=0.03)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"top_p": 0.0}, "top_p is 0"),
    ],
)
def test_decoding_settings_out_of_range_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DecodingOptions(**settings)


def test_forked_conversations_that_write_in_turns_do_not_disturb_each_other(tiny_engine: Engine) -> None:
    """They share the memory of what was said before they parted, and beyond it only the first may go on in it."""
    model, (opening, *ways) = tiny_engine.model, texts(tiny_engine.model, (9, 4, 5, 3))
    shared = ConversationCache()
    prefill(model, shared, [opening])
    options = DecodingOptions(max_new_tokens=6)

    def start(conversation: ConversationCache, way: PrefillInput) -> tuple[Reply, Iterator[object]]:
        reply = Reply()
        return reply, generate(
            model, conversation, [continued(model, conversation, way.ids.tolist())], [reply], options
        )

    running = [start(shared.fork(), way) for way in ways]
    for _ in range(7):
        for _, steps in running:
            next(steps, None)
    for (reply, _), way in zip(running, ways, strict=True):
        alone = ConversationCache()
        prefill(model, alone, [opening])
        again, steps = start(alone, way)
        list(steps)
        assert reply.ids == again.ids
    assert shared.length == 9
