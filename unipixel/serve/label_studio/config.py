"""Label Studio's labelling configuration, as far as the model can help with it: what is shown, and what draws on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias
from xml.etree import ElementTree

from unipixel.checks import parse_xml
from unipixel.serve.errors import ApiError

Kind = Literal["brushlabels", "polygonlabels", "rectanglelabels", "videorectangle"]
Control: TypeAlias = tuple[Kind, str, tuple[str, ...]]
"""A tag that draws regions: their type, its name and its labels."""
DRAWING: dict[str, tuple[Kind, ...]] = {
    "image": ("brushlabels", "polygonlabels", "rectanglelabels"),
    "video": ("videorectangle",),
}
"""Controls that show an object, by what they draw on."""
DEFAULT_FRAME_RATE = 24.0
"""Frames per second that Label Studio counts where ``<Video>`` does not say."""
MAX_LABELS = 64
"""Labels that the model is asked for one by one."""


class LabelConfig:
    """A labelling configuration that the model can work with.

    Raises:
        ApiError: it is no XML, or has nothing that the model can draw on, or draw with.
    """

    def __init__(self, xml: str) -> None:
        root = _parse_xml(xml)
        found = [tag for tag in root.iter() if tag.tag in ("Image", "Video") and tag.get("name")]
        if not found:
            raise build_config_error("the labelling configuration shows no <Image> or <Video>, which the model needs")
        # of several, the one that labels draw on
        shown = next((tag for tag in found if _read_controls(_find_controls(tag, root), _get_medium(tag))), found[0])
        value = shown.get("value", "")
        if not value.startswith("$") or len(value) < 2:
            raise build_config_error(
                f"the value of <{shown.tag}> is {value[:40]!r}; it must be one key of the task's data, as $image"
            )
        self.medium = _get_medium(shown)
        self.object_name = shown.get("name", "")
        """Name of the ``<Image>`` or ``<Video>``."""
        self.data_key = value[1:]
        """Where a task's data name the picture or video."""
        tags = _find_controls(shown, root)
        self.controls = _read_controls(tags, self.medium)
        """Those that get regions."""
        if not self.controls:
            known = (
                "<VideoRectangle> and <Labels>"
                if self.medium == "video"
                else "<BrushLabels>, <PolygonLabels> or <RectangleLabels>"
            )
            raise build_config_error(
                f"no control draws on <{shown.tag}> {self.object_name[:40]!r} with labels; add {known}"
            )
        words = {label: said for tag in tags for label, said in _read_labels(tag)}
        if len(words) > MAX_LABELS:
            raise build_config_error(
                f"the labelling configuration has {len(words)} labels; at most {MAX_LABELS} can be asked for"
            )
        self.queries = {label: words[label] for _, _, labels in self.controls for label in labels}
        """For each label what the model is asked for: the label's ``hint``, or else its text."""
        texts = [tag.get("value", "") for tag in root.iter("Text")]
        self.text_keys = [text[1:] for text in texts if text.startswith("$")]
        """Where a task's data hold what to look for, instead of all labels: what ``<Text>`` shows."""
        self._frame_rate = shown.get("frameRate", shown.get("framerate", "")).strip()
        """A number, or ``$key``."""

    def get_frame_rate(self, data: Mapping[str, Any]) -> float:
        """The rate at which Label Studio counts a video's frames, which need not be the video's own.

        Raises:
            ApiError: it is no positive number.
        """
        given: Any = data.get(self._frame_rate[1:]) if self._frame_rate.startswith("$") else self._frame_rate
        if given in ("", None):
            return DEFAULT_FRAME_RATE
        try:
            rate = float(given)
        except (TypeError, ValueError):
            rate = 0.0
        if not 0 < rate < 1000:
            raise build_config_error(f"the video's frameRate is {str(given)[:40]!r}; it must be frames per second")
        return rate


def build_config_error(message: str) -> ApiError:
    """A configuration that is refused."""
    return ApiError(400, message, code="bad_label_config", param="label_config")


def is_blank(xml: str) -> bool:
    """Whether a configuration has no tag yet that does anything, as that of a new project.

    Raises:
        ApiError: it is no XML.
    """
    return not xml.strip() or not any(tag.get("name") for tag in _parse_xml(xml).iter())


def _parse_xml(xml: str) -> ElementTree.Element:
    try:
        return parse_xml(xml)
    except ValueError as error:
        raise build_config_error(f"the labelling configuration cannot be read: {error}") from error


def _get_medium(tag: ElementTree.Element) -> Literal["image", "video"]:
    return "video" if tag.tag == "Video" else "image"


def _find_controls(shown: ElementTree.Element, root: ElementTree.Element) -> list[ElementTree.Element]:
    """The controls of an ``<Image>`` or ``<Video>``."""
    return [tag for tag in root.iter() if tag.get("name") and shown.get("name", "") in _get_targets(tag)]


def _get_targets(tag: ElementTree.Element) -> list[str]:
    return [name.strip() for name in tag.get("toName", "").split(",")]


def _read_labels(tag: ElementTree.Element) -> list[tuple[str, str]]:
    """Labels of a control as regions carry them, and what to ask the model for."""
    found = []
    for label in tag.iter("Label"):
        text = label.get("value", "")
        name = label.get("alias") or text
        if name:
            found.append((name, (label.get("hint") or text or name).strip()))
    return found


def _read_controls(tags: list[ElementTree.Element], medium: str) -> list[Control]:
    """Controls that get regions: those that draw and are not for prompting, or, where all are for that, the first."""
    beside = tuple(label for tag in tags if tag.tag == "Labels" for label, _ in _read_labels(tag))
    drawing: list[Control] = []
    prompting: list[Control] = []
    for kind in DRAWING[medium]:
        for tag in tags:
            if tag.tag.lower() != kind:
                continue
            names = beside if kind == "videorectangle" else tuple(label for label, _ in _read_labels(tag))
            is_smart = "true" in (tag.get("smart", "").lower(), tag.get("smartOnly", "").lower())
            if names:
                (prompting if is_smart else drawing).append((kind, tag.get("name", ""), names))
    return drawing or prompting[:1]
