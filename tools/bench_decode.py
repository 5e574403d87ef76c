"""Prefill and decode of a language model of UniPixel-3B's shape on this CPU, beside the rate at which memory is read.

    python tools/bench_decode.py --layers 36        # 3B; 8 GB of free memory. Fewer layers take less

Random weights in bfloat16, one thread. Four ways: transformers' layers ("plain"), the package's own ("bf16"), int8 and
int4. Plain and bf16 take turns within each token. Where the processor does not compute in bfloat16, plain and the
package's own are in float32 ("fp32", twice the memory), and weights held in bfloat16 are a fifth way.

Each line gives processor seconds of the prompt and the median of a token, the bytes a token reads (weights, cache,
output head), their share of the read rate measured in between, how the logits agree with those of the plain way on the
same tokens, and the most memory resident while the ways of the line were measured (those of one turn share it).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from unipixel.bench.limits import measure_read_rate
from unipixel.bench.memory import peak_memory_mb
from unipixel.engine.machine import computes_in_bf16
from unipixel.model.language import KeyValueCache, LanguageModel, decode, project
from unipixel.model.quantization import BITS, HALF_BITS, QuantizedLinear, build_held

VOCABULARY = 151_936
TOKENS = 9


def build(layers: int, dtype: torch.dtype) -> tuple[LanguageModel, Qwen2_5_VLTextModel, nn.Linear]:
    """The decoder, that of transformers with the same weights, and the tied head.

    They are filled from a small pool of random numbers, because drawing 3 billion is slow.
    """
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    config = Qwen2_5_VLTextConfig(
        hidden_size=2048,
        intermediate_size=11008,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        rope_parameters=rope,
    )
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model, plain = LanguageModel(config), Qwen2_5_VLTextModel(config)
    generator = torch.Generator().manual_seed(0)
    pool = (torch.randn(1 << 22, generator=generator) * 0.02).bfloat16()
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            value = torch.empty(parameter.shape, dtype=dtype)
            if "Norm" in type(module).__name__:
                value.fill_(1)
            else:  # from another place of the pool each time
                start = int(torch.randint(0, 1 << 20, (1,), generator=generator))
                for piece in value.view(-1).split(len(pool) - start):
                    piece.copy_(pool[start : start + len(piece)])
            module._parameters[name] = nn.Parameter(value, requires_grad=False)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.rotary_emb = type(plain.rotary_emb)(config)
    head = nn.Linear(1, 1, bias=False)
    head.weight, head.in_features, head.out_features = model.embed_tokens.weight, 2048, VOCABULARY
    return model.eval(), plain.eval(), head


def count_bytes(model: nn.Module, head: nn.Linear) -> int:
    """What a token reads of the weights."""
    total = head.weight.nbytes
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            total += module.codes.nbytes + module.scales.nbytes
        elif isinstance(module, nn.Linear):
            total += module.weight.nbytes
    return total


@torch.no_grad()
def read_tokens(
    model: LanguageModel | Qwen2_5_VLTextModel, head: nn.Linear, ids: Tensor, cache: KeyValueCache | DynamicCache
) -> Tensor:
    """(1, V) logits after more tokens (1, L)."""
    past = cache.length if isinstance(cache, KeyValueCache) else cache.get_seq_length()
    length = ids.shape[1]
    positions = torch.arange(past, past + length).expand(3, 1, -1)
    embeds = model.embed_tokens(ids)
    if isinstance(model, LanguageModel):
        return project(head, model.norm(decode(model, embeds, positions, None, cache)[:, -1])).float()
    mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None] if length > 1 else None
    rotary, hidden = model.rotary_emb(embeds, positions), embeds
    for layer in model.layers:
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, past_key_values=cache, use_cache=True)
    return head(model.norm(hidden[:, -1])).float()


def measure(
    models: dict[str, LanguageModel | Qwen2_5_VLTextModel], head: nn.Linear, context: int, known: dict[int, Tensor]
) -> None:
    """Print one line for each way; ``known`` keeps the logits of the plain one by context."""
    generator = torch.Generator().manual_seed(context)
    prompt = torch.randint(0, VOCABULARY, (1, context), generator=generator)
    tokens = torch.randint(0, VOCABULARY, (TOKENS, 1, 1), generator=generator)
    caches: dict[str, KeyValueCache | DynamicCache] = {}
    prefills: dict[str, float] = {}
    spent: dict[str, list[float]] = {way: [] for way in models}
    logits: dict[str, list[Tensor]] = {way: [] for way in models}
    for way, model in models.items():
        caches[way] = KeyValueCache() if isinstance(model, LanguageModel) else DynamicCache()
        started = time.process_time()
        read_tokens(model, head, prompt, caches[way])
        prefills[way] = time.process_time() - started
    rates = []
    for token in tokens:
        for way, model in models.items():
            rates.append(measure_read_rate(torch.device("cpu")))
            started = time.process_time()
            logits[way].append(read_tokens(model, head, token, caches[way]))
            spent[way].append(time.process_time() - started)
    for way, model in models.items():
        cached = sum(layer.keys.nbytes + layer.values.nbytes for layer in caches[way].layers)
        size, found = count_bytes(model, head) + cached, torch.cat(logits[way])
        plain = known.setdefault(context, found)
        figures = {
            "context": context,
            "way": way,
            "prefill_s": prefills[way],
            "token_s": median(spent[way]),
            "read_gb": size / 1e9,
            "read_rate_gb_s": median(rates) / 1e9,
            "share_of_read_rate": size / median(spent[way]) / median(rates),
            "same_first_choice": float((plain.argmax(-1) == found.argmax(-1)).float().mean()),
            "cosine_of_logits": float(F.cosine_similarity(plain, found).mean()),
            "peak_mb": peak_memory_mb(),
        }
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}), flush=True)


def forget_peak_memory() -> None:
    """Let the system count the peak of this process anew, where it can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def hold(model: LanguageModel, bits: int) -> None:
    """Hold every linear layer in fewer bits; int4 after int8 rounds what is rounded already, 16 times finer."""
    for layer in model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, nn.Linear | QuantizedLinear):
                    weight = linear.weight if isinstance(linear, nn.Linear) else linear.dequantize()
                    held = build_held(weight.detach(), bias=linear.bias is not None, bits=bits)
                    held.bias = linear.bias
                    setattr(part, name, held)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Decode at UniPixel-3B's shape beside the rate of reading memory.")
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--contexts", type=int, nargs="+", default=[300, 1600])
    given = parser.parse_args()
    torch.set_num_threads(1)
    kind, dtype = ("bf16", torch.bfloat16) if computes_in_bf16() else ("fp32", torch.float32)
    model, plain, head = build(given.layers, dtype)
    known: dict[int, Tensor] = {}
    for context in given.contexts:
        forget_peak_memory()
        measure({"plain": plain, kind: model}, head, context, known)
    del plain  # which holds the weights that are rounded now
    for way, bits in BITS.items():
        if bits == HALF_BITS and dtype == torch.bfloat16:
            continue
        hold(model, bits)
        for context in given.contexts:
            forget_peak_memory()
            measure({way: model}, head, context, known)


if __name__ == "__main__":
    main()
