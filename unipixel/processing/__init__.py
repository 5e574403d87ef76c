"""Conversations and clips to model inputs: the same code for training, evaluation and serving."""

from unipixel.processing.chat import SPECIAL_TOKENS, ChatTemplate
from unipixel.processing.collation import TrainingInputs, collate
from unipixel.processing.images import ImageSettings, VisualInput
from unipixel.processing.processor import Processor, TurnInputs
from unipixel.processing.prompts import format_request
from unipixel.processing.tokenizer import build_tokenizer

__all__ = [
    "SPECIAL_TOKENS",
    "ChatTemplate",
    "ImageSettings",
    "Processor",
    "TrainingInputs",
    "TurnInputs",
    "VisualInput",
    "build_tokenizer",
    "collate",
    "format_request",
]
