"use strict";
(async () => {
  const $ = (id) => document.getElementById(id);
  const packed = new Blob([Uint8Array.from(atob($("data").textContent), (char) => char.charCodeAt(0))]);
  const data = await new Response(packed.stream().pipeThrough(new DecompressionStream("deflate"))).json();
  // In the same order as the markers of the figures (infoplane.plots.style.MARKERS).
  const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-left", "x", "triangle-right", "pentagon",
    "hexagon", "star", "diamond-tall", "star-diamond", "star-square", "star-triangle-up", "star-triangle-down", "hexagram", "triangle-ne", "triangle-sw"];
  const DASHES = ["solid", "7px,4px", "2px,3px", "8px,3px,2px,3px", "14px,4px", "14px,3px,2px,3px,2px,3px"];
  const XT = "I(X;T)", TY = "I(T;Y)", NULL = "I(T;Y) null", MEAN = "mean and band";
  const MOST_TRAIL = 120, PASS_MS = 9000;
  // Width of the linear part of the time axis in decades, as in the figures.
  const LINEAR = 0.4 / 0.9;
  const severalRuns = data.runs.length > 1, hasMean = data.estimates.some((one) => one.mean);
  const layerOn = data.shown.slice(), runOn = data.runs.map(() => true);
  let meanOn = false, runsChosen = false, axisChosen = false;
  let estimate, times, at = 0, playing = null, started = 0, wanted = null;

  // Small helpers.

  // Plotly reads some HTML tags in its texts: escaped, a name is shown letter by letter.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const show = (value) => value === null || value === undefined ? "–"
    : Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(5)));
  const grouped = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, value >= 10000 ? "\u202f" : "");
  const add = (parent, tag, text) => {
    const one = document.createElement(tag);
    if (text !== undefined) one.textContent = text;
    parent.append(one);
    return one;
  };
  const option = (select, value, text) => { add(select, "option", text).value = value; };
  const given = (value) => value !== null && value !== undefined;
  // How many entries of an ascending list are at most `step`, by bisection.
  const countUpTo = (list, step) => {
    let low = 0, high = list.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (list[middle] <= step) low = middle + 1; else high = middle;
    }
    return low;
  };

  // Light and dark.

  const theme = () => document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const ink = () => getComputedStyle(document.body).color;
  const paper = () => getComputedStyle(document.body).backgroundColor;
  const faint = () => getComputedStyle($("caption")).color;
  const layerColor = (layer) => {
    const color = data.colors[theme()][layer];
    return data.colors.light[layer] === "#000000" ? ink() : color;
  };
  const shades = () => data.shades[theme()];

  // Time, in steps or epochs: linear up to the first step and logarithmic beyond it, so that step 0 has its place.

  const clock = () => $("against").value;
  const firstTime = () => times.find((time) => time > 0) || 1;
  const lastTime = () => times[times.length - 1];
  // The position of a time on the axis, in units of the axis (in decades where it is logarithmic).
  const place = (time) => {
    if ($("axis").value === "linear") return time;
    const first = firstTime();
    return time <= first ? LINEAR * time / first : LINEAR + Math.log10(time / first);
  };
  const timeTicks = () => {
    if ($("axis").value === "linear") return {separatethousands: true, exponentformat: "none", nticks: 6};
    const decades = [];
    for (let d = Math.floor(Math.log10(firstTime())); 10 ** d <= lastTime(); d++) if (10 ** d >= firstTime()) decades.push(10 ** d);
    const stride = Math.max(1, Math.ceil(decades.length / 6));
    const values = [...(times[0] <= 0 ? [0] : []), ...decades.filter((_, k) => k % stride === 0)];
    return {tickvals: values.map(place), ticktext: values.map(grouped)};
  };
  // The index of the colour of a time.
  const shade = (time) => {
    const width = place(lastTime()) - place(times[0]) || 1, count = data.shades.light.length;
    return Math.min(count - 1, Math.floor((place(time) - place(times[0])) / width * count));
  };
  // A part or a metric with `times`, which are its steps or its epochs, in ascending order. Snapshots without an epoch
  // are left out where epochs are asked for; `lost` counts them.
  const timed = (part) => {
    const own = clock() === "epoch" ? part.epochs : part.steps;
    const kept = own.map((_, s) => s).filter((s) => given(own[s])).sort((a, b) => own[a] - own[b]);
    const pick = (list) => kept.map((s) => list[s]), deep = (q, name) => Array.isArray(q[name]) ? {[name]: q[name].map(pick)} : {};
    const quantity = (q) => ({...q, ...deep(q, "value"), ...deep(q, "low"), ...deep(q, "high"), ...deep(q, "ceiling"),
      ...q.flags && {flags: {...q.flags, codes: q.flags.codes.map(pick)}}});
    const columns = ["steps", "epochs", "values", "low", "high"].filter((name) => part[name]);
    return {...part, ...Object.fromEntries(columns.map((name) => [name, pick(part[name])])), times: pick(own), lost: own.length - kept.length,
      quantities: Object.fromEntries(Object.entries(part.quantities || {}).map(([name, q]) => [name, quantity(q)]))};
  };
  const timedAll = (found) => ({...found, parts: found.parts.map(timed), mean: found.mean && timed(found.mean)});

  // What is shown: the mean or runs, and of these the chosen layers. A part has the numbers of one run, or of the mean.

  const about = () => {
    const n = [...new Set([estimate.n[0], estimate.n[estimate.n.length - 1]])].join(" to ");
    return `${estimate.name}${estimate.looked && `, ${estimate.looked}`}. N = ${n}`;
  };
  const shownParts = () => [...(meanOn && estimate.mean ? [estimate.mean] : []), ...estimate.parts.filter((part) => runOn[part.run])];
  const shownLayers = (part) => part.layers.map((_, i) => i).filter((i) => layerOn[part.layers[i]]);
  const hasPlane = (part) => part.quantities[XT] && part.quantities[TY];
  const runName = (part) => part.run < 0 ? part.words.split(",")[0] : data.runs[part.run];
  // Where there is a mean it has the solid line, and the runs have the other dashes.
  const dashOf = (run) => hasMean ? DASHES[run < 0 ? 0 : 1 + run % (DASHES.length - 1)] : DASHES[run % DASHES.length];
  const symbolOf = (part, i) => SYMBOLS[data.marks[part.layers[i]] % SYMBOLS.length];
  const traceName = (part, i) => plain(data.layers[part.layers[i]]) + (estimate.methods[part.layers[i]] || "") + (severalRuns ? `, ${plain(runName(part))}` : "");

  const flagsOf = (quantity, i, s) => quantity && quantity.flags ? quantity.flags.names[quantity.flags.codes[i][s]] : "";
  const ceilingOf = (quantity, i, s) => Array.isArray(quantity.ceiling) ? quantity.ceiling[i][s] : quantity.ceiling;
  const isSaturated = (part, i, s) => [XT, TY].some((q) => flagsOf(part.quantities[q], i, s).includes("saturated"));
  // The function that cuts an edge of a band as the figures do: at 0 and at the ceiling, but not inside the values.
  const cuts = new Map();
  const cutOf = (part, q) => {
    if (cuts.has(q)) return cuts.get(q);
    const tops = [], values = [];
    for (const i of shownLayers(part)) q.value[i].forEach((value, s) => {
      if (given(value)) values.push(value);
      if (given(ceilingOf(q, i, s))) tops.push(ceilingOf(q, i, s));
    });
    const least = values.reduce((a, b) => Math.min(a, b), 0), most = [...tops, ...values].reduce((a, b) => Math.max(a, b), -Infinity);
    cuts.set(q, (edge) => tops.length && values.length ? Math.min(Math.max(edge, least), most) : edge);
    return cuts.get(q);
  };
  const ends = (part, q, low, high) => given(low) && given(high) ? [low, high].map(cutOf(part, q)) : null;
  const bandOf = (part, q, i, s) => q.low && given(q.value[i][s]) ? ends(part, q, q.low[i][s], q.high[i][s]) : null;
  // What the curves show beside a quantity: its null (on shuffled labels) with a band, and the band to its other bound.
  const nullOf = (part, name) => part.quantities[`${name} null`];
  const nullBand = (part, q, chance, i, s) => chance.low && given(chance.value[i][s]) ? ends(part, q, chance.low[i][s], chance.high[i][s]) : null;
  const otherBound = (part, name, i, s) => {
    const q = part.quantities[name], other = part.quantities[`${name} lower`] || part.quantities[`${name} upper`];
    return other && given(q.value[i][s]) && given(other.value[i][s]) ? [cutOf(part, q)(other.value[i][s]), q.value[i][s]] : null;
  };

  const when = (part, s) => `step ${grouped(part.steps[s])}` +
    (given(part.epochs[s]) && part.epochs[s] !== part.steps[s] ? `, epoch ${show(part.epochs[s])}` : "");
  // The text under the mouse on layer number `i` of a part at snapshot number `s`: run, values, intervals, flags, ...
  const words = (part, i, s) => {
    const lines = [`<b>${plain(data.layers[part.layers[i]])}</b>  ${when(part, s)}`,
      plain(part.run < 0 ? part.words : `run ${data.runs[part.run]}`)];
    for (const [name, q] of Object.entries(part.quantities)) {
      const value = q.value[i][s], flags = flagsOf(q, i, s), top = ceilingOf(q, i, s);
      if (value === null && !flags) continue;
      let line = `${plain(name)} = ${show(value)} ${plain(q.unit)}`;
      if (q.low && q.low[i][s] !== null) line += ` [${show(q.low[i][s])}, ${show(q.high[i][s])}]`;
      if (q.bound) line += `, ${q.bound}`;
      if (given(top)) line += `, ceiling ${show(top)}`;
      if (flags) line += `, ${plain(flags)}`;
      lines.push(line);
    }
    return lines.join("<br>");
  };

  // The numbers of the snapshots that the plane shows as a trail behind the current one: all of a short run; of a long
  // one at most MOST_TRAIL, at even distances on the time axis. The slider still reaches every snapshot.
  const trail = (part) => {
    const all = part.times.map((_, s) => s);
    if (all.length <= MOST_TRAIL) return all;
    const low = place(part.times[0]), width = place(part.times[all.length - 1]) - low;
    let cell = -1;
    return all.filter((s) => {
      const mine = Math.floor((place(part.times[s]) - low) / width * (MOST_TRAIL - 1));
      if (mine === cell) return false;
      cell = mine;
      return true;
    });
  };

  // Axes.

  // Limits [low, high] of an axis, by the same rule and numbers as `infoplane.results.limits`; `top` is the ceiling.
  const limits = (values, top, unit) => {
    const rule = data.axes;
    let low = Infinity, high = -Infinity;
    for (const value of values) if (given(value)) [low, high] = [Math.min(low, value), Math.max(high, value)];
    if (low > high) [low, high] = [0, top === null ? 1 : top];
    if (low > 0 && low < rule.near_zero * high) low = 0;
    if (top !== null && top > high && high - low >= rule.fill * (top - low)) high = top;
    const largest = Math.max(Math.abs(low), Math.abs(high)) || 1;
    const least = Math.max(rule.share * (top === null ? largest : top), unit === "bits" ? rule.bits : 0);
    if (high - low < least) {
      low = low >= 0 && low + high < least ? 0 : (low + high - least) / 2;
      high = low + least;
    }
    return [low - rule.below * (high - low), high + rule.above * (high - low)];
  };
  // Limits, ceiling and unit of a quantity over all that is shown; `drawn` returns the numbers that a panel draws for
  // one layer at one snapshot.
  const scaleOf = (name, drawn) => {
    const values = [];
    let top = null, unit = "bits";
    for (const part of shownParts()) {
      const q = part.quantities[name];
      if (!q) continue;
      unit = q.unit;
      for (const i of shownLayers(part)) q.value[i].forEach((value, s) => {
        values.push(...drawn(part, q, i, s));
        if (given(ceilingOf(q, i, s))) top = Math.max(top === null ? -Infinity : top, ceilingOf(q, i, s));
      });
    }
    return {range: limits(values, top, unit), top, unit};
  };
  // The plane draws points that have both numbers, and for a mean the ends of its bars.
  const inPlane = (part, q, i, s) => {
    const pair = [XT, TY].map((name) => part.quantities[name] && part.quantities[name].value[i][s]);
    return pair.every(given) ? [q.value[i][s], ...(part.run < 0 && bandOf(part, q, i, s)) || []] : [];
  };
  const inCurves = (name) => (part, q, i, s) => {
    const chance = nullOf(part, name);
    return [q.value[i][s], ...bandOf(part, q, i, s) || [], ...otherBound(part, name, i, s) || [],
      ...chance ? [chance.value[i][s], ...nullBand(part, q, chance, i, s) || []] : []];
  };
  const narrow = () => document.body.offsetWidth < 500;
  // Only these buttons: the default set of the library has one that sends the numbers to a server.
  const config = {displaylogo: false, plotlyServerURL: "", modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]]};
  const quiet = {...config, displayModeBar: false};
  // To drag with a mouse zooms; to drag with a finger scrolls the page.
  const dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
  const base = (more) => ({font: {family: "system-ui, sans-serif", size: 13, color: ink()}, showlegend: false, hovermode: "closest", dragmode,
    paper_bgcolor: paper(), plot_bgcolor: paper(), separators: ".\u202f", modebar: {bgcolor: "rgba(0,0,0,0)", color: faint(), activecolor: ink()},
    hoverlabel: {align: "left", bgcolor: paper(), bordercolor: faint(), font: {color: ink(), size: narrow() ? 11 : 13}}, ...more});
  const axis = (title, more) => ({title: {text: title, standoff: 8}, zeroline: false, showgrid: false, ticks: "outside", linecolor: ink(),
    tickcolor: ink(), exponentformat: "none", showline: true, automargin: true, ...more});
  const timeAxis = () => {
    const low = place(times[0]), high = place(lastTime()), pad = 0.02 * (high - low) || 0.5;
    return axis(clock(), {...timeTicks(), ticklabeloverflow: "allow", range: [low - pad, high + pad]});
  };
  // Add to a layout the dotted line of a ceiling with its name; one beyond the limits has only its name, at that edge.
  const ceiling = (layout, letter, scale, name) => {
    if (scale.top === null) return;
    const inside = scale.top <= scale.range[1], across = letter === "x", other = across ? "y" : "x";
    const text = `${plain(name)} = ${show(scale.top)}${inside ? "" : across ? " →" : " ↑"}`;
    const place = inside ? {[letter]: scale.top} : {[letter]: 1, [`${letter}ref`]: "paper"};
    layout.annotations.push({...place, [other]: across ? 0.02 : 0.01, [`${other}ref`]: "paper", text, textangle: across && inside ? -90 : 0, showarrow: false,
      xanchor: across ? "right" : "left", yanchor: across || inside ? "bottom" : "top", font: {size: 11, color: faint()}});
    if (inside) layout.shapes.push({type: "line", [`${letter}0`]: scale.top, [`${letter}1`]: scale.top, [`${other}ref`]: "paper", [`${other}0`]: 0,
      [`${other}1`]: 1, line: {color: faint(), width: 1, dash: "dot"}, layer: "below"});
  };

  // The plane. Its traces are built anew when a choice changes; the slider only changes up to which time each is shown.
  // An entry has the `trace` for Plotly, and either all its points with their times (`full`), or the part whose current
  // snapshot it shows (`now`).

  let planeTraces = [];
  // The lines through the chosen layers, a line for each snapshot; one trace for all lines of one colour.
  const shadedLines = (part, kept, chosen) => {
    const lines = shades().map(() => ({x: [], y: [], time: []}));
    for (const s of kept) {
      const time = part.times[s], line = lines[shade(time)];
      for (const i of chosen) {
        line.x.push(part.quantities[XT].value[i][s]);
        line.y.push(part.quantities[TY].value[i][s]);
      }
      line.x.push(null);
      line.y.push(null);
      for (let k = 0; k <= chosen.length; k++) line.time.push(time);
    }
    return lines.map((full, k) => ({full, trace: {mode: "lines", hoverinfo: "skip", opacity: 0.55, showlegend: false,
      line: {color: shades()[k], width: 1, dash: dashOf(part.run)}}})).filter((entry) => entry.full.x.length);
  };
  // The points of layer number `i` of a part, joined in order of time unless `byStep`: then lines join the layers.
  const layerTrace = (part, kept, i, byStep) => {
    const pick = (list) => kept.map((s) => list[s]), moments = pick(part.times), color = layerColor(part.layers[i]);
    return {
      full: {x: pick(part.quantities[XT].value[i]), y: pick(part.quantities[TY].value[i]), time: moments},
      trace: {
        name: traceName(part, i), mode: byStep ? "markers" : "lines+markers", hoverinfo: "text", showlegend: true,
        text: kept.map((s) => words(part, i, s)), line: {color, width: 1.6, dash: dashOf(part.run)},
        marker: {symbol: kept.map((s) => symbolOf(part, i) + (isSaturated(part, i, s) ? "-open" : "")), size: byStep ? 6 : 5,
          color: byStep ? moments.map((time) => shades()[shade(time)]) : color},
      },
    };
  };
  const buildPlane = () => {
    const byStep = $("mode").value === "steps";
    planeTraces = [];
    for (const part of shownParts().filter(hasPlane)) {
      const chosen = shownLayers(part), kept = trail(part);
      if (byStep) planeTraces.push(...shadedLines(part, kept, chosen));
      for (const i of chosen) planeTraces.push(layerTrace(part, kept, i, byStep));
      planeTraces.push({now: part, chosen, trace: {mode: "lines+markers", hoverinfo: "text", showlegend: false, name: `now, ${plain(runName(part))}`,
        line: {color: ink(), width: 1.6, dash: dashOf(part.run)}, marker: {size: 11, line: {color: ink(), width: 1.2}}}});
    }
    const none = !planeTraces.length, some = shownParts().length;
    $("plane").hidden = $("save-plane").hidden = none;
    $("no-plane").hidden = !none;
    $("no-plane").textContent = some ? `${estimate.name} gives no pair of I(X;T) and I(T;Y), so there is no plane. Its numbers are in the curves.`
      : "No run is chosen.";
    if (!none) drawPlane(true);
  };
  // The bands of a mean at snapshot `s`, as the lengths of error bars above and below the values.
  const bars = (part, name, chosen, s) => {
    const ends = chosen.map((i) => s < 0 ? null : bandOf(part, part.quantities[name], i, s)), value = (k) => part.quantities[name].value[chosen[k]][s];
    return {array: ends.map((e, k) => e ? e[1] - value(k) : 0), arrayminus: ends.map((e, k) => e ? value(k) - e[0] : 0)};
  };
  // What of an entry of the plane is shown at this time: its points so far, or the current snapshot.
  const slice = (entry, time) => {
    if (!entry.now) {
      const n = countUpTo(entry.full.time, time);
      return {x: entry.full.x.slice(0, n), y: entry.full.y.slice(0, n)};
    }
    const part = entry.now, s = countUpTo(part.times, time) - 1, get = (q) => entry.chosen.map((i) => s < 0 ? null : part.quantities[q].value[i][s]);
    return {x: get(XT), y: get(TY), text: entry.chosen.map((i) => s < 0 ? "" : words(part, i, s)),
      symbol: entry.chosen.map((i) => symbolOf(part, i) + (s >= 0 && isSaturated(part, i, s) ? "-open" : "")),
      color: entry.chosen.map((i) => $("mode").value === "steps" ? shades()[shade(time)] : layerColor(part.layers[i])),
      bars: part.run < 0 ? [bars(part, XT, entry.chosen, s), bars(part, TY, entry.chosen, s)] : []};
  };
  const drawPlane = (rebuild) => {
    if (!planeTraces.length) return;
    const parts = planeTraces.map((entry) => slice(entry, times[at]));
    if (!rebuild) {
      // One call for all traces, except that of the colour bar; undefined leaves an attribute unchanged.
      const all = (get) => parts.map(get), bar = (k, name) => all((p) => p.bars && p.bars[k] ? p.bars[k][name] : undefined);
      Plotly.restyle("plane", {x: all((p) => p.x), y: all((p) => p.y), text: all((p) => p.text),
        "marker.symbol": all((p) => p.symbol), "marker.color": all((p) => p.color), "error_x.array": bar(0, "array"),
        "error_x.arrayminus": bar(0, "arrayminus"), "error_y.array": bar(1, "array"), "error_y.arrayminus": bar(1, "arrayminus")}, parts.map((_, k) => k));
      return;
    }
    const traces = planeTraces.map((entry, k) => {
      const trace = {type: "scatter", ...entry.trace, x: parts[k].x, y: parts[k].y};
      if (!entry.now) return trace;
      trace.marker = {...entry.trace.marker, symbol: parts[k].symbol, color: parts[k].color};
      trace.text = parts[k].text;
      const [wide, tall] = parts[k].bars, look = {type: "data", symmetric: false, thickness: 1, width: 3, color: faint()};
      return wide ? {...trace, error_x: {...look, ...wide}, error_y: {...look, ...tall}} : trace;
    });
    if ($("mode").value === "steps") traces.push(colorBar());
    const rx = scaleOf(XT, inPlane), ry = scaleOf(TY, inPlane);
    const layout = base({margin: {l: 60, r: 10, t: 12, b: 48}, uirevision: $("estimate").value, shapes: [], annotations: [],
      xaxis: axis("I(X;T) [bits]", {range: rx.range}), yaxis: axis("I(T;Y) [bits]", {range: ry.range})});
    ceiling(layout, "x", rx, estimate.ceiling);
    ceiling(layout, "y", ry, "H(Y)");
    Plotly.react("plane", traces, layout, narrow() ? quiet : config);
  };
  // An invisible trace, which has the colour bar of the time.
  const colorBar = () => {
    const low = place(times[0]), high = place(lastTime()), colors = shades();
    return {type: "scatter", mode: "markers", x: [null], y: [null], hoverinfo: "skip", showlegend: false, marker: {color: [low], cmin: low,
      cmax: high > low ? high : low + 1, colorscale: colors.map((c, k) => [k / (colors.length - 1), c]), showscale: true,
      colorbar: {title: {text: clock(), side: "right"}, thickness: narrow() ? 7 : 12, outlinewidth: 0, ...timeTicks()}}};
  };

  // Curves and metrics, with a vertical line at the current time.

  // The line is an HTML element above the panel: to move a shape of Plotly would draw the whole panel anew.
  const cursors = {};
  const moveCursor = (panel) => {
    const layout = $(panel)._fullLayout;
    if (!layout || !layout.xaxis || !cursors[panel]) return;
    const x = layout.xaxis.l2p(place(times[at])), line = cursors[panel];
    line.hidden = !(x >= 0 && x <= layout.xaxis._length);
    line.style.left = `${layout.xaxis._offset + x}px`;
    line.style.top = `${layout._size.t}px`;
    line.style.height = `${layout._size.h}px`;
  };
  const withCursor = (panel) => {
    if (!cursors[panel]) {
      cursors[panel] = add($(panel), "div");
      cursors[panel].className = "cursor";
      $(panel).on("plotly_afterplot", () => moveCursor(panel));
    }
    moveCursor(panel);
  };
  // The outline of a band; `ends` has [low, high] for each of `x`. There is a gap where a value has no band.
  const bandTrace = (x, ends, values, color) => {
    const pieces = [[]];
    values.forEach((value, s) => {
      if (ends[s]) pieces[pieces.length - 1].push(s);
      else if (given(value) && pieces[pieces.length - 1].length) pieces.push([]);
    });
    const known = pieces.filter((piece) => piece.length), back = (piece) => [...piece].reverse();
    return {type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false, fill: "toself", fillcolor: color, opacity: 0.18, line: {width: 0},
      x: known.flatMap((piece) => [...[...piece, ...back(piece)].map((s) => x[s]), null]),
      y: known.flatMap((piece) => [...piece.map((s) => ends[s][1]), ...back(piece).map((s) => ends[s][0]), null])};
  };
  const buildCurves = () => {
    const name = $("quantity").value, traces = [];
    for (const part of shownParts()) {
      const q = part.quantities[name], chance = nullOf(part, name);
      if (!q) continue;
      const x = part.times.map(place), all = (get) => x.map((_, s) => get(s));
      for (const i of shownLayers(part)) {
        const color = layerColor(part.layers[i]), dash = dashOf(part.run), band = (pairs, of, opacity) => {
          if (pairs.some((pair) => pair)) traces.push({...bandTrace(x, pairs, of.value[i], color), opacity});
        };
        band(all((s) => bandOf(part, q, i, s)), q, 0.18);
        band(all((s) => otherBound(part, name, i, s)), q, 0.1);
        if (chance) {
          band(all((s) => nullBand(part, q, chance, i, s)), chance, 0.1);
          traces.push({type: "scatter", mode: "lines", x, y: chance.value[i], hoverinfo: "skip", showlegend: false, line: {color, width: 1, dash: "dot"}});
        }
        traces.push({type: "scatter", mode: "lines+markers", x, y: q.value[i], hoverinfo: "text", name: traceName(part, i), showlegend: true,
          text: all((s) => words(part, i, s)), line: {color, width: 1.8, dash},
          marker: {color, size: 5, symbol: symbolOf(part, i), maxdisplayed: 8}});
      }
    }
    const scale = scaleOf(name, inCurves(name));
    const layout = base({margin: {l: 60, r: 18, t: 12, b: 40}, shapes: [], annotations: [], xaxis: timeAxis(),
      yaxis: axis(`${plain(name)} [${plain(scale.unit)}]`, {range: scale.range})});
    if (name === XT || name === TY) ceiling(layout, "y", scale, name === TY ? "H(Y)" : estimate.ceiling);
    Plotly.react("curves", traces, layout, quiet);
    withCursor("curves");
  };
  // The metrics to draw: their mean, if the mean is shown and they have one, and those of each run that is shown.
  const metricParts = () => {
    const mean = meanOn && estimate.mean, known = Object.keys(data.mean_metrics).length > 0;
    const runs = data.metrics.map((recorded, run) => ({run, recorded})).filter(({run}) => runOn[run] || (mean && !known));
    return [...(mean && known ? [{run: -1, recorded: data.mean_metrics}] : []), ...runs];
  };
  const buildMetrics = () => {
    const traces = [], names = [], colors = [ink(), ...data.metric_colors[theme()]];
    // Accuracies have the axis at the right, losses and all other metrics that at the left.
    const sides = {y: {titles: [], values: []}, y2: {titles: [], values: []}};
    for (const {run, recorded} of metricParts()) {
      const who = run < 0 ? estimate.mean.words : `run ${data.runs[run]}`;
      for (const [name, all] of Object.entries(recorded)) {
        const m = timed(all), yaxis = m.group === "accuracy" ? "y2" : "y", side = sides[yaxis], x = m.times.map(place);
        if (!names.includes(name)) names.push(name);
        if (!side.titles.includes(m.group)) side.titles.push(m.group);
        side.values.push(...m.values, ...m.low || [], ...m.high || []);
        const k = names.indexOf(name), color = colors[k % colors.length], pair = (s) => given(m.low[s]) && given(m.high[s]) ? [m.low[s], m.high[s]] : null;
        if (m.low) traces.push({...bandTrace(x, x.map((_, s) => pair(s)), m.values, color), yaxis});
        traces.push({type: "scatter", mode: "lines", x, y: m.values, yaxis, name: plain(name), showlegend: !traces.some((t) => t.name === plain(name)), hoverinfo: "text",
          text: m.values.map((v, s) => `${plain(name)} = ${show(v)}` + (m.low && given(m.low[s]) ? ` [${show(m.low[s])}, ${show(m.high[s])}]` : "") +
            `<br>${when(m, s)}<br>${plain(who)}`),
          line: {color, width: 1.6, dash: severalRuns ? dashOf(run) : DASHES[k % DASHES.length]}});
      }
    }
    $("metrics").hidden = $("save-metrics").hidden = traces.length === 0;
    if (!traces.length) return;
    const sideAxis = ({titles, values}, more) => axis(plain(titles.join(", ")), {visible: titles.length > 0, range: limits(values, null, ""), ...more});
    Plotly.react("metrics", traces, base({showlegend: true, legend: {orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: {size: 11}},
      margin: {l: 60, r: 50, t: 30, b: 40}, xaxis: timeAxis(), yaxis: sideAxis(sides.y),
      yaxis2: sideAxis(sides.y2, {overlaying: "y", side: "right", tickmode: "auto", nticks: 5})}), quiet);
    withCursor("metrics");
  };

  // The slider and the playing of training.

  // Say the current step in words.
  const tell = () => {
    const exact = (part) => part.times.lastIndexOf(times[at]), part = [...shownParts(), ...estimate.parts].find((one) => exact(one) >= 0);
    $("now").textContent = when(part, exact(part));
    $("step").setAttribute("aria-valuetext", $("now").textContent);
  };
  const goTo = (index) => {
    at = Math.max(0, Math.min(times.length - 1, index));
    $("step").value = at;
    tell();
    drawPlane(false);
    moveCursor("curves");
    moveCursor("metrics");
  };
  // Go to a snapshot when the browser draws its next frame: of several calls before it only the last counts.
  const soon = (index) => {
    if (wanted === null) requestAnimationFrame(() => {
      const next = wanted;
      wanted = null;
      goTo(next);
    });
    wanted = index;
  };
  const stop = () => {
    cancelAnimationFrame(playing);
    playing = null;
    $("play").textContent = "▶ Play";
    $("play").setAttribute("aria-label", "Play");
  };
  const frame = (now) => {
    const index = Math.floor((now - started) / PASS_MS * times.length);
    if (index >= times.length) {
      goTo(times.length - 1);
      stop();
      return;
    }
    if (index > at) goTo(index);
    playing = requestAnimationFrame(frame);
  };
  const play = () => {
    if (playing !== null) {
      stop();
      return;
    }
    if (at >= times.length - 1) goTo(0);
    started = performance.now() - at / times.length * PASS_MS;
    $("play").textContent = "❚❚ Pause";
    $("play").setAttribute("aria-label", "Pause");
    playing = requestAnimationFrame(frame);
  };

  // Files of what is shown.

  const save = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], {type}));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  // A cell of the CSV. A name that a spreadsheet would take for a formula gets an apostrophe in front.
  const cell = (value) => {
    if (!given(value)) return "";
    if (typeof value === "number") return String(value);
    const text = /^[=+\-@\t]/.test(value) ? `'${value}` : value;
    return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };
  const shownRows = () => {
    const rows = [["estimate", "run", "layer", "step", "epoch", "quantity", "value", "low", "high", "bound", "ceiling", "unit", "flags"]];
    for (const part of shownParts()) for (const i of shownLayers(part)) for (const [name, q] of Object.entries(part.quantities)) {
      part.steps.forEach((step, s) => {
        const flags = flagsOf(q, i, s), ends = q.low ? [q.low[i][s], q.high[i][s]] : [null, null];
        if (given(q.value[i][s]) || flags) rows.push([estimate.name, part.run < 0 ? part.words : data.runs[part.run], data.layers[part.layers[i]], step,
          part.epochs[s], name, q.value[i][s], ...ends, q.bound, ceilingOf(q, i, s), q.unit, flags]);
      });
    }
    return rows;
  };
  const saveData = () => save("information-plane.csv", "text/csv", shownRows().map((row) => row.map(cell).join(",") + "\n").join(""));
  // Save a panel as it is shown, with a legend of the layers and a title that says what the numbers are.
  const saveFigure = async (panel) => {
    const {data: traces, layout, offsetWidth: width, offsetHeight: height} = $(panel);
    const lines = [`${about()}.`, panel === "plane" ? "Open markers are saturated." : "", shownParts().some((part) => part.run < 0) ? `Of ${estimate.mean.words}.` : ""];
    const title = {text: plain(lines[0]) + `<br>${plain(lines.slice(1).join(" "))}`, x: 0.02, xanchor: "left", font: {size: 11}};
    const around = {...layout.margin, t: 56, l: layout.margin.l + 20, r: 150};
    const figure = {data: traces, layout: {...layout, title, showlegend: true, legend: {font: {size: 11}, x: 1.2, xanchor: "left"}, margin: around}};
    const url = await Plotly.toImage(figure, {format: "svg", width: width + 150, height: height + 50});
    save(`information-${panel}.svg`, "image/svg+xml", decodeURIComponent(url.slice(url.indexOf(",") + 1)));
  };

  // Choices.

  const rebuild = () => {
    cuts.clear();
    buildPlane();
    buildCurves();
    buildMetrics();
    tell();
  };
  const runBoxes = () => [...$("runs").querySelectorAll("input")];
  // Where there is a mean, only it is shown until the reader chooses runs. Update the boxes accordingly.
  const chooseRuns = () => {
    if (!runsChosen) {
      meanOn = Boolean(estimate.mean);
      runOn.fill(!meanOn);
    }
    for (const box of runBoxes()) {
      const mean = box.dataset.index === "mean", run = Number(box.dataset.index);
      box.checked = mean ? meanOn : runOn[run];
      box.disabled = mean ? !estimate.mean : !estimate.parts.some((part) => part.run === run);
    }
    for (const box of $("layers").querySelectorAll("input")) box.disabled = !estimate.parts.some((part) => part.layers.includes(Number(box.dataset.index)));
  };
  const captionText = () => {
    const longest = Math.max(...estimate.parts.map((part) => part.times.length)), lost = estimate.parts.reduce((sum, part) => sum + part.lost, 0);
    const some = longest > MOST_TRAIL ? `The trail shows at most ${MOST_TRAIL} of ${longest} snapshots, the dark line each. ` : "";
    const gone = lost ? `Snapshots without an epoch, not drawn: ${lost}. ` : "";
    const mean = estimate.mean ? `Mean, where shown: ${estimate.mean.words}; of saturated points any run is. ` : "";
    return `${about()}. ${gone}${some}${mean}Information in bits. Open markers are saturated: the number is only its ceiling. ` +
      "Dotted lines: ceilings; in the curves, the same estimate on shuffled labels.";
  };
  // Show the estimate that is chosen in the list: update times, slider, quantities and caption, and draw everything.
  const choose = () => {
    const before = times ? times[at] : Infinity;
    const found = data.estimates[$("estimate").selectedIndex], dated = found.parts.some((part) => part.epochs.some(given));
    $("against").disabled = !dated;
    if (!dated) $("against").value = "step";
    estimate = timedAll(found);
    times = [...new Set(estimate.parts.flatMap((part) => part.times))].sort((a, b) => a - b);
    // As in the figures: logarithmic where the times span more than two decades.
    if (!axisChosen) $("axis").value = lastTime() > 100 * firstTime() ? "log" : "linear";
    $("step").max = times.length - 1;
    at = Math.max(0, countUpTo(times, before) - 1);
    $("step").value = at;
    const names = [...new Set(estimate.parts.flatMap((part) => Object.keys(part.quantities)))];
    const kept = $("quantity").value;
    $("quantity").replaceChildren();
    for (const name of names.filter((n) => n !== NULL)) option($("quantity"), name, name);
    $("quantity").value = names.includes(kept) ? kept : names.includes(TY) ? TY : names[0];
    $("caption").textContent = captionText();
    for (const {dataset, parentNode} of $("layers").querySelectorAll("input"))
      parentNode.lastChild.textContent = data.layers[dataset.index] + (estimate.methods[dataset.index] || "");
    chooseRuns();
    rebuild();
  };
  // Add a check box with its sign and name to `box`; `change` is called with its new state.
  const toggle = (box, index, name, sign, change) => {
    const label = add(box, "label"), input = add(label, "input");
    input.type = "checkbox";
    input.dataset.index = index;
    input.addEventListener("change", () => {
      change(input.checked);
      rebuild();
    });
    label.append(sign, name);
    return input;
  };
  // The SVG paths of the markers, taken from a plot that the library draws, so that the lists show the same marks.
  const symbolPaths = () => {
    const scratch = add(document.body, "div"), all = [...SYMBOLS.keys()];
    scratch.className = "scratch";
    const done = Plotly.newPlot(scratch, [{mode: "markers", x: all, y: all, marker: {symbol: SYMBOLS, size: 10}}], {width: 600, height: 400});
    const paths = [...scratch.querySelectorAll(".point")].map((point) => point.getAttribute("d"));
    done.then(() => {
      Plotly.purge(scratch);
      scratch.remove();
    });
    return paths;
  };
  const drawn = (box, tag, look) => {
    const one = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(look)) one.setAttribute(name, value);
    box.append(one);
    return one;
  };
  const mark = (width, tag, look) => {
    const svg = drawn(document.createDocumentFragment(), "svg", {class: "mark", width, height: 14, viewBox: `-7 -7 ${width} 14`, "aria-hidden": true});
    drawn(svg, tag, look);
    return svg;
  };
  const lineMark = (run) => mark(36, "path", {d: "M-5,0H28", stroke: "currentColor", "stroke-width": 1.8,
    "stroke-dasharray": dashOf(run).replace(/px/g, "").replace("solid", "none")});
  const chooseRun = (change) => (on) => {
    runsChosen = true;
    change(on);
  };
  // Give the button of the theme and the marks of the layers the look of the current theme.
  const dress = () => {
    const dark = theme() === "dark";
    $("theme").textContent = dark ? "Light" : "Dark";
    $("theme").setAttribute("aria-label", dark ? "Light page" : "Dark page");
    $("layers").querySelectorAll(".mark").forEach((sign, i) => { sign.style.color = layerColor(i); });
  };

  // The page of a run that is being watched looks for a newer version of itself. When it loads that, the choices of the
  // reader go with it.

  const boxesOff = (id) => [...$(id).querySelectorAll("input")].filter((box) => !box.checked).map((box) => box.parentNode.textContent);
  const opened = () => [...document.querySelectorAll("details[open] > summary > b")].map((head) => head.textContent);
  const choices = () => ({estimate: $("estimate").selectedOptions[0].text, mode: $("mode").value, quantity: $("quantity").value,
    against: $("against").value, axis: axisChosen && $("axis").value, time: at < times.length - 1 && times[at], layersOff: boxesOff("layers"),
    runsOff: runsChosen && boxesOff("runs"), opened: opened(), theme: document.documentElement.dataset.theme});
  // Make the choices again that the reader had made in the version of the page before.
  const recall = (was) => {
    const known = [...$("estimate").options].findIndex((one) => one.text === was.estimate);
    if (known >= 0) $("estimate").selectedIndex = known;
    [$("mode").value, $("against").value, axisChosen, runsChosen] = [was.mode, was.against, Boolean(was.axis), Boolean(was.runsOff)];
    if (was.axis) $("axis").value = was.axis;
    if (was.theme) document.documentElement.dataset.theme = was.theme;
    data.layers.forEach((name, i) => { layerOn[i] = !was.layersOff.includes(name); });
    if (was.runsOff) data.runs.forEach((name, run) => { runOn[run] = !was.runsOff.includes(name); });
    if (was.runsOff) meanOn = hasMean && !was.runsOff.includes(MEAN);
    option($("quantity"), was.quantity, was.quantity);
    for (const head of document.querySelectorAll("summary > b")) head.closest("details").open = was.opened.includes(head.textContent);
  };
  // Ask the server for a newer version: 304 says that there is none. While training is being played, do not ask.
  const look = async () => {
    if (playing !== null) return;
    const {number} = document.body.dataset;
    try {
      const answer = await fetch(location.pathname, {headers: {"If-None-Match": `"${number}"`}, cache: "no-store"});
      if (answer.status === 304) return;
      if (!answer.ok) throw new Error(answer.status);
      history.replaceState(choices(), "");
      location.reload();
    } catch {
      $("watched").textContent = "Nobody watches the run any more: this is the last page.";
      clearInterval(looking);
    }
  };
  let looking = null;

  data.estimates.forEach((one, k) => option($("estimate"), k, one.short));
  $("against").parentNode.hidden = !data.estimates.some((one) => one.parts.some((part) => part.epochs.some(given)));
  const was = document.body.dataset.seconds ? history.state : null;
  if (was) recall(was);
  const paths = symbolPaths();
  data.layers.forEach((name, i) => {
    const sign = mark(14, "path", {d: paths[data.marks[i] % SYMBOLS.length], fill: "currentColor"});
    toggle($("layers"), i, name, sign, (on) => { layerOn[i] = on; }).checked = layerOn[i];
  });
  if (hasMean) toggle($("runs"), "mean", MEAN, lineMark(-1), chooseRun((on) => { meanOn = on; }));
  data.runs.forEach((name, run) => toggle($("runs"), run, name, lineMark(run), chooseRun((on) => { runOn[run] = on; })));
  $("estimate").addEventListener("change", choose);
  $("mode").addEventListener("change", buildPlane);
  $("axis").addEventListener("change", () => {
    axisChosen = true;
    rebuild();
  });
  $("against").addEventListener("change", () => {
    times = undefined;
    choose();
  });
  $("quantity").addEventListener("change", buildCurves);
  $("step").addEventListener("input", () => {
    stop();
    soon(Number($("step").value));
  });
  $("play").addEventListener("click", play);
  $("save-data").addEventListener("click", saveData);
  for (const panel of ["plane", "curves", "metrics"]) $(`save-${panel}`).addEventListener("click", () => saveFigure(panel));
  $("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark";
    dress();
    rebuild();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    dress();
    rebuild();
  });
  // Resize the panels with the page: windows change their size, and a notebook may show the page only later.
  const places = new ResizeObserver((entries) => {
    for (const {target} of entries) if (target.offsetWidth && target._fullLayout) Plotly.Plots.resize(target);
  });
  dress();
  choose();
  if (was && was.time !== false) goTo(countUpTo(times, was.time) - 1);
  if (document.body.dataset.seconds) looking = setInterval(look, 1000 * document.body.dataset.seconds);
  for (const panel of ["plane", "curves", "metrics"]) places.observe($(panel));
  document.body.dataset.ready = "yes";
})();
