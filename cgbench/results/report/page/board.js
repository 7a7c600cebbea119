// The leaderboard: a table that can be sorted by any column, with misses last.

const KNOWN = {
  system: { label: "System", show: showSystem },
  method: { label: "Method" },
  preset: { label: "Preset" },
  algorithm: { label: "Algorithm" },
  n_seeds: { label: "Seeds" },
  evaluations: { label: "Evaluations", show: (row) => count(number(row.evaluations)) },
  evaluations_with_gradient: { label: "With gradient", show: (row) => showCount(row.evaluations_with_gradient) },
  forward_kld: { label: "Forward KLD", show: showKld },
  "evaluations_to_kld_1e-2": { label: "Evaluations to 10⁻²", show: (row, key) => showTarget(row[key]) },
  "evaluations_to_kld_1e-3": { label: "Evaluations to 10⁻³", show: (row, key) => showTarget(row[key]) },
  speedup_vs_md: { label: "Speedup over MD", show: showSpeedup, descending: true },
  "speedup_to_kld_1e-3": { label: "Speedup to 10⁻³", show: showSpeedup, descending: true },
  "time_speedup_to_kld_1e-3": { label: "Speedup in time to 10⁻³", show: showSpeedup, descending: true },
  basin_df_error_kT: { label: "Basin error (kT)" },
  wall_s: { label: "Wall time", show: (row) => seconds(number(row.wall_s)) },
};
const ROWS = data.leaderboard.map((cells) => Object.fromEntries(data.columns.map((name, i) => [name, cells[i]])));
const NUMERIC = new Set(data.columns.filter((name) => name !== "version" &&
  ROWS.some((row) => typeof row[name] === "number" || ["inf", "-inf", "nan"].includes(row[name]))));
const versionsOf = (name) => data.systems.filter((system) => system.name === name).length;
const board = { key: null, direction: 1 };

function showSystem({ system, version }) {
  return versionsOf(system) > 1 ? `${system}, version ${version}` : system;
}

function showKld(row) {
  const [kld, low, high] = ["forward_kld", "forward_kld_lo", "forward_kld_hi"].map((key) => number(row[key]));
  const floor = number(row.noise_floor);
  const show = (value) => (value < floor ? `≤ ${scientific(floor)}` : value === Infinity ? "∞" : scientific(value));
  if (Number.isNaN(kld)) return "–";
  return Number.isNaN(low) ? show(kld) : `${show(kld)} (${show(low)} to ${show(high)})`;
}

function showCount(value) {
  return Number.isNaN(number(value)) ? "–" : count(number(value));
}

const showTarget = (value) => (number(value) === Infinity ? "not reached" : count(number(value)));

function showSpeedup(row, key) {
  const [value, low, high] = ["", "_lo", "_hi"].map((end) => number(row[key + end]));
  if (Number.isNaN(value)) return "–";
  const sign = { "at least": "≥ ", "at most": "≤ " }[row[`${key}_bound`]] ?? "";
  let interval = low > 0 ? `${shortNumber(low)} to ${shortNumber(high)}` : `at most ${shortNumber(high)}`;
  if (high === Infinity) interval = low > 0 ? `at least ${shortNumber(low)}` : "no bound";
  return `${sign}${shortNumber(value)} (${interval})`;
}

function showPlain(row, key) {
  const value = row[key];
  if (NUMERIC.has(key)) return (key.startsWith("evaluations") ? count : shortNumber)(number(value));
  if (value === true || value === false) return value ? "yes" : "no";
  if (value === null || value === "nan") return "–";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Compares two rows; a miss (infinite, or not a number) comes last in both directions. */
function compareRows(a, b) {
  if (!NUMERIC.has(board.key)) {
    return board.direction * String(a[board.key]).localeCompare(String(b[board.key]), "en", { numeric: true });
  }
  const [x, y] = [number(a[board.key]), number(b[board.key])];
  const missing = Number(!Number.isFinite(x)) - Number(!Number.isFinite(y));
  return missing || (Number.isFinite(x) ? board.direction * (x - y) : 0);
}

function sortBoard(key) {
  const first = KNOWN[key]?.descending ? -1 : 1;
  board.direction = board.key === key ? -board.direction : first;
  board.key = key;
  drawBoard();
  byId("board-table").querySelector(`th[data-key="${CSS.escape(key)}"] button`).focus();
}

function drawBoard() {
  const main = data.columns.filter((name) => name in KNOWN);
  const rest = data.columns.filter((name) => !(name in KNOWN));
  const keys = byId("all-columns").checked ? [...main, ...rest] : main;
  const chosen = byId("system").value;
  const rows = ROWS.filter((row) => chosen === "all" || systemOf(row) === Number(chosen));
  if (board.key !== null) rows.sort(compareRows);
  const heads = keys.map((key) => {
    const sorted = board.key === key ? (board.direction > 0 ? "ascending" : "descending") : "none";
    const button = html("button", { type: "button" }, KNOWN[key]?.label ?? key.replaceAll("_", " "));
    button.addEventListener("click", () => sortBoard(key));
    const kind = NUMERIC.has(key) ? "number" : null;
    return html("th", { scope: "col", "aria-sort": sorted, "data-key": key, class: kind }, button);
  });
  const lines = rows.map((row) => html("tr", {}, ...keys.map((key) => {
    const text = (KNOWN[key]?.show ?? showPlain)(row, key);
    const swatch = key === "method" ? html("span", { class: `swatch ${colourClass(row.method)}` }) : null;
    return html("td", { class: NUMERIC.has(key) ? "number" : null }, swatch, text);
  })));
  byId("board-table").replaceChildren(html("thead", {}, html("tr", {}, ...heads)), html("tbody", {}, ...lines));
}
