// The pages of the whole cluster.

import { again, ask, follow } from "./server.js";
import { choice, field, finding, h, put, table, tiles } from "./parts.js";
import { bytes, called, clock, colour, count, day, number, part, percent, plural, short, state, time } from "./words.js";

const QUERIES = 40;
const WORKERS = 100;
const LINES = 1000;

const about = (query) => {
  if (query.error) return query.error;
  if (query.state !== "running") return "";
  return [query.doing, ...query.waits].filter(Boolean).join("; ");
};

const queryTable = () =>
  table(
    "Queries",
    [
      { name: "Query", text: called, link: (query) => `#/query/${query.id}`, short: true },
      { name: "State", text: (query) => state(query.state), colour: (query) => colour(query.state), short: true },
      { name: "Stage", text: (query) => `${Math.min(query.stages[0] + 1, query.stages[1])}/${query.stages[1]}`, number: true },
      {
        name: "Tasks of it",
        text: ({ state, tasks: [done, all] }) => (state !== "running" ? "" : all === null ? count(done) : `${count(done)} of ${count(all)}`),
        share: ({ state, tasks: [done, all] }) => (state === "running" && all ? done / all : null),
        short: true,
      },
      { name: "Rows", text: (query) => count(query.rows), number: true },
      { name: "Rows/s", text: (query) => (query.state === "running" && query.rate >= 1 ? count(Math.round(query.rate)) : ""), number: true },
      { name: "Time", text: (query) => (query.state === "running" ? clock(query.time) : time(query.time)), number: true },
      { name: "Does, or waits for", text: about, colour: (query) => (query.error ? "bad" : ""), words: true },
    ],
    (query) => query.id,
    "No query is known.",
  );

const poolTable = () =>
  table(
    "Pools of UDF replicas",
    [
      { name: "UDF", text: (pool) => pool.udf },
      { name: "Ready", text: (pool) => count(pool.ready), number: true },
      { name: "Idle", text: (pool) => count(pool.idle), number: true },
      { name: "In start", text: (pool) => count(pool.starting.length), number: true },
      { name: "Last word of a start", text: (pool) => pool.starting.find((word) => word) ?? "", words: true },
      { name: "Queries", text: (pool) => count(pool.queries), number: true },
      { name: "Kept warm", text: (pool) => (pool.unused === null ? "" : `unused for ${clock(pool.unused)}`), short: true },
    ],
    (pool) => pool.key,
    "No UDF has replicas.",
  );

// There may be several of one name.
const keyed = (pools) => pools.map((pool, at) => ({ ...pool, key: `${pool.udf} ${at}` }));

const workerState = (worker) => {
  if (worker.silent !== null) return `⚠ silent for ${time(worker.silent)}`;
  if (worker.drains !== null) return `leaves, for ${time(worker.drains[0])}`;
  if (worker.leaving !== null) return `${plural(worker.leaving[0], "task")} that nobody wants, for ${time(worker.leaving[1])}`;
  return worker.idle !== null ? `idle for ${clock(worker.idle)}` : "✓ there";
};

const workerTable = () =>
  table(
    "Workers",
    [
      { name: "Worker", text: (worker) => String(worker.worker), short: true },
      { name: "State", text: workerState, colour: (worker) => (worker.silent !== null ? "warn" : "") },
      {
        name: "CPUs busy",
        text: ({ busy, cpus }) => (busy === null ? "not known" : `${number(busy)} of ${number(cpus[0])}`),
        share: ({ busy, cpus }) => (busy === null ? null : part(busy, cpus[0])),
        short: true,
      },
      { name: "Charged", text: (worker) => number(worker.cpus[1]), number: true },
      {
        name: "Memory",
        text: ({ used, memory }) => (used ? `${bytes(used)}${memory[0] ? ` of ${bytes(memory[0])}` : ""}` : "not known"),
        share: ({ used, memory }) => (used && memory[0] ? used / memory[0] : null),
        short: true,
      },
      { name: "Most", text: (worker) => (worker.peak ? bytes(worker.peak) : ""), number: true },
      { name: "Tasks", text: ({ tasks: [run, wait] }) => (wait ? `${run} + ${wait}` : String(run)), number: true },
      { name: "GPUs", text: ({ gpus, devices }) => (gpus[0] ? `${number(gpus[1])} of ${number(gpus[0])}: ${devices.join(", ")}` : "none") },
      { name: "Address", text: (worker) => worker.address ?? "this process", short: true },
      { name: "Log", text: () => "log", link: (worker) => `#/logs?worker=${worker.worker}`, short: true },
    ],
    (worker) => worker.worker,
    "No worker has joined.",
  );

const left = (dropped) => {
  const of = [
    [dropped.profiles, "profiles of queries that have ended"],
    [dropped.tasks, "records of single attempts"],
    [dropped.strips, "times of workers"],
    [dropped.outputs, "stages whose tasks count again when they run again"],
    [dropped.errors, "errors"],
  ];
  const text = of.filter(([value]) => value > 0).map(([value, what]) => `${count(value)} ${what}`);
  return text.length ? `Left out to stay within REGATTA_OBSERVE_MEMORY: ${text.join(", ")}.` : "";
};

export const overview = (page) => {
  const figures = tiles(["Workers", "CPUs busy", "Memory", "Tasks", "Queries", "Waits for room"]);
  const [queries, pools, workers] = [queryTable(), poolTable(), workerTable()];
  const [wanted, dropped, more] = [h("p", { class: "warn" }), h("p", { class: "quiet" }), h("p", {}, h("a", { href: "#/workers" }, "All workers"))];
  page.show("Overview", figures.element, wanted, h("h2", {}, "Queries"), queries.element, h("h2", {}, "Pools"), pools.element, h("h2", {}, "Workers"), workers.element, more, dropped);
  const known = new Map();
  const tell = (view) => {
    const { fleet } = view;
    figures.show("Workers", count(fleet.workers), fleet.silent ? `${fleet.silent} of them silent` : `up ${clock(view.up)}`, fleet.workers);
    figures.show("CPUs busy", fleet.busy === null ? "not known" : number(fleet.busy), `of ${number(fleet.cpus[0])}; ${number(fleet.cpus[1])} charged`, fleet.busy, fleet.cpus[0]);
    figures.show("Memory", fleet.used ? bytes(fleet.used) : "not known", fleet.memory[0] ? `of ${bytes(fleet.memory[0])}` : "", fleet.used || null, fleet.memory[0]);
    figures.show("Tasks", count(fleet.tasks[0]), fleet.tasks[1] ? `and ${count(fleet.tasks[1])} wait at their workers` : "run", fleet.tasks[0]);
    figures.show("Queries", count(view.known[0]), `run; ${count(view.known[1])} have ended`, view.known[0]);
    figures.show("Waits for room", `${number(view.backlog)} CPU`, fleet.gpus[0] ? `${number(fleet.gpus[1])} of ${number(fleet.gpus[0])} GPUs charged` : "", view.backlog);
    const words = [];
    if (view.wanted !== null) words.push(`${plural(view.wanted[0], "worker")} wanted, for ${time(view.wanted[1])}.`);
    if (view.not_joined !== null) words.push(`${plural(view.not_joined[0], "worker")} that had been asked for ended before joining; the last: ${view.not_joined[1]}`);
    put(wanted, words.join(" "));
    wanted.hidden = words.length === 0;
    queries.show(view.queries);
    pools.show(keyed(view.pools));
    workers.show(view.workers);
    more.hidden = fleet.workers <= view.workers.length;
    put(dropped, left(view.dropped));
    for (const query of view.queries) {
      const before = known.get(query.id);
      if (before && before !== query.state) page.say(`query ${called(query)} ${state(query.state)}`);
      known.set(query.id, query.state);
    }
  };
  follow("cluster", { queries: QUERIES, from: 0, workers: 20 }, page.signal, tell, page.fail);
};

export const workers = (page, parameters) => {
  const from = Number.parseInt(parameters.get("from") ?? "0", 10) || 0;
  const [all, summary, next] = [workerTable(), h("p", { class: "quiet" }), h("nav", { "aria-label": "More workers" })];
  page.show("Workers", summary, all.element, next);
  const tell = ({ fleet, workers }) => {
    put(summary, `${plural(fleet.workers, "worker")}, ${number(fleet.cpus[1])} of ${number(fleet.cpus[0])} CPUs charged${fleet.silent ? `, ${fleet.silent} silent` : ""}`);
    all.show(workers);
    const links = [];
    if (from > 0) links.push(h("a", { href: "#/workers" }, "The first"));
    if (workers.length === WORKERS && fleet.workers > WORKERS) links.push(h("a", { href: `#/workers?from=${workers[workers.length - 1].worker + 1}` }, "The next"));
    if (next.childNodes.length !== links.length || next.lastChild?.href !== links[links.length - 1]?.href) next.replaceChildren(...links.flatMap((link) => [link, " "]));
  };
  follow("cluster", { queries: 0, from, workers: WORKERS }, page.signal, tell, page.fail);
};

export const pools = (page) => {
  const all = poolTable();
  page.show("Pools", h("p", { class: "quiet" }, "Replicas of UDFs, also those that are kept warm for the next query. A query's own page says how busy they are."), all.element);
  follow("cluster", { queries: 0, from: 0, workers: 0 }, page.signal, (view) => all.show(keyed(view.pools)), page.fail);
};

export const findings = (page) => {
  const list = h("div");
  page.show("Findings", h("p", { class: "quiet" }, "What is wrong with the newest queries, by which figures, and what to change."), list);
  const tell = (all) => {
    const found = all.filter((one) => one.findings.length > 0);
    const parts = found.flatMap(({ query, findings }) => [h("h2", {}, h("a", { href: `#/query/${query.id}/errors` }, `query ${called(query)}`), ` ${state(query.state)}`), ...findings.map(finding)]);
    list.replaceChildren(...(parts.length ? parts : [h("p", {}, all.length ? `Nothing was found to be wrong with the newest ${plural(all.length, "query").replace("querys", "queries")}.` : "No query is known.")]));
  };
  follow("findings", {}, page.signal, tell, page.fail);
};

const LEVELS = { error: "bad", warn: "warn", info: "" };

export const logs = (page, parameters) => {
  const text = (name) => h("input", { type: "text", name, value: parameters.get(name) ?? "", autocomplete: "off", spellcheck: "false" });
  const [worker, query, task, udf] = ["worker", "query", "task", "udf"].map(text);
  const level = choice([["", "information and worse"], ["warn", "warnings and worse"], ["error", "errors"]], parameters.get("level") ?? "");
  const goOn = h("input", { type: "checkbox", checked: true });
  const form = h(
    "form",
    { "aria-label": "Which lines" },
    field("Worker", worker),
    field("Query, its last digits", query),
    field("Task", task),
    field("UDF, a part of its name", udf),
    field("What matters", level),
    h("button", { type: "submit" }, "Show"),
    h("label", { class: "beside" }, goOn, "go on with those that come"),
  );
  const list = h("ol", { class: "log", "aria-label": "Lines of the log", tabindex: "0" });
  const said = h("p", { class: "quiet" });
  page.show("Logs", form, said, list);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = Object.entries({ worker: worker.value, query: query.value, task: task.value, udf: udf.value, level: level.value });
    location.hash = `#/logs?${new URLSearchParams(wanted.filter(([, value]) => value.trim()).map(([name, value]) => [name, value.trim()]))}`;
  });
  let next = "";
  const line = (one) => {
    const of = [one.stage === null ? "" : `stage ${one.stage}`, one.task === null ? "" : `task ${one.task[0]}${one.task[1] > 1 ? ` attempt ${one.task[1]}` : ""}`, one.udf === null ? "" : `${one.udf[0]} rank ${one.udf[1]}`, `${one.target}:`];
    const query = one.query === null ? [] : [h("a", { href: `#/query/${one.query}` }, short(one.query)), " "];
    return h(
      "li",
      {},
      h("span", { class: "quiet" }, day(one.at_ms)),
      ` worker ${one.worker} `,
      h("strong", { class: LEVELS[one.level] }, one.level.toUpperCase()),
      " ",
      ...query,
      h("span", { class: "quiet" }, of.filter(Boolean).join(" ")),
      ` ${one.text}`,
    );
  };
  const look = async () => {
    if (!goOn.checked && next) return;
    const wanted = { worker: worker.value.trim(), query: query.value.trim(), task: task.value.trim(), udf: udf.value.trim(), level: level.value, next, lines: LINES };
    const view = await ask("logs", wanted, page.signal);
    const isAtEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 8;
    list.append(...view.lines.map(line));
    while (list.childNodes.length > LINES) list.firstChild.remove();
    if (isAtEnd) list.scrollTop = list.scrollHeight;
    next = view.next.map(([worker, number]) => `${worker}:${number}`).join(",");
    const words = [list.childNodes.length ? "" : "No line is remembered that is wanted."];
    if (view.missed) words.push(`${count(view.missed)} lines were forgotten before they could be shown.`);
    for (const [worker, why] of view.silent) words.push(`Worker ${worker} does not say: ${why}.`);
    put(said, words.filter(Boolean).join(" "));
  };
  again(2000, page.signal, look, page.fail);
};

export const aboutPage = (page) => {
  const list = h("dl", { class: "tiles" });
  page.show("About", list, h("p", {}, "The same from a terminal, and more: ", h("code", {}, "regatta status"), ", ", h("code", {}, "regatta top"), ", ", h("code", {}, "regatta query 0007 --full"), "."));
  const look = async () => {
    const told = await ask("about", {}, page.signal);
    const rows = [
      ["Looked at", told.name],
      ["Version of these pages", told.version],
      ["Whoever looks", told.may_act ? "may cancel queries" : "may look, and do nothing else"],
      ["Connections", `${told.connections[0]} of at most ${told.connections[1]}`],
    ];
    list.replaceChildren(...rows.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text))));
  };
  again(10000, page.signal, look, page.fail);
};
