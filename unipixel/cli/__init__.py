"""The command line: ``unipixel ask``, ``chat``, ``demo``, ``stickers``, ``eval``, ``train``, ``data``, ``bench``...

Every command is one function; deep learning is imported only when a command needs it, so that help is instant.
"""

from unipixel.cli.commands import app, main

__all__ = ["app", "main"]
