"""What the command line may change of a recipe besides single fields: its data and its start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unipixel.data import DATASETS, find_dataset, parse_name
from unipixel.data.files import find_data_folder
from unipixel.data.reading import OWN
from unipixel.train.recipe import MixtureRecipe, Recipe, Source, Start


def set_start(recipe: Recipe, model: str, parts: Sequence[str]) -> Recipe:
    """The recipe from another checkpoint, or with parts of others.

    Args:
        model: "nano", a checkpoint folder or a Hub id; empty to keep the recipe's own start.
        parts: each FOLDER=PART,PART.
    """
    start = Start(model=model) if model else recipe.start
    return replace(recipe, start=replace(start, parts=(*start.parts, *parts)))


def set_data(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """The recipe on these data alone.

    Args:
        names: a dataset of the recipe's own mixture, which keeps its repeats and form; any other of the catalogue, or
            ``folder:PATH`` or ``coco:PATH``. Each may be followed by ``/SPLIT``.

    Raises:
        DatasetError: there is no such dataset or split.
        ValueError: the recipe draws its own scenes.
    """
    if not names:
        return recipe
    if not isinstance(recipe, MixtureRecipe):
        raise ValueError(f"the recipe {recipe.name} draws stickers and takes no --data; 'finetune' does")
    sources: list[Source] = []
    for text in names:
        name, split = parse_name(text)
        own = [source for source in recipe.sources if source.dataset == name]
        sources += [replace(source, split=split or source.split) for source in own or _build_sources(name)]
    return replace(recipe, sources=tuple(sources))


def _build_sources(name: str) -> list[Source]:
    """Sources for a dataset that the recipe does not have: its questions, and clicks on its objects."""
    dataset = find_dataset(name)
    split = "train" if "train" in dataset.splits else dataset.splits[0]
    asks = Source(dataset=name, split=split)
    return [asks, replace(asks, form="prompts")] if name.partition(":")[0] in OWN else [asks]


def keep_present_sources(recipe: Recipe, root: Path | None) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe without the sources whose files are not there, and the names of those.

    Raises:
        ValueError: the recipe has no mixture, or none of it is there.
    """
    if not isinstance(recipe, MixtureRecipe):
        raise ValueError(f"the recipe {recipe.name} draws stickers, so nothing of it can be absent")
    folder = None if root is None else find_data_folder(root)
    there: list[Source] = []
    absent: list[Source] = []
    for source in recipe.sources:
        key, _, path = source.dataset.partition(":")
        files = DATASETS[key].files.get(source.split, ()) if key in DATASETS else ("?",)
        found = bool(path) or (folder is not None and all((folder / file).exists() for file in files))
        (there if found else absent).append(source)
    if not there:
        raise ValueError(
            f"no dataset of {recipe.name} is under {root}; `unipixel data check NAME` says what belongs there"
        )
    return replace(recipe, sources=tuple(there)), tuple(dict.fromkeys(source.dataset for source in absent))
