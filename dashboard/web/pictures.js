// What is drawn: the stages of a query, when they ran, and how busy the workers were.

import { h, svg } from "./parts.js";
import { count, number, time } from "./words.js";

// The stages as boxes, inputs below. Each is a link to its tasks.
export const graph = (picture, id) => {
  const tip = svg("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto" }, svg("path", { d: "M0 0L8 4L0 8z", class: "tip" }));
  const drawn = svg("svg", { class: "graph", viewBox: `0 0 ${Math.ceil(picture.width)} ${Math.ceil(picture.height)}`, width: Math.ceil(picture.width), height: Math.ceil(picture.height), role: "group", "aria-label": "The stages of the query, inputs below" }, svg("defs", {}, tip));
  for (const arrow of picture.arrows) {
    drawn.append(svg("path", { d: `M${arrow.points.map(([x, y]) => `${x.toFixed(0)} ${y.toFixed(0)}`).join("L")}`, "stroke-width": arrow.thick.toFixed(1), "marker-end": "url(#tip)" }));
    if (arrow.points.length > 1) drawn.append(svg("text", { class: "label", x: arrow.at[0].toFixed(0), y: arrow.at[1].toFixed(0) }, arrow.label));
  }
  for (const stage of picture.stages) {
    const link = svg("a", { href: `#/query/${id}/tasks?stage=${stage.stage}`, class: stage.look, "aria-label": `${stage.lines.join(", ")}: its tasks` });
    link.append(svg("rect", { x: stage.x, y: stage.y, width: stage.width, height: stage.height, rx: 4 }));
    stage.lines.forEach((line, at) => link.append(svg("text", { x: stage.x + 10, y: stage.y + 10 + 17 * (at + 0.75), class: at === 0 ? "title" : "" }, line)));
    drawn.append(link);
  }
  return drawn;
};

// From when to when, as a part of the whole.
export const when = (from, until, all) => {
  const [x, width] = [(100 * from) / (all || 1), (100 * (until - from)) / (all || 1)];
  return svg("svg", { class: "when", viewBox: "0 0 100 14", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { class: "rest", x: 0, y: 6, width: 100, height: 2 }), svg("rect", { x, y: 1, width: Math.max(width, 0.5), height: 12 }));
};

const LANE = 30;
const NAMES = 150;

// How many attempts ran at once on each worker, over the time.
export const lanes = (timeline) => {
  const canvas = h("canvas", { role: "img", "aria-label": "How many attempts ran at once on each worker, over the time; the table below says the same in figures" });
  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    const colours = ["--text", "--quiet", "--bad", "--line", "--fill"].map((name) => {
      const probe = h("span");
      probe.style.color = `var(${name})`;
      document.body.append(probe);
      const colour = getComputedStyle(probe).color;
      probe.remove();
      return colour;
    });
    const [text, quiet, bad, line, fill] = colours;
    const points = Math.max(1, ...timeline.lanes.map((lane) => lane.tenths.length));
    const [width, height] = [Math.max(canvas.clientWidth, 320), timeline.lanes.length * LANE + 22];
    const scale = window.devicePixelRatio || 1;
    canvas.style.height = `${height}px`;
    [canvas.width, canvas.height] = [width * scale, height * scale];
    const paint = canvas.getContext("2d");
    paint.scale(scale, scale);
    paint.font = `13px ${style.fontFamily || "sans-serif"}`;
    const most = Math.max(10, ...timeline.lanes.flatMap((lane) => lane.tenths));
    const room = width - NAMES - 8;
    const at = (bin) => NAMES + (room * bin) / points;
    timeline.lanes.forEach((lane, index) => {
      const bottom = (index + 1) * LANE;
      paint.fillStyle = lane.lost ? bad : text;
      paint.fillText(`${lane.lost ? "✗ " : ""}worker ${lane.worker}${lane.lost ? " lost" : ""}`, 0, bottom - 9, NAMES - 8);
      paint.fillStyle = fill;
      paint.beginPath();
      paint.moveTo(at(0), bottom);
      lane.tenths.forEach((tenths, bin) => {
        const top = bottom - ((LANE - 5) * tenths) / most;
        paint.lineTo(at(bin), top);
        paint.lineTo(at(bin + 1), top);
      });
      paint.lineTo(at(lane.tenths.length), bottom);
      paint.fill();
      paint.fillStyle = line;
      paint.fillRect(NAMES, bottom, room, 1);
    });
    paint.fillStyle = quiet;
    for (const part of [0, 0.25, 0.5, 0.75, 1]) {
      paint.textAlign = part === 0 ? "left" : part === 1 ? "right" : "center";
      paint.fillText(time(part * points * timeline.bin), NAMES + part * room, height - 5);
    }
  };
  const said = timeline.lanes.length < timeline.all ? `, of ${count(timeline.all)} workers these ${timeline.lanes.length}` : "";
  const peak = Math.max(0, ...timeline.lanes.flatMap((lane) => lane.tenths)) / 10;
  const caption = h("figcaption", {}, `Attempts of this query that ran at once, as far as they have ended, in steps of ${time(timeline.bin)}; the highest is ${number(peak)}${said}.`);
  return { element: h("figure", {}, canvas, caption), draw };
};
