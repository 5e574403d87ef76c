"""Conversations and clips to model inputs: the same code for training, evaluation and serving."""

from unipixel.processing.batch import TrainingInputs, collate
from unipixel.processing.chat import SPECIAL_TOKENS, Chat
from unipixel.processing.images import ImageSettings, Visual
from unipixel.processing.processor import Processor, TurnInputs
from unipixel.processing.prompts import request_text
from unipixel.processing.tokenizer import build_tokenizer

__all__ = [
    "SPECIAL_TOKENS",
    "Chat",
    "ImageSettings",
    "Processor",
    "TrainingInputs",
    "TurnInputs",
    "Visual",
    "build_tokenizer",
    "collate",
    "request_text",
]
