import collections
import dataclasses

import numpy as np
import pytest

from parity.compare import compare_sides
from parity.place import Case
from parity.sides.optimizers import SGD


def failures(report):
    return {(row.check_title, row.name) for row in report.rows if not row.passed}


def compare(linear, **faults):
    return compare_sides(
        linear.pair(**faults),
        linear.inputs,
        optimizers=[SGD],
        batches=linear.batches,
        case=Case("c"),
    )


def at(target, fault):
    """A hook that applies the fault to one name."""
    return lambda name, value: fault(value) if name == target else value


def test_equal_sides_pass(linear):
    report = compare(linear)
    assert report.passed
    assert report.first_divergence is None
    # per dtype: 2 stages, 4 gradients, loss and 3 parameters; once: 3 parameters, 2 inputs
    assert len(report.rows) == 2 * (2 + 4 + 1 + 3) + 3 + 2


def test_rows_are_in_order_of_computation(linear):
    checks = list(dict.fromkeys((row.check_title, row.dtype) for row in compare(linear).rows))
    assert checks == [
        ("parameters", ""),
        ("inputs", ""),
        ("forward", "float64"),
        ("gradients", "float64"),
        ("training, sgd", "float64"),
        ("forward", "float32"),
        ("gradients", "float32"),
        ("training, sgd", "float32"),
    ]


@pytest.mark.parametrize("stage", ["product", "output"])
def test_first_divergence_is_the_first_stage_that_is_wrong(linear, stage):
    report = compare(linear, stage=at(stage, lambda value: value * (1 + 1e-9)))
    assert not report.passed
    assert report.first_divergence.name == stage
    assert report.first_divergence.check == "forward"
    assert report.first_divergence.dtype == "float64"


@pytest.mark.parametrize("name", ["weight", "bias", "x"])
def test_a_wrong_gradient_is_named(linear, name):
    report = compare(linear, gradient=at(name, lambda value: value * (1 + 1e-9)))
    assert report.first_divergence.check == "gradients"
    assert report.first_divergence.name == name


@pytest.mark.parametrize("step", [1, 3])
def test_a_wrong_update_is_found_at_its_step(linear, step):
    def fault(number, name, value):
        return value + value.dtype.type(1e-3) if (number, name) == (step, "bias") else value

    first = compare(linear, update=fault).first_divergence
    assert (first.check, first.optimizer) == ("training", "sgd")
    assert (first.name, first.step) == ("bias", step)


def test_the_earliest_step_goes_first_though_another_row_stands_before_it(linear):
    def fault(number, name, value):
        when = {"weight": 3, "bias": 2}.get(name)
        return value + value.dtype.type(1e-3) if number == when else value

    report = compare(linear, update=fault)
    assert (report.first_divergence.name, report.first_divergence.step) == ("bias", 2)


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("side", ["reference", "candidate", "both"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_numbers_are_never_ok(linear, instead, side, bad):
    """The candidate's fail; the reference's say nothing, and a check of nothing else fails.

    Infinities that all runs of the reference have must be the candidate's.
    """

    def spoil(side):
        def forward(parameters, inputs, dtype):
            stages = dict(side.forward(parameters, inputs, dtype))
            for name in stages:
                stages[name] = stages[name].copy()
                stages[name][1, 2] = bad
            return stages

        return instead(side, forward=forward)

    pair = linear.pair()
    chosen = ["reference", "candidate"] if side == "both" else [side]
    pair = dataclasses.replace(pair, **{name: spoil(getattr(pair, name)) for name in chosen})
    report = compare_sides(pair, linear.inputs)
    row = next(row for row in report.rows if row.name == "product")
    settled = {"both": "ok", "reference": "FAILED"} if np.isinf(bad) else {}
    expected = {"both": "undetermined", "reference": "undetermined", "candidate": "FAILED"}
    assert row.verdict == {**expected, **settled}[side]
    assert report.passed == (row.verdict == "ok")
    if row.verdict == "ok":
        return
    assert "non-finite" in row.note or np.isinf(bad)
    assert "[1, 2]" in row.note
    unproven = {(group.check, group.dtype) for group in report.unproven}
    assert ("forward", "float64") in unproven or row.verdict == "FAILED"


def test_a_non_finite_input_fails(linear):
    inputs = {**linear.inputs, "x": np.full((5, 4), np.nan, np.float32)}
    report = compare_sides(linear.pair(), inputs)
    assert (report.first_divergence.check, report.first_divergence.name) == ("inputs", "x")


def test_a_non_finite_parameter_fails_though_both_sides_hold_it(linear):
    spoiled = {**linear.parameters, "bias": np.array([0, np.nan, 0], np.float32)}
    report = compare_sides(linear.pair().holding(spoiled, spoiled), linear.inputs)
    assert (report.first_divergence.check, report.first_divergence.name) == ("parameters", "bias")


@pytest.mark.parametrize("name", ["weight", "bias", "spare"])
def test_a_parameter_one_ulp_off_is_named(linear, name):
    moved = {**linear.parameters, name: np.nextafter(linear.parameters[name], np.float32(9))}
    report = compare(linear, parameters=moved)
    assert (report.first_divergence.check, report.first_divergence.name) == ("parameters", name)


def test_a_missing_parameter_and_one_too_many_are_named(linear):
    renamed = {("bias" if n == "spare" else n): a for n, a in linear.parameters.items()}
    pair = linear.pair(parameters={**renamed, "bias": linear.parameters["bias"]})
    assert ("parameters", "spare") in failures(compare_sides(pair, linear.inputs))


def test_a_stage_that_one_side_lacks_fails(linear, instead):
    def without(parameters, inputs, dtype):
        return {"output": whole(parameters, inputs, dtype)["output"]}

    pair = linear.pair()
    whole = pair.candidate.forward
    pair = dataclasses.replace(pair, candidate=instead(pair.candidate, forward=without))
    report = compare_sides(pair, linear.inputs)
    assert report.first_divergence.name == "product"
    assert "the candidate has no array of this name" in report.first_divergence.note


def test_a_gradient_of_zeros_for_what_is_never_used_is_not_none(linear):
    report = compare(linear, gradient=at("spare", lambda value: np.zeros(2)))
    assert ("gradients", "spare") in failures(report)
    assert "None" in report.first_divergence.note


def test_a_never_used_parameter_that_decays_is_caught(linear):
    def decay(number, name, value):
        return value * value.dtype.type(1 - 1e-5) if name == "spare" else value

    report = compare(linear, update=decay)
    assert failures(report) == {("training, sgd", "spare")}
    assert "the candidate moved it" in report.first_divergence.note


def test_another_shape_fails(linear):
    report = compare(linear, stage=at("output", lambda value: value[:1]))
    assert report.first_divergence.name == "output"
    assert "shape (1, 3)" in report.first_divergence.note


def test_both_sides_compute_on_numbers_that_every_dtype_holds(linear, instead):
    def thirds(arrays):
        return {name: array.astype(np.float64) / 3 for name, array in arrays.items()}

    def spied(side):
        whole = side.forward

        def forward(parameters, inputs, dtype):
            given[side.name, dtype].append({**parameters, **inputs})
            return whole(parameters, inputs, dtype)

        return instead(side, forward=forward)

    given = collections.defaultdict(list)
    pair = linear.pair().holding(thirds(linear.parameters), thirds(linear.parameters))
    pair = dataclasses.replace(
        pair, reference=spied(pair.reference), candidate=spied(pair.candidate)
    )
    assert compare_sides(pair, thirds(linear.inputs)).passed
    assert set(given) == {(side, dtype) for side in "ab" for dtype in ("float64", "float32")}
    for (side, dtype), calls in given.items():
        plain = calls[0]  # the others are nudged
        for name, array in plain.items():
            np.testing.assert_array_equal(array, array.astype(np.float32), f"{side} {dtype} {name}")


def test_float32_arithmetic_of_lower_precision_fails_in_float32_only(linear):
    def truncated(value):  # ten bits fewer, as TF32
        if value.dtype == np.float64:
            return value
        return (value.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)

    report = compare(linear, stage=at("product", truncated))
    assert {row.dtype for row in report.rows if not row.passed} == {"float32"}
    assert report.first_divergence.name == "product"


@pytest.mark.parametrize("dtypes", [(), ("float16",)])
def test_dtypes_without_a_tolerance_are_refused(linear, dtypes):
    with pytest.raises(ValueError, match="float64"):
        compare_sides(linear.pair(), linear.inputs, dtypes=dtypes)
