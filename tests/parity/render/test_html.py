"""The HTML report: all there, nothing from elsewhere, and quiet in a real browser."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

pytest.importorskip("torch")

from parity import Report, Row
from parity.place import Case
from parity.render import html
from parity.render.drawings import Line, curves, heat_map, png
from parity.render.markup import VOID, Markup, element, join

C1 = Case("c", "1")
GOOD = Row(
    C1, "forward", "float64", "output",
    passed=True, distance=1e-16, spread=1e-16, bound=1e-14, scale=1.0, epsilon=2**-52,
)  # fmt: skip
BAD = replace(GOOD, dtype="float32", name="h_n", passed=False, distance=0.5, where=(1, 2),
              size=8, beyond=3, candidate=0.75, truth=0.25)  # fmt: skip
NAN = replace(BAD, name="<script>alert(1)</script>", distance=math.nan, note="it has a NaN & more")
FACTS = {"environment": {"versions": {"jax": "1.2.3"}}, "cases": {C1: {"seed": 7}}}
FIGURES = {
    "stage_errors": [
        {
            "case": "c: 1",
            "dtype": "float32",
            "stages": [
                {
                    "layer": 0,
                    "direction": "reverse",
                    "bound": 4.0,
                    "reference": [1.0, 2.0, 0.0],
                    "candidate": [0.5, 9.0, "nan"],
                }
            ],
        }
    ],
    "loss_curves": [
        {
            "case": "c: 1",
            "optimizer": "sgd",
            "dtype": "float32",
            "loss": "square",
            "reference": [3.0, 2.0],
            "candidate": [3.0, 2.5],
        }
    ],
    "attention": [
        {"case": "c: 1", "dtype": "float32", "reference": [[0.2, 0.8]], "candidate": [[0.3, 0.7]]}
    ],
}
FAILED = Report((GOOD, BAD, NAN), figures=FIGURES, **FACTS)


class Page(HTMLParser):
    """Elements, their attributes, and text; every element closed in its order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.words, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["title"]):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def having(self, tag, **attributes):
        return [a for t, a in self.elements if t == tag and attributes.items() <= a.items()]


def test_the_verdict_comes_first_and_the_first_divergence_with_it():
    assert Page(html.page(Report((GOOD,), **FACTS))).text.startswith(
        "Parity report PASSED 1 comparisons"
    )
    page = Page(html.page(FAILED))
    assert page.text.startswith("Parity report FAILED 2 of 3 comparisons; first h_n (c: 1, forward")
    assert page.text.index("it has a NaN & more") < page.text.index("Every check")
    elements = "elements beyond the bound: 3 of 8; at [1, 2] the candidate has 0.7500"
    assert page.text.index(elements) < page.text.index("Every check") < page.text.rindex(elements)


def test_every_row_and_all_of_the_environment_are_there():
    many = tuple(replace(GOOD, name=f"stage{i}") for i in range(40))
    page = Page(html.page(Report((*many, BAD), **FACTS)))
    assert [i for i in range(40) if page.words.count(f"stage{i}") < 1] == []
    assert len(page.having("tr", **{"class": "failed"})) == 2  # in the summary, and among the rows
    for words in ("versions", "jax 1.2.3", "seed 7"):
        assert words in page.text


def test_it_needs_nothing_from_elsewhere_and_runs_nothing():
    text = html.page(FAILED)
    page = Page(text)
    assert page.having("script") == []
    assert not re.search(r"url\(|@import|https?:", text)
    links = [
        v for _, a in page.elements for k, v in a.items() if k in ("href", "src", "xlink:href")
    ]
    assert [link for link in links if not link.startswith(("#", "data:"))] == []


def test_names_are_text_and_never_markup():
    assert "<script>" not in html.page(FAILED)
    assert "<script>alert(1)</script>" in Page(html.page(FAILED)).text


def test_it_can_be_read_without_eyes_and_without_a_mouse():
    page = Page(html.page(FAILED))
    assert page.having("html", lang="en")
    images = page.having("img")
    assert len(images) == 1 + 1 + 3
    assert all(image["alt"] for image in images)
    assert len(page.having("caption")) == len(page.having("table"))
    assert all("scope" in attributes for attributes in page.having("th"))
    assert all(a["tabindex"] == "0" for a in page.having("div", **{"class": "scroll"}))
    targets = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {a["href"].removeprefix("#") for a in page.having("a")} <= targets
    for number in ("9", "nan", "0.7", "2.5"):  # figures also as numbers
        assert number in page.words


def test_figures_that_were_not_made_are_left_out():
    page = Page(html.page(Report((GOOD,), FACTS, {"loss_curves": FIGURES["loss_curves"]})))
    assert page.having("section", id="loss-curves")
    assert not page.having("section", id="attention")


def test_a_heat_map_hides_what_is_above_its_limit_or_not_finite_and_shows_signs_apart():
    lines = [Line("a", [0.0, 1.0, 5.0, math.nan], 4.0), Line("b", [1.0, 2.0, 3.0, 4.0])]
    (image,) = heat_map(lines, full=4.0, unit="ULP").axes[0].get_images()
    assert image.get_array().mask.tolist() == [[False, False, True, True], [False] * 4]
    assert image.get_clim() == (0.0, 4.0)
    (signed,) = heat_map([Line("a", [-1.0, 1.0])], full=1.0).axes[0].get_images()
    assert signed.get_clim() == (-1.0, 1.0)


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [math.nan, math.nan], [1e-300, 2e-300]])
def test_curves_of_all_kinds_can_be_drawn_with_their_difference(values):
    figure = curves(Line("PyTorch", values), Line("Flax", [v + 1 for v in values]), "loss")
    theirs, _ = figure.axes[0].get_lines()
    assert theirs.get_ydata().tolist() == pytest.approx(values, nan_ok=True)
    (difference,) = figure.axes[1].get_lines()
    assert len(difference.get_ydata()) == len(values)
    assert png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize(("share", "value"), [(0.5, "0.500"), (1.5, "1.000"), (math.nan, "1.000")])
def test_a_meter_is_full_where_the_bound_is_broken(share, value):
    row = replace(GOOD, distance=share * GOOD.bound, passed=share <= 1)
    (meter,) = Page(html.page(Report((row,), **FACTS))).having("meter")
    assert meter["value"] == value


def test_elements_escape_what_is_not_markup():
    made = element("p", "a < b", Markup("<b>x</b>"), None, class_="c d", aria_label='"', rel=None)
    assert made == '<p class="c d" aria-label="&quot;">a &lt; b<b>x</b></p>'
    assert join("&", Markup("&amp;")) == "&amp;&amp;"
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'


BROWSER = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--enable-logging=stderr",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # what the browser itself wants stays here
)

# No package that the tests install brings a browser; the tests above read the page without one.
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


def seen(path, folder):
    """The page as shown, what it asked the network for, and what was said on its console."""
    log = folder / "net.json"
    command = [
        BROWSER, *OPTIONS, f"--user-data-dir={folder / 'user'}", f"--log-net-log={log}",
        "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    requests = [event["params"] for event in events if "initiator" in event.get("params", {})]
    asked = {request["url"] for request in requests if request["initiator"] != "not an origin"}
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, asked, console


@needs_browser
def test_a_browser_shows_it_and_asks_nobody(tmp_path):
    FAILED.write(tmp_path)
    shown, asked, console = seen(tmp_path / "report.html", tmp_path)
    assert 'class="verdict failed"' in shown
    assert asked == set()
    assert console == []


@needs_browser
def test_the_browser_would_tell(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<img src="http://a.test/x.png"><script>console.error("no")</script>')
    _, asked, console = seen(page, tmp_path)
    assert asked == {"http://a.test/x.png"}
    assert len(console) >= 1


def test_notes_stand_in_the_head_and_nowhere_else():
    facts = {"environment": {}, "cases": {C1: {"seed": 7, "notes": ["equal: <b>"]}}}
    page = html.page(Report((GOOD,), **facts))
    assert page.count("equal: &lt;b&gt;") == 1
    assert page.index("note: equal") < page.index("<main")
