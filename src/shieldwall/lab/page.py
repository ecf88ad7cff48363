# SPDX-License-Identifier: Apache-2.0
"""The league table as one page: a file that needs nothing else, in light and dark, with the plots in it.

Everything that came from a result file is escaped; the page runs no script and loads nothing, as its policy says.
"""

import html
from collections.abc import Sequence

from shieldwall.lab.league import Entry, entries, number, pairs, parts, plain, spread
from shieldwall.lab.plots import bars, curves, latency
from shieldwall.lab.result import Report, Result

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --ink: #1d2328; --soft: #5a646d; --grid: #d5d9dc; --mark: #eef1ee;
  --series-1: #0b6e4f; --series-2: #c2410c; --series-3: #1d4ed8; --series-4: #a21caf; --series-5: #92700c;
  --series-6: #0e7490; --series-7: #be123c; --series-8: #4d5b66; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181b; --ink: #e6e9eb; --soft: #9aa5ad; --grid: #39424a;
  --mark: #1e2529; --series-1: #4ecb9f; --series-2: #fb923c; --series-3: #7aa7ff; --series-4: #e48af0;
  --series-5: #e3bd4a; --series-6: #4fc3dc; --series-7: #ff7a93; --series-8: #a9b6c0; } }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 78rem; padding: 2rem 1.25rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .2rem; }
p, li { max-width: 62rem; } .soft, small, caption { color: var(--soft); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  margin: .8rem 0; min-width: 60%; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { border-bottom: 1px solid var(--grid); padding: .35rem .35rem; text-align: right; vertical-align: top; }
td { white-space: nowrap; font-size: .95rem; } th { font-size: .85rem; vertical-align: bottom; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; } td small { display: block; }
tr:first-child td { background: var(--mark); }
.plots { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
figure { margin: 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; display: block; }
svg text { font-family: system-ui, sans-serif; } details { margin: .6rem 0; } code { font-size: .9em; }
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(reports: Sequence[Report]) -> str:
    """The page of several reports.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    league, paired = entries(reports), pairs(reports)
    # Parts are cut out of the same order, so the results follow their entries.
    results = iter([result for _, result in paired])
    body = "".join(
        _part(part, [next(results) for _ in part], place) for place, part in enumerate(parts(league.entries), 1)
    )
    missing = "".join(f"<li>{_text(words)}</li>" for words in league.missing)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<title>Shieldwall range: league table</title>"
        f"<style>{_STYLE}</style></head><body><h1>League table</h1>"
        '<p class="soft">Each figure with its 95 % interval. Recall is the share of attacks found at the threshold at '
        "which 1 % of the benign texts are stopped, unless a line says that its threshold was chosen elsewhere.</p>"
        f"{body or '<p>No result holds a judgement.</p>'}"
        f"{f'<h2>Not measured</h2><ul>{missing}</ul>' if missing else ''}"
        f"<h2>Where it was measured</h2>{_circumstances(reports)}</body></html>\n"
    )


def _text(words: str) -> str:
    return html.escape(words, quote=True)


def _part(part: Sequence[Entry], results: Sequence[Result], place: int) -> str:
    first = part[0]
    rows = "".join(_row(number_, entry) for number_, entry in enumerate(part, 1))
    plots = "".join(
        f"<figure><figcaption>{caption}</figcaption>{draw(results, f'part{place}-{name}')}</figure>"
        for name, caption, draw in (
            ("curve", "Recall over false positives", curves),
            ("recall", "Recall by kind of attack", bars),
            ("latency", "Recall over latency", latency),
        )
    )
    slices = "".join(_slices(number_, result) for number_, result in enumerate(results, 1))
    drawn = " drawn at random" if first.sample is not None else ""
    return (
        f"<h2>{_text(first.suite)}</h2>"
        f'<p class="soft">{first.rows:,} rows{drawn}; SHA-256 of the data <code>{_text(first.digest)}</code></p>'
        '<div class="wide"><table><thead><tr><th>#</th><th>defence</th><th>AUC</th><th>recall</th>'
        "<th>false positives</th><th>benign passed at 0.5</th><th>calibration error</th><th>p50</th><th>p99</th>"
        "<th>CPU s per million</th><th>not judged</th></tr></thead>"
        f'<tbody>{rows}</tbody></table></div><div class="plots">{plots}</div>{slices}'
    )


def _row(place: int, entry: Entry) -> str:
    chosen = (
        f"<small>threshold from {_text(entry.chosen_on)}</small>" if entry.chosen_on not in {"", "this suite"} else ""
    )
    shares = (entry.auc, entry.recall, entry.false_positives, entry.benign_passed, entry.calibration)
    cells = [
        str(place),
        f"{_text(entry.defence)}<small>{_text(entry.version)}</small>",
        *(
            f"{number(each.value)}<small>{_text(spread(each).partition(' ')[2] or each.note)}</small>"
            for each in shares
        ),
        f"{number(entry.p50_us.value, 'time')} µs",
        f"{number(entry.p99_us.value, 'time')} µs",
        number(entry.cpu_s_per_million.value, "time"),
        str(entry.failed),
    ]
    cells[3] += chosen
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _slices(place: int, result: Result) -> str:
    """Where a defence is strong and where it is weak, folded away."""
    scores = result.scores
    if scores is None:
        return ""
    tables = []
    for title, by in (("recall", scores.recall_by), ("false positives", scores.false_positives_by)):
        for name, slices in by.items():
            rows = "".join(
                f"<tr><td>{_text(plain(each))}</td><td>{number(estimate.value)}</td>"
                f"<td>{_text(spread(estimate).partition(' ')[2])}</td><td>{estimate.n:,}</td></tr>"
                for each, estimate in slices.items()
            )
            tables.append(f"<table><caption>{title} by {_text(plain(name))}</caption><tbody>{rows}</tbody></table>")
    return (
        f"<details><summary>{place} {_text(plain(result.defence.name))}: "
        "by surface, language, length and source</summary>"
        f'<div class="plots">{"".join(tables)}</div></details>'
    )


def _circumstances(reports: Sequence[Report]) -> str:
    items = []
    for report in reports:
        seeds = sorted({result.seed for result in report.results})
        facts = {**report.machine, **report.versions, "seeds": ", ".join(map(str, seeds))}
        words = "; ".join(f"{plain(name, 30)} {plain(value, 90)}" for name, value in facts.items())
        times = sorted(result.time for result in report.results)
        items.append(f"<li>{_text(plain(times[0], 40)) if times else 'no result'}: {_text(words)}</li>")
    return f"<ul>{''.join(items)}</ul>"
