// The pages of a query.

import { again, ask, askText, follow, order } from "./server.js";
import { choice, field, finding, h, put, table } from "./parts.js";
import { graph, lanes, when } from "./pictures.js";
import { bytes, called, clock, colour, count, number, part, percent, plural, state, time } from "./words.js";

const PARTS = [["", "Stages"], ["timeline", "Timeline"], ["tasks", "Tasks"], ["plan", "Plan"], ["errors", "Findings and errors"]];
const PAGE = 100;

// How it stands, in a line.
const stands = ({ row }) => {
  const rows = `${plural(row.rows, "row")}${row.state === "running" && row.rate >= 1 ? `, ${count(Math.round(row.rate))}/s` : ""}`;
  const words = [state(row.state), row.state === "running" ? clock(row.time) : time(row.time), rows];
  if (row.state === "running") words.push(`stage ${Math.min(row.stages[0] + 1, row.stages[1])} of ${row.stages[1]}`, plural(row.running, "task") + (row.running === 1 ? " runs" : " run"));
  words.push(row.driver === null ? "of the head" : `of driver ${row.driver}`);
  return words.join(" · ");
};

export const query = (page, parameters, id, part) => {
  const [line, error, waits, body] = [h("p"), h("p", { class: "bad" }), h("ul"), h("div")];
  const links = PARTS.map(([of, text]) => h("li", {}, h("a", { href: `#/query/${id}${of ? `/${of}` : ""}`, "aria-current": of === part ? "page" : undefined }, text)));
  const cancel = h("button", { type: "button", class: "danger", hidden: true }, "Cancel this query");
  const title = page.show(`query ${id.slice(-8)}`, h("div", { class: "head" }, line, cancel), error, waits, h("nav", { class: "parts", "aria-label": "Of this query" }, h("ul", {}, ...links)), body);
  waits.hidden = true;
  cancel.addEventListener("click", async () => {
    if (!confirm(`Cancel ${title.textContent}?`)) return;
    cancel.disabled = true;
    try {
      await order(`queries/${id}/cancel`);
    } catch (failure) {
      page.fail(failure);
      cancel.disabled = false;
    }
  });
  let before;
  const tell = (view) => {
    put(title, `query ${called(view.row)}`);
    document.title = `${title.textContent} · Regatta`;
    put(line, stands(view));
    put(error, view.row.error ?? "");
    error.hidden = !view.row.error;
    cancel.hidden = !page.about.may_act || view.row.state !== "running";
    const all = view.waits.slice(0, 8).map(([stage, wait]) => `stage ${stage}: ${wait}`);
    const more = view.waits.length - all.length;
    if (more > 0) all.push(`and ${more} more`);
    if (all.join() !== [...waits.children].map((item) => item.textContent).join()) waits.replaceChildren(...all.map((wait) => h("li", {}, wait)));
    waits.hidden = all.length === 0;
    if (before && before !== view.row.state) page.say(`query ${called(view.row)} ${state(view.row.state)}`);
    before = view.row.state;
  };
  follow(`queries/${id}`, {}, page.signal, tell, page.fail);
  const parts = { "": stages, timeline, tasks, plan, errors };
  parts[part](page, body, id, parameters);
};

const profile = (page, id, tell) => follow(`queries/${id}/profile`, {}, page.signal, tell, page.fail);

const spent = (stage) => {
  const all = stage.fetch + stage.engine + stage.udf + stage.write;
  const parts = [["inputs", stage.fetch], ["engine", stage.engine], ["UDFs", stage.udf], ["writing", stage.write]];
  return parts.filter(([, time]) => time > 0).map(([what, time]) => `${what}\u00a0${percent(part(time, all)).replace(" ", "\u00a0")}`).join(", ");
};

const trouble = (stage) => {
  const of = [[stage.failed, "failed"], [stage.lost, "lost"], [stage.stopped, "stopped"], [stage.again, "again"]];
  return of.filter(([value]) => value > 0).map(([value, what]) => `${count(value)} ${what}`).join(", ");
};

const waited = ({ waits }) => {
  const longest = waits.slice(0, 2).map((wait) => `${wait.on} ${time(wait.time)}`);
  return [...longest, ...(waits.length > 2 ? ["and for more"] : [])].join("; ");
};

const stageTable = (id) =>
  table(
    "Stages",
    [
      { name: "Stage", text: (stage) => String(stage.stage), link: (stage) => `#/query/${id}/tasks?stage=${stage.stage}`, short: true },
      { name: "Does", text: (stage) => stage.label, words: true },
      { name: "State", text: (stage) => state(stage.state), colour: (stage) => colour(stage.state), short: true },
      {
        name: "Tasks",
        text: (stage) => (stage.given ? "the driver's" : stage.tasks === null ? count(stage.done) : `${count(stage.done)} of ${count(stage.tasks)}${stage.enough ? ", enough" : ""}`),
        share: (stage) => (stage.given || !stage.tasks ? null : stage.done / stage.tasks),
        short: true,
      },
      { name: "Run", text: (stage) => count(stage.running), number: true },
      { name: "In vain", text: trouble, colour: (stage) => (stage.failed || stage.lost ? "bad" : ""), some: true },
      { name: "Rows", text: (stage) => count(stage.rows), number: true },
      { name: "Bytes", text: (stage) => bytes(stage.bytes), number: true },
      { name: "Time of tasks", text: (stage) => (stage.busy ? time(stage.busy) : ""), number: true },
      { name: "p50", text: (stage) => (stage.durations.count ? time(stage.durations.p50 * 1000) : ""), number: true },
      { name: "Longest", text: (stage) => (stage.durations.count ? time(stage.durations.most * 1000) : ""), number: true },
      { name: "Of that for", text: spent, some: true },
      { name: "Waited for", text: waited, words: true },
    ],
    (stage) => stage.stage,
    "It has no stages.",
  );

const poolTable = () =>
  table(
    "UDFs",
    [
      { name: "UDF", text: (pool) => pool.udf },
      { name: "Stage", text: (pool) => String(pool.stage), number: true },
      { name: "Replicas", text: (pool) => `${pool.ready} ready, ${pool.most_ready} at most, of ${pool.replicas[0]} to ${pool.replicas[1]}` },
      { name: "In start", text: (pool) => pool.starting.map(([worker, word]) => `on worker ${worker}${word ? `: ${word}` : ""}`).join("; ") },
      { name: "Busy", text: (pool) => (pool.busy === null ? "" : percent(pool.busy)), share: (pool) => pool.busy, short: true },
      { name: "Calls", text: (pool) => count(pool.calls.count), number: true },
      { name: "Rows", text: (pool) => count(pool.rows), number: true },
      { name: "Call p50", text: (pool) => (pool.calls.count ? time(pool.calls.p50 * 1000) : ""), number: true },
      { name: "p99", text: (pool) => (pool.calls.count ? time(pool.calls.p99 * 1000) : ""), number: true },
      { name: "Waits for room", text: (pool) => `${count(pool.waiting)} now, ${time(pool.waited)} in all` },
      { name: "Starts", text: (pool) => (pool.started ? `${pool.started}, ${time(pool.start)}` : "none"), short: true },
      { name: "Trouble", text: (pool) => [[pool.failed, "failed"], [pool.hung, "hung"], [pool.lost, "lost"], [pool.retried, "calls again"]].filter(([value]) => value).map(([value, what]) => `${value} ${what}`).join(", "), colour: () => "bad" },
      { name: "Says of itself", text: (pool) => pool.reported.map(([name, value]) => `${name} ${number(value)}`).join(", ") },
    ],
    (pool) => `${pool.stage} ${pool.step}`,
    "It calls no UDF.",
  );

const edgeTable = () =>
  table(
    "What stages read of each other",
    [
      { name: "From stage", text: (edge) => String(edge.from), short: true },
      { name: "To stage", text: (edge) => String(edge.to), number: true },
      { name: "Rows", text: (edge) => count(edge.fetched.rows), number: true },
      { name: "In place", text: (edge) => bytes(edge.fetched.here), number: true },
      { name: "Mapped", text: (edge) => bytes(edge.fetched.mapped), number: true },
      { name: "By network", text: (edge) => bytes(edge.fetched.network), number: true },
      { name: "Relayed", text: (edge) => bytes(edge.fetched.relayed), number: true },
    ],
    (edge) => `${edge.from} ${edge.to}`,
    "No stage has read of another.",
  );

const stages = (page, body, id) => {
  const [stageRows, pools, edges, figure, notes] = [stageTable(id), poolTable(), edgeTable(), h("figure"), h("p", { class: "warn" })];
  body.append(notes, figure, h("h2", {}, "Stages"), stageRows.element, h("h2", {}, "UDFs"), pools.element, h("h2", {}, "What stages read of each other"), edges.element);
  let drawn;
  profile(page, id, (summary) => {
    const picture = JSON.stringify(summary.picture);
    // Whoever has gone to a stage by keys stays there.
    const focused = [...figure.querySelectorAll("a")].indexOf(document.activeElement);
    if (picture !== drawn) {
      figure.replaceChildren(summary.picture ? graph(summary.picture, id) : h("p", { class: "quiet" }, "There are too many stages to be drawn."));
      figure.querySelectorAll("a")[focused]?.focus();
      drawn = picture;
    }
    const words = [...summary.incomplete];
    if (summary.stages_left_out) words.push(`${count(summary.stages_left_out)} more stages are not shown`);
    put(notes, words.join(". "));
    notes.hidden = words.length === 0;
    stageRows.show(summary.stages);
    pools.show(summary.pools);
    edges.show(summary.edges);
  });
};

const timeline = (page, body, id, parameters) => {
  const [picture, more] = [h("div"), h("p")];
  const rows = table(
    "When stages ran",
    [
      { name: "Stage", text: (stage) => String(stage.stage), short: true },
      { name: "Does", text: (stage) => stage.label, words: true },
      { name: "Began", text: (stage) => (stage.started === null ? "" : time(stage.started)), number: true },
      { name: "Took", text: (stage) => (stage.started === null ? "" : time((stage.ended ?? stage.now) - stage.started)), number: true },
      { name: "When", text: () => "", picture: (stage) => (stage.started === null ? "" : when(stage.started, stage.ended ?? stage.now, stage.now)) },
    ],
    (stage) => stage.stage,
    "It has no stages.",
  );
  const workers = table(
    "Workers",
    [
      { name: "Worker", text: (lane) => String(lane.worker), short: true },
      { name: "State", text: (lane) => (lane.lost ? `✗ lost: ${lane.lost}` : "✓ there"), colour: (lane) => (lane.lost ? "bad" : "") },
      { name: "CPUs", text: (lane) => (lane.cpus === null ? "" : number(lane.cpus)), number: true },
      { name: "Attempts at once, on average", text: (lane) => number(lane.tenths.reduce((sum, one) => sum + one, 0) / 10 / lane.points), number: true },
      { name: "At most", text: (lane) => number(Math.max(0, ...lane.tenths) / 10), number: true },
    ],
    (lane) => lane.worker,
    "No worker has done anything of it.",
  );
  body.append(h("h2", {}, "Stages"), rows.element, h("h2", {}, "Workers"), picture, workers.element, more);
  profile(page, id, ({ stages, took }) => rows.show(stages.map((stage) => ({ ...stage, now: took }))));
  const from = Number.parseInt(parameters.get("from") ?? "0", 10) || 0;
  let draw = () => {};
  const redraw = () => draw();
  window.addEventListener("resize", redraw);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", redraw);
  page.signal.addEventListener("abort", () => (window.removeEventListener("resize", redraw), scheme.removeEventListener("change", redraw)));
  let seen;
  const look = async () => {
    const told = await ask(`queries/${id}/timeline`, { from }, page.signal);
    if (JSON.stringify(told) === seen) return;
    seen = JSON.stringify(told);
    const made = lanes(told);
    picture.replaceChildren(made.element);
    draw = made.draw;
    draw();
    // Who did nothing in the end has fewer points.
    const points = Math.max(1, ...told.lanes.map((lane) => lane.tenths.length));
    workers.show(told.lanes.map((lane) => ({ ...lane, points })));
    const links = [];
    if (from > 0) links.push(h("a", { href: `#/query/${id}/timeline` }, "The first workers"), " ");
    if (from + told.lanes.length < told.all) links.push(h("a", { href: `#/query/${id}/timeline?from=${from + told.lanes.length}` }, "The next workers"));
    more.replaceChildren(...links);
  };
  again(3000, page.signal, look, page.fail);
};

const tasks = (page, body, id, parameters) => {
  const given = (name) => parameters.get(name) ?? "";
  const [stage, worker] = ["stage", "worker"].map((name) => h("input", { type: "text", name, inputmode: "numeric", value: given(name), autocomplete: "off" }));
  const outcome = choice([["", "any"], ...["running", "done", "failed", "lost", "stopped"].map((word) => [word, word])], given("outcome"));
  const sort = choice([["ran", "longest first"], ["rows", "most rows first"], ["bytes", "most bytes first"], ["placed", "earliest first"]], given("sort"));
  const form = h("form", { "aria-label": "Which attempts" }, field("Stage", stage), field("Worker", worker), field("End", outcome), field("Order", sort), h("button", { type: "submit" }, "Show"));
  const rows = table(
    "Attempts of tasks",
    [
      { name: "Stage", text: (task) => String(task.stage), short: true },
      { name: "Task", text: (task) => String(task.task), number: true },
      { name: "Attempt", text: (task) => String(task.attempt), number: true },
      { name: "End", text: (task) => state(task.outcome), colour: (task) => colour(task.outcome), short: true },
      { name: "Worker", text: (task) => String(task.worker), number: true },
      { name: "Placed", text: (task) => time(task.placed), number: true },
      { name: "Ran", text: (task) => time(task.ran), number: true },
      { name: "Rows", text: (task) => count(task.rows), number: true },
      { name: "Bytes", text: (task) => bytes(task.bytes), number: true },
      { name: "Log", text: () => "log", link: (task) => `#/logs?query=${id}&task=${task.task}`, short: true },
    ],
    (task) => `${task.stage} ${task.task} ${task.attempt}`,
    "No attempt that is kept is like that.",
  );
  const [said, pages] = [h("p", { class: "quiet" }), h("nav", { "aria-label": "More attempts" })];
  body.append(form, said, rows.element, pages);
  const address = (skip) => {
    const wanted = Object.entries({ stage: stage.value, worker: worker.value, outcome: outcome.value, sort: sort.value, skip });
    return `#/query/${id}/tasks?${new URLSearchParams(wanted.filter(([, value]) => String(value).trim() && value !== 0))}`;
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = address(0);
  });
  const skip = Number.parseInt(given("skip"), 10) || 0;
  const look = async () => {
    const told = await ask(`queries/${id}/tasks`, { stage: given("stage"), worker: given("worker"), outcome: given("outcome"), sort: given("sort"), skip, limit: PAGE }, page.signal);
    rows.show(told.rows);
    const left = told.left_out ? ` Of ${count(told.left_out)} more only sums are kept.` : "";
    put(said, `${told.rows.length ? `${skip + 1} to ${skip + told.rows.length} of ` : ""}${plural(told.all, "attempt")}.${left}`);
    const links = [];
    if (skip > 0) links.push(h("a", { href: address(Math.max(0, skip - PAGE)) }, "Those before"), " ");
    if (skip + told.rows.length < told.all) links.push(h("a", { href: address(skip + PAGE) }, "The next"));
    pages.replaceChildren(...links);
  };
  again(3000, page.signal, look, page.fail);
};

const plan = (page, body, id, parameters) => {
  const of = parameters.get("of") ?? "explain";
  const kinds = [["explain", "How it is run"], ["profile", "What it did"], ["full", "With everything"]];
  const links = kinds.map(([kind, text]) => h("li", {}, h("a", { href: `#/query/${id}/plan?of=${kind}`, "aria-current": kind === of ? "true" : undefined }, text)));
  const text = h("pre", { tabindex: "0", "aria-label": "The query as text" });
  body.append(h("nav", { "aria-label": "As text" }, h("ul", {}, ...links)), text);
  again(5000, page.signal, async () => put(text, await askText(`queries/${id}/text`, { of }, page.signal)), page.fail);
};

const errors = (page, body, id) => {
  const [found, list] = [h("div"), h("div")];
  body.append(h("h2", {}, "Findings"), found, h("h2", {}, "Errors"), list);
  profile(page, id, ({ findings, errors }) => {
    found.replaceChildren(...(findings.length ? findings.map(finding) : [h("p", {}, "Nothing was found to be wrong with it.")]));
    const where = (error) => {
      const of = [error.stage === null ? "" : `stage ${error.stage}`, error.task === null ? "" : `task ${error.task[0]} attempt ${error.task[1]}`, error.worker === null ? "" : `worker ${error.worker}`];
      return `${time(error.at)} after the submit: ${of.filter(Boolean).join(", ")}`;
    };
    const one = (error) => {
      const text = h("pre", { tabindex: "0", "aria-label": "The error" }, error.text);
      const log = error.task === null ? null : h("a", { href: `#/logs?query=${id}&task=${error.task[0]}` }, "its log");
      return h("div", {}, h("p", {}, where(error), " ", log), text);
    };
    list.replaceChildren(...(errors.length ? errors.map(one) : [h("p", {}, "None.")]));
  });
};
