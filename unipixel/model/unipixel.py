"""The whole model: language, prompts, object memory and segmenter joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unipixel.model import language
from unipixel.model.config import UniPixelConfig
from unipixel.model.language import KeyValueCache
from unipixel.model.prompt_encoder import PointEncoder, RegionPool
from unipixel.model.segmenter import FrameFeatures, MaskPrediction, Segmenter
from unipixel.model.tracker import Cohort
from unipixel.model.vision import NORM_EPS, Grid, RMSNorm, VisionFeatures, encode_vision


@dataclass(frozen=True)
class TrainingOutput:
    """What the losses are computed from."""

    logits: Tensor
    """(B, L, V), or (K, V) of the K states before a learnt token when the batch has labels."""
    hidden: Tensor
    """(B, L, D) residual stream before the final norm."""
    seg_tokens: list[Tensor]
    """Per sample (O, Q, C) queries in the order of `<|seg|>` in its text."""
    decoded: list[list[MaskPrediction] | None]
    """Per sample: one `MaskPrediction` of its O objects per frame; None for a sample without masks."""
    vision: VisionFeatures | None
    mem: Tensor | None
    """(rows, D) of `<|mem|>`, object by object and step by step; None for a batch without regions."""


class UniPixel(nn.Module):
    """Text, images, videos and visual prompts in; text and mask queries out.

    Source: UniPixel (arXiv 2509.18094), section 3.
    """

    def __init__(self, config: UniPixelConfig) -> None:
        super().__init__()
        self.config = config
        self.visual, self.language, self.lm_head = language.build_language_model(config)
        d = config.language.hidden_size
        self.seg_head = nn.Sequential(
            RMSNorm(d, NORM_EPS),
            nn.Linear(d, d),
            nn.GELU(),
            nn.Linear(d, config.hidden_tokens * config.sam.hidden_size),
        )
        self.prompt_encoder = PointEncoder(config)
        self.region_pool = RegionPool(config)
        self.segmenter = Segmenter(config.sam)
        self.segmenter.min_track_score = config.pixel.min_track_score
        self.segmenter.candidate_temperature = config.pixel.candidate_temperature
        self.segmenter.guided_radius = config.pixel.guided_radius

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype

    def encode_vision(self, pixel_values: Tensor, grid_thw: Tensor) -> VisionFeatures:
        """Encode visuals: patches (sum t*h*w, 1176) and their grids (V, 3)."""
        grids: tuple[Grid, ...] = tuple((int(t), int(h), int(w)) for t, h, w in grid_thw.tolist())
        if sum(t * h * w for t, h, w in grids) != len(pixel_values):
            raise ValueError(f"{len(pixel_values)} patches do not fill the grids {grids}")
        matrix = self.segmenter.shared_image_embedding.positional_embedding
        return encode_vision(self.visual, self.config, pixel_values, grids, matrix)

    def encode_points(
        self, coords: Sequence[Tensor], labels: Sequence[Tensor], frames: Tensor, num_frames: int | Tensor
    ) -> Tensor:
        """(N, D) `<|ref|>` embeddings; see `PointEncoder.forward`. ``num_frames`` may be one number for all."""
        return self.prompt_encoder(coords, labels, frames, torch.as_tensor(num_frames).expand(len(coords)))

    def pool_regions(self, vision: VisionFeatures, masks: Sequence[Tensor | None]) -> Tensor:
        """(rows, D) `<|mem|>` embeddings; see `RegionPool.pool`."""
        return self.region_pool(vision, masks)

    def embed(
        self,
        input_ids: Tensor,
        visual: Tensor | None = None,
        ref: Tensor | None = None,
        mem: Tensor | None = None,
        image: Tensor | None = None,
    ) -> Tensor:
        """Embeddings (B, L, D) of tokens, with visual, `<|ref|>` and `<|mem|>` rows put in place, in reading order.

        Raises:
            ValueError: the number of rows differs from the number of their tokens.
        """
        config = self.config
        embeds = self.language.embed_tokens(input_ids)
        for name, token, rows in (
            ("image", config.image_token_id, image),
            ("video", config.video_token_id, visual),
            ("<|ref|>", config.ref_token_id, ref),
            ("<|mem|>", config.mem_token_id, mem),
        ):
            place = input_ids == token
            given = 0 if rows is None else len(rows)
            if rows is None and name in ("image", "video", "<|ref|>", "<|mem|>") and not place.any():
                continue
            if int(place.sum()) != given:
                raise ValueError(f"the text has {int(place.sum())} {name} tokens but {given} embeddings were given")
            if rows is not None:
                embeds = embeds.masked_scatter(place[..., None], rows.to(embeds.dtype))
        return embeds

    def compute_rope_index(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        grid_thw: Tensor | None = None,
        second_per_grid: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(3, B, L) mRoPE positions and (B,) next free position; see `language.compute_rope_index`."""
        grids = [] if grid_thw is None else [tuple(row) for row in grid_thw.tolist()]
        seconds = [1.0] * len(grids) if second_per_grid is None else second_per_grid.tolist()
        images = None if image_grid_thw is None else [tuple(row) for row in image_grid_thw.tolist()]
        return language.compute_rope_index(input_ids, attention_mask, grids, seconds, self.config, images)

    def decode(
        self,
        embeds: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Residual stream (B, L, D) before the final norm; see `language.decode`."""
        return language.decode(self.language, embeds, position_ids, attention_mask, cache)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits (..., V) of pre-norm states (..., D)."""
        return language.project(self.lm_head, self.language.norm(hidden))

    def compute_seg_tokens(self, hidden: Tensor) -> Tensor:
        """Mask queries (..., Q, C) of pre-norm states (..., D): the states that predict `<|seg|>`."""
        return self.seg_head(hidden).unflatten(-1, (self.config.hidden_tokens, self.config.sam.hidden_size))

    def forward(self, **batch: Any) -> TrainingOutput:
        """The training forward, teacher-forced; the same modules as inference in the same order.

        Args:
            input_ids: (B, L), right-padded.
            attention_mask: (B, L), or a full (B, 1, L, L) mask with ``position_ids`` (3, B, L).
            pixel_values, grid_thw, second_per_grid: videos of the whole batch, stills among them.
            image_pixel_values, image_grid_thw: pictures of the whole batch that are written as images.
            point_coords, point_labels: lists over all `<|ref|>` of the batch; point_frames, point_num_frames: (R,).
            region_masks: list over visuals of weights (t, N, h/2, w/2), bool or from 0 to 1, or None.
            sam_frames: list over samples of (T, 3, S, S) or None.
            labels: (B, L) with -100 where nothing is learnt; spares the logits of all other positions.
            chosen_objects: list over samples of the numbers (K,) of the `<|seg|>` whose masks are wanted; None: all.
        """
        ids = batch["input_ids"]
        vision = None
        if batch.get("pixel_values") is not None:
            vision = self.encode_vision(batch["pixel_values"], batch["grid_thw"])
        ref = mem = None
        if batch.get("point_coords"):
            ref = self.encode_points(
                batch["point_coords"], batch["point_labels"], batch["point_frames"], batch["point_num_frames"]
            )
        pictures = None
        if batch.get("image_pixel_values") is not None:
            pictures = self.encode_vision(batch["image_pixel_values"], batch["image_grid_thw"]).merged
        regions = batch.get("region_masks")
        if vision is not None and regions is not None and any(r is not None for r in regions):
            mem = self.pool_regions(vision, regions)
        embeds = self.embed(ids, vision.merged if vision else None, ref, mem, pictures)
        positions = batch.get("position_ids")
        if positions is None:
            mask = batch["attention_mask"]
            grids = [batch.get(name) for name in ("grid_thw", "second_per_grid", "image_grid_thw")]
            positions, _ = self.compute_rope_index(ids, mask, *grids)
        hidden = self.decode(embeds, positions, batch["attention_mask"])
        queries = [
            self.compute_seg_tokens(row[:-1][following[1:] == self.config.seg_token_id])
            for row, following in zip(hidden, ids, strict=True)
        ]
        chosen = batch.get("chosen_objects") or [None] * len(queries)
        queries = [q if which is None else q[which] for q, which in zip(queries, chosen, strict=True)]
        decoded = self.segment(queries, batch.get("sam_frames"))
        labels = batch.get("labels")
        learning = hidden if labels is None else hidden[:, :-1][labels[:, 1:] != -100]
        return TrainingOutput(self.compute_logits(learning), hidden, queries, decoded, vision, mem)

    def segment(
        self,
        queries: list[Tensor],
        frames: list[Tensor | None] | None,
        *,
        propagate: bool = True,
        given: list[Tensor] | None = None,
    ) -> list[list[MaskPrediction] | None]:
        """Masks of every sample's objects on all its frames, differentiable; clips of one length share a batch.

        Args:
            queries: per sample (O, Q, C).
            frames: per sample (T, 3, S, S), or None for a sample without masks.
            propagate: prompt the first frame and track; otherwise prompt every frame on its own.
            given: per sample (O, S, S) bool, masks of the first frame that are tracked instead of the model's own.
        """
        results: list[list[MaskPrediction] | None] = [None] * len(queries)
        if frames is None:
            return results
        propagate = propagate and self.config.pixel.propagate
        lengths = {i: len(f) for i, f in enumerate(frames) if f is not None and len(queries[i])}
        for length in sorted(set(lengths.values())):
            group = [i for i, n in lengths.items() if n == length]
            clips = [clip for i in group if (clip := frames[i]) is not None]
            features = self.segmenter.encode(torch.cat(clips))  # (G * T, ...)
            owner = torch.cat([torch.full((len(queries[i]),), g * length) for g, i in enumerate(group)])
            owner = owner.to(features.embed.device)
            known = None if given is None else torch.cat([given[i] for i in group])
            steps = self._propagate(features, owner, torch.cat([queries[i] for i in group]), length, propagate, known)
            sizes = [len(queries[i]) for i in group]
            split = [_split(step, sizes) for step in steps]
            for g, i in enumerate(group):
                results[i] = [step[g] for step in split]
        return results

    def _propagate(
        self,
        features: FrameFeatures,
        owner: Tensor,
        queries: Tensor,
        length: int,
        propagate: bool,
        given: Tensor | None = None,
    ) -> list[MaskPrediction]:
        """One `MaskPrediction` of all objects per frame; object n sees frames ``owner[n] + t``."""
        segmenter = self.segmenter
        first = features[owner]
        steps = [segmenter.decode(segmenter.add_no_memory(first), first, queries, mark_absent=False)]
        cohort = Cohort(segmenter, length)
        if propagate and length > 1:
            cohort.begin(first, steps[0] if given is None else segmenter.use_masks_as_output(first, given))
        for t in range(1, length):
            now = features[owner + t]
            if propagate:
                steps.append(cohort.step(now, mark_absent=False))
            else:
                steps.append(segmenter.decode(segmenter.add_no_memory(now), now, queries, mark_absent=False))
        return steps


def _split(decoded: MaskPrediction, sizes: list[int]) -> list[MaskPrediction]:
    columns = [getattr(decoded, name).split(sizes) for name in MaskPrediction.__dataclass_fields__]
    return [MaskPrediction(*row) for row in zip(*columns, strict=True)]
