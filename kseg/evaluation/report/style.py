"""The style sheet of the HTML report: one column, quiet colours, light and dark, readable on a phone and on paper."""

CSS = """
:root {
  color-scheme: light dark;
  --ground: #fcfcfa; --panel: #ffffff; --text: #20242a; --soft: #616975; --rule: #e3e4e0; --faint: #f2f2ee;
  --accent: #1f5f9e;
  --c0: #1f5f9e; --c1: #c8570c; --c2: #16805a; --c3: #ad2e5c; --c4: #7150ae; --c5: #846a10; --c6: #0d8291;
  --c7: #5d6673;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15181c; --panel: #1c2025; --text: #e4e6e8; --soft: #9aa3ae; --rule: #30363d; --faint: #22272d;
    --accent: #6cabe6;
    --c0: #6cabe6; --c1: #f0934d; --c2: #52bf93; --c3: #ee7da3; --c4: #b197ee; --c5: #d3b64a; --c6: #4dc0cf;
    --c7: #a4adb8;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--ground); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 44px 28px 64px; }
header { margin-bottom: 32px; }
.over { margin: 0 0 6px; color: var(--soft); font-size: 13px; letter-spacing: .06em; text-transform: uppercase; }
h1 {
  margin: 0 0 8px; font-size: clamp(26px, 4vw, 36px); line-height: 1.15; letter-spacing: -.015em;
  overflow-wrap: anywhere;
}
.under { margin: 0; color: var(--soft); max-width: 70ch; overflow-wrap: anywhere; }
h2 { margin: 52px 0 6px; font-size: 21px; line-height: 1.3; letter-spacing: -.005em; }
h3 { margin: 26px 0 6px; font-size: 16px; overflow-wrap: anywhere; }
.lead { margin: 0 0 16px; color: var(--soft); max-width: 74ch; font-size: 15px; }
.notice {
  margin: 0 0 18px; padding: 11px 16px; border-left: 3px solid var(--c1); background: var(--faint);
  max-width: 80ch;
}
.none { color: var(--soft); }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 0; }
.numbers div {
  padding: 14px 18px 12px; background: var(--panel); border: 1px solid var(--rule); border-radius: 10px;
}
.numbers dt { color: var(--soft); font-size: 13px; }
.numbers dd {
  margin: 1px 0 0; font-size: 25px; line-height: 1.25; font-variant-numeric: tabular-nums; letter-spacing: -.01em;
}
.numbers dd small { font-size: 14px; color: var(--soft); letter-spacing: 0; }
.wide { overflow-x: auto; border: 1px solid var(--rule); border-radius: 10px; background: var(--panel); }
.wide + .wide { margin-top: 16px; }
.wide:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; font-variant-numeric: tabular-nums; }
caption { padding: 12px 14px 8px; color: var(--soft); text-align: left; font-size: 13.5px; }
th, td { padding: 8px 14px; text-align: right; white-space: nowrap; border-top: 1px solid var(--rule); }
thead th { border-top: 0; color: var(--soft); font-weight: 500; font-size: 13px; vertical-align: bottom; }
caption + thead th { border-top: 1px solid var(--rule); }
th:first-child, .words td, .words th { text-align: left; }
tbody th {
  position: sticky; left: 0; background: var(--panel); font-weight: 500; white-space: normal; min-width: 9em;
  overflow-wrap: anywhere;
}
tbody th small { display: block; color: var(--soft); font-weight: 400; font-size: 13px; line-height: 1.35; }
.words td { white-space: normal; overflow-wrap: anywhere; min-width: 7em; }
.words tbody th { font-weight: 400; color: var(--soft); }
td.best { font-weight: 700; color: var(--accent); }
td.best::after { content: " \\25B2"; font-size: .62em; vertical-align: .2em; }
td:not(.best).room::after { content: " \\25B2"; font-size: .62em; visibility: hidden; }
.heat td { background: color-mix(in srgb, var(--accent) calc(var(--v, 0) * 24%), transparent); }
.wide:has(.confusion) { width: fit-content; max-width: 100%; }
.confusion { width: auto; margin: 0; font-size: 12.5px; }
.confusion th, .confusion td { padding: 5px 7px; text-align: center; border: 0; }
.confusion tbody th { text-align: right; font-weight: 400; min-width: 0; padding-left: 14px; white-space: nowrap; }
.confusion thead th { font-weight: 400; color: var(--text); }
.confusion thead th span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 11em; }
.confusion thead td {
  border: 0; color: var(--soft); font-size: 12px; text-align: left; vertical-align: bottom; white-space: normal;
}
.confusion td.v {
  background: color-mix(in srgb, var(--accent) calc(var(--v) * 52%), transparent); min-width: 3.1em;
  border: 1px solid var(--panel);
}
.confusion td.zero { color: var(--soft); opacity: .6; }
.settings {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 0 36px; margin: 12px 0 0;
}
.settings div {
  display: flex; justify-content: space-between; gap: 16px; padding: 6px 0; border-bottom: 1px solid var(--rule);
  font-size: 14.5px;
}
.settings dt { color: var(--soft); }
.settings dd { margin: 0; text-align: right; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 14px; }
.charts figure {
  margin: 0; padding: 14px 14px 8px; background: var(--panel); border: 1px solid var(--rule); border-radius: 10px;
  min-width: 0;
}
.strips figure { max-width: 560px; }
.charts figcaption { font-weight: 600; font-size: 14.5px; margin: 0 0 6px 4px; }
.charts figcaption small { font-weight: 400; color: var(--soft); }
svg { display: block; width: 100%; height: auto; overflow: visible; }
.grid { stroke: var(--rule); stroke-width: 1; fill: none; }
.tick, .name { fill: var(--soft); font-size: 12px; font-family: inherit; font-variant-numeric: tabular-nums; }
.name { fill: var(--text); font-size: 12px; paint-order: stroke; stroke: var(--panel); stroke-width: 4px; }
.line { fill: none; stroke: var(--c); stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
.line.faint { stroke-width: 1.3; opacity: .55; }
.line.dashed { stroke-dasharray: 6 4; }
circle { fill: var(--c); stroke: var(--panel); stroke-width: 1; }
.mark { stroke: var(--c); stroke-width: 2; opacity: .5; fill: none; }
.median { stroke: var(--text); stroke-width: 2.4; fill: none; }
.s0 { --c: var(--c0); } .s1 { --c: var(--c1); } .s2 { --c: var(--c2); } .s3 { --c: var(--c3); }
.s4 { --c: var(--c4); } .s5 { --c: var(--c5); } .s6 { --c: var(--c6); } .s7 { --c: var(--c7); }
.legend {
  display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0 0 14px; padding: 0; list-style: none; font-size: 14px;
}
.legend li { display: flex; align-items: center; gap: 8px; min-width: 0; overflow-wrap: anywhere; }
.legend i { flex: none; width: 20px; height: 0; border-top: 3px solid var(--c, var(--soft)); border-radius: 2px; }
.legend i.thin { border-top-width: 1px; } .legend i.dashed { border-top-style: dashed; }
.legend b { flex: none; width: 14px; height: 14px; border-radius: 3px; border: 1px solid var(--rule); }
.bars {
  display: grid; gap: 7px; margin: 0; padding: 16px 18px; background: var(--panel); border: 1px solid var(--rule);
  border-radius: 10px;
}
.bars > div {
  display: grid; grid-template-columns: minmax(5.5em, 9em) 1fr 3.4em; gap: 12px; align-items: center;
  font-size: 14.5px;
}
.bars dt { overflow-wrap: anywhere; line-height: 1.25; }
.bars dd { margin: 0; }
.bars .track { height: 12px; background: var(--faint); border-radius: 6px; overflow: hidden; }
.bars .track span { display: block; height: 100%; background: var(--accent); border-radius: 6px; }
.bars .value { text-align: right; font-variant-numeric: tabular-nums; }
.sample { margin: 0 0 20px; }
.sample > figcaption { font-size: 14.5px; margin-bottom: 6px; overflow-wrap: anywhere; }
.sample > figcaption span { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; }
.tiles figure { margin: 0; min-width: 0; }
.tiles img { display: block; width: 100%; height: auto; border-radius: 5px; background: var(--faint); }
.tiles figcaption { margin-top: 3px; color: var(--soft); font-size: 12.5px; }
details { margin: 12px 0; border: 1px solid var(--rule); border-radius: 10px; background: var(--panel); }
summary { padding: 11px 16px; cursor: pointer; font-weight: 500; overflow-wrap: anywhere; border-radius: 10px; }
details > .inside { padding: 2px 16px 14px; }
details .wide { border-radius: 0 0 10px 10px; border-width: 1px 0 0; }
pre {
  margin: 0 0 12px; padding: 12px 16px; background: var(--faint); border-radius: 8px;
  font: 13.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; white-space: pre-wrap;
  overflow-wrap: anywhere;
}
footer {
  margin-top: 60px; padding-top: 16px; border-top: 1px solid var(--rule); color: var(--soft); font-size: 13.5px;
}
footer p { margin: 0 0 6px; max-width: 84ch; }
@media (max-width: 640px) {
  main { padding: 26px 16px 44px; }
  h2 { margin-top: 40px; }
  .tiles { grid-template-columns: repeat(2, 1fr); }
  .numbers { grid-template-columns: repeat(2, 1fr); gap: 8px; }
  .numbers div { padding: 10px 12px 9px; }
  .numbers dd { font-size: 21px; }
  .bars { padding: 12px; }
  .bars > div { grid-template-columns: minmax(4.6em, 6.5em) 1fr 3em; gap: 9px; }
  th, td { padding: 7px 10px; }
  tbody th { min-width: 8.6em; }
}
@media print {
  details > .inside, details > .wide { display: block; }
  .sample, .charts figure { break-inside: avoid; }
}
"""
