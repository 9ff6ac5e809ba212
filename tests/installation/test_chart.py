from __future__ import annotations

from pathlib import Path

import yaml

import meshproxy
from meshproxy.installation.chart import template

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "meshproxy"


def test_the_template_is_up_to_date() -> None:
    """What it renders to is tested with the real Helm, in tests/e2e."""
    path = CHART / "templates" / "installation.yaml"
    assert path.read_text() == template(), (
        f"run python -m meshproxy.installation.chart > {path.relative_to(Path.cwd())}"
    )


def test_no_placeholder_is_left() -> None:
    text = template()
    assert "placeholder" not in text
    assert "987" not in text


def test_every_if_has_its_end() -> None:
    depth = 0
    for line in template().splitlines():
        depth += line.startswith("{{- if ") - (line == "{{- end }}")
        assert depth >= 0
        assert line != "{{- else }}" or depth
    assert depth == 0


def test_the_chart_has_the_version_of_the_product() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == meshproxy.__version__
    assert set(yaml.safe_load((CHART / "values.yaml").read_text())) <= set(
        yaml.safe_load((CHART / "values.schema.json").read_text())["properties"]
    )
