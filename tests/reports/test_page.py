# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: no request leaves it, all is seen at both widths, sorting and contrast hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.reports.test_symmetry import steerable

from confide.reports.build import Options, write_report

# What an accessibility checker looks at first. Contrast by WCAG 2.2: 4.5 for text, 3 for large text.
CHECKS = """
const bad = [];
const parse = (text) => {
  if (text.startsWith('color(')) {
    const n = text.match(/[-\\d.e]+/g).map(Number);
    return [n[0] * 255, n[1] * 255, n[2] * 255, n.length > 3 ? n[3] : 1];
  }
  const n = (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  return [n[0], n[1], n[2], n.length > 3 ? n[3] : 1];
};
const behind = (node) => {
  for (let e = node; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c[3] > 0.99) return c;
  }
  return [255, 255, 255, 1];
};
const light = (c) => {
  const line = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = c.slice(0, 3).map((v) => line(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ratio = (a, b) => {
  const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
  return (x + 0.05) / (y + 0.05);
};
let texts = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  const unseen = ['SCRIPT', 'STYLE', 'TITLE', 'DESC'].includes(node.tagName.toUpperCase());
  if (unseen || !walker.currentNode.textContent.trim()) continue;
  const style = getComputedStyle(node);
  if (!node.getClientRects().length || style.visibility === 'hidden') continue;
  const fore = parse(node instanceof SVGElement ? style.fill : style.color);
  const size = parseFloat(style.fontSize);
  const need = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
  texts += 1;
  const got = ratio(fore, behind(node));
  const said = walker.currentNode.textContent.trim().slice(0, 40);
  if (got < need) bad.push(`contrast ${got.toFixed(2)}: ${said}`);
}
document.querySelectorAll('img').forEach((e) => { if (!e.alt) bad.push('img without alt'); });
document.querySelectorAll('svg').forEach((e) => {
  const by = (e.getAttribute('aria-labelledby') || '').split(' ').filter(Boolean);
  if (e.getAttribute('role') !== 'img' || !(e.getAttribute('aria-label') ||
      (by.length && by.every((id) => document.getElementById(id)?.textContent.trim()))))
    bad.push('svg without a name');
});
const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
ids.filter((id, i) => ids.indexOf(id) !== i).forEach((id) => bad.push(`id twice: ${id}`));
document.querySelectorAll('a[href^="#"]').forEach((e) => {
  if (!document.getElementById(e.hash.slice(1))) bad.push(`link to nothing: ${e.hash}`);
});
document.querySelectorAll('th').forEach((e) => { if (!e.scope) bad.push('th without scope'); });
document.querySelectorAll('button').forEach((e) => {
  if (!e.textContent.trim()) bad.push('button without a name');
});
let level = 0;
document.querySelectorAll('h1,h2,h3,h4').forEach((e) => {
  const next = Number(e.tagName[1]);
  if (next > level + 1) bad.push(`heading jumps to h${next}: ${e.textContent}`);
  level = next;
});
if (document.querySelectorAll('h1').length !== 1) bad.push('not one h1');
if (!document.documentElement.lang || !document.title) bad.push('no language or title');
return [texts, bad];
"""

SEEN = """
const wide = document.documentElement.clientWidth;
return [...document.querySelectorAll('figure svg, .samples img, table.heat')].map((e) => {
  const box = e.getBoundingClientRect();
  const frame = e.closest('.scroll');
  const smallest = e.tagName === 'svg' && e.querySelector('text')
    ? Math.min(...[...e.querySelectorAll('text')].map((t) => t.getBoundingClientRect().height)) : 99;
  return [box.width, box.height, frame ? 0 : box.right - wide, smallest, e.closest('figure, li, section').id];
});
"""


@pytest.fixture(scope="module")
def page(make_shared_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folders = [make_shared_run("private"), make_shared_run("plain", epsilon=None, skill=2.8)]
    return write_report(folders, tmp_path_factory.mktemp("page"))[0]


@pytest.fixture(scope="module")
def comparison(make_shared_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folders = [
        make_shared_run("eps8", epsilon=8.0, skill=2.4, subgroups=False),
        make_shared_run("eps1", epsilon=1.0, skill=1.2, subgroups=False),
        make_shared_run("none", epsilon=None, skill=2.8, subgroups=False),
    ]
    return write_report(folders, tmp_path_factory.mktemp("comparison"))[0]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 400])
def test_everything_is_seen(browser: Any, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width=width, dark=dark)
    assert browser.run("return document.documentElement.dataset.theme") == ("dark" if dark else "light")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    seen = browser.run(SEEN)
    assert len(seen) >= 18
    for breadth, height, beyond, smallest, where in seen:
        assert breadth > 60 and height > 25, where
        assert beyond <= 0, where
        assert smallest >= 9, where
    texts, bad = browser.run(CHECKS)
    assert texts > 150
    assert bad == []
    assert [entry["message"] for entry in browser.logs("browser")] == []
    assert [url for url in browser.requests() if not url.startswith(("file:", "data:"))] == []


def test_the_section_on_turned_images_is_seen(browser: Any, make_run: Any, tmp_path: Path) -> None:
    folder = steerable(make_run, group="D4", restrict=False)
    written = write_report([folder], tmp_path / "out", Options(images=False))[0]
    browser.open(written, width=400, dark=True)
    assert browser.run("return document.documentElement.scrollWidth") <= 400
    seen = [row for row in browser.run(SEEN) if row[4] in ("change-by-angle", "learned-filters")]
    assert len(seen) == 2
    for breadth, height, beyond, smallest, where in seen:
        assert breadth > 200 and height > 100 and beyond <= 0 and smallest >= 9, where
    assert browser.run(CHECKS)[1] == []


def test_comparison_is_accessible_and_sorts(browser: Any, comparison: Path) -> None:
    browser.open(comparison)
    texts, bad = browser.run(CHECKS)
    assert texts > 60
    assert bad == []
    names = (
        "return [...document.querySelectorAll('#runs tbody tr')].map((r) => r.cells[0].textContent.trim())"
    )
    assert browser.run(names) == ["eps8", "eps1", "none"]
    press = (
        "const b = [...document.querySelectorAll('#runs th button')]"
        ".find((e) => e.textContent.trim() === {!r}); b.focus(); b.click()"
    )
    browser.run(press.format("ε"))
    assert browser.run(names) == ["eps1", "eps8", "none"], "a run without DP is beyond every ε"
    state = "return document.activeElement.closest('th').getAttribute('aria-sort')"
    assert browser.run(state) == "ascending"
    browser.run(press.format("ε"))
    assert browser.run(names) == ["none", "eps8", "eps1"]
    assert browser.run(state) == "descending"
    browser.run(press.format("run"))
    assert browser.run(names) == ["eps1", "eps8", "none"]
    assert browser.logs("browser") == []


def test_theme_button_and_print(browser: Any, page: Path) -> None:
    browser.open(page)
    theme = "return document.documentElement.dataset.theme"
    browser.run("document.querySelector('.theme').click()")
    assert browser.run(theme) == "dark"
    browser.run("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.run(theme) == "light", "paper is white"
    assert (
        browser.run("return document.querySelectorAll('details:not([open]):not(figure details)').length") == 0
    )
    browser.run("window.dispatchEvent(new Event('afterprint'))")
    assert browser.run(theme) == "dark"
    assert browser.run("return document.querySelectorAll('details[open]').length") == 0
    printed = browser.command("Page.printToPDF", printBackground=True)
    assert len(printed["data"]) > 20_000


def test_keyboard_reaches_everything(browser: Any, page: Path) -> None:
    browser.open(page)
    reached = set()
    for _ in range(80):
        for kind in ("keyDown", "keyUp"):
            browser.command(
                "Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9
            )
        reached.add(browser.run("const e = document.activeElement; return e.className || e.tagName"))
    assert {"skip", "theme", "A", "SUMMARY", "sort", "scroll"} <= reached


def test_the_checks_see_what_they_look_for(browser: Any, page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = text.replace("--muted: #505b66", "--muted: #b0b6bc").replace(
        ' alt="Test image', ' data-alt="Test image'
    )
    broken = broken.replace(
        "</main>", '<img src="http://127.0.0.1:9/x.png" alt="x"><p id="h-not">twice</p></main>'
    )
    bad_page = tmp_path / "bad.html"
    bad_page.write_text(broken, encoding="utf-8")
    browser.open(bad_page)
    _, bad = browser.run(CHECKS)
    said = " ".join(bad)
    for sign in ("contrast", "img without alt", "id twice: h-not"):
        assert sign in said
    assert "Content Security Policy" in str(browser.logs("browser")), "the page itself refuses the request"
