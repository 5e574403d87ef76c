"""Predictors: a model, the truth itself, and nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from unipixel.engine.answer import Answer
from unipixel.engine.engine import Engine
from unipixel.engine.memory import KnownObject
from unipixel.engine.session import Session
from unipixel.engine.turn import write_prompt_answer
from unipixel.errors import UnipixelError
from unipixel.eval.protocols import Prediction, Predictor, Question
from unipixel.masks import MaskTrack, encode_rle
from unipixel.processing import ImageSettings, Processor
from unipixel.sample import Mask, Turn

RELEASED = ImageSettings()
EXTREMES = ("perfect", "blank")
"""Names of the predictors that are no model: the truth itself, and nothing at all."""
BATCH_SIZE = 16
"""Questions that the language model answers together."""
FEATURE_FRAMES = 128
"""Frames whose SAM features are kept, so that the next question about a clip finds them; 1.2 GB at released size."""


class EnginePredictor(Predictor):
    """A model. Consecutive questions about one clip share its encoded frames, and nothing else."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.num_frames = engine.processor.settings.max_frames
        self._session: Session | None = None
        self._clip: Hashable = None

    def answer(self, question: Question) -> Prediction:
        """The reply of a session without history.

        Raises:
            UnipixelError: the clip cannot be read, or the question does not fit it.
        """
        session = self._open_session(question)
        if question.prompts and question.as_written:
            return self._answer_forced(session, question)
        if question.prompts:
            answer = session.ask(
                question.text or None,
                prompts=question.prompts,
                answer_prefix=question.prime,
                prompt_question=question.prefill,
                force="always" if question.forced else False,
                max_new_tokens=question.max_new_tokens,
                each=False,
            )
        else:
            answer = self._ask_as_written(session, question, question.sample.objects)
        return Prediction(answer.raw_text, _strip_objects(answer.objects))

    def answer_batch(self, questions: Sequence[Question]) -> list[Prediction | UnipixelError]:
        """Replies to plain questions, with text and prompts and nothing else, which the model answers together."""
        answers = self.engine.ask_batch(
            [question.sample.media for question in questions],
            [question.text or None for question in questions],
            prompts=[question.prompts for question in questions],
            batch_size=BATCH_SIZE,
            max_new_tokens=max(question.max_new_tokens for question in questions),
            on_error="return",
        )
        return [
            one if isinstance(one, UnipixelError) else Prediction(one.raw_text, _strip_objects(one.objects))
            for one in answers
        ]

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session, self._clip = None, None

    def _open_session(self, question: Question) -> Session:
        key = None if question.clip is None else (question.clip, question.view, question.all_frames)
        if self._session is not None and key is not None and key == self._clip:
            self._session.reset()
            return self._session
        self.close()
        # objects are tracked through all frames of the sample; the language model sees as many as it can
        media, engine = question.sample.media, self._get_engine(question.view)
        seen = media.num_frames if question.all_frames and engine is not self.engine else None
        self._session = engine.open(media, num_frames=seen, track="all", feature_frames=FEATURE_FRAMES)
        self._clip = key
        return self._session

    def _get_engine(self, view: ImageSettings | None) -> Engine:
        """The engine with the protocol's view, which is meant for checkpoints of the released size only."""
        settings = self.engine.processor.settings
        limits = (settings.min_pixels, settings.max_pixels)
        if view is None or limits != (RELEASED.min_pixels, RELEASED.max_pixels):
            return self.engine
        seen = replace(
            settings,
            min_pixels=view.min_pixels,
            max_pixels=view.max_pixels,
            share_budget=view.share_budget,
            # a view that leaves the usual rate as it is leaves the checkpoint's own as well
            fps=settings.fps if view.fps == RELEASED.fps else view.fps,
            frame_resize=view.frame_resize,
        )
        return Engine(self.engine.model, Processor(self.engine.processor.tokenizer, seen))

    def _ask_as_written(self, session: Session, question: Question, objects: Mapping[int, MaskTrack]) -> Answer:
        turn = Turn(question=question.text, regions=question.regions, as_written=True)
        return session.ask_turn(turn, objects, answer_prefix=question.prime, max_new_tokens=question.max_new_tokens)

    def _answer_forced(self, session: Session, question: Question) -> Prediction:
        """The prompts' masks by a dictated answer, whole frames for those that are empty, then the question."""
        ids = tuple(p.object_id for p in question.prompts if p.object_id is not None)
        turn = Turn(
            question=question.prefill,
            answer=write_prompt_answer(ids),
            references=tuple((p,) for p in question.prompts if not isinstance(p, Mask)),
            targets=ids,
            as_written=True,
        )
        objects = session.ask_turn(turn).objects
        size_hw = session.media.size_hw
        whole = MaskTrack(size_hw, (encode_rle(np.ones(size_hw, dtype=bool)),) * session.num_frames)
        known = {one.id: one.track if one.track.visible.any() else whole for one in objects}
        answer = self._ask_as_written(session, replace(question, regions=ids), known)
        return Prediction(answer.raw_text, _strip_objects(objects))


def _strip_objects(objects: Sequence[KnownObject]) -> tuple[KnownObject, ...]:
    """Ids, masks and scores: a run keeps its predictions, and should not keep the states that made them."""
    return tuple(KnownObject(id=one.id, label="", track=one.track, frame_scores=one.frame_scores) for one in objects)


class PerfectPredictor(Predictor):
    """Answers with the ground truth; what it does not score 100 with is wrong with the protocol or the data."""

    def answer(self, question: Question) -> Prediction:
        """The annotated answer and masks."""
        query, objects = question.query, question.sample.objects
        wanted = [p.object_id for p in question.prompts] or query.targets
        found = tuple(
            KnownObject(id=i, label="", track=objects[i], frame_scores=_get_certain_scores(objects[i]))
            for i in wanted
            if i is not None
        )
        text = query.answer
        if query.kind == "choice":
            text = f"{text})" if question.prime.endswith("(") else f"({text})"
        return Prediction(text, found)


class BlankPredictor(Predictor):
    """Answers nothing and segments nothing; its figures are the lower bounds of a benchmark."""

    def answer(self, question: Question) -> Prediction:
        return Prediction()


def _get_certain_scores(track: MaskTrack) -> tuple[float, ...]:
    return tuple(0.0 if rle is None else 1.0 for rle in track.rles)


def choose_predictor(name: str, load: Callable[[], Engine]) -> Predictor:
    """The predictor that ``--model`` means: one of `EXTREMES`, or the model that is then loaded."""
    if name in EXTREMES:
        return PerfectPredictor() if name == "perfect" else BlankPredictor()
    return EnginePredictor(load())
