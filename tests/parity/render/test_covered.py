from parity import Report, Row
from parity.place import Case
from parity.render import html, text
from parity.render.covered import covered

CASES = {
    Case("c", "0"): {"inputs": {"x": [4, 11, 3], "scale": []}, "training_steps": 10},
    Case("c", "loud"): {"inputs": {"x": [32, 65, 3], "scale": []}, "training_steps": 0},
}


def report(optimizer="sgd"):
    rows = [
        Row(case, "inputs", "", "x", passed=True, scale=scale)
        for case, scale in zip(CASES, (3.0, 90.0), strict=True)
    ]
    rows += [
        Row(Case("c", "0"), "training", dtype, "w", passed=True, optimizer=optimizer)
        for dtype in ("float64", "float32")
    ]
    return Report(tuple(rows), {}, {}, CASES)


def test_the_range_of_axes_values_dtypes_and_training_is_said():
    assert covered(report()) == (
        "Covered: x 4 to 32 × 11 to 65 × 3, largest value 3 to 90; scale a number; "
        "float64, float32; 10 steps of training by sgd. Nothing outside of this was compared."
    )
    assert "; no training." in covered(report(optimizer=""))


def test_every_form_of_the_report_says_it():
    words = covered(report())
    assert words in text.text(report())
    assert words in text.markdown(report())
    assert words in html.page(report())
