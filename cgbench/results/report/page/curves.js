// Convergence: forward KLD against evaluations, one chart per system.

data.runs.forEach((run) => {
  run.evaluations = run.curve.evaluations.map(number);
  run.kld = run.curve.forward_kld.map(number);
});

function drawLegend() {
  const visible = shownSystems();
  const names = new Map();
  data.groups.filter((g) => visible.includes(g.where)).forEach((g) => names.set(JSON.stringify([g.method, g.preset]), g));
  byId("legend").replaceChildren(...[...names.values()].map((group) => {
    const line = svg("path", { class: "median", stroke: "currentColor", "stroke-dasharray": dash(group.preset), d: "M1 6H29" });
    const key = svg("svg", { width: 30, height: 12, class: colourClass(group.method), "aria-hidden": "true" }, line);
    const label = group.preset === "default" ? group.method : `${group.method}, ${group.preset}`;
    const button = html("button", { type: "button", "aria-pressed": String(group.shown) }, key, label);
    button.addEventListener("click", () => {
      const shown = !group.shown;
      for (const g of data.groups) if (g.method === group.method && g.preset === group.preset) g.shown = shown;
      button.setAttribute("aria-pressed", String(shown));
      drawCharts();
    });
    return button;
  }));
}

/** Returns the range of the values, with a margin; a logarithmic axis ignores values that are not positive. */
function extent(values, log) {
  const usable = values.filter((v) => Number.isFinite(v) && (!log || v > 0));
  if (usable.length === 0) return log ? [1e-3, 1] : [0, 1];
  const low = usable.reduce((a, b) => Math.min(a, b));
  const high = usable.reduce((a, b) => Math.max(a, b));
  if (log) return [low / 1.4, high * 1.4];
  return [Math.min(0, low), high > low || high > 0 ? high * 1.04 : low + 1];
}

function drawBand(group, x, y, low) {
  const kind = byId("band").value;
  const { evaluations: xs, lowest, highest, low: least, high: most } = group.median;
  const [below, above] = (kind === "median" ? [least, most] : [lowest, highest]).map((ends) => ends.map(number));
  const upper = pathOf(xs, above, x, y);
  const lower = pathOf([...xs].reverse(), [...below].reverse().map((v) => Math.max(v, low)), x, y);
  return svg("path", { class: "band", fill: "currentColor", stroke: "currentColor", d: `${upper}L${lower.slice(1)}Z` });
}

function drawGroup(group, x, y, low) {
  const parts = svg("g", { class: colourClass(group.method) });
  const style = { stroke: "currentColor", "stroke-dasharray": dash(group.preset) };
  const line = (name, xs, ys) => {
    parts.append(svg("path", { class: name, ...style, d: pathOf(xs, ys, x, y) }));
    const end = { cx: x(xs.at(-1)), cy: y(ys.at(-1)), r: name === "seed" ? 1.5 : 3, fill: "currentColor" };
    if (Number.isFinite(end.cx) && Number.isFinite(end.cy)) parts.append(svg("circle", end)); // makes a curve of one point visible
  };
  if (group.median && byId("band").value !== "none") parts.append(drawBand(group, x, y, low));
  for (const run of group.runs.map((i) => data.runs[i])) {
    if (!group.median || byId("seeds").checked) line(group.median ? "seed" : "median", run.evaluations, run.kld);
  }
  if (group.median) line("median", group.median.evaluations, group.median.median);
  return parts;
}

function drawChart(where, host) {
  const [logX, logY] = [byId("log-x").checked, byId("log-y").checked];
  const runsOf = (some) => some.flatMap((g) => g.runs.map((i) => data.runs[i]));
  const groups = groupsOf(where).filter((g) => g.shown);
  const runs = runsOf(groups);
  const floor = Math.max(0, ...runsOf(groupsOf(where)).map(floorOf));
  const width = Math.max(300, host.clientWidth);
  const height = Math.min(440, Math.max(280, 0.62 * width));
  const box = { left: 74, top: 12, right: width - 14, bottom: height - 44 };
  const [x0, x1] = extent(runs.flatMap((r) => r.evaluations), logX);
  const [y0, y1] = extent([...runs.flatMap((r) => r.kld), floor || NaN], logY);
  const [x, y] = [makeScale(logX, x0, x1, box.left, box.right), makeScale(logY, y0, y1, box.bottom, box.top)];
  const image = svg("svg", {
    width, height, viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "img",
    "aria-label": `Forward KLD against evaluations on ${data.systems[where].name}`,
  }, drawAxes(box, x, y, "energy evaluations", "forward KLD (nats)"));
  if (floor > 0) {
    image.append(segment("floor", box.left, y(floor), box.right, y(floor)));
    const label = `noise floor of the reference, ${scientific(floor, 1)}`;
    image.append(words(box.right - 6, y(floor) - 5, "end", label, "floor-label"));
  }
  groups.forEach((group) => image.append(drawGroup(group, x, y, y0)));
  host.append(html("figcaption", {}, systemLabel(data.systems[where])), image);
  pointAt(image, runs, x, y);
}

/** Marks the nearest point of any seed on hover and with arrow keys, and describes it in the tooltip. */
function pointAt(image, runs, x, y) {
  const points = runs.flatMap((run, r) => run.evaluations.map((n, i) => ({ run, r, i, x: x(n), y: y(run.kld[i]) })))
    .filter((p) => Number.isFinite(p.x) && Number.isFinite(p.y));
  const trace = svg("path", { class: "trace", stroke: "currentColor" });
  const dot = svg("circle", { class: "dot", r: 5, fill: "currentColor" });
  const mark = svg("g", { visibility: "hidden" }, trace, dot);
  image.append(mark);
  const scale = (frame) => frame.width / image.viewBox.baseVal.width;
  let current = null;
  const describe = (point) => {
    current = point;
    const { record, evaluations, kld } = point.run;
    mark.setAttribute("class", colourClass(record.method));
    mark.setAttribute("visibility", "visible");
    trace.setAttribute("d", pathOf(evaluations, kld, x, y));
    dot.setAttribute("cx", point.x);
    dot.setAttribute("cy", point.y);
    const frame = image.getBoundingClientRect();
    showTip(frame.left + point.x * scale(frame), frame.top + point.y * scale(frame), [
      `${record.method}, preset ${record.preset}, seed ${record.seed}`,
      `${count(evaluations[point.i])} evaluations`,
      `forward KLD ${kldWords(kld[point.i], floorOf(point.run))}`,
    ]);
  };
  const leave = () => { mark.setAttribute("visibility", "hidden"); hideTip(); };
  image.addEventListener("pointermove", (event) => {
    const frame = image.getBoundingClientRect();
    const [px, py] = [(event.clientX - frame.left) / scale(frame), (event.clientY - frame.top) / scale(frame)];
    const distance = (p) => (p.x - px) ** 2 + (p.y - py) ** 2;
    if (points.length) describe(points.reduce((a, b) => (distance(b) < distance(a) ? b : a)));
  });
  image.addEventListener("pointerleave", leave);
  image.addEventListener("blur", leave);
  image.addEventListener("keydown", (event) => {
    const along = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const across = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (points.length === 0 || (!along && !across)) return;
    event.preventDefault();
    if (current === null) return describe(points[0]);
    if (along) {
      const same = points.filter((p) => p.run === current.run);
      return describe(same[Math.max(0, Math.min(same.length - 1, same.indexOf(current) + along))]);
    }
    const other = runs[(current.r + across + runs.length) % runs.length];
    const near = points.filter((p) => p.run === other);
    if (near.length) describe(near.reduce((a, b) => (Math.abs(b.x - current.x) < Math.abs(a.x - current.x) ? b : a)));
    return undefined;
  });
}

function drawCharts() {
  hideTip();
  const hosts = shownSystems().map(() => html("figure", { class: "chart" }));
  byId("charts").replaceChildren(...hosts); // before drawing, which needs their width
  shownSystems().forEach((where, i) => drawChart(where, hosts[i]));
}
