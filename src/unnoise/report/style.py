"""How a report looks: colours of a light and a dark scheme, and the rules that use them."""

from __future__ import annotations

from collections.abc import Mapping

LIGHT: Mapping[str, str] = {
    "page": "#ffffff",
    "panel": "#f5f7f9",
    "ink": "#1b1f24",
    "soft": "#57606a",
    "rule": "#d5dae0",
    "s0": "#0b5cad",
    "s1": "#b34700",
    "s2": "#5b3e99",
    "s3": "#1a6b3c",
}
"""Colours on a light page: of the page, of boxes, of text, of lesser text, of rules, of the lines of charts."""

DARK: Mapping[str, str] = {
    "page": "#101418",
    "panel": "#181e24",
    "ink": "#e6e8eb",
    "soft": "#a3acb6",
    "rule": "#343d47",
    "s0": "#6cb2ff",
    "s1": "#ffa657",
    "s2": "#c9a5ff",
    "s3": "#7ee0a0",
}
"""The same on a dark page."""


def _variables(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{k}: {v};" for k, v in colours.items())


CSS = (
    f":root {{ {_variables(LIGHT)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}\n"
    """\
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: anywhere; }
h1 { margin: 0 0 1rem; font-size: 1.9rem; line-height: 1.2; font-weight: 650; }
h2 { margin: 0 0 .6rem; font-size: 1.25rem; line-height: 1.3; font-weight: 650; }
h3 { margin: 1.2rem 0 .4rem; font-size: 1rem; font-weight: 650; }
section { margin-top: 2.6rem; }
p { margin: 0 0 1rem; max-width: 44rem; color: var(--soft); }
code { font: .875em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { margin: 0; padding: .8rem 1rem; background: var(--panel); border: 1px solid var(--rule); border-radius: 6px;
  white-space: pre-wrap; }
pre span { display: inline-block; max-width: 100%; white-space: pre-wrap; vertical-align: top; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .875rem; color: var(--soft); }
.facts { display: flex; flex-wrap: wrap; gap: .7rem 2rem; margin: 0; padding: .9rem 0; border: solid var(--rule);
  border-width: 1px 0; }
.facts dt { font-size: .8rem; color: var(--soft); }
.facts dd { margin: 0; }
table { border-collapse: collapse; font-size: .95rem; font-variant-numeric: tabular-nums; }
th { font-weight: 600; text-align: left; }
th, td { padding: .5rem .9rem .5rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
thead th { font-size: .8rem; color: var(--soft); white-space: nowrap; }
td, thead th:not(:first-child) { text-align: right; }
.figures { width: 100%; }
.figures td { white-space: nowrap; }
.figures small { display: block; max-width: 34rem; font-size: .875rem; font-weight: 400; color: var(--soft); }
.figures th:last-child, .figures td:last-child { padding-right: 0; }
.entries td { text-align: left; }
.entries th { width: 40%; font-weight: 400; color: var(--soft); }
.entries { width: 100%; font-size: .875rem; table-layout: fixed; }
.entries th, .entries td { padding: .25rem .9rem .25rem 0; }
img { display: block; max-width: 100%; height: auto; background: var(--panel); border-radius: 2px;
  box-shadow: 0 0 0 1px var(--rule); }
img.small { image-rendering: pixelated; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 9.5rem), 1fr)); gap: 1.1rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 3px; align-items: start; }
.pair img { width: 100%; }
.pairs.large { grid-template-columns: repeat(auto-fill, minmax(min(100%, 14.5rem), 1fr)); }
.pairs figcaption { margin-top: .1rem; }
.pair span { margin-top: .1rem; font-size: .75rem; line-height: 1.2; color: var(--soft); overflow: hidden; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 4rem), 1fr)); gap: 4px; }
.samples.large { grid-template-columns: repeat(auto-fill, minmax(min(100%, 7rem), 1fr)); }
.samples img { width: 100%; }
.classes { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: 1.1rem 2rem; }
.classes.narrow { grid-template-columns: repeat(auto-fill, minmax(min(100%, 7rem), 1fr)); }
.classes img { width: 100%; }
.classes p { margin: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1.5rem; }
.charts figure { max-width: 36rem; }
.charts figcaption { margin-bottom: .4rem; font-weight: 600; color: var(--ink); }
.chart { display: block; width: 100%; height: auto; font-size: 13px; }
.chart text { fill: var(--ink); }
.chart .axis { fill: none; stroke: var(--soft); }
.chart .rule { fill: none; stroke: var(--rule); }
.chart .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.chart .bar { fill: none; stroke-width: 1.5; }
.chart .s0 { stroke: var(--s0); }
.chart .s1 { stroke: var(--s1); }
.chart .s2 { stroke: var(--s2); }
.chart .s3 { stroke: var(--s3); }
.chart .line.s1 { stroke-dasharray: 7 4; }
.chart .line.s2 { stroke-dasharray: 2 4; }
.chart .line.s3 { stroke-dasharray: 7 4 2 4; }
.chart .dot.s0 { fill: var(--s0); }
.chart .dot.s1 { fill: var(--s1); }
.chart .dot.s2 { fill: var(--s2); }
.chart .dot.s3 { fill: var(--s3); }
details { margin-top: .8rem; }
summary { cursor: pointer; color: var(--soft); font-size: .875rem; }
@media (max-width: 40rem) {
  .chart { font-size: 15px; }
  .figures, .figures thead, .figures tbody { display: block; }
  .figures tr { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr) 3.6rem;
    border-bottom: 1px solid var(--rule); }
  .figures th, .figures td { border: 0; text-align: left; }
  .figures td, .figures thead th:not(:first-child) { text-align: left; padding-top: 0; }
  .figures td { padding-right: .4rem; white-space: normal; }
  .figures th[scope="row"] { grid-column: 1 / -1; padding-bottom: .2rem; }
  .figures thead th:first-child { display: none; }
}
@media print { body { max-width: none; } section { break-inside: avoid; } }
"""
)
