import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from lt_pipeline.evaluation.figures import build_figures
from lt_pipeline.evaluation.metrics import evaluate
from lt_pipeline.evaluation.predictions import Predictions
from lt_pipeline.evaluation.report import render_report

from .synthetic import history, ride_like

EVIL = '<script>alert("x")</script>'


class Elements(HTMLParser):
    """Collects tags, attributes and visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def parsed(page: str) -> Elements:
    elements = Elements()
    elements.feed(page.replace(get_plotlyjs(), ""))
    return elements


@pytest.fixture(scope="module")
def page() -> str:
    p = ride_like(classes=12, per_class=20, names=[EVIL, "</td><img src=x onerror=alert(1)>", *"cdefghijkl"])
    metrics, per_class = evaluate(p)
    facts = p.facts | {
        "command": f'kedro run --params="a={EVIL}"',
        "versions": {"python": "3.11", "torch": "2.15"},
        "settings": {"model": {"backbone": "resnet32", "note": EVIL}, "experts": {"epochs": 9}},
        "timing": {"experts": {"seconds": 3725.0, "images_per_second": 1150.4}},
    }
    return render_report(metrics, per_class, build_figures(p, metrics, per_class, history(9, 2)), facts, history(9, 2))


def test_everything_is_inside_and_once(page):
    elements = parsed(page)
    assert page.count(get_plotlyjs()) == 1
    assert [tag for tag, _ in elements.tags].count("script") == 3  # plotly, data, page
    assert not [attrs for _, attrs in elements.tags if attrs.get("src") or not attrs.get("href", "data:").startswith(("data:", "#"))]
    rest = page.replace(get_plotlyjs(), "")
    assert "http://" not in rest and "https://" not in rest and "@import" not in rest and "url(" not in rest
    assert "default-src 'none'" in page


def test_user_text_is_escaped_everywhere(page):
    elements = parsed(page)
    assert "img" not in [tag for tag, _ in elements.tags]
    assert EVIL not in page.replace(get_plotlyjs(), "")
    assert EVIL in elements.text  # and still readable as the class it is
    assert any(f"a={EVIL}" in text for text in elements.text)


def test_figures_are_whole_json(page):
    raw = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)[1]
    figures = json.loads(raw)
    places = [attrs["data-figure"] for _, attrs in parsed(page).tags if "data-figure" in attrs]
    assert list(figures) == places == ["profile", "tail", "experts", "cost", "reliability", "confusions", "learning"]


def test_headline_and_facts_are_told(page):
    text = " ".join(" ".join(parsed(page).text).split())
    for word in (
        "ride on cifar12_lt".replace("ride", "RIDE"),
        "few-shot",
        "95 %:",
        "last epoch",
        "3f9a0c17be55d201",
        "expert 3",
        "experts 9 1 h 02 min 1,150",
        "torch 2.15",
        "experts: {epochs: 9}",
        "stop after 1 expert",
        "router 2 – –",
    ):
        assert word in text


def test_tables_have_a_row_for_each_class_in_order_of_frequency(page):
    rows = re.findall(r'<tr data-group="(\w+)"', page)
    assert len(rows) == 12 and rows == sorted(rows, key=["many", "medium", "few"].index)


def test_smallest_model_has_a_report_too():
    p = Predictions(np.array(["a", "b"]), np.array([0, 0]), np.array([[1, 0], [0, 1]], np.float32), facts={"train_counts": [500, 300]})
    metrics, per_class = evaluate(p)
    html = render_report(metrics, per_class, build_figures(p, metrics, per_class), {}, None)
    text = " ".join(parsed(html).text)
    assert "50.0" in text and "few-shot" not in text and "nan" not in text.lower().split()
