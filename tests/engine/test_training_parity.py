"""One code path: the training forward and inference see the same sample alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from unipixel.engine.engine import Engine
from unipixel.engine.generation import Reply
from unipixel.engine.memory import Anchor, set_spans
from unipixel.engine.tracking import propagate, to_rles
from unipixel.masks import MaskTrack
from unipixel.media import Media
from unipixel.sample import Box, Point, Sample, Turn

Clips = Callable[..., np.ndarray]


def sample(frames: np.ndarray) -> Sample:
    """Two turns: prompts to masks, then a question over a region that is answered with another mask."""
    masks = np.zeros(frames.shape[:3], bool)
    masks[:, 10:50, 20:70] = True
    track = MaskTrack.from_masks(masks)
    return Sample(
        media=Media.from_array(frames),
        objects={1: track, 2: track},
        turns=(
            Turn(
                question="Please segment [1] <|ref|> and [2] <|ref|>.",
                answer="[1] <|seg|> [2] <|seg|>",
                references=((Point(30, 30, frame=1),), (Box(10, 10, 60, 50),)),
                targets=(1, 2),
            ),
            Turn(question="What is [1]?", answer="the dog <|seg|>.", regions=(1,), targets=(1,)),
        ),
    )


def test_training_and_inference_have_the_same_seg_states_and_masks(tiny_engine: Engine, clip: Clips) -> None:
    frames, model, processor = clip(3), tiny_engine.model, tiny_engine.processor
    record = sample(frames)
    with torch.no_grad():
        trained = model(**processor.collate([processor.build_training_inputs(record)], config=model.config))
    session = tiny_engine.open(frames)
    dialogue, queries = session._space.dialogue, []
    for turn in record.turns:
        reply = Reply(turn, record.objects, answer=turn.answer)
        dialogue.start(reply)
        reply.finish()
        queries.append(reply.compute_queries(model, given=True))
    inferred = torch.cat(queries)
    torch.testing.assert_close(inferred, trained.seg_tokens[0], atol=1e-4, rtol=1e-4)

    anchors = {n: set_spans([Anchor(0, state)], 3) for n, state in enumerate(inferred)}
    workspace = session._space
    for frame in propagate(model.segmenter, workspace.features, frames.shape[1:3], 3, anchors):
        decoded = trained.decoded[0][frame.t]
        there = decoded.object_score_logits > 0
        for rle, expected, seen in zip(
            frame.rles.values(), to_rles(decoded.low_res_masks, frames.shape[1:3]), there, strict=True
        ):
            # training keeps the masks of absent objects
            assert (rle is None) == (not seen or expected is None)
            if rle is not None:
                agreement = MaskTrack((90, 120), (rle,)).iou(MaskTrack((90, 120), (expected,)))[0]
                assert agreement > 0.999


def test_a_question_read_whole_and_read_after_the_visual_are_the_same_tokens(tiny_engine: Engine, clip: Clips) -> None:
    record, session = sample(clip(3)), tiny_engine.open(clip(3))
    dialogue = session._space.dialogue
    reply = Reply(record.turns[0], answer=record.turns[0].answer)
    whole = dialogue.build_prefill(reply)
    dialogue.start(reply)
    reply.finish()
    transcript, _ = dialogue.transcript
    opening = tiny_engine.processor.chat.encode_opening(dialogue.visual.num_tokens)
    assert whole.ids.tolist() == opening + transcript.input_ids.tolist()
    assert whole.next_position == int(dialogue._main.next_position)
