// Logarithmic and linear scales, their ticks, and axes in SVG.

/** Returns a function that maps [low, high] to [from, to]. */
function makeScale(log, low, high, from, to) {
  const forward = log ? Math.log10 : (v) => v;
  const [a, b] = [forward(low), forward(high)];
  const scale = (value) => from + ((forward(value) - a) / (b - a)) * (to - from);
  scale.ticks = log ? logTicks(a, b) : linearTicks(low, high, Math.abs(to - from) / 80);
  return scale;
}

function logTicks(a, b) {
  const every = Math.max(1, Math.ceil((b - a) / 8));
  const ticks = [];
  for (let e = Math.floor(a); e <= Math.ceil(b); e += 1) {
    for (let m = 1; m < 10; m += 1) {
      const at = e + Math.log10(m);
      const labelled = m === 1 && e % every === 0;
      if (at >= a - 1e-9 && at <= b + 1e-9 && (m === 1 || every === 1)) {
        ticks.push({ value: m * 10 ** e, label: labelled ? `10${superscript(e)}` : "" });
      }
    }
  }
  return ticks;
}

function linearTicks(low, high, wanted) {
  const rough = (high - low) / Math.max(2, wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= rough);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i <= high / step + 1e-9; i += 1) {
    const value = i * step + 0; // no minus zero
    const label = Math.max(Math.abs(low), Math.abs(high)) >= 1e7 || digits > 4
      ? (value === 0 ? "0" : scientific(value, 1)) : value.toLocaleString("en-US", { maximumFractionDigits: digits });
    ticks.push({ value, label: label.replace("-", "−") });
  }
  return ticks;
}

const segment = (name, x1, y1, x2, y2) => svg("line", { class: name, x1, y1, x2, y2 });
const words = (x, y, anchor, text, name = null) => svg("text", { class: name, x, y, "text-anchor": anchor }, text);
const upright = (x, y, text) => svg("text", { "text-anchor": "middle", transform: `translate(${x} ${y}) rotate(-90)` }, text);
const frameOf = (box) => ({ x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top });

/** Returns frame, grid lines, ticks and labels of a plot with corners (left, top) and (right, bottom). */
function drawAxes(box, x, y, xLabel, yLabel, grid = true) {
  const parts = svg("g", { class: "axes" });
  for (const { value, label } of x.ticks) {
    const at = x(value);
    if (grid && label) parts.append(segment("grid", at, box.top, at, box.bottom));
    parts.append(segment("tick", at, box.bottom, at, box.bottom + (label ? 5 : 3)));
    parts.append(words(at, box.bottom + 18, "middle", label, "x-tick"));
  }
  for (const { value, label } of y.ticks) {
    const at = y(value);
    if (grid && label) parts.append(segment("grid", box.left, at, box.right, at));
    parts.append(segment("tick", box.left - (label ? 5 : 3), at, box.left, at));
    parts.append(words(box.left - 8, at + 4, "end", label, "y-tick"));
  }
  parts.append(svg("rect", { class: "frame", ...frameOf(box) }));
  parts.append(words((box.left + box.right) / 2, box.bottom + 36, "middle", xLabel));
  parts.append(upright(13, (box.top + box.bottom) / 2, yLabel));
  return parts;
}

/** Returns a path through points; a non-finite coordinate leaves a gap. */
function pathOf(xs, ys, x, y) {
  let pen = "M";
  return xs.map((v, i) => {
    const [px, py] = [x(v), y(ys[i])];
    if (!Number.isFinite(px) || !Number.isFinite(py)) {
      pen = "M";
      return "";
    }
    const step = `${pen}${px.toFixed(2)} ${py.toFixed(2)}`;
    pen = "L";
    return step;
  }).join("");
}
