"""How the page of a report looks: on a phone and a wide screen, on paper, by day and by night."""

STYLE = """
:root { --paper: #fff; --panel: #f6f7f8; --ink: #1b1f24; --muted: #59616b; --line: #d5dade; --accent: #0072b2;
  --warm: #b34e00; --plate: #fff; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --panel: #1d2125; --ink: #e8eaed; --muted: #a3abb3; --line: #3a4148; --accent: #5db4ea;
    --warm: #f0935a; --plate: #e8eaed; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem clamp(.9rem, 3vw, 2rem) 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: clamp(1.5rem, 4.5vw, 2.1rem); line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 .6rem; padding-top: 2.4rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem; }
p { margin: 0 0 .8rem; max-width: 46rem; }
a { color: var(--accent); }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .86em; }
pre code { font-size: 1em; }
pre { margin: 0 0 1rem; padding: .8rem 1rem; background: var(--panel); overflow-x: auto; line-height: 1.45; }
small, figcaption, .muted { color: var(--muted); font-size: .86rem; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.notice { border-left: 4px solid var(--warm); background: var(--panel); padding: .6rem 1rem; }
header { border-bottom: 3px solid var(--accent); padding-bottom: 1rem; }
header p { margin: 0; color: var(--muted); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; margin: .8rem 0 0; padding: 0;
  font-size: .92rem; }
nav a { text-decoration: none; display: inline-block; padding: .2rem 0; }
nav a:hover { text-decoration: underline; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }

.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); margin: 1.4rem 1px 0 0; }
.cards div { border: 1px solid var(--line); margin: 0 -1px -1px 0; padding: .7rem .9rem; }
.cards dt { color: var(--muted); font-size: .86rem; }
.cards dd { margin: 0; font-size: 1.45rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.cards dd small { display: block; }

.box { overflow-x: auto; margin: 0 0 1rem; max-width: 100%; position: relative; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem 1.1rem .32rem 0; text-align: left; vertical-align: baseline;
  border-bottom: 1px solid var(--line); }
th { font-weight: 400; }
thead th { color: var(--muted); font-size: .86rem; border-bottom: 1px solid var(--muted); vertical-align: bottom; }
.numbers td, .numbers thead th + th { text-align: right; padding: .32rem 0 .32rem 1.4rem; white-space: nowrap; }
.numbers thead th + th { white-space: normal; }
.numbers td small { display: inline-block; }
.numbers tbody th { min-width: 6.5rem; }
.facts th { color: var(--muted); white-space: nowrap; }
.facts td { overflow-wrap: anywhere; min-width: 11rem; }

.settings { display: grid; grid-template-columns: repeat(auto-fill, minmax(15.5rem, 1fr)); gap: 0 2rem;
  margin: 0 0 1rem; }
.settings div { display: flex; gap: 1rem; justify-content: space-between; padding: .32rem 0;
  border-bottom: 1px solid var(--line); }
.settings dt { color: var(--muted); }
.settings dd { margin: 0; text-align: right; overflow-wrap: anywhere; min-width: 0; }

.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1.4rem 2rem;
  align-items: start; margin: 0 0 1rem; }
figure { margin: 0; max-width: 34rem; }
figure svg { display: block; width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { fill: var(--ink); font-family: inherit !important; }
figcaption { margin-top: .4rem; }

.query { border-top: 1px solid var(--line); padding: .8rem 0 1rem; }
.query > p { margin: 0 0 .5rem; font-size: .92rem; }
.query > p b { font-weight: 600; }
.row { display: flex; flex-wrap: wrap; gap: .8rem 2rem; }
.items { display: grid; gap: .5rem; align-items: start; margin: 0; padding: 0; list-style: none; }
.asked { grid-template-columns: repeat(2, minmax(0, 7rem)); flex: 0 1 14.5rem; }
.near { grid-template-columns: repeat(5, minmax(0, 7rem)); flex: 1 1 20rem; }
.texts.asked { grid-template-columns: repeat(2, minmax(0, 9rem)); flex-basis: 18.5rem; }
.texts.near, .hubs { grid-template-columns: repeat(auto-fill, minmax(7.2rem, 1fr)); }
.item { border: 2px solid transparent; padding: .25rem; font-size: .8rem; line-height: 1.35; min-width: 0; }
.item.right { border-color: var(--warm); }
.item > span { display: block; color: var(--muted); overflow-wrap: anywhere; }
.item > .said { color: var(--ink); font-size: .86rem; hyphens: auto; overflow: hidden; display: -webkit-box;
  -webkit-box-orient: vertical; -webkit-line-clamp: 8; }
.item > .mark { color: var(--warm); font-weight: 600; }
.item img { display: block; width: 100%; height: 5.6rem; object-fit: contain; object-position: left center;
  image-rendering: pixelated; }
.item svg { display: block; width: 100%; height: 3.6rem; background: var(--panel); color: var(--accent); }
details { margin: 0 0 1rem; }
summary { cursor: pointer; padding: .3rem 0; }
footer { margin-top: 3rem; color: var(--muted); font-size: .86rem; }

@media (min-width: 48rem) {
  .numbers br { display: none; }
  .numbers td small { margin-left: .8rem; min-width: 8.6em; }
}
@media (max-width: 30rem) {
  table { font-size: .92rem; }
  .facts th { white-space: normal; min-width: 6rem; }
  .numbers small { font-size: .76rem; }
  .numbers tbody th { min-width: 4.6rem; }
  .numbers td, .numbers thead th + th { padding-left: .7rem; }
  .items.near:not(.texts) { gap: .2rem; }
  .item { padding: .15rem; }
  .near .item { font-size: .72rem; }
  .texts.near .item { font-size: .8rem; }
}
@media print {
  @page { margin: 15mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav, details { display: none; }
  h2 { padding-top: 1.2rem; }
  h2, h3, h2 + p { break-after: avoid; }
  p, figure, .query, .cards, tr, .item { break-inside: avoid; }
  .texts.near { grid-template-columns: repeat(5, minmax(0, 1fr)); flex-basis: 100%; }
  .figures { grid-template-columns: 1fr 1fr; }
  .box, pre { overflow: visible; }
  pre { white-space: pre-wrap; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
