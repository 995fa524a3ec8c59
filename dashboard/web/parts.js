// What pages are built of. Whatever others have named or said is put in as text, never as mark-up.

// What is not seen itself, but moves or turns around what is: a text has none of it.
const clean = (child) => (typeof child === "string" ? child.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, " ") : child);

export const h = (tag, properties = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== null).map(clean));
  return element;
};

export const svg = (tag, properties = {}, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(properties)) element.setAttribute(key, value);
  element.append(...children.map(clean));
  return element;
};

export const put = (element, text) => {
  const cleaned = clean(text);
  if (element.textContent !== cleaned) element.textContent = cleaned;
};

const classes = (element, ...names) => {
  const text = names.filter(Boolean).join(" ");
  if (element.className !== text) element.className = text;
};

// A table whose rows are kept by their key, so that what is focused or selected stays so. A column has a name and a text, and may have a
// link, a share of 1 that is drawn as a bar, a colour, a picture that is made anew, and may be of
// numbers, of some words or of many.
export const table = (caption, columns, key, none) => {
  const body = h("tbody");
  const heads = columns.map((column) => h("th", { scope: "col", class: column.number ? "number" : undefined }, column.name));
  const whole = h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, h("tr", {}, ...heads)), body);
  const scroll = h("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" }, whole);
  const empty = h("p", { class: "quiet" }, none);
  const element = h("div", {}, scroll, empty);
  const rows = new Map();
  const cell = (column, first) => {
    const td = first ? h("th", { scope: "row" }) : h("td");
    classes(td, column.number && "number", column.short && "short", column.words && "words", column.some && "some");
    const text = column.link ? h("a") : h("span");
    td.append(text);
    const bar = column.share ? h("i") : undefined;
    if (bar) td.append(h("span", { class: "share", "aria-hidden": "true" }, bar));
    return { td, text, bar };
  };
  const show = (all) => {
    scroll.hidden = all.length === 0;
    empty.hidden = all.length > 0;
    const seen = new Set();
    let before = null;
    for (const row of all) {
      const name = String(key(row));
      if (seen.has(name)) continue;
      seen.add(name);
      let kept = rows.get(name);
      if (!kept) {
        const cells = columns.map((column, at) => cell(column, at === 0));
        kept = { tr: h("tr", {}, ...cells.map(({ td }) => td)), cells };
        rows.set(name, kept);
      }
      columns.forEach((column, at) => {
        const { td, text, bar } = kept.cells[at];
        if (column.picture) {
          td.replaceChildren(column.picture(row));
          return;
        }
        put(text, column.text(row) ?? "");
        if (column.link) text.setAttribute("href", column.link(row));
        if (column.colour) classes(text, column.colour(row));
        if (bar) {
          const share = column.share(row);
          bar.parentElement.hidden = share === null;
          bar.style.width = `${Math.min(Math.max(share ?? 0, 0), 1) * 100}%`;
        }
      });
      const next = before ? before.nextSibling : body.firstChild;
      if (next !== kept.tr) body.insertBefore(kept.tr, next);
      before = kept.tr;
    }
    for (const [name, { tr }] of rows) {
      if (seen.has(name)) continue;
      tr.remove();
      rows.delete(name);
    }
  };
  show([]);
  return { element, show };
};

// Figures, each with what it is of, what more there is to say, and a line of how it was since the page was opened.
export const tiles = (names) => {
  const made = names.map((name) => {
    const [figure, more] = [h("span", { class: "figure" }), h("div", { class: "more" })];
    const line = svg("polyline", { points: "" });
    const spark = svg("svg", { class: "spark", viewBox: "0 0 60 20", preserveAspectRatio: "none", "aria-hidden": "true" }, line);
    spark.setAttribute("hidden", "");
    return { name, figure, more, line, spark, values: [], element: h("div", {}, h("dt", {}, name), h("dd", {}, figure, more, spark)) };
  });
  const show = (name, text, more, value, most) => {
    const tile = made.find((tile) => tile.name === name);
    put(tile.figure, text);
    put(tile.more, more ?? "");
    if (value === undefined || value === null) return;
    tile.values.push(value);
    if (tile.values.length > 60) tile.values.shift();
    const top = Math.max(most ?? 0, ...tile.values) || 1;
    tile.line.setAttribute("points", tile.values.map((one, at) => `${at},${(19 - (18 * one) / top).toFixed(1)}`).join(" "));
    if (tile.values.length > 2) tile.spark.removeAttribute("hidden");
  };
  return { element: h("dl", { class: "tiles" }, ...made.map((tile) => tile.element)), show };
};

export const finding = (one) => {
  const where = one.stage === null || one.stage === undefined ? "" : `stage ${one.stage}: `;
  const word = one.severity === "warning" ? "⚠ warning" : "note";
  return h(
    "div",
    { class: one.severity === "warning" ? "found" : "found note" },
    h("p", {}, h("strong", { class: one.severity === "warning" ? "warn" : "" }, `${word} ${one.id}`), ` ${where}${one.says}`),
    h("p", {}, one.advice),
  );
};

export const field = (name, control) => h("label", {}, h("span", {}, name), h("br"), control);
export const choice = (options, value) => h("select", {}, ...options.map(([id, text]) => h("option", { value: id, selected: id === value }, text)));
