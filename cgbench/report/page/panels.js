// The panels of one PMF: a map on a canvas for two collective variables, lines for one.

const VIEW = { width: 420, height: 332 };
const BOX = { left: 62, top: 10, right: 340, bottom: 288 };
const BAR = { left: 354, right: 368 };
const SEQUENTIAL = paletteOf(data.colours.sequential);
const DIVERGING = paletteOf(data.colours.diverging);

const inDegrees = (axis) => (axis.unit === "rad" ? 180 / Math.PI : 1);
const symbol = (axis) => ({ phi: "φ", psi: "ψ" }[axis.name] ?? axis.name);
const axisLabel = (axis) => (axis.unit === "rad" ? `${symbol(axis)} (degrees)` : `${symbol(axis)}${axis.unit ? ` (${axis.unit})` : ""}`);

function axisScale(axis, from, to) {
  const scale = makeScale(false, axis.lower * inDegrees(axis), axis.upper * inDegrees(axis), from, to);
  if (axis.unit === "rad" && axis.upper - axis.lower > 6) {
    scale.ticks = [-180, -90, 0, 90, 180, 270, 360].map((value) => ({ value, label: String(value).replace("-", "−") }))
      .filter(({ value }) => value >= axis.lower * inDegrees(axis) - 1e-6 && value <= axis.upper * inDegrees(axis) + 1e-6);
  }
  return scale;
}

/** The two panels of a side, linked with all others. */
function pmfPanels(host, side, system, reference, range, linked) {
  const kinds = [{ name: "pmf", title: "PMF", values: side.pmf, low: 0, high: data.cut, palette: SEQUENTIAL, label: "PMF (kT)" }];
  if (side.error) {
    kinds.push({ name: "error", title: "Error", values: side.error.values, low: -range, high: range, palette: DIVERGING, label: "estimate − reference (kT)" });
  }
  for (const kind of kinds) {
    const frame = html("div", { class: "panel", tabindex: 0, role: "img", "aria-label": `${kind.title} of ${side.label} on ${system.name}`, "data-kind": kind.name });
    const draw = system.axes.length === 1 ? drawLines : drawMap;
    const panel = draw(frame, kind, side, system, reference);
    linked.panels.push(panel);
    linkPanel(frame, panel, linked);
    host.append(html("figure", {}, html("figcaption", {}, `${kind.title}: ${side.label}`), frame));
  }
}

function canvasAt(frame, columns, rows, box) {
  const canvas = html("canvas", { width: columns, height: rows });
  canvas.style.left = `${(100 * box.left) / VIEW.width}%`;
  canvas.style.top = `${(100 * box.top) / VIEW.height}%`;
  canvas.style.width = `${(100 * (box.right - box.left)) / VIEW.width}%`;
  canvas.style.height = `${(100 * (box.bottom - box.top)) / VIEW.height}%`;
  frame.append(canvas);
  return canvas;
}

/** Colour each pixel by a value; what is not a number stays transparent, over the grey of the style sheet. */
function paint(canvas, valueAt, kind) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let row = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1) {
      const value = valueAt(column, height - 1 - row);
      if (Number.isNaN(value)) continue;
      const level = Math.max(0, Math.min(255, Math.floor((256 * (value - kind.low)) / (kind.high - kind.low))));
      image.data.set([...kind.palette[level], 255], 4 * (row * width + column));
    }
  }
  context.putImageData(image, 0, 0);
}

function drawMap(frame, kind, side, system) {
  const [first, second] = system.axes;
  const [x, y] = [axisScale(first, BOX.left, BOX.right), axisScale(second, BOX.bottom, BOX.top)];
  paint(canvasAt(frame, first.bins, second.bins, BOX), (i, j) => kind.values[i * second.bins + j], kind);
  const bar = { left: BAR.left, right: BAR.right, top: BOX.top, bottom: BOX.bottom };
  paint(canvasAt(frame, 1, 256, bar), (_, j) => kind.low + ((j + 0.5) / 256) * (kind.high - kind.low), kind);
  const image = svg("svg", { viewBox: `0 0 ${VIEW.width} ${VIEW.height}` }, drawAxes(BOX, x, y, axisLabel(first), axisLabel(second), false));
  const z = makeScale(false, kind.low, kind.high, BOX.bottom, BOX.top);
  z.ticks.forEach(({ value, label }) => {
    image.append(svg("line", { class: "tick", x1: BAR.right, x2: BAR.right + 4, y1: z(value), y2: z(value) }));
    image.append(svg("text", { x: BAR.right + 7, y: z(value) + 4 }, label));
  });
  image.append(svg("text", { "text-anchor": "middle", transform: `translate(${VIEW.width - 4} ${(BOX.top + BOX.bottom) / 2}) rotate(-90)` }, kind.label));
  const cross = svg("rect", { class: "cross", visibility: "hidden" });
  image.append(cross);
  frame.append(image);
  const size = [(BOX.right - BOX.left) / first.bins, (BOX.bottom - BOX.top) / second.bins];
  return {
    bins: [first.bins, second.bins],
    mark: (bin) => {
      cross.setAttribute("visibility", bin ? "visible" : "hidden");
      if (!bin) return;
      fill(cross, { x: BOX.left + bin[0] * size[0] - 2, y: BOX.bottom - (bin[1] + 1) * size[1] - 2, width: size[0] + 4, height: size[1] + 4 }, []);
    },
  };
}

function drawLines(frame, kind, side, system, reference) {
  const [axis] = system.axes;
  const wide = { ...BOX, right: VIEW.width - 12 };
  const [x, y] = [axisScale(axis, wide.left, wide.right), makeScale(false, kind.low, kind.high, wide.bottom, wide.top)];
  const centres = Array.from({ length: axis.bins }, (_, i) => (axis.lower + ((i + 0.5) * (axis.upper - axis.lower)) / axis.bins) * inDegrees(axis));
  const image = svg("svg", { viewBox: `0 0 ${VIEW.width} ${VIEW.height}` }, drawAxes(wide, x, y, axisLabel(axis), kind.label));
  const clip = (values) => Array.from(values, (v) => (v > kind.high || v < kind.low ? NaN : v));
  if (kind.name === "error") image.append(svg("line", { class: "zero", x1: wide.left, x2: wide.right, y1: y(0), y2: y(0) }));
  image.append(svg("path", { class: `median ${side.colour}`, stroke: "currentColor", d: pathOf(centres, clip(kind.values), x, y) }));
  if (kind.name === "pmf" && reference) {
    image.append(svg("path", { class: "true m0", stroke: "currentColor", d: pathOf(centres, clip(reference), x, y) }));
    image.append(svg("text", { x: wide.right - 6, y: wide.bottom - 8, "text-anchor": "end" }, `${side.label} (line), reference (dashes)`));
  }
  const cursor = svg("line", { class: "cursor", y1: wide.top, y2: wide.bottom, visibility: "hidden" });
  image.append(cursor);
  frame.append(image);
  return {
    bins: [axis.bins],
    right: wide.right,
    mark: (bin) => {
      cursor.setAttribute("visibility", bin ? "visible" : "hidden");
      if (bin) fill(cursor, { x1: x(centres[bin[0]]), x2: x(centres[bin[0]]) }, []);
    },
  };
}

/** Pointer and arrow keys: mark the same bin on every panel and say its values. */
function linkPanel(frame, panel, linked) {
  let current = null;
  const leave = () => { linked.panels.forEach((p) => p.mark(null)); hideTip(); };
  const say = (bin, x, y) => {
    current = bin;
    linked.panels.forEach((p) => p.mark(bin));
    showTip(x, y, binWords(bin, linked));
  };
  frame.addEventListener("pointermove", (event) => {
    const bounds = frame.getBoundingClientRect();
    const px = ((event.clientX - bounds.left) / bounds.width) * VIEW.width;
    const py = ((event.clientY - bounds.top) / bounds.height) * VIEW.height;
    const parts = [(px - BOX.left) / ((panel.right ?? BOX.right) - BOX.left), (BOX.bottom - py) / (BOX.bottom - BOX.top)];
    if (parts.some((part) => part < 0 || part >= 1)) return leave();
    return say(panel.bins.map((n, k) => Math.floor(parts[k] * n)), event.clientX, event.clientY);
  });
  frame.addEventListener("pointerleave", leave);
  frame.addEventListener("blur", leave);
  frame.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const from = current ?? panel.bins.map((n) => Math.floor(n / 2));
    const bounds = frame.getBoundingClientRect();
    say(from.map((v, k) => Math.max(0, Math.min(panel.bins[k] - 1, v + step[k]))), bounds.left + bounds.width / 2, bounds.top);
  });
}

function binWords(bin, { sides, reference, system }) {
  const index = system.axes.length === 1 ? bin[0] : bin[0] * system.axes[1].bins + bin[1];
  const place = system.axes.map((axis, k) => {
    const centre = (axis.lower + ((bin[k] + 0.5) * (axis.upper - axis.lower)) / axis.bins) * inDegrees(axis);
    return `${symbol(axis)} = ${shortNumber(Number(centre.toFixed(2)))}${axis.unit === "rad" ? "°" : ` ${axis.unit}`}`.trim();
  });
  const energy = (f) => (Number.isFinite(f) ? `${f.toFixed(2)} kT` : `above ${data.stored_to} kT`);
  const lines = [place.join(", ")];
  if (reference) lines.push(`reference: ${energy(reference[index])}`);
  sides.forEach((side, k) => {
    if (!side.pmf) return;
    const error = side.error ? side.error.values[index] : NaN;
    const words = Number.isNaN(error) ? "" : `, error ${signed(error, Math.abs(error) < 0.1 ? 4 : 2)} kT`;
    lines.push(`${"AB"[k]} ${side.label}: ${energy(side.pmf[index])}${words}`);
  });
  return lines;
}
