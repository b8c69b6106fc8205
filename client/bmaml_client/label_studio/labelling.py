"""A project's labelling configuration, and labels in Label Studio's form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree

MAX_CONFIG = 1 << 20
"""Characters of the longest configuration that is parsed."""

Label = str | float


class NotSupported(ValueError):
    """The backend cannot answer this project; the message says why."""


class UnreadableTask(ValueError):
    """The backend cannot read a task's data; the message says why."""


@dataclass(frozen=True)
class Labelling:
    """The control tag of a labelling configuration.

    Attributes:
        kind: the kind of model that can answer.
        control: name of the control tag, which holds the label.
        target: name of the object tag, which the label describes.
        image_key: key of the image in a task's data; empty for numbers.
    """

    kind: Literal["classification", "regression"]
    control: str
    target: str
    image_key: str

    @classmethod
    def parse(cls, config: str) -> "Labelling":
        """Parse a configuration with `Choices` of an `Image`, or with a `Number`.

        Raises:
            NotSupported: it is not XML, has neither or both, or allows several choices at once.
        """
        if len(config) > MAX_CONFIG:
            raise NotSupported("the labelling configuration is too long")
        try:
            root = ElementTree.fromstring(config)
        except ElementTree.ParseError as error:
            raise NotSupported(f"the labelling configuration is not XML: {error}") from None
        controls = [each for each in root.iter() if each.tag in ("Choices", "Number")]
        if len(controls) != 1:
            raise NotSupported(
                f"one Choices or Number tag is answered; this configuration has {len(controls)}"
            )
        control = controls[0]
        name, target = control.get("name", ""), control.get("toName", "")
        if control.tag == "Number":
            return cls("regression", name, target, "")
        if control.get("choice", "single").startswith("multiple"):
            raise NotSupported('Choices with choice="multiple" are not answered: an image has one class')
        images = [each for each in root.iter("Image") if each.get("name") == target]
        if len(images) != 1 or not images[0].get("value", "").startswith("$"):
            raise NotSupported('Choices are answered where toName leads to an Image with value="$…"')
        return cls("classification", name, target, images[0].get("value", "")[1:])

    def label(self, result: Sequence[Mapping[str, Any]]) -> Label | None:
        """The label in an annotation's result; None where it has none."""
        for item in result:
            value = item.get("value", {})
            if item.get("from_name") != self.control:
                continue
            if self.kind == "classification" and len(value.get("choices", ())) == 1:
                return str(value["choices"][0])
            if self.kind == "regression" and isinstance(value.get("number"), int | float):
                return float(value["number"])
        return None

    def result(self, label: Label) -> list[dict[str, Any]]:
        """A label as a prediction's result."""
        region: dict[str, Any] = (
            {"type": "choices", "value": {"choices": [label]}}
            if self.kind == "classification"
            else {"type": "number", "value": {"number": label}}
        )
        return [{"from_name": self.control, "to_name": self.target, **region}]
