// Provenance: one expandable entry per run.

/** Creates a table with a heading, without empty rows; null if no row is left. */
function facts(title, rows, heads = null) {
  const kept = rows.filter((row) => row[1] !== null && row[1] !== undefined && row[1] !== "");
  if (kept.length === 0) return null;
  const cell = (text, i) => (i === 0 ? html("th", { scope: "row" }, String(text)) : html("td", {}, String(text)));
  const head = heads ? html("thead", {}, html("tr", {}, ...heads.map((h) => html("th", { scope: "col" }, h)))) : null;
  const body = html("tbody", {}, ...kept.map((row) => html("tr", {}, ...row.map(cell))));
  return html("table", { class: "facts" }, html("caption", {}, title), head, body);
}

function nested(title, value) {
  if (value === null || value === undefined || Object.keys(value).length === 0) return null;
  const text = html("pre", { tabindex: 0 }, JSON.stringify(value, null, 2));
  return html("details", { class: "raw" }, html("summary", {}, title), text);
}

const plain = (name) => name.replaceAll("_", " ").replace("kld", "KLD");
const nameOf = (record) => `${record.system} / ${record.method} / ${record.preset} / seed ${record.seed}`;

function warningsOf(record) {
  const found = (record.diagnostics ?? {}).warnings ?? [];
  return (Array.isArray(found) ? found : [found]).map((w) => (typeof w === "string" ? w : JSON.stringify(w)));
}

function commitOf(record) {
  const git = record.provenance.git;
  return git && git.commit ? `${git.commit}${git.dirty ? " (with uncommitted changes)" : ""}` : null;
}

function runBody(run) {
  const { record } = run;
  const { provenance, evaluations, metrics } = record;
  const phases = [...new Set([...Object.keys(evaluations.by_phase), ...Object.keys(record.seconds)])];
  const time = (phase, kind) => (record.seconds[phase] ? seconds(number(record.seconds[phase][kind])) : "–");
  const perPhase = phases.map((p) => [p, count(evaluations.by_phase[p] ?? 0), time(p, "wall"), time(p, "cpu")]);
  const total = (kind) => seconds(Object.values(record.seconds).reduce((sum, spent) => sum + number(spent[kind]), 0));
  const external = record.origin === "external"; // of another program: nobody measured its time
  perPhase.push(["all", count(evaluations.total), external ? "–" : total("wall"), external ? "–" : total("cpu")]);
  const entries = Object.entries(metrics).map(([name, value]) => [name, value === null ? NaN : number(value)]);
  const basin = "delta_f_error/";
  const inKT = (value) => (Number.isFinite(value) ? `${signed(value, 3)} kT` : shortNumber(value));
  const basins = entries.filter(([name]) => name.startsWith(basin)).map(([name, value]) => [name.slice(basin.length), inKT(value)]);
  const scores = entries.filter(([name]) => !name.startsWith(basin)).map(([name, value]) => [plain(name), shortNumber(value)]);
  const warnings = warningsOf(record);
  const anomalies = Object.entries(record.anomalies).map(([kind, a]) => `${plain(kind)}: ${count(a.count)} of ${count(a.occasions)}`);
  const packages = Object.entries(provenance.packages ?? {});
  const reference = record.reference ?? {};
  const floor = reference.noise_floor === undefined ? null : shortNumber(number(reference.noise_floor));
  return html("div", { class: "body" },
    warnings.length ? html("ul", { class: "warnings" }, ...warnings.map((w) => html("li", {}, w))) : null,
    facts("Evaluations and time by phase", perPhase, ["phase", "evaluations", "wall", "CPU"]),
    facts("Basins: free energy − reference", basins),
    facts("Scores", scores),
    facts("Run", [
      ["origin", external ? "another program; evaluations are self-reported" : null],
      ["status", record.status], ["reason", record.reason], ["engine", record.engine], ["device", record.device],
      ["threads", record.threads], ["budget", record.budget === null ? "none" : count(record.budget)],
      ["evaluations as counted in the publication", count(evaluations.publication_convention)],
      ["anomalies", anomalies.join("; ") || "none"], ["configuration", record.config_hash.slice(0, 12)],
    ]),
    facts("Machine", [
      ["CPU", provenance.cpu], ["cores", provenance.cores], ["accelerator", provenance.accelerator],
      ["platform", provenance.platform], ["kernels compiled by", provenance.native],
    ]),
    facts("Software", [
      ["commit", commitOf(record)], ["cgbench", provenance.cgbench], ["Python", provenance.python], ...packages,
    ]),
    facts("Reference", [["source", reference.source], ["noise floor", floor], ["SHA-256", reference.sha256]]),
    facts("Density", Object.entries(record.density ?? {}).map(([k, v]) => [plain(k), typeof v === "number" ? shortNumber(v) : v])),
    nested("Configuration", record.config),
    nested("Diagnostics", record.diagnostics));
}

function runEntry(run) {
  const { record } = run;
  const warnings = warningsOf(record).length;
  const summary = [
    record.status, `${count(record.evaluations.total)} evaluations`,
    `KLD ${kldWords(number(record.metrics.forward_kld), floorOf(run))}`,
  ];
  if (warnings) summary.push(plural(warnings, "warning"));
  const entry = html("details", { class: "run" }, html("summary", {},
    html("span", { class: `swatch ${colourClass(record.method)}` }),
    html("b", {}, nameOf(record)), ` ${summary.join(", ")}`));
  entry.addEventListener("toggle", () => {
    if (entry.open && entry.children.length === 1) entry.append(runBody(run));
  });
  return entry;
}

function drawRuns() {
  const visible = shownSystems();
  const wanted = byId("run-filter").value.trim().toLowerCase();
  const text = ({ record }) => `${nameOf(record)} ${commitOf(record) ?? ""}`.toLowerCase();
  const order = data.groups.filter((g) => visible.includes(g.where)).flatMap((g) => g.runs.map((i) => data.runs[i]));
  const entries = order.filter((run) => text(run).includes(wanted)).map(runEntry);
  byId("run-list").replaceChildren(...(entries.length ? entries : [html("p", {}, "No run matches.")]));
}
