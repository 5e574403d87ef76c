"""Decoding in memory of fixed shape: the same tokens as with the growing cache, and a host that waits for nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unipixel.bench.counting import OperationCounter
from unipixel.engine import static_decoding
from unipixel.engine.engine import Engine
from unipixel.engine.generation import ConversationCache, DecodingOptions, PrefillInput, Reply, generate, prefill
from unipixel.engine.static_decoding import StaticDecoder
from unipixel.model.config import build_language_section
from unipixel.model.language import fuse_projections
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import load_model, save_model

LAYERS = 36
"""Decoder layers of the released 3B."""
MOST_KERNELS = 650
"""Operations that reading one token may take at that depth."""


def read_text(model: UniPixel, length: int, seed: int = 0, start: int = 0) -> PrefillInput:
    """Random words."""
    ids = torch.randint(10, 200, (length,), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        embeds = model.embed(ids[None])[0]
    return PrefillInput(ids, embeds, torch.arange(start, start + length).expand(3, -1), start + length)


def write(
    model: UniPixel,
    passages: list[PrefillInput],
    static: bool,
    conversation: ConversationCache | None = None,
    **options: float,
) -> tuple[list[Reply], list[tuple[torch.Tensor, torch.Tensor]]]:
    replies, decoding = [Reply() for _ in passages], DecodingOptions(**{"max_new_tokens": 12, **options})
    asked = conversation or ConversationCache()
    return replies, list(generate(model, asked, passages, replies, decoding, static=static))


@pytest.fixture(scope="module")
def deep_model(tiny_engine: Engine) -> UniPixel:
    """As many decoder layers as UniPixel-3B has, each very narrow."""
    config = tiny_engine.model.config
    language = build_language_section(**vars(config.language) | {"num_hidden_layers": LAYERS})
    torch.manual_seed(0)
    return UniPixel(replace(config, language=language)).eval()


@pytest.mark.parametrize("lengths", [(9,), (5, 17, 11)], ids=["one", "three of four rows, padded"])
@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_tokens_states_and_queries_are_those_of_the_growing_cache(
    tiny_engine: Engine, lengths: tuple[int, ...], temperature: float
) -> None:
    model = tiny_engine.model
    passages = [read_text(model, length, seed=length) for length in lengths]
    grown, fixed = (write(model, passages, static, temperature=temperature) for static in (False, True))
    assert [reply.ids for reply in fixed[0]] == [reply.ids for reply in grown[0]]
    assert len(fixed[1]) == len(grown[1])
    for ours, theirs in zip(fixed[1], grown[1], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(fixed[0], grown[0], strict=True):
        torch.testing.assert_close(ours.compute_queries(model), theirs.compute_queries(model), atol=1e-4, rtol=1e-4)


def test_replies_of_the_parity_checkpoint_are_those_of_the_original(
    parity_dir: Path, parity_file: Callable[[str], Path]
) -> None:
    golden, model = load_file(parity_file("generate.safetensors")), load_model(parity_dir)
    for case in ("plain_a", "plain_b", "plain_text", "seg_video"):
        pixels, grid = golden.get(f"{case}/in/pixel_values_videos"), golden.get(f"{case}/in/video_grid_thw")
        ids = golden[f"{case}/in/input_ids"]
        with torch.no_grad():
            vision = None if pixels is None else model.encode_vision(pixels.float(), grid)
            embeds = model.embed(ids, None if vision is None else vision.merged)
        positions, following = model.compute_rope_index(ids, None, grid, golden.get(f"{case}/in/second_per_grid_ts"))
        passage = PrefillInput(ids[0], embeds[0], positions[:, 0], int(following))
        (reply,), steps = write(model, [passage], True, max_new_tokens=24)
        assert reply.ids == golden[f"{case}/out/generated_ids"].tolist()
        hidden = torch.cat([state for state, _ in steps])
        torch.testing.assert_close(hidden, golden[f"{case}/out/hidden_pre_norm_steps"], atol=1e-4, rtol=1e-4)


def test_a_reply_that_outgrows_its_decoder_goes_on_in_a_larger_one(
    tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, passage = tiny_engine.model, read_text(tiny_engine.model, 9)
    (long,), _ = write(model, [passage], False, max_new_tokens=40)
    monkeypatch.setattr(static_decoding, "CAPACITY", 8)
    monkeypatch.setattr("unipixel.engine.generation.AHEAD", 4)
    sizes = []
    taken = static_decoding.take_decoder
    monkeypatch.setattr(
        "unipixel.engine.generation.take_decoder", lambda *given: sizes.append(given[2]) or taken(*given)
    )
    for temperature in (0.0, 1e-6):
        (reply,), _ = write(model, [passage], True, max_new_tokens=40, temperature=temperature)
        assert reply.ids == long.ids
    assert len(sizes) >= 4 and sizes[1] > sizes[0]


def test_a_later_turn_finds_what_a_decoder_has_read(tiny_engine: Engine) -> None:
    model = tiny_engine.model
    said = []
    for static in (False, True):
        conversation = ConversationCache()
        (first,), _ = write(model, [read_text(model, 9)], static, conversation)
        lengths = [conversation.length]
        later = read_text(model, 4, seed=3, start=int(conversation.next_position))
        (second,), _ = write(model, [later], static, conversation)
        said.append((first.ids, second.ids, [*lengths, conversation.length], conversation.unread))
    assert said[0] == said[1]


def test_stopping_in_the_middle_leaves_a_conversation_that_can_go_on(tiny_engine: Engine) -> None:
    """Although the step after the last token that was seen is under way already."""
    model, conversation, reply = tiny_engine.model, ConversationCache(), Reply()
    steps = generate(model, conversation, [read_text(model, 7)], [reply], DecodingOptions(), static=True)
    for _ in range(3):
        next(steps)
    assert len(reply.ids) == 3 and conversation.unread == reply.ids[-1:]
    assert conversation.length == conversation.cache.length == 7 + 2
    assert int(conversation.next_position) == 7 + 2
    other = ConversationCache()
    for _ in zip(range(3), generate(model, other, [read_text(model, 7)], [Reply()], DecodingOptions()), strict=False):
        pass
    for ours, theirs in zip(conversation.cache.layers, other.cache.layers, strict=True):
        torch.testing.assert_close(ours.keys, theirs.keys, atol=1e-4, rtol=1e-4)
    prefill(model, conversation, [read_text(model, 2, start=9)])
    list(
        generate(
            model,
            conversation,
            [read_text(model, 2, start=11)],
            [Reply()],
            DecodingOptions(max_new_tokens=3),
            static=True,
        )
    )
    with pytest.raises(RuntimeError, match="has gone on without it"):
        next(steps)


def test_forks_that_write_in_turns_do_not_disturb_each_other(tiny_engine: Engine) -> None:
    model, shared = tiny_engine.model, ConversationCache()
    prefill(model, shared, [read_text(model, 9)])
    options = DecodingOptions(max_new_tokens=6)

    def start(seed: int, *, static: bool) -> tuple[Reply, Iterator[object]]:
        reply, passage = Reply(), read_text(model, 3 + seed, seed=seed, start=9)
        return reply, generate(model, shared.fork(), [passage], [reply], options, static=static)

    running = [start(seed, static=True) for seed in range(3)]
    for _ in range(7):
        for _, steps in running:
            next(steps, None)
    for seed, (reply, _) in enumerate(running):
        again, steps = start(seed, static=False)
        list(steps)
        assert reply.ids == again.ids


def test_decoders_are_used_again_and_hold_nothing_against_the_next_reply(tiny_engine: Engine) -> None:
    model = tiny_engine.model
    static_decoding._IDLE.pop(model, None)
    expected, _ = write(model, [read_text(model, 9)], True)
    (decoder,) = static_decoding._IDLE[model]
    for memory in decoder._layers:
        for one in memory:
            one.fill_(torch.nan)
    again, _ = write(model, [read_text(model, 9)], True)
    assert again[0].ids == expected[0].ids
    assert static_decoding._IDLE[model] == [decoder]
    for rows in (2, 3, 5, 9, 17):
        write(model, [read_text(model, 4)] * rows, True, max_new_tokens=2)
    assert len(static_decoding._IDLE[model]) == static_decoding.MAX_IDLE


def test_projections_lie_together_without_lying_twice_and_are_saved_as_they_were(
    tiny_engine: Engine, deep_model: UniPixel, tmp_path: Path
) -> None:
    before = {name: one.clone() for name, one in deep_model.state_dict().items()}

    def count_bytes() -> int:
        kept = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in deep_model.parameters()}
        return sum(kept.values())

    size = count_bytes()
    fuse_projections(deep_model.language)
    assert count_bytes() == size
    attention, mlp = deep_model.language.layers[3].self_attn, deep_model.language.layers[3].mlp
    together = {
        one.weight.untyped_storage().data_ptr() for one in (attention.q_proj, attention.k_proj, attention.v_proj)
    }
    assert len(together) == 1 and together != {mlp.gate_proj.weight.untyped_storage().data_ptr()}
    for name, one in deep_model.state_dict().items():
        assert torch.equal(one, before[name])
    save_model(deep_model, tmp_path / "saved")
    for name, one in load_model(tmp_path / "saved").state_dict().items():
        assert torch.equal(one, before[name]), name


def test_a_token_costs_few_kernels_and_no_wait(deep_model: UniPixel) -> None:
    """At the depth of the released 3B, from the second token on, with everything that the loop does around it."""
    counts = {}
    for static in (False, True):
        steps = generate(
            deep_model, ConversationCache(), [read_text(deep_model, 9)], [Reply()], DecodingOptions(), static=static
        )
        next(steps), next(steps)
        with OperationCounter() as counts[static]:
            for _ in range(4):
                next(steps)
        steps.close()
    assert counts[True].waits.total() == 0, str(counts[True])
    assert counts[True].kernels.total() / 4 <= MOST_KERNELS, str(counts[True].kernels)
    assert counts[False].waits["tolist"] == 4  # the counter does see what the other way does


def test_a_step_on_an_accelerator_waits_for_nothing(deep_model: UniPixel) -> None:
    """On torch's meta tensors, which are of another device than the host's and have no number to tell."""
    with torch.device("meta"), torch.no_grad():
        model = UniPixel(deep_model.config).to(torch.bfloat16).eval()
        fuse_projections(model.language)
        decoder = StaticDecoder(model, 4, 1024)
        decoder.step(model)  # brings the rotary frequencies to the device
        with OperationCounter() as counter:
            decoder.step(model)
    assert decoder._logits.shape == (4, model.config.language.vocab_size) and decoder._logits.is_meta
    assert counter.waits.total() == 0, str(counter)
    assert counter.kernels.total() <= MOST_KERNELS, str(counter.kernels)
