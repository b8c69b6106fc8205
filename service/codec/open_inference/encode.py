"""Answers and model metadata in the Open Inference Protocol."""

from typing import Any

import orjson
from numpy.typing import NDArray

from model_store import Manifest, Model
from service.codec.open_inference.decode import Inference
from service.codec.open_inference.tensors import binary_of, json_of, label_array
from service.errors import invalid_at
from service.schemas.predictions import ClassPrediction, OrderedPrediction, Prediction
from service.schemas.requests import AdaptPredictRequest
from service.schemas.responses import AdaptPredictResponse

NUMBERS = ("mean", "std", "variance.aleatoric", "variance.epistemic", "lower", "upper")
"""Outputs about numbers; with the parameter `quantiles` also these."""
CLASSES = ("classes", "probabilities", "label")
"""Outputs about classes; of ordered ones also those of `ORDERED`."""
ORDERED = ("lower", "upper")
LABEL_DATATYPES = {bool: "BOOL", int: "INT64", str: "BYTES"}


def output_names(manifest: Manifest, quantiles: bool) -> tuple[str, ...]:
    """The outputs of a model, in order."""
    if manifest.kind != "classification":
        names: tuple[str, ...] = NUMBERS
    elif manifest.target is not None and manifest.target.ordered:
        names = (*CLASSES, *ORDERED)
    else:
        return CLASSES
    return (*names, "quantiles") if quantiles else names


def check_outputs(inference: Inference, model: Model) -> None:
    """Refuse outputs that the model does not have.

    Raises:
        RequestError: 422 that lists those it has.
    """
    request: AdaptPredictRequest = inference.request
    names, seen = output_names(model.manifest, bool(request.quantiles)), set()
    for index, each in enumerate(inference.asked.outputs):
        if each.name == "quantiles" and each.name not in names:
            raise invalid_at(f"/outputs/{index}/name", "quantiles need the parameter quantiles")
        if each.name not in names:
            raise invalid_at(f"/outputs/{index}/name", f"the outputs are {', '.join(names)}")
        if each.name in seen:
            raise invalid_at(f"/outputs/{index}/name", f"{each.name} is asked for twice")
        seen.add(each.name)


def encoded_inference(inference: Inference, response: AdaptPredictResponse) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON where bytes follow it."""
    asked, tensors = inference.asked, _tensors(response.prediction)
    all_binary = asked.parameters.binary_data_output
    wanted = dict.fromkeys(tensors, all_binary)
    if asked.outputs:
        wanted = {
            each.name: all_binary if each.parameters.binary_data is None else each.parameters.binary_data
            for each in asked.outputs
        }
    outputs, parts = [], []
    for name, binary in wanted.items():
        datatype, shape, elements = tensors[name]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if binary:
            parts.append(binary_of(elements))
            output["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            output["data"] = json_of(elements)
        outputs.append(output)
    parameters: dict[str, Any] = {}
    if response.posterior is not None:
        kept = response.posterior
        parameters = {"posterior": kept.id, "posterior_expires_at": kept.expires_at}
    if response.diagnostics.warnings:
        parameters["warnings"] = "\n".join(response.diagnostics.warnings)
    body = {
        "model_name": response.model.name,
        "model_version": str(response.model.version),
        "id": asked.id if asked.id is not None else response.request_id,
        "parameters": parameters,
        "outputs": outputs,
    }
    header = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([header, *parts]), len(header) if parts else None


def model_metadata(manifest: Manifest, versions: list[int]) -> dict[str, Any]:
    """The names, datatypes, shapes and columns of a model's tensors; -1 is any length."""
    columns = [each.name for each in manifest.inputs]
    outputs = [each.name for each in manifest.outputs]
    if manifest.image is not None:
        x: dict[str, Any] = {"datatype": "FP32", "shape": [-1, *manifest.image.shape]}
    else:
        x = {"datatype": "FP64", "shape": [-1, len(columns)], "parameters": {"columns": columns}}
    labels = None if manifest.labels is None else manifest.labels
    label = "BYTES" if labels is None else LABEL_DATATYPES[type(labels[0])]
    rows = [-1] if len(outputs) < 2 else [-1, len(outputs)]
    described: dict[str, Any] = {"parameters": {"columns": outputs}} if outputs else {}
    if manifest.kind == "classification":
        count = -1 if labels is None else len(labels)
        y = {"datatype": label, "shape": [-1]}
        shapes: dict[str, Any] = {
            "classes": {"datatype": label, "shape": [count]},
            "probabilities": {"datatype": "FP32", "shape": [-1, count]},
            "quantiles": {"datatype": label, "shape": [-1, -1]},
        }
        usual: dict[str, Any] = {"datatype": label, "shape": [-1]}
    else:
        y = {"datatype": "FP64", "shape": rows, **described}
        usual = {"datatype": "FP32", "shape": rows, **described}
        shapes = {"quantiles": {**usual, "shape": [-1, *rows]}}
    return {
        "name": manifest.name,
        "versions": [str(each) for each in versions],
        "platform": "bmaml",
        "inputs": [{"name": "support.x", **x}, {"name": "support.y", **y}, {"name": "query.x", **x}],
        "outputs": [{"name": name, **shapes.get(name, usual)} for name in output_names(manifest, True)],
    }


def _tensors(prediction: Any) -> dict[str, tuple[str, list[int], NDArray[Any] | list[bytes]]]:
    """Datatype, shape and elements of every output of a prediction."""
    found: dict[str, Any] = {}
    if isinstance(prediction, ClassPrediction):
        found = {name: getattr(prediction, name) for name in CLASSES}
        if isinstance(prediction, OrderedPrediction):
            found |= {"lower": prediction.interval.lower, "upper": prediction.interval.upper}
            if prediction.quantiles.levels:
                found["quantiles"] = prediction.quantiles.values
    else:
        assert isinstance(prediction, Prediction)
        variance, interval = prediction.variance, prediction.interval
        found = {"mean": prediction.mean, "std": prediction.std}
        found |= {"variance.aleatoric": variance.aleatoric, "variance.epistemic": variance.epistemic}
        found |= {"lower": interval.lower, "upper": interval.upper}
        if prediction.quantiles.levels:
            found["quantiles"] = prediction.quantiles.values
    return {
        name: label_array(each) if isinstance(each, list) else (_datatype(each), list(each.shape), each)
        for name, each in found.items()
    }


def _datatype(array: NDArray[Any]) -> str:
    return f"FP{8 * array.dtype.itemsize}"
