import json
from dataclasses import fields
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")
jsonschema = pytest.importorskip("jsonschema")

import parity
from parity import Report, Row
from parity.compare import compare_sides
from parity.place import Case
from parity.report import SCHEMA_VERSION

SCHEMA = json.loads(files("parity").joinpath("report.schema.json").read_text(encoding="utf-8"))
DOCUMENT = Path(__file__).parents[2] / "docs" / "report-schema.md"
BAD = Row(
    Case("c"), "forward", "float32", "y",
    passed=False, distance=float("nan"), where=(0, 1), note="NaN",
)  # fmt: skip
FIGURES = {
    "loss_curves": [
        {
            "case": "c",
            "optimizer": "sgd",
            "dtype": "float32",
            "loss": "l",
            "reference": [1.0, 2.0],
            "candidate": [1.0, float("inf")],
        }
    ]
}


@pytest.fixture
def validate():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA).validate


def test_a_real_report_is_valid(network, validate):
    report = compare_sides(network.pair, network.inputs, dtypes=["float64"], case=Case("c", "1"))
    validate(json.loads(report.to_json()))


def test_a_report_on_training_mode_is_valid(validate, quickly_compiled):
    theirs, ours = torch.nn.Dropout(0.5), nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    report = parity.check(
        theirs, ours, np.ones((2, 3), np.float32), dtypes=["float64"], training_steps=1,
        optimizers=[],
    )  # fmt: skip
    assert "training mode" in {row.check for row in report.rows}
    validate(json.loads(report.to_json()))


def test_a_failing_report_with_what_json_cannot_write_is_valid(validate):
    report = Report((BAD,), {}, FIGURES)
    content = json.loads(report.to_json())
    validate(content)
    assert content["figures"]["loss_curves"][0]["candidate"] == [1.0, "inf"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content.pop("passed"),
        lambda content: content.update(schema_version=SCHEMA_VERSION + 1),
        lambda content: content.update(more=1),
        lambda content: content["rows"][0].update(distance="0.5"),
        lambda content: content["rows"][0].update(more=1),
        lambda content: content["rows"][0].pop("bound"),
        lambda content: content["figures"]["loss_curves"][0].pop("loss"),
    ],
)
def test_another_form_is_not_valid(spoil, validate):
    content = json.loads(Report((BAD,), {}, FIGURES).to_json())
    spoil(content)
    with pytest.raises(jsonschema.ValidationError):
        validate(content)


def test_every_field_is_in_the_schema_and_in_the_document():
    row = {field.name for field in fields(Row)}
    assert set(SCHEMA["$defs"]["row"]["properties"]) == row
    assert set(SCHEMA["$defs"]["row"]["required"]) == row
    text = DOCUMENT.read_text(encoding="utf-8")
    named = row | set(SCHEMA["properties"]) | set(SCHEMA["properties"]["figures"]["properties"])
    assert [name for name in sorted(named) if f"`{name}`" not in text] == []
    assert SCHEMA["properties"]["schema_version"]["const"] == SCHEMA_VERSION
