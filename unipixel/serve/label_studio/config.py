"""Label Studio's labelling configuration, as far as the model can help with it: what is shown, and what draws on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from xml.etree import ElementTree

from unipixel.serve.errors import ApiError

Kind = Literal["brushlabels", "polygonlabels", "rectanglelabels", "videorectangle"]
DRAWING: dict[str, tuple[Kind, ...]] = {
    "image": ("brushlabels", "polygonlabels", "rectanglelabels"),
    "video": ("videorectangle",),
}
"""Controls that show an object, by what they draw on."""
DEFAULT_FRAME_RATE = 24.0
"""Frames per second that Label Studio counts where ``<Video>`` does not say."""
MAX_LABELS = 64
"""Labels that the model is asked for one by one."""


@dataclass(frozen=True)
class Control:
    """A tag that draws regions."""

    kind: Kind
    """The type of its regions."""
    name: str
    labels: tuple[str, ...]
    is_smart: bool
    """Whether what is drawn with it is a prompt for the model, rather than a result."""


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """A configuration that the model can work with."""

    medium: Literal["image", "video"]
    object_name: str
    """Name of the ``<Image>`` or ``<Video>``."""
    data_key: str
    """Where a task's data name the picture or video."""
    controls: tuple[Control, ...]
    """Those that get regions."""
    queries: Mapping[str, str] = field(default_factory=dict)
    """For each label what the model is asked for: the label's ``hint``, or else its text."""
    text_keys: tuple[str, ...] = ()
    """Where a task's data hold what to look for, instead of all labels: what ``<Text>`` shows."""
    frame_rate: str = ""
    """``frameRate`` of the ``<Video>``: a number, or ``$key``."""

    def get_frame_rate(self, data: Mapping[str, Any]) -> float:
        """The rate at which Label Studio counts a video's frames, which need not be the video's own.

        Raises:
            ApiError: it is no positive number.
        """
        given: Any = data.get(self.frame_rate[1:]) if self.frame_rate.startswith("$") else self.frame_rate
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


def read_config(xml: str) -> LabelConfig:
    """What the model needs of a labelling configuration.

    Raises:
        ApiError: it is no XML, or has nothing that the model can draw on, or draw with.
    """
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
    name, medium = shown.get("name", ""), _get_medium(shown)
    labels = _find_controls(shown, root)
    words = {label: said for tag in labels for label, said in _read_labels(tag)}
    controls = _read_controls(labels, medium)
    if not controls:
        controls_text = (
            "<VideoRectangle> and <Labels>"
            if medium == "video"
            else "<BrushLabels>, <PolygonLabels> or <RectangleLabels>"
        )
        raise build_config_error(f"no control draws on <{shown.tag}> {name[:40]!r} with labels; add {controls_text}")
    if len(words) > MAX_LABELS:
        raise build_config_error(
            f"the labelling configuration has {len(words)} labels; at most {MAX_LABELS} can be asked for"
        )
    texts = [tag.get("value", "") for tag in root.iter("Text")]
    return LabelConfig(
        medium=medium,
        object_name=name,
        data_key=value[1:],
        controls=controls,
        queries={label: words[label] for control in controls for label in control.labels},
        text_keys=tuple(text[1:] for text in texts if text.startswith("$")),
        frame_rate=shown.get("frameRate", shown.get("framerate", "")).strip(),
    )


def _parse_xml(xml: str) -> ElementTree.Element:
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise build_config_error("the labelling configuration declares a document type, which none needs")
    try:
        return ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError) as error:
        raise build_config_error(f"the labelling configuration is no XML ({error})") from error


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


def _read_controls(tags: list[ElementTree.Element], medium: str) -> tuple[Control, ...]:
    """Controls that get regions: those that draw and are not for prompting, or, where all are for that, the first."""
    beside = tuple(label for tag in tags if tag.tag == "Labels" for label, _ in _read_labels(tag))
    found = []
    for kind in DRAWING[medium]:
        for tag in tags:
            if tag.tag.lower() != kind:
                continue
            names = beside if kind == "videorectangle" else tuple(label for label, _ in _read_labels(tag))
            smart = "true" in (tag.get("smart", "").lower(), tag.get("smartOnly", "").lower())
            if names:
                found.append(Control(kind, tag.get("name", ""), names, smart))
    return tuple(one for one in found if not one.is_smart) or tuple(found[:1])
