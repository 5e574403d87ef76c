"""Reads a checkpoint folder with transformers 4.53.3, on which the original code runs; in a Python of its own:

    python read_by_transformers4.py FOLDER INPUTS RESULT [BASE]

INPUTS holds ``input_ids``, ``frames`` (T, H, W, 3) already resized, ``pixel_values_videos``, ``video_grid_thw``,
``second_per_grid_ts`` and a JSON of texts in its metadata; RESULT gets the logits, the patches and, as JSON, the rest.
With BASE, FOLDER is an adapter: peft lays it over that Qwen2.5-VL.
"""

import json
import sys
from pathlib import Path

import torch

# where torch has no CUDA, the compiled operators of torchvision may not load; the processors need none of them
_register, torch.library.register_fake = torch.library.register_fake, lambda *_, **__: lambda function: function
import torchvision  # noqa: E402, F401

torch.library.register_fake = _register
import transformers  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)

folder, given, result = map(Path, sys.argv[1:4])
base = Path(sys.argv[4]) if len(sys.argv) > 4 else None


class PixelConfig(Qwen2_5_VLConfig):
    model_type = "pixel_qwen2_5_vl"


class PixelModel(Qwen2_5_VLForConditionalGeneration):
    config_class = PixelConfig


AutoConfig.register("pixel_qwen2_5_vl", PixelConfig)
with safe_open(given, framework="pt") as file:
    texts = json.loads(file.metadata()["texts"])
inputs = load_file(given)
config = AutoConfig.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
report = {
    "transformers": transformers.__version__,
    "config": config.to_dict(),
    "text_config": config.get_text_config().to_dict(),
    "ids": {text: tokenizer(text)["input_ids"] for text in texts},
    "decoded": [tokenizer.decode(tokenizer(text)["input_ids"]) for text in texts],
    "special": tokenizer.all_special_tokens,
    "special_added": sorted(t.content for t in tokenizer.added_tokens_decoder.values() if t.special),
}
made = {}
if tokenizer.chat_template:
    processor = Qwen2_5_VLProcessor.from_pretrained(folder)
    content = [{"type": "video"}, {"type": "text", "text": texts[0]}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    frames = inputs["frames"].permute(0, 3, 1, 2)
    seen = processor(text=[text], videos=[frames], return_tensors="pt")
    report["prompt"] = text
    made = {f"processor/{name}": seen[name] for name in ("input_ids", "pixel_values_videos", "video_grid_thw")}

if base is None:
    model, loading = PixelModel.from_pretrained(folder, torch_dtype=torch.float32, output_loading_info=True)
    report["missing"], report["unexpected"] = sorted(loading["missing_keys"]), sorted(loading["unexpected_keys"])
    report["misshapen"] = sorted(map(str, loading["mismatched_keys"]))
else:
    from peft import PeftModel

    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, torch_dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, folder)
    partial = load_file(folder / "pytorch_model.safetensors")
    left = model.load_state_dict({k: v.float() for k, v in partial.items()}, strict=False)
    lora = {name for name in model.state_dict() if ".lora_" in name}
    stored = {
        name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.")
        for name in load_file(folder / "adapter_model.safetensors")
    }
    report["missing"] = sorted(lora ^ stored)
    report["unexpected"] = sorted(left.unexpected_keys)
    report["laid"] = sorted(set(partial) - set(left.unexpected_keys))
    model = model.merge_and_unload()
model = model.eval()
report["generation"] = model.generation_config.to_dict()
report["tied"] = model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
with torch.inference_mode():
    seen = {name: inputs[name] for name in ("input_ids", "pixel_values_videos", "video_grid_thw", "second_per_grid_ts")}
    made["logits"] = model(**seen).logits
save_file(
    {name: tensor.contiguous() for name, tensor in made.items()}, result, {"report": json.dumps(report, default=str)}
)
