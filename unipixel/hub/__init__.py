"""Classes for `transformers`: what ``AutoConfig``, ``AutoModel``, ``AutoProcessor`` and ``pipeline`` load from a folder
that `unipixel.engine.pretrained` has written.

    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    inputs = processor(images=picture, text="Please segment the dog.")
    output = model.generate(**inputs, return_dict_in_generate=True)
    processor.batch_decode(output.sequences, skip_special_tokens=True)
    processor.post_process_masks(output.mask_logits, inputs["original_sizes"])

They hold the package's own model and processor and add nothing to them: `UniPixelForConditionalGeneration.build_engine`
gives the engine, with sessions, points, boxes and everything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    BatchFeature,
    GenerationMixin,
    Pipeline,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2Tokenizer,
)
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig

from unipixel.engine.answer import Answer
from unipixel.engine.engine import Engine
from unipixel.engine.generation import ConversationCache, DecodingOptions, PrefillInput, Reply, generate
from unipixel.engine.machine import choose_places, choose_precision, read_dtype
from unipixel.engine.pretrained import push_folder, save_model_folder, save_processor_folder
from unipixel.engine.session import choose_clip
from unipixel.engine.tracking import choose_encode_batch
from unipixel.errors import PromptError
from unipixel.media import MediaLike, open_media
from unipixel.model.config import LANGUAGE_DEFAULTS, MODEL_TYPE, UniPixelConfig
from unipixel.model.tensor_files import count_parameters
from unipixel.model.tracker import Tracker
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import build_empty_model, fill_model, read_checkpoint, resolve_checkpoint
from unipixel.processing import Processor, VisualInput
from unipixel.processing.chat import END_OF_TEXT
from unipixel.processing.tokenizer import save_tokenizer
from unipixel.sample import Turn

Message: TypeAlias = Mapping[str, Any]
"""``{"role": "user" | "assistant", "content": text or a list of parts}``, as in transformers' chat templates."""
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
_IGNORED_OPTIONS = {
    "_commit_hash", "_from_auto", "_from_pipeline", "adapter_kwargs", "code_revision", "proxies", "subfolder",
    "trust_remote_code", "use_safetensors", "low_cpu_mem_usage", "weights_only",
}  # fmt: skip
"""What the Auto classes hand on, and what is always so here."""


class UniPixelHubConfig(PreTrainedConfig):
    """``config.json`` for ``AutoConfig``; `build_model_config` makes the model's own config of it."""

    model_type = MODEL_TYPE
    sub_configs = {"text_config": Qwen2_5_VLTextConfig, "vision_config": Qwen2_5_VLVisionConfig}  # noqa: RUF012
    has_no_defaults_at_init = True

    def __init__(self, **tree: Any) -> None:
        own = _read_tree({name: _to_tree(value) for name, value in tree.items()})
        ends = {"bos_token_id": None, "eos_token_id": None}
        self.text_config = Qwen2_5_VLTextConfig(**vars(own.language), **ends)
        self.vision_config = Qwen2_5_VLVisionConfig(**vars(own.vision))
        inside = {**tree, **_to_tree(tree.get("text_config") or {})}
        self.text_config.max_window_layers = inside.get("max_window_layers", own.language.num_hidden_layers)
        inner = {
            *LANGUAGE_DEFAULTS,
            "max_window_layers",
            "rope_theta",
            "rope_scaling",
            "rope_parameters",
            "text_config",
            "vision_config",
        }
        super().__init__(**{name: value for name, value in tree.items() if name not in inner})
        self.tie_word_embeddings = own.tie_word_embeddings
        self._attn_implementation = "sdpa"

    def build_model_config(self) -> UniPixelConfig:
        """What decides the shape and arithmetic of a model.

        Raises:
            CheckpointError: a field is malformed.
        """
        return _read_tree(self.to_dict())

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing to do: a folder's module imports this class, and no source is copied when a config is saved."""


def _to_tree(value: Any) -> Any:
    return value.to_dict() if isinstance(value, PreTrainedConfig) else value


def _read_tree(tree: dict[str, Any]) -> UniPixelConfig:
    """A config with the sizes of SAM and the end tokens, for which a checkpoint has files of their own."""
    ends = tree.get("eos_token_ids")
    return UniPixelConfig.from_dict(tree, tree.get("sam2_sizes"), {"eos_token_id": ends} if ends else None)


class UniPixelForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """The model for ``AutoModel``. Its weights are read and written in the layout of the released checkpoints.

    Attributes:
        unipixel: the model itself.
    """

    config_class = UniPixelHubConfig
    base_model_prefix = "unipixel"
    main_input_name = "input_ids"
    input_modalities = ("image", "video", "text")
    _supports_sdpa = True
    _no_split_modules = ["DecoderLayer", "VisionBlock"]  # noqa: RUF012

    def __init__(self, config: UniPixelHubConfig, model: UniPixel | None = None) -> None:
        super().__init__(config)
        self.unipixel = UniPixel(config.build_model_config()) if model is None else model

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *model_args: Any,
        config: UniPixelHubConfig | None = None,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        device_map: str | int | torch.device | Mapping[str, Any] | None = None,
        attn_implementation: str | None = None,
        base: str | Path | None = None,
        sam: str | Path | None = None,
        **options: Any,
    ) -> UniPixelForConditionalGeneration:
        """Load a folder or a model of the Hub, in eval mode.

        Args:
            pretrained_model_name_or_path: as for `unipixel.load`.
            config: by default the folder's own.
            dtype, torch_dtype: as for `unipixel.load`; ``"auto"`` and None: what suits model and machine.
            device_map: a device for the whole model, None is the CPU; or, as for `unipixel.load`, where its parts lie.
            attn_implementation: only ``"sdpa"``.
            base, sam: as for `unipixel.load`.
            options: ``cache_dir``, ``force_download``, ``local_files_only``, ``revision`` and ``token`` for the Hub.

        Raises:
            CheckpointError: the checkpoint is missing, incomplete or malformed.
            ValueError: an option that means nothing here.
        """
        hub = {name: value for name in _HUB_OPTIONS if (value := options.pop(name, None)) is not None}
        unknown = sorted(name for name, value in options.items() if name not in _IGNORED_OPTIONS and value is not None)
        if model_args or unknown:
            raise ValueError(f"from_pretrained of UniPixel takes no {', '.join(unknown) or 'further arguments'}")
        if attn_implementation not in (None, "sdpa"):
            raise ValueError(f"attn_implementation is {attn_implementation!r}; UniPixel runs with 'sdpa'")
        folder = resolve_checkpoint(pretrained_model_name_or_path, **hub)
        device, places = choose_places("auto" if device_map is not None else "cpu", device_map)
        own, tensors = read_checkpoint(folder, base=base, sam=sam)
        if config is None:
            config = build_hub_config(own)
        wanted = torch_dtype if dtype is None else dtype
        wanted = None if wanted == "auto" else wanted
        if isinstance(wanted, str):
            wanted = wanted.removeprefix("torch.")
        size = count_parameters(tensors)
        suits, _ = choose_precision(wanted, pretrained_model_name_or_path, device, size, one_type=True)
        empty = build_empty_model(config.build_model_config())
        core = fill_model(empty, tensors, folder, device=device, dtype=suits, device_map=places)
        model = cls(config, core).eval()
        config.dtype = suits
        return model

    @classmethod
    def _from_config(cls, config: UniPixelHubConfig, **options: Any) -> UniPixelForConditionalGeneration:
        """A model with new weights; for ``AutoModel.from_config``."""
        dtype = options.pop("dtype", None) or options.pop("torch_dtype", None)
        model = cls(config)
        return model if dtype in (None, "auto") else model.to(read_dtype(dtype))

    def save_pretrained(self, save_directory: str | Path, *, max_shard_size: int | str = "5GB", **options: Any) -> None:
        """Write weights, config and the module that the Auto classes import; the processor saves its own files.

        Args:
            save_directory: made if it does not exist.
            max_shard_size: as for `unipixel.model.weights.save_model`.

        Raises:
            ValueError: an option of transformers' own that means nothing here.
        """
        if unknown := sorted(options.keys() - {"is_main_process", "safe_serialization"}):
            raise ValueError(f"save_pretrained of UniPixel takes no {', '.join(unknown)}")
        save_model_folder(self.unipixel, save_directory, max_shard_size=max_shard_size)

    def push_to_hub(self, repo_id: str, *, max_shard_size: int | str = "5GB", **options: Any) -> str:
        """Upload what `save_pretrained` writes.

        Args:
            repo_id: ``owner/model``; made if it does not exist.
            options: of `unipixel.engine.pretrained.push_folder`.

        Returns:
            Address of the commit.
        """
        return push_folder(partial(save_model_folder, self.unipixel, max_shard_size=max_shard_size), repo_id, **options)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Nothing to do, as for the config."""

    @property
    def device(self) -> torch.device:
        return self.unipixel.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unipixel.dtype

    def build_engine(self, processor: UniPixelProcessor) -> Engine:
        """The engine of this model: sessions, points, boxes, masks, streaming, tracking.

        Raises:
            CheckpointError: the processor was not made for this model.
        """
        processor.processor.check_ids(self.unipixel.config)
        return Engine(self.unipixel, processor.processor)

    def forward(self, **batch: Any) -> Any:
        """The training forward of `UniPixel.forward`."""
        return self.unipixel(**batch)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        grid_thw: Tensor | None = None,
        second_per_grid: Tensor | None = None,
        sam_frames: Sequence[Tensor | None] | None = None,
        original_sizes: Tensor | None = None,
        *,
        max_new_tokens: int = 256,
        do_sample: bool = False,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int = 0,
        return_dict_in_generate: bool = False,
        **options: Any,
    ) -> Tensor | BatchFeature:
        """Answer what `UniPixelProcessor` has prepared.

        Args:
            input_ids, attention_mask: (B, L), padded on the left.
            pixel_values, grid_thw, second_per_grid: of the visuals, in the order of the rows.
            sam_frames: per row (T, 3, S, S) or None.
            original_sizes: not used; there for ``**inputs``.
            max_new_tokens, temperature, top_p, seed: see `DecodingOptions`; without ``do_sample`` greedily.
            return_dict_in_generate: see below.

        Returns:
            (B, L + new) token ids, with the end token of each reply, which also pads on the right. With
            ``return_dict_in_generate`` a mapping of these as ``sequences``, and per row ``mask_logits`` (N, T, m, m),
            m being `Segmenter.mask_side`, and ``object_scores`` (N, T) of its N ``<|seg|>``, tracked from the first
            frame on; None without frames.

        Raises:
            ValueError: an option of transformers' ``generate`` that means nothing here, such as beams.
        """
        _check_generation_options(options)
        model, device = self.unipixel, self.device
        decoding = DecodingOptions(
            max_new_tokens=max_new_tokens,
            temperature=(1.0 if temperature is None else temperature) if do_sample else 0.0,
            top_p=1.0 if top_p is None else top_p,
            seed=seed,
            stops_loops=False,  # as transformers' own
        )
        inputs = self._build_prefills(input_ids, attention_mask, pixel_values, grid_thw, second_per_grid)
        replies = [Reply(options=decoding) for _ in inputs]
        for _ in generate(model, ConversationCache(), inputs, replies, decoding):
            pass
        longest = max(len(reply.ids) for reply in replies)
        end = model.config.eos_token_ids[0]
        written = torch.full((len(replies), longest), end, dtype=torch.long, device=device)
        for row, reply in enumerate(replies):
            written[row, : len(reply.ids)] = torch.tensor(reply.ids, device=device)
        sequences = torch.cat([input_ids.to(device), written], 1)
        if not return_dict_in_generate:
            return sequences
        frames = sam_frames if sam_frames is not None else [None] * len(replies)
        tracked = [self._track(reply.compute_queries(model), clip) for reply, clip in zip(replies, frames, strict=True)]
        logits, scores = ([one if one is None else one[k] for one in tracked] for k in (0, 1))
        return BatchFeature({"sequences": sequences, "mask_logits": logits, "object_scores": scores})

    def _build_prefills(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        pixel_values: Tensor | None,
        grid_thw: Tensor | None,
        second_per_grid: Tensor | None,
    ) -> list[PrefillInput]:
        """What each row reads: its tokens without padding, with its visual in place."""
        model, device, video = self.unipixel, self.device, self.unipixel.config.video_token_id
        keep = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        merged, visuals = iter(()), 0
        if pixel_values is not None and grid_thw is not None:
            features = model.encode_vision(pixel_values.to(device), grid_thw).merged
            cells = model.config.vision.spatial_merge_size**2
            merged = iter(features.split([t * h * w // cells for t, h, w in grid_thw.tolist()]))
            visuals = len(grid_thw)
        seconds = torch.ones(visuals) if second_per_grid is None else second_per_grid
        inputs, used = list[PrefillInput](), 0
        for row, mask in zip(input_ids, keep, strict=True):
            ids = row[mask.bool()].cpu()
            shows = bool((ids == video).any())
            if shows and used == visuals:
                raise ValueError(f"{visuals} visuals were given for the rows; row {len(inputs)} has none")
            grid = grid_thw[used : used + 1] if shows and grid_thw is not None else None
            spacing = seconds[used : used + 1] if shows else None
            positions, following = model.compute_rope_index(ids[None], None, grid, spacing)
            embeds = model.embed(ids[None].to(device), next(merged) if shows else None)[0]
            inputs.append(PrefillInput(ids, embeds, positions[:, 0], int(following)))
            used += shows
        if used != visuals:
            raise ValueError(f"{visuals} visuals were given, but the text has room for {used}")
        return inputs

    def _track(self, queries: Tensor, frames: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """(N, T, m, m) mask logits and (N, T) logits of presence, objects prompted on the first frame."""
        if frames is None:
            return None
        segmenter, count, steps = self.unipixel.segmenter, len(frames), []
        if not len(queries):
            return queries.new_zeros(0, count, segmenter.mask_side, segmenter.mask_side), queries.new_zeros(0, count)
        tracker = Tracker(segmenter, count)
        batch = choose_encode_batch(self.device)
        for start in range(0, count, batch):
            encoded = segmenter.encode(frames[start : start + batch].to(self.device))
            for place in range(min(batch, count - start)):
                frame = encoded[place : place + 1]
                if start + place:
                    steps.append(tracker.step(frame))
                elif count == 1:
                    steps.append(segmenter.decode(segmenter.add_no_memory(frame), frame, queries))
                else:
                    steps.append(tracker.add_prompts(frame, list(range(len(queries))), queries, None))
        kept = [step for step in steps if step is not None]
        masks = torch.stack([step.low_res_masks[:, 0] for step in kept], 1)
        return masks, torch.stack([step.object_score_logits.reshape(len(queries)) for step in kept], 1)


def build_hub_config(own: UniPixelConfig) -> UniPixelHubConfig:
    """The config of the Auto classes for a model."""
    tree = own.to_dict()
    sizes = None if own.has_named_sam else own.sam.to_hydra()
    return UniPixelHubConfig(**tree, sam2_sizes=sizes, eos_token_ids=list(own.eos_token_ids))


_NEUTRAL = {"num_beams": 1, "num_return_sequences": 1, "use_cache": True, "repetition_penalty": 1.0}
"""Options of transformers' ``generate`` at values that change nothing."""


def _check_generation_options(options: Mapping[str, Any]) -> None:
    """Refuse what would change a reply and is not done here."""
    wrong = [name for name, value in options.items() if value is not None and value != _NEUTRAL.get(name)]
    if wrong:
        raise ValueError(
            f"generate of UniPixel takes no {', '.join(sorted(wrong))}; it takes max_new_tokens, do_sample, "
            "temperature, top_p and seed"
        )


class UniPixelProcessor(ProcessorMixin):
    """The processor for ``AutoProcessor``: pictures, clips and words to model inputs, and outputs to words and masks.

    Attributes:
        processor: the package's own.
    """

    def __init__(self, processor: Processor) -> None:
        self.processor = processor

    @cached_property
    def tokenizer(self) -> Any:
        """The same tokenizer as a class of transformers."""
        with TemporaryDirectory() as folder:
            save_tokenizer(self.processor.tokenizer, folder)
            return Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "grid_thw", "second_per_grid", "sam_frames"]

    def to_dict(self) -> dict[str, Any]:
        """What ``processor_config.json`` says: the sizes have files of their own."""
        return {"processor_class": type(self).__name__}

    @property
    def chat_template(self) -> str:
        """Not empty, which tells pipelines that messages can be given."""
        return self.processor.tokenizer.chat_template or "messages"

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> UniPixelProcessor:
        """Load the processor of a folder or of a model of the Hub.

        Args:
            pretrained_model_name_or_path: as for `unipixel.load`.
            options: for the Hub, as for the model.

        Raises:
            CheckpointError: a file is missing or malformed.
        """
        hub = {name: options[name] for name in _HUB_OPTIONS if options.get(name) is not None}
        return cls(Processor.from_folder(resolve_checkpoint(pretrained_model_name_or_path, **hub)))

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write the files of tokenizer and processor, and the module that the Auto classes import.

        Args:
            save_directory: made if it does not exist.
            options: those of transformers, which mean nothing here.
        """
        save_processor_folder(self.processor, save_directory)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes; arguments as for the model."""
        return push_folder(self.save_pretrained, repo_id, **options)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoProcessor") -> None:
        """Nothing to do, as for the config."""

    def __call__(
        self,
        images: MediaLike | Sequence[MediaLike] | None = None,
        text: str | Sequence[str] | None = None,
        videos: MediaLike | Sequence[MediaLike] | None = None,
        *,
        num_frames: int | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """One question about one picture or clip, or a list of questions with a visual each.

        Args:
            images: a picture (path, URL, PIL image, array) for all questions, or a list with one for each.
            text: the questions, as `unipixel.Session.ask` takes them.
            videos: a clip (path, folder, array (T, H, W, 3)), or a list of them; instead of ``images``.
            num_frames: frames that are kept of a clip; by default the checkpoint's own number.
            return_tensors: only ``"pt"``.

        Returns:
            Everything `UniPixelForConditionalGeneration.generate` takes.

        Raises:
            UnipixelError: a source or question is not usable.
        """
        if text is None:
            raise PromptError("text is missing; ask something about the picture or video")
        if images is not None and videos is not None:
            raise PromptError("images and videos were given together; a question is about one of them")
        given: Any = images if videos is None else videos
        if isinstance(text, str):
            if videos is None and isinstance(given, list | tuple):  # a list of frames would be a clip
                if len(given) != 1:
                    raise PromptError(f"{len(given)} images were given for one question; give a question for each")
                (given,) = given
            texts, visuals = [text], [given]
        else:
            texts = list(text)
            visuals = list(given) if isinstance(given, list | tuple) else [given] * len(texts)
        if len(visuals) != len(texts):
            raise PromptError(f"{len(texts)} questions were given for {len(visuals)} visuals; give one for each")
        rows = [([Turn(question=words)], visual) for words, visual in zip(texts, visuals, strict=True)]
        return self._build(rows, num_frames, return_tensors)

    def apply_chat_template(
        self,
        conversation: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tokenize: bool = True,
        return_dict: bool = True,
        return_tensors: str = "pt",
        num_frames: int | None = None,
        **options: Any,
    ) -> BatchFeature:
        """A conversation about one picture or clip, as transformers' chat templates write it.

        Args:
            conversation: the visual, if any, in the first message; questions and answers in turn, a question last.
            num_frames: as above.

        Raises:
            PromptError: another form: system prompts, several visuals, an answer last.
        """
        if not (tokenize and return_dict and add_generation_prompt) or any(options.values()):
            raise PromptError("a conversation becomes model inputs: tokenize, return_dict and add_generation_prompt")
        return self._build([_read_conversation(conversation)], num_frames, return_tensors)

    def _build(
        self, rows: Sequence[tuple[list[Turn], Any]], num_frames: int | None, return_tensors: str | None
    ) -> BatchFeature:
        if return_tensors not in ("pt", None):
            raise PromptError(f"return_tensors is {return_tensors!r}; it must be 'pt'")
        own, ids, sizes = self.processor, list[list[int]](), list[tuple[int, int]]()
        patches, grids, seconds, squares = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor | None]()
        for turns, source in rows:
            visual = None
            if source is not None:
                count = own.settings.max_frames if num_frames is None else num_frames
                media = choose_clip(open_media(source), count, "sampled")
                visual = VisualInput(media, replace(own.settings, max_frames=count))
                patches.append(visual.pixel_values)
                grids.append(visual.grid_thw)
                seconds.append(visual.second_per_grid)
                sizes.append(media.size_hw)
                squares.append(torch.cat([own.prepare_sam_frames(frame[None]) for frame in media]))
            else:
                squares.append(None)
                sizes.append((0, 0))
            ids.append(own.build_conversation(turns, visual))
        longest, pad = max(map(len, ids)), own.chat.ids[END_OF_TEXT]
        data: dict[str, Any] = {
            "input_ids": torch.tensor([[pad] * (longest - len(row)) + row for row in ids]),
            "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids]),
        }
        if patches:
            data |= {"pixel_values": torch.cat(patches), "grid_thw": torch.cat(grids)}
            data |= {"second_per_grid": torch.cat(seconds), "sam_frames": squares}
            data["original_sizes"] = torch.tensor(sizes)
        return BatchFeature(data)

    def decode(self, token_ids: Any, **options: Any) -> str:
        """Text of token ids, as the tokenizer's ``decode``."""
        return str(self.tokenizer.decode(token_ids, **options))

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """Texts of rows of token ids, as the tokenizer's ``batch_decode``."""
        return list(self.tokenizer.batch_decode(sequences, **options))

    def post_process_masks(self, mask_logits: Sequence[Tensor | None], original_sizes: Tensor) -> list[Tensor | None]:
        """Masks at source size.

        Args:
            mask_logits: per row (N, T, m, m) or None, from ``generate``.
            original_sizes: (B, 2) height and width, from the inputs.

        Returns:
            Per row bool (N, T, H, W), or None.
        """
        sizes = [(int(h), int(w)) for h, w in original_sizes.tolist()]
        return [
            one if one is None else F.interpolate(one.float(), size=size, mode="bilinear", align_corners=False) > 0
            for one, size in zip(mask_logits, sizes, strict=True)
        ]


def _read_conversation(messages: Sequence[Message]) -> tuple[list[Turn], Any]:
    """Questions with their answers, and the visual of the first."""
    turns: list[Turn] = []
    visual: Any = None
    for number, message in enumerate(messages):
        expected = "user" if number % 2 == 0 else "assistant"
        if message.get("role") != expected:
            raise PromptError(f"message {number} is of {message.get('role')!r}; it must be of {expected!r}")
        content = message.get("content", "")
        words = []
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            kind = str(part.get("type"))
            if kind == "text":
                words.append(str(part["text"]))
                continue
            found = next((part[key] for key in (kind, "url", "path") if part.get(key) is not None), None)
            if kind not in ("image", "video") or found is None:
                raise PromptError(
                    f"a part of message {number} is {kind!r}; it must be a text, or a given image or video"
                )
            if visual is not None or number:
                raise PromptError("a conversation is about one picture or video, given in its first message")
            visual = found
        text = "\n".join(words)
        turns = [*turns, Turn(question=text)] if expected == "user" else [*turns[:-1], replace(turns[-1], answer=text)]
    if len(messages) % 2 == 0:
        raise PromptError("the conversation must end with a question")
    return turns, visual


def _read_question(messages: Sequence[Message]) -> dict[str, Any]:
    """What the pipeline asks for a conversation of one message."""
    turns, visual = _read_conversation(messages)
    if len(turns) > 1 or visual is None:
        raise PromptError(
            "the pipeline answers a single question about a picture or video; build_engine gives sessions"
        )
    return {"media": visual, "text": turns[0].question}


class UniPixelPipeline(Pipeline):
    """``pipeline("image-text-to-text", model=folder, trust_remote_code=True)``, whose results have masks as well.

    Call it with ``images`` (or ``videos``) and ``text``, or with messages. Each result is a dictionary:
    ``generated_text``, and per object ``ids``, ``labels``, ``scores``, ``boxes`` (x1, y1, x2, y2 or None, per frame)
    and ``masks`` (bool (T, H, W)).
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _pipeline_calls_generate = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.engine = self.model.build_engine(self.processor)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        options.pop("return_full_text", None)
        return {}, options, {}

    def __call__(self, images: Any = None, text: Any = None, videos: Any = None, **options: Any) -> Any:
        """The answer to one question, or a list of answers to a list of questions.

        Args:
            images, videos, text: as for `UniPixelProcessor`; or messages as the first argument or ``text``.
            options: of `unipixel.Engine.ask`: ``prompts``, ``num_frames``, ``max_new_tokens`` and so on.
        """
        messages = images if text is None else text
        if isinstance(messages, list | tuple) and messages and not isinstance(messages[0], str):
            is_single = isinstance(messages[0], Mapping)
            rows = [_read_question(chat) for chat in ([messages] if is_single else messages)]
            return super().__call__(rows[0] if is_single else rows, **options)
        media = images if videos is None else videos
        if text is None or media is None:
            raise PromptError("the pipeline takes a picture or video and a text, or messages")
        if isinstance(text, str):
            return super().__call__({"media": media, "text": text}, **options)
        if not isinstance(media, list | tuple) or len(media) != len(text):
            raise PromptError(f"{len(text)} questions were given; give a list of as many pictures or videos")
        return super().__call__([{"media": m, "text": t} for m, t in zip(media, text, strict=True)], **options)

    def preprocess(self, inputs: Any, **options: Any) -> dict[str, Any]:
        """The question as it is: the engine reads its media."""
        return dict(inputs)

    def _forward(self, inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        return {"answer": self.engine.ask(inputs["media"], inputs["text"], **options)}

    def postprocess(self, outputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        """An answer as plain values."""
        answer: Answer = outputs["answer"]
        return {
            "generated_text": answer.text,
            "ids": [one.id for one in answer.objects],
            "labels": [one.label for one in answer.objects],
            "scores": [one.score for one in answer.objects],
            "boxes": [one.boxes for one in answer.objects],
            "masks": [one.masks for one in answer.objects],
        }
