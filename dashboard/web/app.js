// Which page is shown, and what all of them have.

import { ask, Refused, takeToken } from "./server.js";
import { h, put } from "./parts.js";
import { aboutPage, findings, logs, overview, pools, workers } from "./cluster.js";
import { query } from "./query.js";

const main = document.getElementById("main");
const trouble = document.getElementById("trouble");
const said = document.getElementById("said");
const PARTS = ["", "timeline", "tasks", "plan", "errors"];
let stop = new AbortController();
let about = { may_act: false, name: "" };
let isFirst = true;

const fail = (error) => {
  const text = error === null ? "" : error instanceof Refused ? error.message : "The server does not answer. It is asked again.";
  trouble.hidden = text === "";
  put(trouble, text);
};

const show = (title, ...parts) => {
  const head = h("h1", {}, title);
  main.replaceChildren(head, ...parts);
  document.title = `${title} · Regatta`;
  return head;
};

const open = () => {
  stop.abort();
  stop = new AbortController();
  trouble.hidden = true;
  const [path, parameters] = location.hash.replace(/^#\/?/, "").split("?");
  const page = { signal: stop.signal, show, about, fail: (error) => !page.signal.aborted && fail(error), say: (text) => put(said, text) };
  const [first, id, part = ""] = path.split("/");
  const given = new URLSearchParams(parameters ?? "");
  const plain = { "": overview, workers, pools, findings, logs, about: aboutPage };
  for (const link of document.querySelectorAll("header nav a")) {
    if (link.getAttribute("href") === `#/${first}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (first === "query" && /^[0-9a-f]{1,16}$/i.test(id ?? "") && PARTS.includes(part)) query(page, given, id, part);
  else if (Object.hasOwn(plain, first) && id === undefined) plain[first](page, given);
  else show("There is no such page", h("p", {}, h("a", { href: "#/" }, "To the overview")));
  // Who goes to another page by keys, or hears it read, begins there.
  if (!isFirst) main.focus();
  isFirst = false;
};

window.addEventListener("hashchange", () => {
  // Another token: all begins anew.
  if (takeToken()) location.reload();
  else open();
});

const begin = async () => {
  try {
    about = await ask("about");
    put(document.getElementById("source"), about.name);
    open();
  } catch (error) {
    if (main.childNodes.length === 0) show("Regatta");
    fail(error);
    if (!(error instanceof Refused)) setTimeout(begin, 2000);
  }
};
takeToken();
await begin();
document.documentElement.dataset.ready = "";
