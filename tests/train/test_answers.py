"""Fine-tuning speaks as the checkpoint does that it begins with, and as the engine asks it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import unipixel
from unipixel import stickers
from unipixel.processing.chat import NAMED_SEG
from unipixel.processing.processor import Processor
from unipixel.sample import Query, Sample
from unipixel.train.mixture import add_prompt_turns, add_turns
from unipixel.train.recipe import MixtureRecipe, Source


@pytest.fixture(scope="module")
def released(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose tokenizer says nothing about answers, as those of the releases."""
    folder = tmp_path_factory.mktemp("released") / "checkpoint"
    shutil.copytree(tiny, folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings[NAMED_SEG]
    path.write_text(json.dumps(settings))
    return folder


def tokens(processor: Processor, ids: torch.Tensor) -> list[str]:
    return [processor.tokenizer.backend_tokenizer.id_to_token(number) for number in ids.tolist()]


@pytest.mark.parametrize(("checkpoint", "spelled"), [("nano", ["]", "<|seg|>"]), ("released", ["]", "Ġ", "<|seg|>"])])
def test_a_click_is_taught_in_the_tokens_in_which_the_engine_asks_for_it(
    checkpoint: str, spelled: list[str], released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = unipixel.load("nano" if checkpoint == "nano" else released)
    sample = add_prompt_turns(stickers.generate_scene(0, 1).to_sample(()), None, 1, named=engine.processor.chat.named)
    (turn,) = sample.turns
    taught = engine.processor.build_training_inputs(sample)["input_ids"]
    fed: list[torch.Tensor] = []
    embed = engine.model.embed

    def listening(input_ids: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        fed.append(input_ids[0])
        return embed(input_ids, *args, **named)

    monkeypatch.setattr(engine.model, "embed", listening)
    engine.open(sample.media).ask(prompts=list(turn.references[0]), force="always")
    asked_for = torch.cat(fed)
    # the mark that ends the answer need not be read to segment what stands before it
    assert len(taught) - 1 <= len(asked_for) <= len(taught)
    assert asked_for.tolist() == taught[: len(asked_for)].tolist()
    assert tokens(engine.processor, taught)[-1 - len(spelled) : -1] == spelled


@pytest.mark.parametrize(
    ("named", "answers"),
    [
        (True, ["the big dog <|seg|>", "the dogs <|seg|> and the dogs <|seg|>", "The target is <|seg|>."]),
        (False, ["The target is <|seg|>.", "The target is <|seg|> and <|seg|>.", "The target is <|seg|>."]),
    ],
)
def test_what_is_named_is_answered_as_the_checkpoint_has_learnt_it(named: bool, answers: list[str]) -> None:
    scene = stickers.generate_scene(0, 1).to_sample(())
    first, second = list(scene.objects)[:2]
    queries = (
        Query(kind="query", text="the big dog", targets=(first,)),
        Query(kind="query", text="dogs", targets=(first, second)),
        Query(kind="query", text="unicorn", targets=(None,)),
    )
    sample = Sample(media=scene.media, objects=scene.objects, queries=queries)
    made = add_turns(sample, Source(dataset="x"), MixtureRecipe(name="x"), None, named=named)
    assert [turn.answer for turn in made.turns] == answers


def test_what_a_checkpoint_says_of_its_answers_is_kept_when_it_is_saved(
    tiny: Path, released: Path, tmp_path: Path
) -> None:
    for folder, named in ((tiny, True), (released, False)):
        Processor.from_folder(folder).save(tmp_path / folder.name)
        chat = Processor.from_folder(tmp_path / folder.name).chat
        assert chat.named == named
        assert (chat.encode("[1] <|seg|>") == chat.encode("[1]<|seg|>")) == named
