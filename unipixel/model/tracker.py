"""Objects tracked through frames, in one batch and with a memory of fixed size."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from unipixel.model.config import POINTERS_IN_MEMORY
from unipixel.model.segmenter import FrameFeatures, MaskPrediction, Segmenter


class Cohort:
    """Objects that were prompted on the same frame; they share every temporal distance.

    Holds the memory of the prompted frame, of the last ``num_memories - 1`` frames, and at most 16 pointers, however
    long the video is.
    """

    def __init__(self, segmenter: Segmenter, num_frames: int | None) -> None:
        recent = segmenter.config.num_memories - 1
        pointers = min(num_frames or POINTERS_IN_MEMORY, POINTERS_IN_MEMORY)
        self._segmenter = segmenter
        self._longest = max(pointers - 1, 1)
        self._memories: deque[Tensor] = deque(maxlen=recent)  # newest first, each (N, s*s, M)
        self._pointers: deque[Tensor] = deque(maxlen=pointers - 1)  # newest first, each (N, C)
        self._first: tuple[Tensor, Tensor] | None = None
        self._least_scores: Tensor | None = None
        self._age = 0
        # brought to the device once: the host would wait for numbers that it brings there for each frame
        device = segmenter.no_memory_embedding.device
        self._distances = torch.tensor([age / self._longest for age in range(1, pointers)], device=device)

    def __len__(self) -> int:
        return len(self._first[0]) if self._first is not None else 0

    def begin(self, features: FrameFeatures, decoded: MaskPrediction) -> None:
        """Take the prompted frame as the first memory."""
        self._first = self._encode_memory(features, decoded)
        if self._segmenter.min_track_score:
            self._least_scores = decoded.scores * self._segmenter.min_track_score

    def condition(self, features: FrameFeatures) -> Tensor:
        """(N, C, s, s) features of the next frame, conditioned on what is remembered."""
        if self._first is None:
            raise ValueError("a cohort must begin on a prompted frame before it can be tracked")
        count = self._segmenter.config.num_memories
        memories = torch.stack([self._first[0], *reversed(self._memories)], 1)
        slots = [count - 1, *reversed(range(len(self._memories)))]
        pointers = torch.stack([self._first[1], *self._pointers], 1)
        farthest = self._distances.new_full((1,), (self._age + 1) / self._longest)
        distance = torch.cat([farthest, self._distances[: len(self._pointers)]])
        return self._segmenter.attend(features.embed, memories, slots, pointers, distance)

    def step(self, features: FrameFeatures, *, mark_absent: bool = True) -> MaskPrediction:
        """Track all objects into the next frame."""
        embed = self.condition(features)
        least = self._least_scores if mark_absent else None
        decoded = self._segmenter.decode(embed, features, mark_absent=mark_absent, least_scores=least)
        memory, pointer = self._encode_memory(features, decoded)
        self._age += 1
        self._memories.appendleft(memory)
        self._pointers.appendleft(pointer)
        return decoded

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with these objects only; the memory of the others is freed."""
        if self._first is not None:
            self._first = (self._first[0][rows], self._first[1][rows])
        if self._least_scores is not None:
            self._least_scores = self._least_scores[rows]
        for history in (self._memories, self._pointers):
            kept = [x[rows] for x in history]
            history.clear()
            history.extend(kept)

    def _encode_memory(self, features: FrameFeatures, decoded: MaskPrediction) -> tuple[Tensor, Tensor]:
        memory = self._segmenter.encode_memory(features.embed, decoded.low_res_masks, decoded.object_score_logits)
        return memory, decoded.object_pointer


class Tracker:
    """Any number of objects, prompted on any frames, tracked frame by frame in one direction.

    Objects are named by the ids given in `add_prompts` and `add_masks`. To track backwards, feed frames in reverse
    order to a second tracker.

    Source: SAM 2, section 4 (memory attention over the prompted frame and the last six).
    """

    def __init__(self, segmenter: Segmenter, num_frames: int | None = None) -> None:
        """Args: num_frames: length of the clip where known; it scales the pointers' temporal distances."""
        self._segmenter = segmenter
        self._num_frames = num_frames
        self._cohorts: list[tuple[list[int], Cohort]] = []

    @property
    def object_ids(self) -> list[int]:
        """Ids of the objects being tracked, in the order of `step`'s result."""
        return [i for ids, _ in self._cohorts for i in ids]

    def add_prompts(
        self,
        features: FrameFeatures,
        object_ids: list[int],
        hidden: Tensor | None = None,
        points: tuple[Tensor, Tensor] | None = None,
    ) -> MaskPrediction:
        """Start objects on a frame from `<|seg|>` queries and / or clicks; arguments as in `Segmenter.decode`.

        Call before `step` is called for the following frame. An id that is already tracked starts anew.
        """
        decoded = self._segmenter.decode(self._segmenter.add_no_memory(features), features, hidden, points)
        self._start_cohort(features, object_ids, decoded)
        return decoded

    def add_masks(self, features: FrameFeatures, object_ids: list[int], masks: Tensor) -> MaskPrediction:
        """Start objects on a frame from known masks (N, S, S) bool."""
        decoded = self._segmenter.use_masks_as_output(features, masks)
        self._start_cohort(features, object_ids, decoded)
        return decoded

    def step(self, features: FrameFeatures) -> MaskPrediction | None:
        """Track every object into the next frame; None when there are none. Rows follow `object_ids`."""
        outputs = [cohort.step(features) for _, cohort in self._cohorts]
        if len(outputs) < 2:
            return outputs[0] if outputs else None
        return MaskPrediction(
            *(torch.cat([getattr(o, name) for o in outputs]) for name in MaskPrediction.__dataclass_fields__)
        )

    def remove(self, object_ids: list[int]) -> None:
        """Stop tracking these objects and free their memory."""
        remaining = []
        for ids, cohort in self._cohorts:
            rows = [row for row, i in enumerate(ids) if i not in object_ids]
            if rows and len(rows) < len(ids):
                cohort.keep_rows(torch.tensor(rows))
            if rows:
                remaining.append(([ids[row] for row in rows], cohort))
        self._cohorts = remaining

    def _start_cohort(self, features: FrameFeatures, object_ids: list[int], decoded: MaskPrediction) -> None:
        if len(object_ids) != len(decoded.low_res_masks):
            raise ValueError(f"{len(object_ids)} object ids were given for {len(decoded.low_res_masks)} prompts")
        self.remove(object_ids)
        cohort = Cohort(self._segmenter, self._num_frames)
        cohort.begin(features, decoded)
        self._cohorts.append((list(object_ids), cohort))
