// The live view, on a page and in a notebook: what is asked of the model, and how it is drawn.
//
// `render({transport, el, state})` needs of `transport`: send(message), listen(each), watch(each) with "open"
// or "lost"; of `state`: load() and save(value). Texts are set as text, never as markup.

const REST = 150; // milliseconds without a change after which a drag rests
const PATIENCE = 250; // milliseconds until a wait is called one
const TYPING = 600; // milliseconds without a key after which a prompt is read
const SLACK = 0.95; // of the sites lie within the map's scale

// Elements ---------------------------------------------------------------------------------------------

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}
const make = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const draw = (name, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
const hidden = (text) => make("span", { class: "tlx-hidden" }, text);

function labelled(title, control, kind = "") {
  return make("label", { class: `tlx-field ${kind}` }, make("span", {}, title), control);
}

// Numbers and texts ------------------------------------------------------------------------------------

const known = (value) => typeof value === "number" && Number.isFinite(value);
const within = (value, low, high) => Math.min(Math.max(value, low), high);
const mean = (values) => values.reduce((sum, each) => sum + each, 0) / values.length;

function number(value, digits = 3) {
  if (!known(value)) return "–";
  if (value > 0 && value < 0.5 * 10 ** -digits) return `<${(10 ** -digits).toFixed(digits)}`;
  return value.toFixed(digits).replace("-", "−");
}
/** With its sign; one too small for the digits by its size, so that it is not called none. */
function change(value, digits = 3) {
  if (!known(value)) return "–";
  const size = Math.abs(value), told = size && size < 0.5 * 10 ** -digits ? short(size) : size.toFixed(digits);
  return (value < 0 ? "−" : "+") + told;
}

/** Three digits that count, for singular values and effects. */
function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e4 || size < 1e-3 ? value.toExponential(1) : Number(value.toPrecision(2)).toString();
  return text.replace("-", "−");
}

/** A token as it is seen: blanks and line ends have signs. */
const visible = (token) => token.replace(/ /g, "·").replace(/\n/g, "⏎").replace(/\t/g, "⇥");
const cropped = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** The end of an axis from 0 that holds a value. */
const ceiling = (value) => [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1].find((each) => value <= each) ?? value;

// Charts -----------------------------------------------------------------------------------------------

/** An empty picture that is drawn again when its width changes. */
function picture(height, label, paint) {
  const node = draw("svg", { class: "tlx-chart", role: "img", "aria-label": label, height, width: "100%" });
  let data = null, width = 0;
  const again = () => { if (data && width) paint(node, width, height, data); };
  const seen = new ResizeObserver(([entry]) => {
    if (Math.round(entry.contentRect.width) === width) return;
    width = Math.round(entry.contentRect.width);
    again();
  });
  seen.observe(node);
  return {
    node,
    show(value) { data = value; width ||= Math.round(node.getBoundingClientRect().width); again(); },
    end: () => seen.disconnect(),
  };
}

const ROW = 34, ROWS = 9, TOKEN = 112, READING = 54;

/** Next tokens, uncut above cut: bars whose rows move where they belong. */
function tokenBars() {
  const rows = new Map();
  const chart = picture(ROWS * ROW, "next tokens", paint);

  function row(id) {
    const parts = {
      name: draw("text", { class: "tlx-token", x: TOKEN - 8, y: 21, "text-anchor": "end" }),
      track: draw("rect", { class: "tlx-track", x: TOKEN, y: 3, height: 26, rx: 4 }),
      before: draw("rect", { class: "tlx-before", x: TOKEN, y: 4, height: 8, rx: 2 }),
      after: draw("rect", { class: "tlx-after", x: TOKEN, y: 14, height: 13, rx: 2 }),
      control: draw("circle", { class: "tlx-control", cy: 20.5, r: 4.5 }),
      was: draw("text", { class: "tlx-was", y: 12, "text-anchor": "end" }),
      is: draw("text", { class: "tlx-is", y: 26, "text-anchor": "end" }),
    };
    const node = draw("g", { class: "tlx-row", "data-id": id }, ...Object.values(parts));
    return { node, parts };
  }

  function paint(svg, width, _height, { top: all, answers, control }) {
    const top = all.slice(0, ROWS);
    const room = Math.max(width - TOKEN - READING, 40);
    const most = ceiling(Math.max(...top.flatMap((each) => [each.before, each.after ?? 0, control?.get(each.id) ?? 0]), 0.01));
    const along = (p) => within(p / most, 0, 1) * room;
    const stays = new Set(top.map((each) => each.id));
    for (const [id, { node }] of rows) if (!stays.has(id)) { node.remove(); rows.delete(id); }
    top.forEach((each, place) => {
      const fresh = !rows.has(each.id);
      if (fresh) rows.set(each.id, row(each.id));
      const { node, parts } = rows.get(each.id);
      if (fresh) svg.append(node);
      node.style.transform = `translateY(${place * ROW}px)`;
      node.dataset.answer = answers.get(each.id) ?? "";
      parts.name.textContent = cropped(visible(each.token), 14);
      parts.track.setAttribute("width", room);
      parts.before.setAttribute("width", along(each.before));
      parts.after.setAttribute("width", along(each.after ?? each.before));
      for (const text of [parts.was, parts.is]) text.setAttribute("x", width - 2);
      parts.was.textContent = number(each.before);
      parts.is.textContent = number(each.after ?? each.before);
      const random = control?.get(each.id);
      parts.control.classList.toggle("tlx-none", !known(random));
      if (known(random)) parts.control.setAttribute("cx", TOKEN + along(random));
    });
    svg.setAttribute("aria-label", `Next tokens, uncut and cut: ${top.map((each) =>
      `${each.token.trim()} ${number(each.before)}, ${number(each.after ?? each.before)}`).join("; ")}`);
  }
  return chart;
}

const LEAST = 1e-6; // on the axis of a lens

/** The probability of an answer, read after every layer. */
function lensChart(name) {
  const left = 44, right = 44, top = 18, bottom = 16;
  return picture(84, `${name} answer after each layer`, (svg, width, height, { uncut, cut, layer }) => {
    const last = Math.max(uncut.length - 1, 1);
    const x = (place) => left + (place / last) * (width - left - right);
    const y = (p) => top - (within(Math.log10(Math.max(p, LEAST)), Math.log10(LEAST), 0) / -Math.log10(LEAST)) * (height - top - bottom);
    const line = (values, kind) => draw("polyline", {
      class: kind, points: values.map((p, place) => `${x(place).toFixed(1)},${y(p).toFixed(1)}`).join(" "),
    });
    const text = (kind, across, down, anchor, what) =>
      draw("text", { class: kind, x: across, y: down, "text-anchor": anchor }, what);
    const ends = [["uncut", uncut.at(-1)], ...(cut ? [["cut", cut.at(-1)]] : [])];
    const heights = ends.map(([, p]) => y(p) + 4);
    if (cut && Math.abs(heights[0] - heights[1]) < 13) {
      const over = heights[1] <= heights[0] ? 1 : 0, middle = (heights[0] + heights[1]) / 2;
      const held = within(middle, top + 10, height - bottom - 6);
      heights[over] = held - 5;
      heights[1 - over] = held + 8;
    }
    const ticks = last < 8 ? 1 : last < 16 ? 5 : 10;
    svg.replaceChildren(
      ...[1, 1e-3, LEAST].flatMap((p) => [
        draw("line", { class: "tlx-grid", x1: left, x2: width - right, y1: y(p), y2: y(p) }),
        text("tlx-tick", left - 5, y(p) + 4, "end", p === LEAST ? "≤1e-6" : String(p)),
      ]),
      ...(known(layer) ? [draw("line", { class: "tlx-here", x1: x(layer), x2: x(layer), y1: top, y2: height - bottom })] : []),
      text("tlx-tick", left, 10, "start", "p after each layer, log axis (logit lens)"),
      ...uncut.map((_, place) => place).filter((place) => place % ticks === 0 && last - place >= ticks / 2 || place === last)
        .map((place) => text("tlx-tick", x(place), height - 3, "middle", String(place))),
      line(uncut, "tlx-line-before"),
      ...(cut ? [line(cut, "tlx-line-after")] : []),
      ...ends.map(([what], place) => text(place ? "tlx-end-after" : "tlx-end-before", width - right + 5, heights[place], "start", what)),
    );
    svg.setAttribute("aria-label", `${name} answer after each layer: uncut ends at ${number(uncut.at(-1))}`
      + (cut ? `, cut at ${number(cut.at(-1))}` : ""));
  });
}

const KNOB = 11; // half a slider's knob: the spectrum begins where the middle of the knob can be

/** Singular values on a log axis, what is kept filled. */
function spectrumChart() {
  const top = 14, bottom = 16;
  return picture(132, "spectrum", (svg, width, height, { values, kept, rank, count }) => {
    const sizes = values.map(([, value]) => value).filter((value) => value > 0);
    if (!sizes.length) {
      svg.replaceChildren(draw("text", { class: "tlx-tick", x: KNOB, y: 10 }, "all singular values are 0"));
      svg.setAttribute("aria-label", `All ${rank} singular values are 0; ${count} kept`);
      return;
    }
    const high = Math.max(...sizes), low = Math.max(Math.min(...sizes), high * 1e-4);
    const [first, over] = [Math.log10(low) - 0.05, Math.log10(high) + 0.02];
    const x = (place) => KNOB + (place / rank) * (width - 2 * KNOB);
    const y = (value) => top + (1 - within((Math.log10(Math.max(value, low)) - first) / (over - first), 0, 1)) * (height - top - bottom);
    const base = height - bottom;
    const until = (place) => (place + 1 < values.length ? values[place + 1][0] : rank);
    function area(from, to, kind) {
      let path = `M${x(from).toFixed(1)},${base}`;
      values.forEach(([index, value], place) => {
        const [start, end] = [Math.max(index, from), Math.min(until(place), to)];
        if (start < end) path += `L${x(start).toFixed(1)},${y(value).toFixed(1)}H${x(end).toFixed(1)}`;
      });
      return draw("path", { class: kind, d: `${path}V${base}Z` });
    }
    const decades = [];
    for (let power = Math.ceil(first); power <= over; power += 1) decades.push(10 ** power);
    svg.replaceChildren(
      area(0, rank, "tlx-removed"),
      ...kept.filter(([from, to]) => to > from).map(([from, to]) => area(from, to, "tlx-kept")),
      ...decades.flatMap((value) => [
        draw("line", { class: "tlx-grid", x1: KNOB, x2: width - KNOB, y1: y(value), y2: y(value) }),
        draw("text", { class: "tlx-tick tlx-halo", x: width - KNOB - 2, y: y(value) - 3, "text-anchor": "end" }, short(value)),
      ]),
      draw("text", { class: "tlx-tick", x: KNOB, y: height - 3 }, "component 0"),
      draw("text", { class: "tlx-tick", x: width - KNOB, y: height - 3, "text-anchor": "end" }, String(rank - 1)),
      draw("text", { class: "tlx-tick", x: KNOB, y: 10 }, "singular values, log axis"),
    );
    svg.setAttribute("aria-label", `Singular values from ${short(high)} to ${short(Math.min(...sizes))}; ${count} of ${rank} kept`);
  });
}

// The map ----------------------------------------------------------------------------------------------

/** Layers up, matrices across, coloured by what a cut of each would do; arrow keys move, Enter chooses. */
function modelMap(choose) {
  const grid = make("div", { class: "tlx-grid-map", role: "grid", "aria-label": "map of the model" });
  const said = make("p", { class: "tlx-readout" });
  const bar = make("span", { class: "tlx-scale", "aria-hidden": "true" });
  const [least, most] = [make("span"), make("span")];
  const legend = make("p", { class: "tlx-legend" });
  const node = make("section", { class: "tlx-card tlx-map", "aria-label": "map" },
    make("h2", {}, "Where"), grid, make("div", { class: "tlx-scale-row" }, least, bar, most), legend, said);
  let cells = [], places = new Map(), chosen = null, effects = null, words = {}, waits = "";

  const text = (cell) => {
    const effect = effects?.get(cell.site);
    return cell.said + (known(effect) ? `: ${change(effect)}` : "");
  };
  const tell = (cell) => { said.textContent = cell ? text(cell) : ""; };
  const focused = (cell) => {
    for (const each of cells) each.node.tabIndex = each === cell ? 0 : -1;
    cell.node.focus();
  };

  function moved(event, cell) {
    const [down, across] = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
    const beside = (layer, column) => places.get(`${layer} ${column}`);
    let next = null;
    if (down || across) {
      for (let step = 1; !next && step <= cells.length; step += 1) next = beside(cell.layer + down * step, cell.column + across * step);
    } else if (event.key === "Home") next = cells.find((each) => each.layer === cell.layer);
    else if (event.key === "End") next = cells.filter((each) => each.layer === cell.layer).at(-1);
    else if (event.key === "Enter" || event.key === " ") choose(cell.site);
    else return;
    event.preventDefault();
    if (next) focused(next);
  }

  function build({ sites, matrices }) {
    cells = [];
    places = new Map();
    grid.style.setProperty("--columns", matrices.length);
    const layers = [...new Set(sites.map((each) => each.layer))].sort((a, b) => b - a);
    grid.style.setProperty("--layers", layers.length);
    const every = layers.length > 16 ? 5 : 1;
    const head = make("div", { role: "row", class: "tlx-map-row" }, make("span", { role: "columnheader" }, hidden("layer")),
      ...matrices.map((matrix) => make("span", { role: "columnheader", title: matrix }, matrix.replace("W_", ""))));
    const rows = layers.map((layer) => {
      const row = make("div", { role: "row", class: "tlx-map-row" },
        make("span", { role: "rowheader" }, layer % every === 0 ? String(layer) : hidden(String(layer))));
      matrices.forEach((matrix, column) => {
        const found = sites.find((each) => each.layer === layer && each.matrix === matrix);
        if (!found) {
          row.append(make("span", { role: "gridcell", class: "tlx-no-cell" }));
          return;
        }
        const cell = { ...found, column };
        cell.node = make("div", {
          role: "gridcell", class: "tlx-cell", tabindex: -1, "data-site": cell.site, "aria-label": cell.said, "aria-selected": "false",
          onclick: () => { focused(cell); choose(cell.site); }, onkeydown: (event) => moved(event, cell),
          onfocus: () => tell(cell), onpointerenter: () => tell(cell), onpointerleave: () => tell(chosen),
          onblur: () => tell(chosen),
        });
        cells.push(cell);
        places.set(`${layer} ${column}`, cell);
        row.append(cell.node);
      });
      return row;
    });
    grid.replaceChildren(head, ...rows);
    if (cells.length) cells[0].node.tabIndex = 0;
    colour();
  }

  function colour() {
    const sizes = [...(effects?.values() ?? [])].map(Math.abs).sort((a, b) => a - b);
    const size = sizes[Math.min(Math.floor(SLACK * sizes.length), sizes.length - 1)] || sizes.at(-1) || 0;
    for (const cell of cells) {
      const effect = effects?.get(cell.site);
      const share = known(effect) && size ? within(effect / size, -1, 1) : 0;
      cell.node.style.setProperty("--share", `${(Math.abs(share) * 100).toFixed(1)}%`);
      cell.node.dataset.sign = share > 0 ? "more" : "less";
      cell.node.setAttribute("aria-label", text(cell));
    }
    const beyond = sizes.length && sizes.at(-1) > size;
    least.textContent = sizes.length ? `${beyond ? "≤ " : ""}−${short(size)}` : "";
    most.textContent = sizes.length ? `${beyond ? "≥ " : ""}+${short(size)}` : "";
    bar.hidden = !sizes.length;
    legend.textContent = sizes.length ? `predicted change of ${words.metric}, ${words.keep}` : waits;
    tell(chosen);
  }

  return {
    node,
    build,
    site: (name) => cells.find((each) => each.site === name),
    /** What is coming, or why nothing is. */
    unknown(why) { effects = null; waits = why; colour(); },
    show(message) {
      effects = new Map(message.sites.map((each) => [each.site, each.effect]));
      words = message;
      waits = message.why ?? waits;
      colour();
    },
    mark(site, cut) {
      chosen = cells.find((each) => each.site === site) ?? null;
      for (const cell of cells) {
        cell.node.setAttribute("aria-selected", String(cell === chosen));
        cell.node.classList.toggle("tlx-cut", cut.has(cell.site));
        if (chosen) cell.node.tabIndex = cell === chosen ? 0 : -1;
      }
      tell(chosen);
    },
  };
}

// Answers ----------------------------------------------------------------------------------------------

/** One answer: before and after in large figures, its control, and the lens. */
function answerCard(kind, title) {
  const token = make("span", { class: "tlx-pill" });
  const [before, after, control] = ["tlx-number-before", "tlx-number-after", "tlx-number-control"].map((each) => make("span", { class: each }));
  const figures = make("p", { class: "tlx-figures" }, hidden("uncut "), before, make("span", { class: "tlx-arrow", "aria-hidden": "true" }, "→"),
    hidden("cut "), after);
  const beside = make("p", { class: "tlx-beside" });
  const none = make("p", { class: "tlx-hint" }, `Give the ${title} answer above, and it is followed here.`);
  const lens = lensChart(title);
  const node = make("section", { class: "tlx-card tlx-answer", "data-answer": kind, "aria-label": `${title} answer` },
    make("h2", {}, `${title[0].toUpperCase()}${title.slice(1)} answer `, token), figures, beside, lens.node, none);
  return {
    node,
    end: lens.end,
    ask(answer) {
      token.textContent = answer ? visible(answer.text) : "";
      token.hidden = !answer;
      for (const each of [figures, beside, lens.node]) each.classList.toggle("tlx-none", !answer);
      none.hidden = Boolean(answer);
    },
    show(values) {
      before.textContent = number(values.before);
      after.textContent = number(values.after);
    },
    /** Values are null while they are waited for, and none where nothing is cut. */
    control(values, what = "random control") {
      const given = values?.length ? values : null;
      control.textContent = given ? number(mean(given)) : values ? "" : "…";
      beside.replaceChildren(make("span", { class: "tlx-ring", "aria-hidden": "true" }), `${what} `, control,
        ...(given && given.length > 1 ? [` (${number(Math.min(...given))} to ${number(Math.max(...given))})`] : []));
    },
    lens(uncut, cut, layer) { if (uncut?.length) lens.show({ uncut, cut, layer }); },
    stale(is) { node.classList.toggle("tlx-stale", is); },
  };
}

// The table of an evaluation ---------------------------------------------------------------------------

function evaluationTable({ rows, said }) {
  const span = (row) => (known(row.low) && known(row.high) ? ` [${change(row.low)}, ${change(row.high)}]` : "");
  const cell = (text) => make("td", {}, text);
  return make("div", {}, make("p", { class: "tlx-caption" }, said ?? ""),
    make("div", { class: "tlx-wide", tabindex: "0", role: "region", "aria-label": "evaluation" }, make("table", {},
      make("thead", {}, make("tr", {}, ...["", "uncut", "cut", "change [95%]", "control"].map((each) =>
        each ? make("th", { scope: "col" }, each) : make("td")))),
      make("tbody", {}, ...rows.map((row) => make("tr", { "data-metric": row.metric }, make("th", { scope: "row" }, row.metric), cell(number(row.uncut)),
        cell(number(row.cut)), cell(change(row.change) + span(row)), cell(known(row.control) ? change(row.control) : "–")))))));
}

// Letters ----------------------------------------------------------------------------------------------

/** Questions with a number each; whoever asked hears every answer that repeats it. */
function letters(transport, others) {
  // Several views of one widget hear the same answers: each counts from somewhere else.
  let last = Math.floor(Math.random() * 2 ** 40);
  const open = new Map();
  const going = new Set(["progress", "busy", "map"]);
  transport.listen((message) => {
    const asked = open.get(message.id);
    if (!asked || message.kind === "map") { others(message); return; }
    if (!going.has(message.kind)) open.delete(message.id);
    asked(message);
  });
  return {
    ask(message, answered) {
      last += 1;
      open.set(last, answered);
      transport.send({ ...message, id: last });
      return last;
    },
    tell: (message) => transport.send({ ...message, id: (last += 1) }),
    waiting: () => open.size,
    forget: () => open.clear(),
  };
}

// The whole --------------------------------------------------------------------------------------------

/** What was kept of a view, as far as it is what a view keeps: an address may hold anything. */
function kept(given) {
  const own = given && typeof given === "object" ? given : {};
  const word = (value) => (typeof value === "string" ? value : null);
  const cut = (each) => ({ site: word(each?.site), rule: word(each?.rule), amount: known(each?.amount) ? each.amount : null });
  const asked = own.prompt;
  return {
    ...cut(own), task: word(own.task), n: known(own.n) ? own.n : null,
    prompt: typeof asked?.text === "string"
      ? { text: asked.text, in_context: word(asked.in_context), global: word(asked.global), exact: asked.exact === true } : null,
    cuts: Array.isArray(own.cuts) ? own.cuts.map(cut) : [],
  };
}

/** Builds the view in `el`; returns what takes it away again. */
export function render({ transport, el, state }) {
  const now = kept(state.load());
  let world = null, prompt = null, mapped = null, reading = false;
  let wanted = null, flying = null, seen = 0, moves = 0, resting = null, typing = null, slow = null, evaluating = null, told = null;
  const words = new Map(); // of cuts, as they were answered

  // What is on the page
  const title = make("p", { class: "tlx-title" }, "explore");
  const status = make("p", { class: "tlx-status", role: "status" });
  const problem = make("p", { class: "tlx-problem", role: "alert" });
  const notes = make("p", { class: "tlx-notes" });
  const text = make("textarea", { rows: 1, spellcheck: "false", autocomplete: "off" });
  const answers = Object.fromEntries(["in_context", "global"].map((each) => [each, make("input", { type: "text", spellcheck: "false", autocomplete: "off" })]));
  const examples = make("select", {});
  const form = make("form", { class: "tlx-prompt" }, labelled("Prompt", text, "tlx-wide-field"), labelled("In-context answer", answers.in_context, "tlx-in_context"),
    labelled("Global answer", answers.global, "tlx-global"), labelled("Examples", examples), make("button", { type: "submit" }, "Show"));
  const map = modelMap((site) => choose(site));
  const where = make("h2", { class: "tlx-where" });
  const rule = make("select", {});
  const slider = make("input", { type: "range", class: "tlx-slider", "aria-label": "how much of the spectrum stays" });
  const amount = make("input", { type: "number", class: "tlx-amount", "aria-label": "amount" });
  const unit = make("span", { class: "tlx-unit" });
  const spectrum = spectrumChart();
  const said = make("p", { class: "tlx-said" });
  const bars = tokenBars();
  const key = make("p", { class: "tlx-key", "aria-hidden": "true" }, make("span", { class: "tlx-swatch-before" }), "uncut", make("span", { class: "tlx-swatch-after" }), "cut",
    make("span", { class: "tlx-ring" }), "random control");
  const cards = { in_context: answerCard("in_context", "in-context"), global: answerCard("global", "global") };
  const chips = make("ul", { class: "tlx-chips", "aria-label": "cuts" });
  const add = make("button", { type: "button" }, "Add to cuts");
  const copy = make("button", { type: "button" }, "Copy as Python");
  const task = make("select", {});
  const n = make("input", { type: "number", min: 2, max: 200, step: 1, value: 50 });
  const evaluate = make("button", { type: "submit" }, "Evaluate");
  const stop = make("button", { type: "button", hidden: true }, "Stop");
  const progress = make("progress", { "aria-label": "evaluation", hidden: true });
  const outcome = make("div", { class: "tlx-outcome" });
  const evaluation = make("form", { class: "tlx-evaluation" }, labelled("on", task, "tlx-inline tlx-wide-field"), labelled("n", n, "tlx-inline tlx-count"), evaluate, stop);

  // JupyterLab takes keys for its own outside fields, unless it is told not to.
  const root = make("div", { class: "tlx", "data-lm-suppress-shortcuts": "true" }, make("div", { class: "tlx-inner" },
    make("header", { class: "tlx-head" }, title, status),
    form, make("div", { class: "tlx-words" }, notes, problem),
    make("div", { class: "tlx-body" },
      map.node,
      make("div", { class: "tlx-middle" },
        make("section", { class: "tlx-card", "aria-label": "cut" },
          make("div", { class: "tlx-top" }, where, labelled("What stays", rule, "tlx-inline")),
          spectrum.node, slider, make("div", { class: "tlx-under" }, said, make("span", { class: "tlx-exact" }, amount, unit))),
        make("section", { class: "tlx-card", "aria-label": "next tokens" }, make("div", { class: "tlx-top" }, make("h2", {}, "Next token"), key), bars.node)),
      make("div", { class: "tlx-right" }, cards.in_context.node, cards.global.node,
        make("section", { class: "tlx-card tlx-cuts", "aria-label": "cuts" }, chips, make("div", { class: "tlx-buttons" }, add, copy), evaluation, progress, outcome)))));
  el.replaceChildren(root);

  // What is said to the model
  const post = letters(transport, (message) => {
    if (message.kind === "map" && (message.id === undefined || message.id === mapped)) map.show(message);
    if (message.kind === "busy") tellStatus("working");
  });

  function ask(message, answered) {
    post.ask(message, (answer) => {
      if (answer.kind === "busy") { tellStatus("working"); return; }
      if (answer.kind === "error") complain(answer.message, answer.field);
      answered(answer);
      tell();
    });
    tell();
  }

  function tellStatus(what) {
    status.textContent = what;
    status.dataset.state = what;
    root.dataset.busy = what === "ready" ? "no" : "yes";
  }

  /** "working" is said of a wait that can be felt, not of every answer. */
  function tell() {
    if (!post.waiting()) { clearTimeout(slow); slow = null; tellStatus("ready"); return; }
    root.dataset.busy = "yes";
    slow ??= setTimeout(() => { if (post.waiting()) tellStatus("working"); }, PATIENCE);
  }

  function complain(what = "", field = null) {
    problem.textContent = what;
    text.setAttribute("aria-invalid", String(field === "text"));
    for (const [name, input] of Object.entries(answers)) input.setAttribute("aria-invalid", String(field === name));
  }

  const remember = () => state.save(now);
  const chosenRule = () => world.rules.find((each) => each.name === now.rule) ?? world.rules[0];
  const current = () => ({ site: now.site, rule: now.rule, amount: now.amount });
  const others = () => now.cuts.filter((each) => each.site !== now.site).map(({ site, rule: how, amount: much }) => ({ site, rule: how, amount: much }));
  const all = () => [...others(), current()];
  const allKey = () => JSON.stringify(all());
  const cutKey = ({ site, rule: how, amount: much }) => JSON.stringify([site, how, much]);

  // The prompt
  function readPrompt() {
    const given = { text: text.value, in_context: answers.in_context.value || null, global: answers.global.value || null };
    const same = (other) => ["text", "in_context", "global"].every((each) => given[each] === (other[each] ?? null));
    clearTimeout(typing);
    if (now.prompt && (prompt || reading) && same(now.prompt)) return;
    given.exact = world?.prompts.find(same)?.exact ?? false;
    now.prompt = given;
    askPrompt();
  }

  function askPrompt() {
    remember();
    prompt = null;
    copy.disabled = true; // it would be of the prompt before
    reading = true;
    wanted = null;
    root.classList.add("tlx-old");
    map.unknown("predicting what cuts would do …");
    notes.textContent = "";
    if (outcome.querySelector(".tlx-code")) outcome.replaceChildren();
    const asked = now.prompt;
    mapped = null;
    const id = post.ask({ kind: "prompt", ...asked }, (answer) => {
      if (answer.kind === "busy") { tellStatus("working"); return; }
      if (asked !== now.prompt) { tell(); return; } // typed on since
      reading = false;
      if (answer.kind === "error") { complain(answer.message, answer.field); map.unknown(""); }
      else if (answer.kind === "prompt") { complain(); showPrompt(answer); }
      tell();
    });
    mapped = id;
    tell();
  }

  function showPrompt(answer) {
    prompt = answer;
    copy.disabled = false;
    notes.textContent = [`${answer.tokens.length} tokens`, ...(answer.notes ?? [])].join(" · ");
    if (answer.blank) {
      const asTyped = () => { now.prompt = { ...now.prompt, exact: true }; askPrompt(); };
      notes.append(" ", make("button", { type: "button", class: "tlx-small", onclick: asTyped }, "follow as typed"));
    }
    for (const [name, card] of Object.entries(cards)) {
      card.ask(answer[name]);
      card.control(null);
      card.lens(answer.lens?.[name], null, null);
    }
    bars.show({ top: answer.top.map((each) => ({ ...each, before: each.p, after: null })), answers: ids(), control: null });
    changed();
  }

  const ids = () => new Map(["in_context", "global"].filter((each) => prompt?.[each]).map((each) => [prompt[each].id, each]));

  // The cut: one question on its way, the newest waiting
  function changed(at = performance.now()) {
    if (!world) return;
    moves += 1;
    stale(true);
    relabel();
    if (told !== allKey()) outcome.replaceChildren(); // it is of another cut
    want(false, at);
    clearTimeout(resting);
    resting = setTimeout(() => { remember(); want(true, at); }, REST);
  }

  function want(control, at) {
    wanted = { control, at, move: moves, cut: current(), cuts: others() };
    go();
  }

  function go() {
    if (flying || !wanted || !prompt || !now.site) return;
    flying = wanted;
    wanted = null;
    const asked = flying, of = prompt;
    ask({ kind: "cut", cut: asked.cut, cuts: asked.cuts, control: asked.control }, (answer) => {
      if (flying === asked) flying = null;
      if (answer.kind === "cut" && of === prompt) requestAnimationFrame(() => { if (of === prompt) showCut(answer, asked); });
      go();
    });
  }

  function showCut(answer, asked) {
    if (asked.move < seen || asked.cut.site !== now.site) return; // something newer is drawn, or on its way
    seen = asked.move;
    root.classList.remove("tlx-old");
    complain();
    const full = asked.control && asked.move === moves;
    const layer = map.site(asked.cut.site)?.layer ?? null;
    const control = full && answer.control ? new Map(answer.control.top.map((each) => [each.id, each.p])) : null;
    bars.show({ top: answer.top, answers: ids(), control });
    spectrum.show(answer.spectrum);
    said.textContent = answer.said;
    slider.setAttribute("aria-valuetext", answer.said);
    if (words.size > 1000) words.clear();
    [[asked.cut, answer.said], ...asked.cuts.map((each, place) => [each, answer.others[place]])]
      .forEach(([each, what]) => words.set(cutKey(each), what));
    relabel();
    for (const [name, card] of Object.entries(cards)) {
      const values = answer[name];
      if (!values) continue;
      card.show(values);
      card.control(full ? values.control : null, full ? answer.control?.what ?? "no random control" : "random control");
      const lens = answer.lens?.[name];
      if (lens) card.lens(lens.uncut, lens.cut, layer);
    }
    if (full) stale(false);
    root.dataset.rests = String(full);
    const drawn = performance.now();
    root.dispatchEvent(new CustomEvent("tlx-drawn", {
      bubbles: true, detail: { move: asked.move, since: drawn - asked.at, amount: asked.cut.amount, full, answer },
    }));
  }
  const stale = (is) => { for (const card of Object.values(cards)) card.stale(is); root.dataset.rests = "false"; };

  function choose(site) {
    if (site === now.site) return;
    now.site = site;
    said.textContent = "";
    root.classList.add("tlx-old");
    showChoice();
    changed();
  }

  function showChoice() {
    where.textContent = map.site(now.site)?.said ?? now.site ?? "";
    map.mark(now.site, new Set(now.cuts.map((each) => each.site)));
    const how = chosenRule();
    rule.value = how.name;
    const [low, high] = [how.min ?? 0, how.max ?? (how.unit === "count" ? map.site(now.site)?.rank ?? 0 : 1)];
    now.amount = within(known(now.amount) ? now.amount : high, low, high);
    Object.assign(slider, { min: low, max: high, step: how.step ?? (how.unit === "count" ? 1 : 0.005), disabled: how.unit === "none" });
    slider.dir = how.side === "smallest" ? "rtl" : "ltr";
    const share = how.unit === "share";
    Object.assign(amount, { min: share ? 100 * low : low, max: share ? 100 * high : high, step: share ? "any" : 1, disabled: slider.disabled });
    unit.textContent = { share: "%", count: "components", none: "" }[how.unit] ?? how.unit;
    amount.hidden = slider.disabled;
    showAmount();
  }

  function showAmount() {
    slider.value = now.amount;
    if (document.activeElement !== amount && root.getRootNode().activeElement !== amount) {
      amount.value = chosenRule().unit === "share" ? Number((100 * now.amount).toPrecision(4)) : now.amount;
    }
  }

  // Cuts that stay
  function showChips() {
    chips.replaceChildren(...now.cuts.map((each, place) => make("li", { class: "tlx-chip" }, make("span", {}),
      make("button", { type: "button", onclick: () => remove(place) }, "×"))));
    if (!now.cuts.length) chips.append(make("li", { class: "tlx-hint" }, "Add this cut, and choose a second place."));
    if (world) map.mark(now.site, new Set(now.cuts.map((each) => each.site)));
    relabel();
  }

  /** Each chip in the words of its own cut; one whose matrix the knob is at says that the knob holds. */
  function relabel() {
    now.cuts.forEach((each, place) => {
      const [name, button] = chips.children[place].children, what = spoken(each);
      const moved = each.site === now.site && cutKey(each) !== cutKey(current());
      name.textContent = moved ? `${what}: the knob holds instead` : what;
      chips.children[place].classList.toggle("tlx-stale", moved);
      button.setAttribute("aria-label", `remove ${what}`);
    });
  }

  /** As the model's side says it, or until it has been asked, by its rule. */
  function spoken(each) {
    const said = words.get(cutKey(each)), how = world?.rules.find((other) => other.name === each.rule);
    if (said || !how) return said ?? each.site;
    const much = { share: `: ${Number((100 * each.amount).toPrecision(4))}%`, count: `: ${each.amount}`, none: "" }[how.unit];
    return `${map.site(each.site)?.said ?? each.site}, ${how.label}${much}`;
  }

  function remove(place) {
    now.cuts.splice(place, 1);
    showChips();
    (chips.querySelectorAll("button")[Math.min(place, now.cuts.length - 1)] ?? add).focus();
    changed();
  }

  add.addEventListener("click", () => {
    if (!now.site) return;
    now.cuts = [...now.cuts.filter((each) => each.site !== now.site), current()];
    showChips();
    remember();
  });

  // Python
  copy.addEventListener("click", () => ask({ kind: "python", cuts: all() }, async (answer) => {
    if (answer.kind !== "python") return;
    const field = make("textarea", { class: "tlx-code", readonly: true, rows: answer.text.trimEnd().split("\n").length, "aria-label": "Python" });
    field.value = answer.text;
    const done = make("p", { class: "tlx-caption", role: "status" });
    outcome.replaceChildren(done, field);
    told = allKey();
    try {
      await navigator.clipboard.writeText(answer.text);
      done.textContent = "copied";
    } catch (refused) {
      if (!(refused instanceof DOMException || refused instanceof TypeError)) throw refused;
      field.focus(); // no clipboard here: a page that is not secure, or a frame that must not
      field.select();
      done.textContent = "press Ctrl+C or ⌘C to copy";
    }
  }));

  // Evaluation
  evaluation.addEventListener("submit", (event) => {
    event.preventDefault();
    Object.assign(now, { task: task.value, n: Number(n.value) });
    remember();
    running(true);
    progress.removeAttribute("value");
    outcome.replaceChildren();
    const asked = evaluating = {}, of = allKey();
    ask({ kind: "evaluate", task: now.task, n: now.n, cuts: all() }, (answer) => {
      if (asked !== evaluating) return;
      if (answer.kind === "progress") { Object.assign(progress, { max: answer.of, value: answer.done }); return; }
      running(false);
      if (answer.kind !== "evaluated") return;
      const changed = make("p", { class: "tlx-caption", role: "status" }, "The cut was changed meanwhile: evaluate it again.");
      told = allKey();
      outcome.replaceChildren(of === told ? evaluationTable(answer) : changed);
    });
  });
  function running(is) {
    evaluate.hidden = is;
    stop.hidden = !is;
    progress.hidden = !is;
  }
  stop.addEventListener("click", () => {
    evaluating = null;
    post.tell({ kind: "stop" });
    running(false);
  });

  // What a hand does
  slider.addEventListener("input", (event) => { now.amount = Number(slider.value); showAmount(); changed(event.timeStamp || performance.now()); });
  amount.addEventListener("input", () => {
    if (amount.value === "" || !amount.checkValidity()) return;
    now.amount = chosenRule().unit === "share" ? Number(amount.value) / 100 : Number(amount.value);
    showAmount();
    changed();
  });
  amount.addEventListener("blur", showAmount);
  rule.addEventListener("change", () => {
    const before = chosenRule().unit;
    now.rule = rule.value;
    if (chosenRule().unit !== before) now.amount = chosenRule().start ?? null;
    showChoice();
    changed();
  });
  form.addEventListener("submit", (event) => { event.preventDefault(); readPrompt(); });
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    readPrompt();
  });
  text.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(readPrompt, TYPING); });
  for (const each of [text, answers.in_context, answers.global]) each.addEventListener("change", readPrompt);
  examples.addEventListener("change", () => {
    const chosen = world.prompts[Number(examples.value)];
    if (!chosen) return;
    showTyped(chosen);
    readPrompt();
  });
  function showTyped(given) {
    text.value = given.text;
    for (const [name, input] of Object.entries(answers)) input.value = given[name] ?? "";
  }

  // The world
  function greet(hello) {
    world = hello;
    title.replaceChildren(make("b", {}, "explore"), ` ${hello.model}, ${hello.layers} layers`);
    map.build({ sites: hello.sites, matrices: hello.matrices });
    rule.replaceChildren(...hello.rules.map((each) => make("option", { value: each.name }, each.label)));
    task.replaceChildren(...hello.tasks.map((each) => make("option", { value: each }, each)));
    examples.replaceChildren(...hello.prompts.map((each, place) => make("option", { value: place }, cropped(each.text, 40))));
    const start = hello.start;
    if (!map.site(now.site)) Object.assign(now, start);
    if (!hello.rules.some((each) => each.name === now.rule)) Object.assign(now, { rule: start.rule, amount: start.amount });
    now.cuts = now.cuts.filter((each) => {
      const how = hello.rules.find((other) => other.name === each.rule);
      return map.site(each.site) && how && (how.unit === "none" || known(each.amount));
    });
    if (hello.tasks.includes(now.task)) task.value = now.task;
    if (known(now.n) && now.n > 0) n.value = now.n;
    now.prompt ??= hello.prompts[0] ?? { text: "", in_context: null, global: null, exact: false };
    showTyped(now.prompt);
    examples.value = String(hello.prompts.findIndex((each) => each.text === now.prompt.text));
    showChips();
    showChoice();
    askPrompt();
    root.dataset.ready = "yes";
  }

  for (const card of Object.values(cards)) card.ask(null);
  showChips();
  tellStatus("connecting");
  transport.watch((what) => {
    post.forget();
    flying = wanted = null;
    reading = false;
    running(false);
    if (what === "lost") { tellStatus("connection lost, trying again"); return; }
    ask({ kind: "hello" }, (answer) => { if (answer.kind === "hello") greet(answer); });
  });

  return () => {
    clearTimeout(resting);
    clearTimeout(typing);
    clearTimeout(slow);
    for (const each of [bars, spectrum, cards.in_context, cards.global]) each.end();
    root.remove();
  };
}

// In a notebook ----------------------------------------------------------------------------------------

export default {
  render({ model, el }) {
    const heard = [];
    // A widget may be displayed several times: each display is answered by itself.
    const view = Math.random().toString(36).slice(2);
    const pass = (message) => {
      if (message.view === undefined || message.view === view) heard.forEach((each) => each(message));
    };
    model.on("msg:custom", pass);
    const end = render({
      transport: {
        send: (message) => model.send({ ...message, view }),
        listen: (each) => heard.push(each),
        watch: (each) => each("open"),
      },
      el,
      state: {
        load: () => model.get("state") ?? {},
        save: (value) => { model.set("state", structuredClone(value)); model.save_changes(); },
      },
    });
    return () => { model.off("msg:custom", pass); model.send({ kind: "leave", view }); end(); };
  },
};
