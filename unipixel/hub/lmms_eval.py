"""The model plugin of lmms-eval, with which its general benchmarks run on a checkpoint:

    lmms-eval --model unipixel --model_args pretrained=nano,num_frames=16 --tasks mme --batch_size 8

lmms-eval finds it by the entry point ``lmms_eval.models`` of the installed package, so nothing has to be copied. It is
no dependency of this package; install it beside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image

from unipixel.engine.engine import load
from unipixel.errors import PromptError

DEFAULT_TOKENS = 256
"""Longest reply where a task does not say it."""
_OPTIONS = {"max_new_tokens", "temperature", "top_p", "do_sample", "until", "num_beams", "image_aspect_ratio"}
"""What tasks say about replies. Several beams are refused; the aspect ratio is other models' business."""


def build_manifest() -> ModelManifest:
    """What lmms-eval has to know: the name of the model and where its class is."""
    return ModelManifest(model_id="unipixel", simple_class_path=f"{__name__}.LmmsModel")


class LmmsModel(lmms):  # type: ignore[misc, unused-ignore]  # of a library that is not installed where types are checked
    """Answers questions of lmms-eval about one picture or one video each.

    Args:
        pretrained: a checkpoint, as for `unipixel.load`.
        device, dtype: as for `unipixel.load`.
        num_frames: frames of a video that are read; by default the checkpoint's own number.
        batch_size: questions that are answered together; set by lmms-eval.
        options: ``base``, and what lmms-eval hands to every model.

    Raises:
        CheckpointError: the checkpoint is not usable.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "nano",
        device: str = "auto",
        dtype: str | None = None,
        num_frames: int | None = None,
        batch_size: int | str = 1,
        **options: Any,
    ) -> None:
        super().__init__()
        unknown = sorted(options.keys() - {"base", "max_batch_size"})
        if unknown:
            raise ValueError(
                f"the model takes no {', '.join(unknown)}; it takes pretrained, dtype, num_frames and base"
            )
        self.engine = load(pretrained, device, dtype, base=options.get("base"))
        self.num_frames = None if num_frames is None else int(num_frames)
        self.batch_size = int(batch_size)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answer to each question, cut before the task's stop words.

        Raises:
            PromptError: a question is about no picture, or about several.
            ValueError: a task asks for replies that are not made here.
        """
        replies: dict[int, str] = {}
        wanted = [(number, *_read_options(request.args[1])) for number, request in enumerate(requests)]
        wanted.sort(key=lambda one: repr(one[1]))  # those that are answered alike go together
        for _, same in groupby(wanted, key=lambda one: repr(one[1])):
            group = list(same)
            for start in range(0, len(group), self.batch_size):
                part = group[start : start + self.batch_size]
                questions = [self._read_question(requests[number].args) for number, _, _ in part]
                answers = self.engine.ask_batch(
                    [visual for _, visual in questions],
                    [text for text, _ in questions],
                    num_frames=self.num_frames,
                    each=False,
                    batch_size=self.batch_size,
                    **part[0][1],
                )
                for (number, _, stops), answer in zip(part, answers, strict=True):
                    replies[number] = _cut(answer.text, stops)
                    self.cache_hook.add_partial("generate_until", requests[number].args[:2], replies[number])
        return [replies[number] for number in range(len(requests))]

    def _read_question(self, arguments: Sequence[Any]) -> tuple[str, Any]:
        """The words of a question and its picture or video."""
        context, _, find_visuals, doc_id, task, split = arguments
        visuals = find_visuals(self.task_dict[task][split][doc_id])
        given = [one for one in _flatten(visuals) if one is not None]
        if len(given) != 1:
            raise PromptError(
                f"question {doc_id} of {task} is about {len(given)} pictures or videos; UniPixel answers about one"
            )
        return context.replace("<image>", "").strip(), given[0]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not there: the model answers in words.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("UniPixel gives no likelihoods; choose a task whose output_type is generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not there, as `loglikelihood`.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("UniPixel answers single questions of lmms-eval; choose a task of one round")


def _flatten(visuals: Any) -> Iterator[Any]:
    """Pictures and videos of a question, however deep a task puts them into lists."""
    if isinstance(visuals, list | tuple):
        for one in visuals:
            yield from _flatten(one)
    elif isinstance(visuals, Image.Image):
        yield visuals.convert("RGB")
    else:
        yield visuals


def _read_options(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """How a reply is to be written, and the words before which it ends."""
    if unknown := sorted(given.keys() - _OPTIONS):
        raise ValueError(f"the task sets {', '.join(unknown)} for its replies, which UniPixel does not know")
    if given.get("num_beams") not in (None, 1):
        raise ValueError(f"the task asks for {given['num_beams']} beams; UniPixel decodes greedily or draws")
    until = given.get("until") or []
    temperature = given.get("temperature") or 0.0
    if given.get("do_sample") is False:
        temperature = 0.0
    decoding = {"max_new_tokens": int(given.get("max_new_tokens") or DEFAULT_TOKENS), "temperature": float(temperature)}
    if given.get("top_p") is not None and temperature:
        decoding["top_p"] = float(given["top_p"])
    return decoding, [until] if isinstance(until, str) else list(until)


def _cut(text: str, stops: Sequence[str]) -> str:
    """Text up to the first stop word."""
    return text[: min((text.index(stop) for stop in stops if stop and stop in text), default=len(text))].strip()
