"""The labeling interface of a Label Studio project: which tags there are, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from xsam.errors import InvalidQueryError

_MAX_CHARS = 262_144
_OUTPUTS = {
    "BrushLabels": "brushlabels",
    "PolygonLabels": "polygonlabels",
    "RectangleLabels": "rectanglelabels",
}
_HINT = 'add <BrushLabels name="mask" toName="image"> with a <Label value="…"/> for each kind of object'


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig:
    """Where images are in a task, and where masks go."""

    image_key: str  # of the data of a task
    image_name: str  # of the tag that shows it
    output_name: str  # of the tag that takes the masks
    output_type: str  # "brushlabels", "polygonlabels" or "rectanglelabels"
    phrases: Mapping[str, str]  # what to ask for → the label it stands for

    @property
    def labels(self) -> frozenset[str]:
        return frozenset(self.phrases.values())


def read_label_config(text: str) -> LabelConfig:
    """Read a labeling interface.

    Masks go to the first of its tags that can take them: `BrushLabels`, else `PolygonLabels`, else
    `RectangleLabels`. A label is asked for by its `predicted_values`, separated by commas, else by its name.

    Raises:
        InvalidQueryError: it is malformed, or has no image or no tag that can take masks.
    """
    if len(text) > _MAX_CHARS or "<!" in text.replace("<!--", ""):
        raise InvalidQueryError("the labeling interface is too long, or declares a document type")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InvalidQueryError(f"the labeling interface is no XML: {error}") from None
    images = {tag.get("name"): tag.get("value", "") for tag in root.iter("Image")}
    outputs = [tag for name in _OUTPUTS for tag in root.iter(name) if tag.get("toName") in images]
    if not outputs:
        raise InvalidQueryError("the labeling interface has no tag for the masks of an Image", hint=_HINT)
    output = outputs[0]
    image_name, name = output.get("toName"), output.get("name")
    value = images[image_name]
    phrases: dict[str, str] = {}
    for label in output.iter("Label"):
        own = label.get("value", "").strip()
        for phrase in (label.get("predicted_values") or own).split(",") if own else ():
            phrases.setdefault(phrase.strip() or own, own)
    if not image_name or not name or not value.startswith("$") or len(value) < 2:
        raise InvalidQueryError(
            f'the labeling interface has no <Image name="…" value="$…"/>, but value={value!r:.40}',
            hint="one image per task, named by a key of its data",
        )
    if not phrases:
        raise InvalidQueryError(f"{output.tag} has no labels", hint=_HINT)
    return LabelConfig(
        image_key=value[1:],
        image_name=image_name,
        output_name=name,
        output_type=_OUTPUTS[output.tag],
        phrases=phrases,
    )
