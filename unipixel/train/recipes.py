"""Every recipe by name."""

from __future__ import annotations

from collections.abc import Callable

from unipixel.train.nano_recipes import NANO_RECIPES
from unipixel.train.recipe import Mix, Recipe
from unipixel.train.stage_recipes import STAGE_RECIPES

__all__ = ["RECIPES", "Mix", "Recipe"]

RECIPES: dict[str, Callable[[], Recipe]] = {**STAGE_RECIPES, **NANO_RECIPES}
