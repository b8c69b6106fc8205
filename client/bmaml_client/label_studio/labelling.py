"""What a project's labelling configuration asks for, and labels in Label Studio's form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree

MAX_CONFIG = 1 << 20
"""Characters of a configuration that is read at all."""

Label = str | float


class NotSupported(ValueError):
    """A project that no model of ours can answer, and why."""


@dataclass(frozen=True)
class Labelling:
    """The one control of a configuration that is answered.

    Attributes:
        kind: of the model that fits.
        control: the tag that holds the label.
        shown: the tag that the label is about.
        source: where a task's data has the picture; empty where the data are numbers.
    """

    kind: Literal["classification", "regression"]
    control: str
    shown: str
    source: str

    @classmethod
    def of(cls, config: str) -> "Labelling":
        """The labelling that a configuration describes: `Choices` of an `Image`, or a `Number`.

        Raises:
            NotSupported: it is no XML, has neither or both, or lets several choices be made at once.
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
        name, about = control.get("name", ""), control.get("toName", "")
        if control.tag == "Number":
            return cls("regression", name, about, "")
        if control.get("choice", "single").startswith("multiple"):
            raise NotSupported('Choices with choice="multiple" are not answered: a picture has one class')
        shown = [each for each in root.iter("Image") if each.get("name") == about]
        if len(shown) != 1 or not shown[0].get("value", "").startswith("$"):
            raise NotSupported('Choices are answered where toName leads to an Image with value="$…"')
        return cls("classification", name, about, shown[0].get("value", "")[1:])

    def label(self, result: Sequence[Mapping[str, Any]]) -> Label | None:
        """The label in an annotation's result; None where there is none."""
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
        """A label as the result of a prediction."""
        said: dict[str, Any] = (
            {"type": "choices", "value": {"choices": [label]}}
            if self.kind == "classification"
            else {"type": "number", "value": {"number": label}}
        )
        return [{"from_name": self.control, "to_name": self.shown, **said}]
