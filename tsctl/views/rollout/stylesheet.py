"""How the report of a rollout looks: colours for light and dark, one column that fits a phone, tables that scroll."""

CSS = """
:root {
  --paper: #fff; --ink: #1b1f24; --faint: #5f6772; --rule: #e2e5e9; --shade: #f5f6f8;
  --stable: #4a6785; --canary: #c4570c; --bad: #b3261e; --good: #1a7f37; --held: #9a6700;
  --slow: #9a6700; --mix: #1a7f37; --disagreement: #8250df; --limit: #0969da;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e4e7eb; --faint: #98a1ac; --rule: #2c323a; --shade: #1c2026;
    --stable: #8fb0d4; --canary: #f0965a; --bad: #ff8177; --good: #56d364; --held: #e3b341;
    --slow: #e3b341; --mix: #56d364; --disagreement: #bc8cff; --limit: #6cb6ff;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 56rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
h1 { margin: 0; font-size: 1.5rem; line-height: 1.3; }
h2 { margin: 2.5rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--rule); font-size: 1.15rem; }
h3 { margin: 0; font-size: 1rem; }
p { margin: .5rem 0; max-width: 46rem; }
code { font: .92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.faint, figcaption p { color: var(--faint); }
.outcome { font-weight: 600; padding-left: .7rem; border-left: 4px solid var(--held); }
.outcome.promoted { border-color: var(--good); }
.outcome.rolled-back { border-color: var(--bad); }
dl {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(12.5rem, 45%), 1fr));
  gap: .75rem 1.5rem; margin: 1.25rem 0;
}
dt { color: var(--faint); font-size: .85rem; }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1.75rem 0; }
figcaption p { margin: 0; font-size: .87rem; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.25rem; margin: .4rem 0 .5rem; padding: 0; list-style: none; }
.legend li { display: flex; align-items: center; gap: .45rem; font-size: .87rem; }
.legend b { font-weight: 600; }
.frame { display: grid; grid-template: 190px 1.6rem / 3.6rem minmax(0, 1fr); }
.frame > svg { width: 100%; height: 100%; border-bottom: 1px solid var(--faint); }
.ys, .xs { position: relative; color: var(--faint); font-size: .8rem; line-height: 1; }
.ys span { position: absolute; right: .5rem; transform: translateY(-50%); white-space: nowrap; }
.xs { grid-column: 2; margin-right: 1.5rem; width: 100%; }
.xs span { position: absolute; top: .4rem; transform: translateX(-50%); white-space: nowrap; }
.xs span:first-child { transform: none; }
.xs span[style="left:100.00%"] { transform: translateX(-100%); }
path {
  fill: none; stroke-width: 1.75; stroke-linejoin: round; stroke-linecap: round; vector-effect: non-scaling-stroke;
}
path.grid { stroke: var(--rule); stroke-width: 1; }
path.average { stroke: var(--ink); stroke-width: 2.5; }
path.threshold { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 6 4; stroke-linecap: butt; }
path.stable { stroke: var(--stable); stroke-dasharray: 1 4; stroke-width: 2.25; }
path.canary { stroke: var(--canary); }
path.errors { stroke: var(--canary); }
path.slow { stroke: var(--slow); stroke-dasharray: 7 3; stroke-linecap: butt; }
path.mix { stroke: var(--mix); stroke-dasharray: 2 4; }
path.disagreement { stroke: var(--disagreement); stroke-dasharray: 9 3 2 3; stroke-linecap: butt; }
path.limit { stroke: var(--limit); stroke-dasharray: 12 3; stroke-linecap: butt; }
path.failed { stroke: var(--bad); stroke-width: 1.5; }
path.decided { stroke: var(--faint); stroke-width: 1; stroke-dasharray: 2 3; }
path.held { stroke: var(--faint); stroke-width: 8; stroke-opacity: .3; stroke-linecap: butt; }
path.stable-band, path.canary-band { stroke: none; fill-opacity: .16; }
path.stable-band { fill: var(--stable); }
path.canary-band { fill: var(--canary); }
rect.span { fill: var(--faint); fill-opacity: .18; }
.scroll { overflow-x: auto; margin: .5rem 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem 1.25rem .3rem 0; text-align: left; vertical-align: top; white-space: nowrap; }
th { color: var(--faint); font-weight: 500; border-bottom: 1px solid var(--rule); }
.number { text-align: right; }
tr.sum td { font-weight: 600; border-top: 1px solid var(--rule); }
ol { margin: 0; padding: 0; list-style: none; }
ol > li {
  display: grid; grid-template-columns: 11.5rem minmax(0, 1fr); gap: 0 1.25rem; padding: .45rem 0;
  border-top: 1px solid var(--rule);
}
ol > li:first-child { border-top: 0; padding-top: 0; }
ol > li > time { color: var(--faint); font-size: .87rem; line-height: 1.7; }
ol > li > div > p:first-child { margin-top: 0; }
ul.plain { margin: .5rem 0; padding-left: 1.1rem; }
details { margin: .25rem 0 .5rem; }
summary { cursor: pointer; color: var(--faint); font-size: .9rem; }
@media (max-width: 36rem) {
  ol > li { grid-template-columns: minmax(0, 1fr); }
  .frame { grid-template-columns: 3rem minmax(0, 1fr); }
  th, td { padding-right: .9rem; }
}
@media print { details > * { display: block; } figure { break-inside: avoid; } }
"""
