"""Exceptions of the package.

    UnipixelError
    ├── MediaError       an image, video, frame folder or URL cannot be read, or is not what it claims to be
    ├── PromptError      a point, box, mask or object reference does not fit the media it is given for
    ├── CheckpointError  a checkpoint folder is incomplete, or its tensors do not fit the model
    └── DatasetError     a dataset file is missing, truncated or not in its documented layout

    CheckpointWarning    (a UserWarning) a checkpoint can be used, with something that one should know

Messages are one sentence that says what was wrong, its value, and what would be right. Wrong arguments of the
Python API raise the built-in ``ValueError`` or ``TypeError`` instead.
"""


class UnipixelError(Exception):
    """Root of every error that this package raises on purpose."""


class MediaError(UnipixelError):
    """An image, video, frame folder or URL cannot be read, or is not what it claims to be."""


class PromptError(UnipixelError):
    """A point, box, mask or object reference does not fit the media it is given for."""


class StalePromptError(PromptError):
    """A prompt cannot be taken back, because what its object was before it is not known any more."""


class CheckpointError(UnipixelError):
    """A checkpoint folder is incomplete, or its tensors do not fit the model."""


class CheckpointWarning(UserWarning):
    """A checkpoint can be used, but something of it was left out, drawn anew or rounded."""


class DatasetError(UnipixelError):
    """A dataset file is missing, truncated or not in its documented layout."""
