"""The docs list what the code says of the original's protocol."""

from __future__ import annotations

from pathlib import Path

import pytest

from unipixel.data import DATASETS
from unipixel.data.differences import TRAINING, TRAINING_ALWAYS, Difference, format_differences
from unipixel.train.recipe import MixtureRecipe
from unipixel.train.recipes import RECIPES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"


@pytest.mark.parametrize(
    ("mark", "rows", "ours"), [("differences", TRAINING, "`correct`"), ("always", TRAINING_ALWAYS, "here")]
)
def test_the_docs_have_the_table_of_the_code(mark: str, rows: tuple[Difference, ...], ours: str) -> None:
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"<!-- {mark} -->\n")
    table, _, _ = rest.partition("<!-- end -->")
    assert table == f"{format_differences(rows, 'data', ours)}\n"


def test_the_table_names_data_sets_that_there_are() -> None:
    assert {name for where, _, _ in (*TRAINING, *TRAINING_ALWAYS) for name in where} <= set(DATASETS)


def test_every_data_set_with_an_index_of_the_original_is_in_the_table() -> None:
    listed = {name for where, _, _ in TRAINING for name in where}
    assert {name for name, dataset in DATASETS.items() if dataset.original is not None} <= listed


def test_the_paper_s_stages_follow_the_original_and_fine_tuning_does_not() -> None:
    protocols = {name: recipe.protocol for name, make in RECIPES.items() if isinstance(recipe := make(), MixtureRecipe)}
    stages = {name for name in protocols if name.removesuffix("_7b") in ("refer", "segment", "joint")}
    assert len(stages) == 6
    assert {name for name, protocol in protocols.items() if protocol == "original"} == stages
