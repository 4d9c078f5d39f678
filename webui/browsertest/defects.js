// The value of this expression is a list of what is wrong with the page.
(() => {
  const found = [];
  const width = document.documentElement.clientWidth; // innerWidth grows with what is too wide on a phone
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const name = (e) => {
    const text = (e.textContent || "").trim().replace(/\s+/g, " ").slice(0, 40);
    return e.nodeName.toLowerCase() + (e.className && e.className.baseVal === undefined ? "." + e.className : "") + (text ? ` “${text}”` : "");
  };
  const visible = (e) => e.checkVisibility({ visibilityProperty: true }) && e.getClientRects().length > 0;
  // Text for screen readers only, and the skip link until it has the focus.
  const hiddenFromEyes = (e) => !!e.closest(".skip:not(:focus), .only-spoken, .brand span") || !!e.closest(".list > thead") && getComputedStyle(e.closest("thead")).position === "absolute";

  // Structure.
  for (const [selector, n] of [["h1", 1], ["main", 1], ["header", 1], ["head > title", 1]]) {
    if (all(selector).length !== n) found.push(`${all(selector).length} × ${selector}, want ${n}`);
  }
  if (!document.documentElement.lang) found.push("no language");
  let level = 0;
  for (const h of all("h1, h2, h3, h4, h5, h6")) {
    const next = +h.nodeName[1];
    if (next > level + 1) found.push(`${name(h)} follows a heading of level ${level}`);
    if (!h.textContent.trim()) found.push("an empty heading");
    level = next;
  }
  for (const nav of all("nav")) {
    if (!nav.getAttribute("aria-label")) found.push("a nav without a name");
    if (all("[aria-current=page]", nav).length !== 1 && !nav.matches(".sections")) found.push("a nav that does not say where one is");
  }
  const focusable = all("a[href], button, input:not([type=hidden]), select, textarea, [tabindex='0']");
  const skip = focusable[0];
  if (!skip || skip.getAttribute("href") !== "#main" || !document.getElementById("main")) found.push("the first thing to tab to is no skip link");
  for (const e of all("[tabindex]")) if (e.tabIndex > 0) found.push(`${name(e)} jumps the tab order`);
  const ids = all("[id]").map((e) => e.id);
  for (const id of new Set(ids.filter((id, i) => ids.indexOf(id) !== i))) found.push(`two elements have the id ${id}`);
  for (const e of all("[aria-labelledby], [aria-describedby]")) {
    for (const id of (e.getAttribute("aria-labelledby") || e.getAttribute("aria-describedby")).split(" ")) {
      if (!document.getElementById(id)) found.push(`${name(e)} is named by ${id}, which is not there`);
    }
  }

  // Names.
  for (const e of all("input:not([type=hidden]), select, textarea")) {
    if (!e.labels.length && !e.getAttribute("aria-label")) found.push(`${name(e)} (${e.name}) has no label`);
  }
  for (const e of all("a[href], button")) if (!e.textContent.trim() && !e.getAttribute("aria-label")) found.push(`${e.outerHTML.slice(0, 80)} has no name`);
  for (const e of all("img")) if (!e.hasAttribute("alt")) found.push("an image without alt");
  for (const e of all("svg")) if (e.getAttribute("aria-hidden") !== "true" && e.getAttribute("role") !== "img") found.push("an svg that is neither hidden nor an image");
  for (const e of all("th")) if (!e.scope) found.push(`${name(e)} does not say what it heads`);
  for (const e of all("time")) if (!e.dateTime) found.push(`${name(e)} has no exact time`);

  // Room for fingers (44 px; links inside of text are exempt) and for text.
  for (const e of all("button, a.button, input:not([type=hidden]), select, nav a, .brand")) {
    const target = e.matches("[type=checkbox], [type=radio]") && e.closest("label") || e;
    if (visible(e) && target.getBoundingClientRect().height < 43.5) found.push(`${name(e)} is only ${target.getBoundingClientRect().height} px high`);
  }
  if (document.documentElement.scrollWidth > width) found.push(`the page is ${document.documentElement.scrollWidth} px wide`);
  for (const e of all("body *")) {
    if (!visible(e) || hiddenFromEyes(e)) continue;
    const box = e.getBoundingClientRect();
    if (e.parentElement.closest(".strip")) continue; // it scrolls sideways on purpose
    if ((box.right > width + .5 || box.left < -.5) && !e.closest("pre")) found.push(`${name(e)} reaches from ${box.left} to ${box.right}`);
    const style = getComputedStyle(e);
    if (style.overflowX !== "visible" && !e.matches("pre, input, textarea, select, .strip") && e.scrollWidth > e.clientWidth + 1) found.push(`${name(e)} cuts off what it holds`);
    const parent = e.parentElement.getBoundingClientRect();
    if (style.position === "static" && style.display !== "inline" && parseFloat(style.marginRight) >= 0 && box.right > parent.right + 1 && !e.closest("pre")) found.push(`${name(e)} sticks out of its parent`);
  }

  // Words that were broken for want of room: those of letters only, of a script that
  // has spaces, and short enough to fit anywhere from 320 px on (WCAG 2.2, 1.4.10).
  const texts = (visit) => {
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walk.nextNode(); node; node = walk.nextNode()) {
      const e = node.parentElement;
      if (node.nodeValue.trim() && visible(e) && !hiddenFromEyes(e) && !e.closest("noscript, script, style")) visit(node, e);
    }
  };
  const range = document.createRange();
  if (width >= 320) texts((node, e) => {
    if (e.closest("pre, code, textarea, svg, .mono")) return;
    for (const word of node.nodeValue.matchAll(/(?<![^\s(“"])\p{Script=Latin}{2,16}(?![^\s.,;:)”"!?…])/gu)) {
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const lines = new Set([...range.getClientRects()].filter((box) => box.width > 0).map((box) => Math.round(box.top)));
      if (lines.size > 1) found.push(`${name(e)} breaks the word “${word[0]}”`);
    }
  });

  // Contrast of all text (WCAG 2.2, 1.4.3).
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (css) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = css;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, bottom) => [0, 1, 2].map((i) => top[i] * top[3] + bottom[i] * (1 - top[3])).concat(1);
  const background = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) {
      const color = rgba(getComputedStyle(e).backgroundColor);
      if (color[3] > 0) layers.push(color);
      if (color[3] === 1) break;
    }
    return layers.reverse().reduce((bottom, top) => over(top, bottom), [255, 255, 255, 1]);
  };
  const luminance = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => {
    const v = c[i] / 255;
    return sum + w * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  }, 0);
  texts((node, e) => {
    const style = getComputedStyle(e);
    const behind = background(e);
    const [a, b] = [luminance(over(rgba(style.color), behind)), luminance(behind)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || size >= 18.66 && +style.fontWeight >= 700;
    if (ratio < (large ? 3 : 4.5)) found.push(`${name(e)} has a contrast of ${ratio.toFixed(2)}`);
  });
  return [...new Set(found)];
})()
