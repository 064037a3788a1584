"""The report's charts, written in Vega-Lite; ``build_report_assets.py`` compiles them to Vega.

Colours are stand-ins of ``INKS``: the page puts those of its light or dark theme in their place.
"""

from __future__ import annotations

from typing import Any

import altair as alt

INKS = {
    "ink": "#a0a001",
    "quiet": "#a0a002",
    "line": "#a0a003",
    "helped": "#a0a004",
    "hurt": "#a0a005",
    "accent": "#a0a006",
    "surface": "#a0a007",
}
WIDTH = 480
"""A first width; the page sets the one it has."""


def charts() -> dict[str, dict[str, Any]]:
    """Every chart of the page as a Vega-Lite specification, by the name the page calls it."""
    made = {
        "calibration": calibration(),
        "suspects": suspects(),
        "effects": effects(),
        "classes": classes(),
        "groups": groups(),
        "series": series(),
    }
    return {name: chart.to_dict() for name, chart in made.items()}


def calibration() -> alt.LayerChart:
    """Refitted against predicted changes, with the line on which they agree."""
    line = (
        alt.Chart(alt.NamedData("line"))
        .mark_line(color=INKS["quiet"], strokeWidth=1.5, strokeDash=[5, 4])
        .encode(x=alt.X("at:Q"), y=alt.Y("at:Q"))
    )
    dots = (
        alt.Chart(alt.NamedData("points"))
        .mark_point(filled=True, size=34, opacity=0.6, color=INKS["accent"])
        .encode(
            x=alt.X("predicted:Q", title="predicted change", axis=alt.Axis(format="~g", tickCount=6)),
            y=alt.Y("refitted:Q", title="change after really refitting", axis=alt.Axis(format="~g", tickCount=6)),
            tooltip="words:N",
        )
    )
    return dressed(alt.layer(line, dots), height=340)


def suspects() -> alt.LayerChart:
    """Self-influence against loss, one mark a training point; a dragged rectangle picks some out."""
    brush = alt.selection_interval(name="brush")
    root = alt.Scale(type="sqrt")
    dots = (
        alt.Chart(alt.NamedData("points"))
        .mark_point(size=40, opacity=0.75, strokeWidth=1.4)
        .encode(
            x=alt.X("loss:Q", scale=root, title="loss (√ scale)", axis=alt.Axis(format="~g", tickCount=6)),
            y=alt.Y(
                "influence:Q", scale=root, title="self-influence (√ scale)", axis=alt.Axis(format="~g", tickCount=6)
            ),
            color=alt.Color(
                "state:N",
                scale=alt.Scale(
                    domain=["model disagrees", "model agrees", "decided"],
                    range=[INKS["hurt"], INKS["accent"], INKS["quiet"]],
                ),
                legend=alt.Legend(title=None, orient="top"),
            ),
            shape=alt.Shape(
                "state:N",
                scale=alt.Scale(
                    domain=["model disagrees", "model agrees", "decided"], range=["triangle-up", "circle", "cross"]
                ),
            ),
            tooltip="words:N",
        )
        .add_params(brush)
    )
    return dressed(alt.layer(dots), height=300)


def effects() -> alt.LayerChart:
    """What leaving each point out does to the chosen query."""
    bars = (
        alt.Chart(alt.NamedData("effects"))
        .mark_bar(cornerRadius=2)
        .encode(
            x=alt.X(
                "effect:Q", title="change of the loss if the point is left out", axis=alt.Axis(format="~g", tickCount=5)
            ),
            y=alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelLimit=110)),
            color=alt.Color(
                "side:N",
                scale=alt.Scale(domain=["helped", "hurt"], range=[INKS["helped"], INKS["hurt"]]),
                legend=alt.Legend(title=None, orient="top"),
            ),
            tooltip="words:N",
        )
    )
    return dressed(alt.layer(bars), height=alt.Step(17))


def classes() -> alt.LayerChart:
    """Sums of effects, from the class of the training point to the class of the query."""
    cells = (
        alt.Chart(alt.NamedData("cells"))
        .mark_rect(cornerRadius=2)
        .encode(
            x=alt.X(
                "train:N", sort=None, title="label of the training points", axis=alt.Axis(labelLimit=80, labelAngle=0)
            ),
            y=alt.Y("query:N", sort=None, title="label of the queries", axis=alt.Axis(labelLimit=80)),
            color=alt.Color(
                "effect:Q",
                scale=alt.Scale(range=[INKS["hurt"], INKS["surface"], INKS["helped"]], domainMid=0, interpolate="rgb"),
                legend=alt.Legend(title=None, format="~g", orient="top", gradientLength=200, tickCount=5),
            ),
            tooltip="words:N",
        )
    )
    return dressed(alt.layer(cells), height=alt.Step(26))


def groups() -> alt.LayerChart:
    """What leaving each whole group out does to the mean loss of the queries."""
    bars = (
        alt.Chart(alt.NamedData("groups"))
        .mark_bar(cornerRadius=2)
        .encode(
            x=alt.X(
                "effect:Q",
                title="change of the mean loss if the group is left out",
                axis=alt.Axis(format="~g", tickCount=5),
            ),
            y=alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelLimit=140)),
            color=alt.Color(
                "side:N",
                scale=alt.Scale(domain=["helped", "hurt"], range=[INKS["helped"], INKS["hurt"]]),
                legend=alt.Legend(title=None, orient="top"),
            ),
            tooltip="words:N",
        )
    )
    return dressed(alt.layer(bars), height=alt.Step(20))


def series() -> alt.LayerChart:
    """One time series, small."""
    line = (
        alt.Chart(alt.NamedData("series"))
        .mark_line(strokeWidth=1.4, color=INKS["accent"], interpolate="linear")
        .encode(
            x=alt.X("step:Q", axis=None, scale=alt.Scale(nice=False)),
            y=alt.Y("value:Q", axis=None, scale=alt.Scale(zero=False)),
            detail="channel:N",
        )
    )
    return dressed(alt.layer(line), height=56)


def dressed(chart: alt.LayerChart, height: Any) -> alt.LayerChart:
    """The look all charts share."""
    words: dict[str, Any] = {
        "labelColor": INKS["quiet"],
        "titleColor": INKS["ink"],
        "labelFontSize": 11,
        "titleFontSize": 12,
    }
    return (
        chart.properties(width=WIDTH, height=height, autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
        .configure(background="transparent", font="system-ui, sans-serif", padding=4)
        .configure_view(stroke=None)
        .configure_axis(
            gridColor=INKS["line"], domainColor=INKS["line"], tickColor=INKS["line"], titleFontWeight="normal", **words
        )
        .configure_legend(labelColor=INKS["ink"], labelFontSize=11)
    )
